"""Where a walk over an ONNX model is: what names stand for, and what a function or a body sees of the place around it.

The reader, the interpreter and the writer go through a model each for its own purpose, and agree here on names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from typing import Generic, TypeVar

import onnx

from gnelint.errors import UnreadableError
from gnelint.ir.graph import Location
from gnelint.onnxfile.file import EXPORT_AGAIN
from gnelint.onnxfile.nodes import domain_of, own_name, resolved_attributes
from gnelint.records import dataclass

MAX_DEPTH = 48
"""Functions and bodies within each other; a function that calls itself has no end."""

T = TypeVar("T")


class Scope(Generic[T]):
    """What the names of one graph or function body stand for; names of an enclosing graph are seen through."""

    def __init__(self, outer: Scope[T] | None = None) -> None:
        self._names: dict[str, T | None] = {}
        self._outer = outer

    def __contains__(self, name: str) -> bool:
        return name in self._names or (self._outer is not None and name in self._outer)

    def find(self, name: str) -> T | None:
        """What the name stands for, None if nothing has it yet."""
        if name in self._names or self._outer is None:
            return self._names.get(name)
        return self._outer.find(name)

    def bind(self, name: str, found: T | None) -> None:
        """Give a name its meaning.

        Raises:
            UnreadableError: it has one already.
        """
        if name in self._names:
            raise UnreadableError(f'value "{name}" is written twice', EXPORT_AGAIN)
        self._names[name] = found

    def own(self) -> dict[str, T | None]:
        """The names given in this scope, those of the enclosing one aside."""
        return dict(self._names)

    def drop(self, names: Iterable[str]) -> None:
        """Forget names that nothing reads any more."""
        for name in names:
            self._names.pop(name, None)

    def take(self, names: Sequence[str], inner: Scope[T], written: Sequence[str], who: str) -> None:
        """Bind the outputs of a call to what the function or branch writes; "" is an output left out.

        Args:
            names: of the outputs, in this scope.
            inner: the scope of the function or branch.
            written: its own names for the outputs.
            who: what a person calls it.

        Raises:
            UnreadableError: it never writes one.
        """
        for name, output in zip(names, written, strict=False):
            if name:
                if output not in inner:
                    raise UnreadableError(f'{who} never writes its output "{output}"', EXPORT_AGAIN)
                self.bind(name, inner.find(output))


def function_scope(function: onnx.FunctionProto, inputs: Sequence[T | None]) -> Scope[T]:
    """The scope of a function's body: its inputs, without those that the call leaves out."""
    inner: Scope[T] = Scope()
    for name, operand in zip(function.input, inputs, strict=False):
        if operand is not None:
            inner.bind(name, operand)
    return inner


def function_key(function: onnx.FunctionProto) -> tuple[str, str, str]:
    """What tells a function from others: its domain, name and overload."""
    return domain_of(function), function.name, function.overload


class Functions:
    """The functions that a model defines."""

    def __init__(self, functions: Iterable[onnx.FunctionProto]) -> None:
        self._functions = {function_key(each): each for each in functions}

    def called_by(self, node: onnx.NodeProto) -> onnx.FunctionProto | None:
        """The function that a node calls, None for an operator."""
        return self._functions.get((domain_of(node), node.op_type, node.overload))


@dataclass(frozen=True)
class Origin:
    """Where a node stands in the model: its unique name, its module's qualified name and its source line; the file's
    name of its operator, if it is read as another one."""

    name: str
    scope: str = ""
    location: Location | None = None
    op: str = ""


@dataclass(frozen=True)
class Place:
    """Where in the model a walk is.

    Attributes:
        versions: opset versions in force, by domain ("" for ai.onnx).
        attributes: of the function call being expanded.
        prefix: put before names, so that two calls of a function differ.
        depth: functions and bodies around it.
        declared: types that the file gives for values.
        origin: of the function call, for nodes that have none of their own.
        results: names of the values that the call writes, by the body's own names for them.
    """

    versions: Mapping[str, int]
    attributes: Mapping[str, onnx.AttributeProto] = field(default_factory=dict)
    prefix: str = ""
    depth: int = 0
    declared: Mapping[str, onnx.TypeProto] = field(default_factory=dict)
    origin: Origin = Origin("")
    results: Mapping[str, str] = field(default_factory=dict)

    def name(self, name: str) -> str:
        """What a value of this body is called in the graph; "" for an output left out."""
        return self.results.get(name) or (self.prefix + name if name else "")

    def node_name(self, node: onnx.NodeProto) -> str:
        """What a node of this body is called in the graph."""
        return self.prefix + own_name(node)

    def version(self, node: onnx.NodeProto) -> int:
        """The opset version in force for a node."""
        return self.versions.get(domain_of(node), 1)

    def attributes_of(self, node: onnx.NodeProto) -> dict[str, onnx.AttributeProto]:
        """A node's attributes, those of the function call put in."""
        return resolved_attributes(node, self.attributes)

    def in_function(
        self,
        node: onnx.NodeProto,
        function: onnx.FunctionProto,
        versions: Mapping[str, int],
        origin: Origin | None = None,
    ) -> Place:
        """Inside of the function that a node calls.

        Args:
            versions: opset versions in force there.
            origin: of the call, where more is known of it than its name.
        """
        defaults = {attribute.name: attribute for attribute in function.attribute_proto}
        name = self.node_name(node)
        return Place(
            versions,
            attributes={**defaults, **self.attributes_of(node)},
            prefix=f"{name}/",
            depth=self.depth + 1,
            origin=origin or Origin(name),
            results=self._results(node, function.output),
        )

    def in_branch(self, node: onnx.NodeProto, body: onnx.GraphProto) -> Place:
        """Inside of a branch that is taken: its outputs are the node's."""
        results = {**self.results, **self._results(node, [info.name for info in body.output])}
        return replace(self, depth=self.depth + 1, results=results)

    def in_body(self) -> Place:
        """Inside of a body that is a graph of its own."""
        return replace(self, depth=self.depth + 1, results={})

    def _results(self, node: onnx.NodeProto, inner: Sequence[str]) -> dict[str, str]:
        return {own: self.name(name) for own, name in zip(inner, node.output, strict=False) if name}
