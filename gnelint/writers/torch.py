"""Edits made in a PyTorch module: parameters in place, layers by other submodules of the same name."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from gnelint.errors import ModelError
from gnelint.fixes.edits import Action, DropBias, Edit, EditTensor, Substitute
from gnelint.graph import Graph
from gnelint.readers.torch_constants import from_numpy, to_numpy
from gnelint.readers.torch_export import cause, quietly, set_mode, untouched
from gnelint.readers.torch_target import Loaded
from gnelint.writers.base import Unmade

Fixed = tuple[ExportedProgram, tuple[Unmade, ...]]
"""A program with edits made, and those that could not be."""


class _CannotMakeError(Exception):
    """Why an edit cannot be made, a clause for people."""


def fixed_module(module: nn.Module, edits: Sequence[Edit], graph: Graph) -> tuple[nn.Module, tuple[Unmade, ...]]:
    """A copy of a module with the edits made.

    Where only tensors change it is of the same class, and everything that is not edited is as it was: tied parameters
    stay tied, flags and types stay. Where layers change, submodules are replaced under their names.

    Args:
        module: left as it is.
        edits: in the order in which they are made.
        graph: what was read of the module.

    Returns:
        The copy, and the edits that could not be made.
    """
    fixed = copy.deepcopy(module)
    unmade = []
    for edit in edits:
        try:
            _make(fixed, edit.action, graph)
        except _CannotMakeError as error:
            unmade.append(Unmade(edit, str(error)))
    return fixed, tuple(unmade)


def _make(module: nn.Module, action: Action, graph: Graph) -> None:
    if isinstance(action, EditTensor):
        _edit_tensor(_tensors(module), action)
    elif isinstance(action, DropBias):
        _drop_bias(module, action.node)
    elif isinstance(action, Substitute):
        _replace(module, action.node, _activation(action), graph)
    else:
        raise _CannotMakeError(f"{action.what} is not something that this writer can do to a module")


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _edit_tensor(tensors: Mapping[str, torch.Tensor], action: EditTensor) -> None:
    tensor = tensors.get(action.tensor)
    if tensor is None:
        raise _CannotMakeError(f"the module has no parameter {action.tensor}")
    if tensor.is_meta:
        raise _CannotMakeError(f"{action.tensor} is on the meta device and holds no numbers: use --emit-init")
    try:
        numbers = action.numbers(to_numpy(tensor))
    except OverflowError as error:
        raise _CannotMakeError(str(error)) from error
    with torch.no_grad():
        tensor.copy_(from_numpy(numbers))


def _submodule(module: nn.Module, name: str) -> nn.Module:
    try:
        return module.get_submodule(name)
    except AttributeError:
        raise _CannotMakeError(f"{name} is no module: change it in the forward method that computes it") from None


def _drop_bias(module: nn.Module, name: str) -> None:
    layer = _submodule(module, name)
    if not isinstance(getattr(layer, "bias", None), nn.Parameter):
        raise _CannotMakeError(f"{name} has no parameter named bias of its own")
    layer.bias = None


_ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
}
_ARGUMENTS: Mapping[str, str] = {"leaky_relu": "negative_slope", "elu": "alpha"}


def _activation(action: Substitute) -> nn.Module:
    made = _ACTIVATIONS.get(action.op)
    if made is None:
        raise _CannotMakeError(f"there is no module for {action.op}")
    arguments = {_ARGUMENTS.get(action.op, name): value for name, value in action.attributes.items()}
    try:
        return made(**arguments)
    except TypeError:
        raise _CannotMakeError(f"{made.__name__} takes no {', '.join(arguments)}") from None


def _replace(module: nn.Module, name: str, new: nn.Module, graph: Graph) -> None:
    old = _submodule(module, name)
    names = [path for path, part in module.named_modules(remove_duplicate=False) if part is old]
    shared = [
        node.name for node in graph.nodes if node.name.rstrip("0123456789").rstrip("_") == name and node.name != name
    ]
    if len(names) > 1 or shared:
        raise _CannotMakeError(
            f"{name} is used in several places ({', '.join([*names, *shared][:3])}): give each its own"
        )
    new.train(old.training)
    module.set_submodule(name, new)


def fixed_program(
    loaded: Loaded, edits: Sequence[Edit], *, training: bool
) -> tuple[ExportedProgram, tuple[Unmade, ...]]:
    """The exported program of a module in hand with the edits made.

    Raises:
        ModelError: the fixed module cannot be exported.
    """
    if isinstance(loaded.found, ExportedProgram):
        return _edited(loaded.found, edits)
    graph = loaded.trace(training=training).graph
    fixed, unmade = fixed_module(loaded.found, edits, graph)
    with untouched(fixed), quietly():
        set_mode(fixed, training)
        try:
            return torch.export.export(fixed, loaded.args, dict(loaded.kwargs), strict=False), unmade
        except Exception as error:
            raise ModelError(loaded.name, f"cannot be exported: {cause(error)}", "Use --emit-init instead.") from error


def fixed_pt2(path: Path, edits: Sequence[Edit], *, training: bool) -> Fixed:
    """An exported program with the edits made; its mode is baked in, whatever `training` says.

    Raises:
        ModelError: the file is no exported program.
    """
    try:
        with quietly():
            program = torch.export.load(path)
    except Exception as error:
        raise ModelError(str(path), f"not a program that this torch can load: {cause(error)}") from error
    return _edited(program, edits)


def _edited(program: ExportedProgram, edits: Sequence[Edit]) -> Fixed:
    tensors: dict[str, torch.Tensor] = {**program.state_dict, **program.constants}
    unmade = []
    for edit in edits:
        try:
            if not isinstance(edit.action, EditTensor):
                raise _CannotMakeError("layers of an exported program cannot be changed: fix the module it was made of")
            _edit_tensor(tensors, edit.action)
        except _CannotMakeError as error:
            unmade.append(Unmade(edit, str(error)))
    return program, tuple(unmade)


def write_program(program: ExportedProgram, output: Path) -> None:
    """Save a program through a temporary file beside its place: nobody ever sees half of one.

    Raises:
        ModelError: it cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.", suffix=".pt2")
        os.close(handle)
    except OSError as error:
        raise ModelError(str(output), f"cannot be written ({error.strerror})", "Choose another place.") from None
    temporary = Path(name)
    try:
        with quietly():
            torch.export.save(program, temporary)
        mode = output.stat().st_mode if output.exists() else 0o666 & ~_umask()
        temporary.chmod(mode)
        temporary.replace(output)
    except OSError as error:
        raise ModelError(str(output), f"cannot be written ({error.strerror})", "Choose another place.") from None
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
