"""What an edited model says of its edits: the rule, gnelint's version and the factor, in the metadata of nodes."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from gnelint.fixes.edits import Edit, EditTensor, InsertScale, Scale
from gnelint.onnxfile.nodes import own_name
from gnelint.version import __version__

RULE, VERSION, FACTOR = "gnelint.rule", "gnelint.version", "gnelint.factor"
NODE_METADATA_FROM = 10
"""The IR version from which nodes have metadata."""


def mark(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto], edit: Edit) -> None:
    """Note an edit on the nodes that it changed; in the model's metadata with the nodes' names if they have none."""
    for node in nodes:
        if model.ir_version >= NODE_METADATA_FROM:
            _note(node, edit, "")
        else:
            _note(model, edit, f"/{own_name(node)}")


def _note(holder: onnx.NodeProto | onnx.ModelProto, edit: Edit, suffix: str) -> None:
    found = {entry.key: entry for entry in holder.metadata_props}

    def put(key: str, value: str) -> None:
        entry = found.get(key + suffix)
        if entry is None:
            holder.metadata_props.add(key=key + suffix, value=value)
        else:
            entry.value = value

    before = found[RULE + suffix].value.split(",") if RULE + suffix in found else []
    put(RULE, ",".join(dict.fromkeys([*before, edit.rule])))
    put(VERSION, __version__)
    factor = _factor(edit)
    if factor is not None:
        old = found.get(FACTOR + suffix)
        put(FACTOR, f"{factor * (_number(old.value) if old is not None else 1.0):.9g}")


def _factor(edit: Edit) -> float | None:
    action = edit.action
    if isinstance(action, InsertScale):
        return action.factor
    return action.change.factor if isinstance(action, EditTensor) and isinstance(action.change, Scale) else None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 1.0
