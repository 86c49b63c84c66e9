"""The actions that change layers, made on the nodes of an ONNX model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from gnelint.fixes.edits import Action, DropBias, InsertScale
from gnelint.graph import Graph, Node
from gnelint.readers.onnx_types import numpy_dtype
from gnelint.writers.base import CannotEditError
from gnelint.writers.onnx_draft import Draft, value_dtype

BROADCAST_FROM = 7
"""The opset from which operands broadcast as in numpy."""
GEMM_WITHOUT_C_FROM = 11

_BIASED = frozenset({"Conv", "ConvTranspose", "Gemm"})
_ADDS = frozenset({"Add", "Sum"})


def edit_layer(draft: Draft, graph: Graph, action: Action, inline: bool) -> Sequence[onnx.NodeProto]:
    """Make an action; the nodes that it changed or wrote.

    Args:
        draft: of the model.
        graph: of the model as it is by now.
        inline: write operations that ONNX lacks out in standard ones.

    Raises:
        CannotEditError: it cannot be made, and nothing was changed.
    """
    if isinstance(action, DropBias):
        return _drop_bias(draft, graph.node(action.node))
    if isinstance(action, InsertScale):
        return _insert_scale(draft, graph, action)
    raise CannotEditError(f"the ONNX writer cannot do this yet ({type(action).__name__})")


def _drop_bias(draft: Draft, node: Node) -> Sequence[onnx.NodeProto]:
    for layer in (draft.named(node.name), draft.producer(draft.value(node.outputs[0]))):
        if layer is not None and layer.op_type in _BIASED and len(layer.input) > 2 and layer.input[2]:
            if layer.op_type == "Gemm" and draft.version < GEMM_WITHOUT_C_FROM:
                _zero_bias(draft, layer, node.parameters["bias"].dtype)
            else:
                draft.drop_input(layer, 2)
            return [layer]
    added, x = _addition(draft, node)
    before = draft.producer(x)
    draft.bypass(added, x)
    return [] if before is None else [before]


def _zero_bias(draft: Draft, gemm: onnx.NodeProto, dtype: str) -> None:
    """Old products need their third operand: one zero, which `beta` leaves out as well."""
    name, old = draft.unique(f"{gemm.output[0]}/no_bias"), gemm.input[2]
    draft.add_initializer(name, np.zeros(1, numpy_dtype(dtype)))
    others = [attribute for attribute in gemm.attribute if attribute.name not in ("beta", "broadcast")]
    attributes = [helper.make_attribute("beta", 0.0)]
    if draft.version < BROADCAST_FROM:
        attributes.append(helper.make_attribute("broadcast", 1))
    del gemm.attribute[:]
    gemm.attribute.extend([*others, *attributes])
    gemm.input[2] = name
    draft.sweep([old])


def _addition(draft: Draft, node: Node) -> tuple[onnx.NodeProto, str]:
    """The node that adds the bias and what it adds it to; it writes the canonical node's output, copies apart."""
    added = draft.producer(draft.value(node.outputs[0]))
    while added is not None and added.op_type == "Identity":
        added = draft.producer(added.input[0])
    if added is None:
        raise CannotEditError(f'"{node.name}" stands in a function or branch of the model, which stays as it is')
    flows = [name for name in added.input if not _is_constant(draft, name)]
    subtracts = added.op_type == "Sub" and flows == [added.input[0]]
    if not (added.op_type in _ADDS or subtracts) or len(added.input) != 2 or len(flows) != 1:
        raise CannotEditError(f'no node adds the bias of "{node.name}" and nothing else')
    if node.op == "bias" and flows[0] != draft.value(node.inputs[0] or ""):
        raise CannotEditError(f'"{node.name}" does not only add a bias, it changes the shape')
    return added, flows[0]


def _is_constant(draft: Draft, value: str) -> bool:
    """Whether a value depends on nothing that the caller feeds."""
    waiting, seen = [value], set()
    while waiting:
        name = waiting.pop()
        if name in seen or not name or draft.is_constant(name):
            continue
        seen.add(name)
        node = draft.producer(name)
        if node is None:
            return False
        waiting.extend(node.input)
    return True


def _insert_scale(draft: Draft, graph: Graph, action: InsertScale) -> Sequence[onnx.NodeProto]:
    value = draft.value(action.value)
    dtype = value_dtype(draft, value, graph.values[action.value].dtype)
    name = draft.unique(f"{action.value}/scale")
    factor = draft.unique(f"{name}_factor")
    number = np.array(action.factor, numpy_dtype(dtype))
    node = helper.make_node("Mul", [value, factor], [name], name=name)
    if draft.version < BROADCAST_FROM:
        node.attribute.append(helper.make_attribute("broadcast", 1))
    follow(draft, value, [node], name)
    draft.add_initializer(factor, number)
    return [node]


def follow(draft: Draft, value: str, nodes: Sequence[onnx.NodeProto], result: str) -> None:
    """Put nodes that read a value and write `result` behind it: all that read the value read the result.

    An output of the model keeps its name: then the value is what is renamed.

    Raises:
        CannotEditError: the main graph has no such value.
    """
    before = draft.producer(value)
    if before is None and not draft.is_input(value):
        raise CannotEditError(f'"{value}" is no value of the main graph in the file')
    if not draft.is_output(value):
        draft.redirect(value, result)
        draft.insert_behind(before, nodes)
        return
    if before is None:
        raise CannotEditError(f'"{value}" is an input and an output of the model')
    inner = draft.unique(f"{value}/before")
    draft.rename_output(before, value, inner)
    for node in nodes:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = {value: inner, result: value}.get(name, name)
    draft.insert_behind(before, nodes)
    draft.rename({value: inner, result: value})
