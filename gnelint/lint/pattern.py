"""Patterns: text that reads like the graph, compiled to a matcher over it.

    w   = linear|conv(x)           one statement a line: name = operations(arguments)
    act = activation(~w)

`operations` is an operation, a family, `any`, or alternatives joined by `|`. An argument is the name of an earlier
statement (its output is read here), a free name (any value; the same name means the same value), `_` (any value), or
`...` as the last one (any further inputs). `~` before a name passes through data movement, bias, scaling, dropout and
identity. Without parentheses any inputs match. `name=literal` asks for an attribute; one that the model leaves out has
its default. Operands of add, mul, mean, maximum and minimum match in either order. `#` starts a comment.

The last statement is searched for through an index by operation; every other one is found by walking from it to the
producers, so that a match costs the size of the pattern and a search the number of candidates.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from gnelint.graph import Graph, Node
from gnelint.lint.expression import ExpressionError, operations

TRANSPARENT = frozenset(
    {"identity", "dropout", "bias", "scale", "reshape", "transpose", "slice", "split", "pad", "roll", "flip",
     "depth_to_space", "space_to_depth"}
)  # fmt: skip
"""What `~` passes through: the value goes on entry by entry, shifted or scaled by constants."""

COMMUTATIVE = frozenset({"add", "mul", "mean", "maximum", "minimum"})

_MAX_COMMUTED = 4
"""Operands of a wider commutative node are matched in their given order: 4! orders are few, 8! are not."""

_STATEMENT = re.compile(r"(?P<name>[A-Za-z]\w*)\s*=\s*(?P<ops>[\w|\s]+?)\s*(?:\((?P<arguments>.*)\))?")
_REFERENCE = re.compile(r"(?P<through>~)?(?P<name>[A-Za-z_]\w*)")
_ATTRIBUTE = re.compile(r"(?P<key>[a-z]\w*)\s*=\s*(?P<value>.+)")


class PatternError(ValueError):
    """A pattern that is not valid; `line` counts from 1 within the pattern's text."""

    def __init__(self, line: int, problem: str) -> None:
        self.line = line
        super().__init__(problem)


@dataclass(frozen=True)
class Argument:
    """One operand: a name (`_` for any) and whether `~` stands before it."""

    name: str
    through: bool


@dataclass(frozen=True)
class Statement:
    """One line of a pattern; `arguments` None means any inputs, `open_ended` that further inputs may follow."""

    name: str
    operations: frozenset[str]
    arguments: tuple[Argument, ...] | None
    open_ended: bool
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Match:
    """Nodes by statement name, in the order of the statements, and values by free name."""

    nodes: Mapping[str, Node]
    values: Mapping[str, str]


@dataclass(frozen=True)
class Pattern:
    """A compiled pattern."""

    statements: tuple[Statement, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names that are bound to nodes, in the order of the statements."""
        return tuple(statement.name for statement in self.statements)

    def matches(self, graph: Graph, index: Mapping[str, tuple[Node, ...]]) -> Iterator[Match]:
        """Every match, in the topological order of the last statement's node.

        Args:
            graph: where to look.
            index: the nodes by operation (`index_by_operation`).
        """
        sink = self.statements[-1]
        candidates = [node for op in sink.operations for node in index.get(op, ())]
        by_name = {statement.name: statement for statement in self.statements}
        for node in sorted(candidates, key=lambda node: graph.positions[node.name]):
            seen = set()
            for binding in _bind_node(graph, by_name, sink, node, _Binding({}, {})):
                match = Match({name: binding.nodes[name] for name in self.names}, binding.values)
                identity = tuple(bound.name for bound in match.nodes.values())
                if identity not in seen:
                    seen.add(identity)
                    yield match


def index_by_operation(graph: Graph) -> Mapping[str, tuple[Node, ...]]:
    """The graph's nodes by canonical operation, each group in topological order."""
    found: dict[str, list[Node]] = {}
    for node in graph.nodes:
        found.setdefault(node.op, []).append(node)
    return {op: tuple(nodes) for op, nodes in found.items()}


def compile_pattern(text: str) -> Pattern:
    """Compile the text of a pattern.

    Raises:
        PatternError: it does not parse, names an unknown operation, or its last statement does not lead to all others.
    """
    statements: list[Statement] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.partition("#")[0].strip()
        if line:
            statements.append(_parse_statement(line, number, {statement.name for statement in statements}))
    if not statements:
        raise PatternError(1, "the pattern is empty")
    names = {statement.name for statement in statements}
    reached, pending = {statements[-1].name}, [statements[-1]]
    while pending:
        read = {argument.name for argument in pending.pop().arguments or ()} & names - reached
        reached |= read
        pending.extend(statement for statement in statements if statement.name in read)
    if names - reached:
        raise PatternError(1, f'the last statement does not lead back to "{sorted(names - reached)[0]}"')
    return Pattern(tuple(statements))


def _parse_statement(line: str, number: int, earlier: set[str]) -> Statement:
    parsed = _STATEMENT.fullmatch(line)
    if parsed is None:
        raise PatternError(number, f'"{line}" is not a statement; write name = operation(arguments)')
    name = parsed["name"]
    if name in earlier:
        raise PatternError(number, f'"{name}" is defined twice')
    try:
        named = operations(parsed["ops"])
    except ExpressionError as error:
        raise PatternError(number, str(error)) from None
    arguments: list[Argument] = []
    attributes: dict[str, Any] = {}
    open_ended = False
    written = parsed["arguments"]
    for part in (part.strip() for part in written.split(",")) if written and written.strip() else ():
        attribute, reference = _ATTRIBUTE.fullmatch(part), _REFERENCE.fullmatch(part)
        if open_ended and attribute is None:
            raise PatternError(number, '"..." must be the last argument')
        if part == "...":
            open_ended = True
        elif attribute is not None:
            attributes[attribute["key"]] = _literal(attribute["value"], number)
        elif reference is not None and reference["name"] != name:
            arguments.append(Argument(reference["name"], reference["through"] is not None))
        else:
            raise PatternError(number, f'"{part}" is not an argument')
    if written is None:
        return Statement(name, named, None, True, attributes)
    return Statement(name, named, tuple(arguments), open_ended, attributes)


def _literal(text: str, number: int) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise PatternError(number, f'"{text}" is not a number, a string, True, False or None') from None
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise PatternError(number, f'"{text}" is not a number, a string, True, False or None')
    return value


@dataclass(frozen=True)
class _Binding:
    nodes: Mapping[str, Node]
    values: Mapping[str, str]


def _bind_node(
    graph: Graph, statements: Mapping[str, Statement], statement: Statement, node: Node, binding: _Binding
) -> Iterator[_Binding]:
    """Ways to take `node` for `statement`."""
    bound = binding.nodes.get(statement.name)
    if bound is not None:
        if bound.name == node.name:
            yield binding
        return
    if node.op not in statement.operations or not _attributes_agree(statement, node):
        return
    binding = _Binding({**binding.nodes, statement.name: node}, binding.values)
    if statement.arguments is None:
        yield binding
        return
    inputs = node.present_inputs
    if len(inputs) < len(statement.arguments) or (len(inputs) > len(statement.arguments) and not statement.open_ended):
        return
    commuted = node.op in COMMUTATIVE and len(inputs) <= _MAX_COMMUTED
    for order in permutations(inputs, len(statement.arguments)) if commuted else (inputs,):
        yield from _bind_arguments(graph, statements, tuple(zip(statement.arguments, order, strict=False)), binding)


def _bind_arguments(
    graph: Graph,
    statements: Mapping[str, Statement],
    pairs: tuple[tuple[Argument, str], ...],
    binding: _Binding,
) -> Iterator[_Binding]:
    if not pairs:
        yield binding
        return
    (argument, value), rest = pairs[0], pairs[1:]
    for extended in _bind_value(graph, statements, argument, value, binding):
        yield from _bind_arguments(graph, statements, rest, extended)


def _bind_value(
    graph: Graph, statements: Mapping[str, Statement], argument: Argument, value: str, binding: _Binding
) -> Iterator[_Binding]:
    statement = statements.get(argument.name)
    if argument.name == "_":
        yield binding
    elif statement is not None:
        for source in _sources(graph, value) if argument.through else (value,):
            producer = graph.producers.get(source)
            if producer is not None:
                yield from _bind_node(graph, statements, statement, producer, binding)
    else:
        root = list(_sources(graph, value))[-1] if argument.through else value
        if binding.values.get(argument.name, root) == root:
            yield _Binding(binding.nodes, {**binding.values, argument.name: root})


def _sources(graph: Graph, value: str) -> Iterator[str]:
    """The value itself, then what it comes from through transparent nodes."""
    yield value
    producer = graph.producers.get(value)
    while producer is not None and producer.op in TRANSPARENT and producer.present_inputs:
        value = producer.present_inputs[0]
        yield value
        producer = graph.producers.get(value)


def _attributes_agree(statement: Statement, node: Node) -> bool:
    for key, wanted in statement.attributes.items():
        try:
            if node.attribute(key) != wanted:
                return False
        except KeyError:
            return False
    return True
