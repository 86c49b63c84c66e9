"""Exported programs of fixed modules, edits made in exported programs, and how they are written."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch.export import ExportedProgram

from gnelint.errors import ModelError
from gnelint.files import replacing
from gnelint.fixes.edits import Edit, EditTensor
from gnelint.ir.graph import Graph
from gnelint.readers.torch.export import cause, quietly, set_mode, untouched
from gnelint.readers.torch.reader import load_pt2
from gnelint.readers.torch.target import Loaded
from gnelint.writers.base import CannotEditError, Groups, Unmade
from gnelint.writers.torch.module import check_tensor, edit_tensor, fixed_module

Fixed = tuple[ExportedProgram, tuple[Unmade, ...]]
"""A program with edits made, and those that could not be."""


def fixed_program(loaded: Loaded, edits: Sequence[Edit], graph: Graph, *, training: bool) -> Fixed:
    """The exported program of a module in hand with the edits made.

    Args:
        loaded: the module and what to export it with.
        edits: in the order in which they are made.
        graph: what was read of it.
        training: export it in training mode.

    Raises:
        ModelError: the fixed module cannot be exported.
    """
    if isinstance(loaded.found, ExportedProgram):
        return _edited(loaded.found, edits)
    fixed, unmade = fixed_module(loaded.found, edits, graph)
    with untouched(fixed), quietly():
        set_mode(fixed, training)
        try:
            return torch.export.export(fixed, loaded.args, dict(loaded.kwargs), strict=False), unmade
        except Exception as error:
            raise ModelError(loaded.name, f"cannot be exported: {cause(error)}", "Use --emit-init instead.") from error


def fixed_pt2(path: Path, edits: Sequence[Edit]) -> Fixed:
    """An exported program with the edits made; its mode is baked in.

    Raises:
        ModelError: the file is no exported program.
    """
    return _edited(load_pt2(path), edits)


def _edited(program: ExportedProgram, edits: Sequence[Edit]) -> Fixed:
    tensors: dict[str, torch.Tensor] = {**program.state_dict, **program.constants}
    groups = Groups(edits, partial(check_tensor, tensors))
    unmade = []
    for edit in edits:
        try:
            groups.admit(edit)
            if not isinstance(edit.action, EditTensor):
                raise CannotEditError("layers of an exported program cannot be changed: fix the module it was made of")
            edit_tensor(tensors, edit.action)
        except CannotEditError as error:
            unmade.append(Unmade(edit, str(error)))
    return program, tuple(unmade)


def write_program(program: ExportedProgram, output: Path) -> None:
    """Save a program through a temporary file beside its place: nobody ever sees half of one.

    Raises:
        ModelError: it cannot be written.
    """
    try:
        with replacing(output) as file, quietly():
            torch.export.save(program, file)
    except OSError as error:
        raise ModelError(str(output), f"cannot be written ({error.strerror})", "Choose another place.") from None
