"""Writes the corrected model of an ONNX file: the user's own message with the edits made in it, and nothing else.

Weights that no edit touches are never loaded: they are copied from file to file, or stay in the data files they are in.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from gnelint.errors import GnelintError, ModelError, UnreadableError
from gnelint.files import replacing
from gnelint.fixes.edits import Edit, EditTensor, with_tensors
from gnelint.ir.graph import Graph
from gnelint.onnxfile.bytes import MAX_MESSAGE, Message, stretch
from gnelint.onnxfile.data import INLINE, DataFiles, external_tensors, write_copy
from gnelint.onnxfile.file import ModelFile, open_model
from gnelint.writers.base import CannotEditError, Groups, Unmade, all_unmade
from gnelint.writers.onnx.draft import Draft
from gnelint.writers.onnx.layers import Workbench, edit_layer
from gnelint.writers.onnx.marks import mark
from gnelint.writers.onnx.store import Stores

FREE_SPACE = "Free some space, or write somewhere else."


def write_onnx(
    source: Path, edits: Sequence[Edit], output: Path, *, graph: Graph, inline: bool = False
) -> tuple[Unmade, ...]:
    """Write a model with edits made.

    Args:
        source: the user's model file; it is changed only if it is `output` too.
        edits: in the order in which they are made.
        output: where the result goes, whole or not at all. Data files stay where they are if it is in the same
            directory; else they are copied beside it. Changed weights of a model with data files go into a new one.
        graph: what the reader made of `source`.
        inline: write operations that ONNX lacks out in standard ones, rather than as local functions.

    Returns:
        The edits that could not be made.

    Raises:
        ModelError: the source cannot be read.
        GnelintError: the output cannot be written.
    """
    try:
        file = open_model(source)
        outside = any(True for _ in external_tensors(file.proto))
        draft = Draft(file)
        unmade = _edited(file, draft, edits, graph, inline)
        if not all_unmade(edits, unmade):
            _write(file, draft if edits else None, output, outside)
    except UnreadableError as error:
        raise ModelError(str(source), error.problem, error.advice) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise GnelintError(str(output), f"cannot be written ({reason})", FREE_SPACE) from error
    return unmade


def _edited(file: ModelFile, draft: Draft, edits: Sequence[Edit], graph: Graph, inline: bool) -> tuple[Unmade, ...]:
    """Make the edits; those that cannot be made."""
    stores = Stores(file, draft)
    groups = Groups(edits, partial(_check, draft, stores))
    unmade: list[Unmade] = []
    waiting: list[EditTensor] = []
    for edit in edits:
        try:
            groups.admit(edit)
            if isinstance(edit.action, EditTensor):
                place = stores.find(edit.action.tensor)
                place.change(edit.action)
                touched = place.readers
                waiting.append(edit.action)
            else:
                graph, waiting = with_tensors(graph, waiting), []
                touched = edit_layer(Workbench(draft, stores, graph, inline), edit.action)
                graph = edit.action.applied(graph)
        except CannotEditError as error:
            unmade.append(Unmade(edit, str(error)))
        else:
            mark(draft.model, touched, edit)
    return tuple(unmade)


def _check(draft: Draft, stores: Stores, edit: Edit) -> None:
    """Whether the tensor of an edit can be changed so that others can make up for it.

    Raises:
        CannotEditError: it cannot be: nothing makes up for what a caller feeds or is given.
    """
    if not isinstance(edit.action, EditTensor):
        return
    name = edit.action.tensor
    if draft.is_fed(name) or draft.is_output(name):
        raise CannotEditError(f'"{name}" is {"an input" if draft.is_fed(name) else "an output"} of the model')
    place = stores.find(name)
    if len(place.readers) > 1:
        raise CannotEditError(f'several nodes read "{name}"')
    place.check(edit.action)


def _write(file: ModelFile, draft: Draft | None, output: Path, outside: bool) -> None:
    """Write the model, or a copy of the file if it was not edited; `outside`: it has data files."""
    if output.is_dir():
        raise GnelintError(str(output), "is a directory", "Name a file in it.")
    if not output.parent.is_dir():
        raise GnelintError(str(output), f"there is no directory {output.parent}", "Make it first.")
    data = DataFiles(output)
    moved = data.bring(file)
    if draft is None and not moved:
        message = None
        if output.exists() and output.samefile(file.path):
            return
    else:
        message = _message(draft or Draft(file), data, outside)
    with ExitStack() as undo:
        for path, copied in data.copies.items():
            with replacing(path) as target:
                write_copy(copied, target)
                _flush(target)
            undo.callback(_remove, path)
        if data.raws:
            path = output.parent / data.name
            with replacing(path) as target:
                data.write_new(target)
                _flush(target)
            undo.callback(_remove, path)
        with replacing(output) as target:
            if message is None:
                for chunk in stretch(file.path, 0, file.path.stat().st_size):
                    target.write(chunk)
            else:
                message.write(target)
            _flush(target)
        undo.pop_all()


def _message(draft: Draft, data: DataFiles, outside: bool) -> Message:
    """The model laid out; changed weights of a model with data files are put beside it."""
    raws = draft.finished()
    if outside:
        for index in sorted(raws):
            name = draft.model.graph.initializer[index].name
            if name in draft.changed and raws[index].size > INLINE:
                data.put(draft.model.graph.initializer[index], raws.pop(index))
    message = Message(draft.model, raws)
    if message.size > MAX_MESSAGE:
        raise GnelintError(
            str(data.output),
            f"would have {message.size} bytes, and an ONNX file holds at most {MAX_MESSAGE}",
            "Store the model's weights in a data file first (onnx.save with save_as_external_data).",
        )
    return message


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
