"""Writes to tensors, also through views on their memory, as operations on values."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree

from gnelint.readers.torch.operations import operation_name
from gnelint.records import dataclass

ORIGIN = ("nn_module_stack", "stack_trace", "source_fn_stack")
"""What a node says of where it comes from."""

aten = torch.ops.aten


class OtherFormError(Exception):
    """A write that has no counterpart on values, or a composite of a size that is not known."""


@dataclass(frozen=True)
class _Step:
    """One view: the operation on the tensor it looks at, and what comes behind that tensor."""

    target: Any
    rest: tuple[Any, ...]
    keywords: Mapping[str, Any]


@dataclass
class _Memory:
    """What a tensor's memory holds by now.

    Attributes:
        value: of the whole tensor.
        version: how often it was written to.
        read: what views of the present version there are.
    """

    value: fx.Node
    version: int = 0
    read: dict[tuple[_Step, ...], fx.Node] = field(default_factory=dict)


@dataclass(frozen=True)
class _View:
    """A tensor as a view on memory: the whole of it where there are no steps."""

    memory: _Memory
    steps: tuple[_Step, ...] = ()


class Writes:
    """Puts operations on values in the place of writes, in one walk."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._views: dict[fx.Node, _View] = {}
        self._seen: dict[fx.Node, int] = {}

    def replace(self) -> None:
        """Do it; a graph without writes is left as it is."""
        written = [node for node in self._graph.nodes if _writes(node)]
        if not written:
            return
        for node in list(self._graph.nodes):
            if node.op not in ("call_function", "output"):
                continue
            own = {source: self._views[source] for source in node.all_input_nodes if source in self._views}
            with self._graph.inserting_before(node):
                self._read_anew(node)
                if node.op == "output":
                    break
                if _writes(node):
                    self._write(node)
                else:
                    self._follow(node, own)
        for node in reversed(written):
            self._graph.erase_node(node)

    def _view(self, node: fx.Node) -> _View:
        return self._views.setdefault(node, _View(_Memory(node)))

    def _read_anew(self, node: fx.Node) -> None:
        """Let a node read what the memory of its operands holds by now."""
        node.args, node.kwargs = fx.map_arg((node.args, node.kwargs), self._latest)

    def _latest(self, node: fx.Node) -> fx.Node:
        view = self._views.get(node)
        if view is None or self._seen.get(node, 0) == view.memory.version:
            return node
        return self._at(view.memory, view.steps)

    def _at(self, memory: _Memory, steps: tuple[_Step, ...]) -> fx.Node:
        if not steps:
            return memory.value
        if steps not in memory.read:
            base, last = self._at(memory, steps[:-1]), steps[-1]
            found = _call(self._graph, last.target, (base, *last.rest), last.keywords, base)
            self._own(found, _View(memory, steps))
            memory.read[steps] = found
        return memory.read[steps]

    def _own(self, node: fx.Node, view: _View) -> None:
        self._views[node] = view
        self._seen[node] = view.memory.version

    def _follow(self, node: fx.Node, own: Mapping[fx.Node, _View]) -> None:
        """Note what a view looks at."""
        if node.target is operator.getitem:
            source = node.args[0]
            step = self._part(source, node.args[1])
            if step is not None:
                looked_at = self._view(source.args[0])
                self._own(node, _View(looked_at.memory, (*looked_at.steps, step)))
            return
        if not _looks_at_first(node):
            return
        looked_at = self._view(node.args[0])
        step = _Step(node.target, _frozen(node.args[1:]), _FrozenKeywords(node.kwargs))
        self._own(node, _View(looked_at.memory, (*looked_at.steps, step)))

    def _part(self, source: fx.Node, index: int) -> _Step | None:
        """The view that one of the results of a split is."""
        name = operation_name(source.target)
        if name not in ("split", "split_with_sizes", "chunk", "unbind", "tensor_split") or not _aliases(source):
            return None
        given = _by_name(source)
        axis = given.get("dim", 0)
        if name == "unbind":
            return _Step(aten.select.int, (axis, index), _FrozenKeywords({}))
        parts = source.meta["val"]
        axis %= parts[0].dim()
        start = sum(int(part.shape[axis]) for part in parts[:index])
        end = start + int(parts[index].shape[axis])
        return _Step(aten.slice.Tensor, (axis, start, end), _FrozenKeywords({}))

    def _write(self, node: fx.Node) -> None:
        target = _out_of_place(node)
        written = node.args[0]
        if not isinstance(written, fx.Node):
            raise OtherFormError
        value = _call(self._graph, target, node.args, node.kwargs, node)
        here = written.meta["val"]
        if value.meta["val"].dtype != here.dtype:
            value = _call(self._graph, aten.to.dtype, (value, here.dtype), {}, node)
        if value.meta["val"].shape != here.shape:
            value = _call(self._graph, aten.expand.default, (value, list(here.shape)), {}, node)
        view = self._view(written)
        whole = value
        for end in range(len(view.steps), 0, -1):
            base = self._at(view.memory, view.steps[: end - 1])
            whole = self._put_back(base, view.steps[end - 1], whole, node)
        view.memory.version += 1
        view.memory.value = whole
        view.memory.read = {view.steps: value} if view.steps else {}
        self._own(value, view)
        self._own(whole, _View(view.memory))
        self._views[node] = view
        self._seen[node] = -1

    def _put_back(self, base: fx.Node, step: _Step, part: fx.Node, origin: fx.Node) -> fx.Node:
        """What the tensor is that a view looks at, once the view is `part`."""
        name = operation_name(step.target)
        if name in ("slice", "select", "diagonal", "as_strided"):
            scatter = getattr(aten, f"{name}_scatter").default
            return _call(self._graph, scatter, (base, part, *step.rest), step.keywords, origin)
        if name == "narrow":
            axis, start, length = step.rest
            return _call(self._graph, aten.slice_scatter.default, (base, part, axis, start, start + length), {}, origin)
        if name in ("permute", "transpose", "t", "movedim", "swapaxes", "swapdims", "numpy_T", "mT", "moveaxis"):
            order = _order(step, base.meta["val"].dim())
            inverse = [order.index(axis) for axis in range(len(order))]
            return _call(self._graph, aten.permute.default, (part, inverse), {}, origin)
        if part.meta["val"].numel() != base.meta["val"].numel():
            raise OtherFormError
        if name in ("alias", "detach", "contiguous", "to"):
            return part
        if name in (
            "view",
            "reshape",
            "_unsafe_view",
            "flatten",
            "unflatten",
            "squeeze",
            "unsqueeze",
            "view_as",
            "ravel",
        ):
            return _call(self._graph, aten.reshape.default, (part, list(base.meta["val"].shape)), {}, origin)
        raise OtherFormError


class _FrozenKeywords(dict[str, Any]):
    """Keywords that can be part of a key."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(sorted((name, repr(value)) for name, value in self.items())))


def _frozen(given: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(tuple(value) if isinstance(value, list) else value for value in given)


def _order(step: _Step, axes: int) -> list[int]:
    """Where each axis of a transposed view comes from."""
    shadow = torch.empty([1] * axes, device="meta").as_strided([1] * axes, list(range(axes)))
    return [int(stride) for stride in step.target(shadow, *step.rest, **step.keywords).stride()]


def _writes(node: fx.Node) -> bool:
    return (
        node.op == "call_function"
        and isinstance(node.target, torch._ops.OpOverload)
        and node.target._schema.is_mutable
        and operation_name(node.target) not in ("_native_batch_norm_legit", "_batch_norm_with_update")
    )


_NO_SUFFIX = {"normal": "normal_functional"}


def _out_of_place(node: fx.Node) -> Any:
    """The operation that returns what a node writes.

    Raises:
        OtherFormError: there is none, or it writes to something else than its first argument.
    """
    schema = node.target._schema
    written = [
        at for at, argument in enumerate(schema.arguments) if argument.alias_info and argument.alias_info.is_write
    ]
    name = operation_name(node.target)
    if written != [0] or not name.endswith("_") or node.target.namespace != "aten":
        raise OtherFormError
    name = name.rstrip("_")
    found = _overload(getattr(aten, _NO_SUFFIX.get(name, name), None), schema)
    if found is None or name in ("resize", "set", "squeeze", "unsqueeze", "transpose", "t", "as_strided", "swapaxes"):
        raise OtherFormError
    return found


def _overload(operation: Any, schema: Any) -> Any:
    """The one that takes arguments of the same types and has defaults for the same.

    It may be called otherwise: pow_.Scalar is pow.Tensor_Scalar.
    """
    for name in operation.overloads() if operation is not None else ():
        overload = getattr(operation, name)
        if _arguments(overload._schema) == _arguments(schema):
            return overload
    return None


def _arguments(schema: Any) -> list[tuple[str, bool]]:
    return [(str(argument.type), argument.has_default_value()) for argument in schema.arguments]


def _aliases(node: fx.Node) -> bool:
    """Whether an operation may return a view on its first argument, as its schema says."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    schema = node.target._schema
    return bool(schema.arguments and schema.arguments[0].alias_info and not schema.is_mutable and node.args)


_MAYBE = frozenset({"reshape", "contiguous", "to", "flatten", "unflatten", "ravel", "view_as", "reshape_as", "type_as"})


def _looks_at_first(node: fx.Node) -> bool:
    value = node.meta.get("val")
    if not _aliases(node) or not isinstance(value, torch.Tensor) or not isinstance(node.args[0], fx.Node):
        return False
    if operation_name(node.target) not in _MAYBE:
        return True
    source = node.args[0].meta["val"]
    shadow = torch.empty_strided(source.shape, source.stride(), dtype=source.dtype, device="meta")
    args, kwargs = fx.map_arg((node.args[1:], dict(node.kwargs)), lambda found: found.meta["val"])
    kwargs = {name: given for name, given in kwargs.items() if name != "device"}
    try:
        made = node.target(shadow, *args, **kwargs)
    except (RuntimeError, TypeError, ValueError):
        return False
    return bool(made.untyped_storage()._cdata == shadow.untyped_storage()._cdata)


def _by_name(node: fx.Node) -> dict[str, Any]:
    names = [argument.name for argument in node.target._schema.arguments]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _call(graph: fx.Graph, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], origin: fx.Node) -> fx.Node:
    """An operation with its shape and type, said to come from where another one does."""
    found = graph.call_function(target, args, dict(kwargs))
    found.meta = {key: origin.meta[key] for key in ORIGIN if key in origin.meta}
    shown = fx.map_arg((args, dict(kwargs)), lambda node: node.meta["val"])
    mode = _mode(pytree.tree_leaves(shown))
    with mode:
        found.meta["val"] = target(*shown[0], **shown[1])
    return found


def _mode(values: Iterable[Any]) -> Any:
    for value in values:
        if isinstance(value, FakeTensor):
            return value.fake_mode
    return FakeTensorMode(allow_non_fake_inputs=True)
