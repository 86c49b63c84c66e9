"""Edits made in a copy of a PyTorch module: parameters in place, layers by other submodules of the same name."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from gnelint.errors import ModelError
from gnelint.fixes.edits import (
    Action,
    CentreFilters,
    DropBias,
    Edit,
    EditTensor,
    InsertScale,
    InsertSecondMoment,
    SecondMoment,
    Substitute,
)
from gnelint.fixes.preserving_rescale import lets_scale_through
from gnelint.ir.graph import Graph, Node
from gnelint.nn import Scale, SecondMomentNorm1d, SecondMomentNorm2d, SecondMomentNorm3d
from gnelint.nn.conversion import CENTRED, second_moment_of
from gnelint.readers.torch.constants import from_numpy, to_numpy
from gnelint.readers.torch.export import cause
from gnelint.writers.base import CannotEditError, Groups, Unmade
from gnelint.writers.torch.activations import made_of
from gnelint.writers.torch.fx import substituted


def fixed_module(module: nn.Module, edits: Sequence[Edit], graph: Graph) -> tuple[nn.Module, tuple[Unmade, ...]]:
    """A copy of a module with the edits made.

    Where only tensors change it is of the same class, and everything that is not edited is as it was: tied parameters
    stay tied, flags, types and devices stay. Where layers change, submodules are replaced under their names, so the
    names in the state dict stay, too; a layer put behind a submodule goes in front of the activation that follows
    where there is one, else the two become an `nn.Sequential` under the submodule's name. Where an activation is to be
    changed that is a function, or one of several calls of a submodule, the copy is an `fx.GraphModule`.

    Args:
        module: left as it is.
        edits: in the order in which they are made.
        graph: what was read of the module.

    Returns:
        The copy, and the edits that could not be made.

    Raises:
        ModelError: the module cannot be copied.
    """
    fixed, unmade = _operated(_copied(module), edits, graph)
    calls = {each.edit.action.node: each.edit.action for each in unmade if isinstance(each.edit.action, Substitute)}
    if not calls:
        return fixed, unmade
    try:
        traced = substituted(_copied(module), tuple(calls.values()), graph)
    except CannotEditError as error:
        said = [
            replace(each, reason=f"{each.reason}; {error}") if isinstance(each.edit.action, Substitute) else each
            for each in unmade
        ]
        return fixed, tuple(said)
    return _operated(traced, [edit for edit in edits if edit.action not in calls.values()], graph)


def _operated(module: nn.Module, edits: Sequence[Edit], graph: Graph) -> tuple[nn.Module, tuple[Unmade, ...]]:
    """The module itself, with the edits made that can be, and those that cannot."""
    surgery = _Surgery(module, edits, graph)
    groups = Groups(edits, surgery.check)
    unmade = []
    for edit in edits:
        try:
            groups.admit(edit)
            surgery.make(edit.action)
        except CannotEditError as error:
            unmade.append(Unmade(edit, str(error)))
    return surgery.module, tuple(unmade)


def _copied(module: nn.Module) -> nn.Module:
    """A deep copy. The weight that the old weight normalisation computes in every pass cannot be copied by itself."""
    held = [value for part in module.modules() for value in vars(part).values() if isinstance(value, torch.Tensor)]
    memo = {id(tensor): tensor.detach().clone() for tensor in held if not tensor.is_leaf}
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:
        advice = "Use the code that --emit-init writes instead."
        raise ModelError(type(module).__name__, f"cannot be copied: {cause(error)}", advice) from error


class _Surgery:
    """A module under the knife.

    Nodes are found by the names that the graph gives them: the qualified name of the submodule, with a number behind it
    for further calls of the same one. A submodule is changed only if all its calls are to be changed alike.
    """

    def __init__(self, module: nn.Module, edits: Sequence[Edit], graph: Graph) -> None:
        self.module = module
        self._graph = graph
        self._tensors = dict(_tensors(module))
        self._wanted: dict[str, list[Action]] = {}
        for edit in edits:
            self._wanted.setdefault(edit.action.subject, []).append(edit.action)
        self._paths: dict[str, str] = {}  # where submodules that have been wrapped are now
        self._done: list[Action] = []  # changes of submodules, as `_alike` gives them

    def check(self, edit: Edit) -> None:
        """Whether a tensor can be edited, or a layer be another.

        Raises:
            CannotEditError: it cannot be.
        """
        check_tensor(self._tensors, edit)
        if isinstance(edit.action, (SecondMoment, CentreFilters)):
            path = self._path(self._graph.node(edit.action.node))
            if _alike(edit.action, path) not in self._done:
                self._agreed(path, edit.action)
                _check_layer(path, self._part(path), edit.action)

    def make(self, action: Action) -> None:
        """Make one edit.

        Raises:
            CannotEditError: it cannot be made.
        """
        if isinstance(action, EditTensor):
            edit_tensor(self._tensors, action)
        elif isinstance(action, (DropBias, Substitute, SecondMoment, CentreFilters)):
            path = self._path(self._graph.node(action.node))
            if _alike(action, path) not in self._done:
                self._agreed(path, action)
                self._change(path, action)
                self._done.append(_alike(action, path))
        elif isinstance(action, (InsertScale, InsertSecondMoment)):
            self._insert(action)
        else:
            raise CannotEditError("there is no such change of a module")

    def _path(self, node: Node) -> str:
        """The qualified name of the submodule whose call a node is.

        Raises:
            CannotEditError: it is none's.
        """
        path = self._found(node)
        if path is not None:
            return path
        place = "" if node.location is None else f" ({node.location.file}:{node.location.line})"
        raise CannotEditError(f"it is not a submodule of its own: change the line that computes it{place}")

    def _found(self, node: Node) -> str | None:
        """The qualified name of the submodule whose call a node is, None if it is none's."""
        numbered = re.fullmatch(r"(.+)_\d+", node.name)
        return next((path for path in (node.name, *(numbered.groups() if numbered else ())) if self._has(path)), None)

    def _has(self, path: str) -> bool:
        try:
            return bool(path) and self.module.get_submodule(path) is not None
        except AttributeError:
            return False

    def _agreed(self, path: str, action: Action) -> None:
        """All calls of the submodule are to be changed alike."""
        part = self._part(path)
        names = [name for name, found in self.module.named_modules(remove_duplicate=False) if found is part]
        calls = [node.name for node in self._graph.nodes for name in names if _is_call(node.name, name)]
        wanted = {name: [_alike(each, path) for each in self._wanted.get(name, ())] for name in calls}
        other = [name for name in calls if _alike(action, path) not in wanted[name]]
        if other:
            raise CannotEditError(f"{path} is also used as {', '.join(other[:3])}: give each its own module")

    def _part(self, path: str) -> nn.Module:
        return self.module.get_submodule(self._paths.get(path, path))

    def _put(self, path: str, new: nn.Module) -> None:
        """Another submodule in the place of one, under all its names."""
        old = self._part(path)
        new.train(old.training)
        for name, found in list(self.module.named_modules(remove_duplicate=False)):
            if found is old and name:
                parent, _, leaf = name.rpartition(".")
                setattr(self.module.get_submodule(parent), leaf, new)

    def _change(self, path: str, action: Action) -> None:
        part = self._part(path)
        if isinstance(action, DropBias):
            if not isinstance(part._parameters.get("bias"), nn.Parameter):
                raise CannotEditError(f"{path} has no parameter of its own that is called bias")
            part.bias = None
        elif isinstance(action, Substitute):
            if not type(part).__module__.startswith("torch.nn.modules.") or any(part.children()):
                raise CannotEditError(f"{path} is a {type(part).__name__}, which may do more than this operation")
            self._put(path, made_of(action))
        elif isinstance(action, SecondMoment):
            _check_layer(path, part, action)
            new = second_moment_of(part)
            assert new is not None
            self._put(path, new)
        else:
            assert isinstance(action, CentreFilters)
            _check_layer(path, part, action)
            part.__class__ = CENTRED[type(part)]  # the same object: its hooks, ties and places stay

    def _insert(self, action: InsertScale | InsertSecondMoment) -> None:
        node = self._graph.producers.get(action.value)
        if node is None:
            raise CannotEditError(
                f"{action.value} is no output of a submodule: write the factor into the forward method"
            )
        new = self._inserted(action)
        after = self._activation_behind(action.value)
        if after is not None:
            self._wrap(after, lambda part: nn.Sequential(new, part), 1)
        else:
            path = self._path(self._handed_on(node) if isinstance(action, InsertScale) and action.factor > 0 else node)
            calls = [found.name for found in self._graph.nodes if _is_call(found.name, path)]
            if len(calls) > 1 or len(node.outputs) > 1:
                raise CannotEditError(f"{path} is used as {', '.join(calls[:3])}: give each its own module")
            self._wrap(path, lambda part: nn.Sequential(part, new), 0)
        if isinstance(action, InsertSecondMoment):
            names = {"scale": "weight", "bias": "bias", "running_second_moment": "running_second_moment"}
            self._tensors.update({f"{action.value}/{role}": getattr(new, name) for role, name in names.items()})

    def _inserted(self, action: InsertScale | InsertSecondMoment) -> nn.Module:
        if isinstance(action, InsertScale):
            return Scale(action.factor)
        shape = self._graph.values[action.value].shape or ()
        made = {2: SecondMomentNorm1d, 3: SecondMomentNorm1d, 4: SecondMomentNorm2d, 5: SecondMomentNorm3d}
        if len(shape) not in made:
            raise CannotEditError(f"there is no second moment normalisation for {len(shape)} axes")
        first = next((tensor for tensor in self._tensors.values() if tensor.is_floating_point()), torch.empty(0))
        return made[len(shape)](action.channels, device=first.device, dtype=first.dtype)

    def _activation_behind(self, value: str) -> str | None:
        """Path of a module without parameters that alone reads a value, and is called only there."""
        readers = self._graph.consumers.get(value, ())
        if len(readers) != 1 or value in self._graph.outputs or readers[0].parameters:
            return None
        path = readers[0].name
        if not self._has(path) or not _is_plain(self._part(path)) or len(tuple(self._part(path).parameters())) > 0:
            return None
        calls = [node.name for node in self._graph.nodes if _is_call(node.name, path)]
        return path if calls == [path] else None

    def _handed_on(self, node: Node) -> Node:
        """Where a module hands on what a node inside it makes, if a positive factor there is one on the node itself."""
        found = node
        while self._found(found) is None:
            readers = self._graph.consumers.get(found.outputs[0], ())
            seen = len(readers) != 1 or found.outputs[0] in self._graph.outputs
            if seen or "bias" in readers[0].parameters or not lets_scale_through(readers[0]):
                return node
            found = readers[0]
        return found if node.name.startswith(f"{self._found(found)}.") else node

    def _wrap(self, path: str, wrapper: Callable[[nn.Module], nn.Module], index: int) -> None:
        self._put(path, wrapper(self._part(path)))
        self._paths[path] = f"{self._paths.get(path, path)}.{index}"


def _check_layer(path: str, part: nn.Module, action: SecondMoment | CentreFilters) -> None:
    """Whether a layer can be another.

    Raises:
        CannotEditError: it is not of the kinds that can be.
    """
    if isinstance(action, SecondMoment) and second_moment_of(part) is None:
        raise CannotEditError(f"{path} is a {type(part).__name__}: only BatchNorm1d, 2d and 3d can be replaced")
    if isinstance(action, CentreFilters) and type(part) not in CENTRED:
        raise CannotEditError(f"{path} is a {type(part).__name__}, of which there is no centred layer")


def _is_plain(part: nn.Module) -> bool:
    return type(part).__module__ == "torch.nn.modules.activation"


def _is_call(node: str, path: str) -> bool:
    return node == path or re.fullmatch(re.escape(path) + r"_\d+", node) is not None


def _alike(action: Action, path: str) -> Action:
    """The action as it is for the first call of its submodule: equal for calls that are changed alike."""
    if isinstance(action, Substitute):
        return Substitute(path, action.op, dict(action.attributes))
    if isinstance(action, (DropBias, SecondMoment, CentreFilters)):
        return type(action)(path)
    return action


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def check_tensor(tensors: Mapping[str, torch.Tensor], edit: Edit) -> None:
    """Whether an edit of a tensor can be made; of other edits nothing is asked.

    Raises:
        CannotEditError: it cannot be.
    """
    if isinstance(edit.action, EditTensor):
        _edited(tensors, edit.action)


def edit_tensor(tensors: Mapping[str, torch.Tensor], action: EditTensor) -> None:
    """Other numbers in one of the tensors, in its own type and on its own device.

    Raises:
        CannotEditError: there is no such tensor, it holds no numbers, or it cannot hold the new ones.
    """
    tensor, numbers = _edited(tensors, action)
    try:
        with torch.no_grad():
            tensor.copy_(numbers)
    except RuntimeError as error:
        raise CannotEditError(str(error).splitlines()[0]) from error


def _edited(tensors: Mapping[str, torch.Tensor], action: EditTensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A tensor and its new numbers."""
    tensor = tensors.get(action.tensor)
    if tensor is None:
        raise CannotEditError(f"{action.tensor} is neither a parameter nor a buffer")
    if tensor.is_meta:
        raise CannotEditError(f"{action.tensor} is on the meta device and holds no numbers: use --emit-init")
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise CannotEditError(f"{action.tensor} is {'quantized' if tensor.is_quantized else 'sparse'}")
    try:
        return tensor, from_numpy(action.numbers(to_numpy(tensor)))
    except (OverflowError, RuntimeError) as error:
        raise CannotEditError(str(error).splitlines()[0]) from error
