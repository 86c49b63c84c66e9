"""Patterns: text that reads like the graph.

    w   = linear|conv(x, groups>1)     one statement a line: name = operations(arguments)
    n   = normalization?(~w)           a statement that may be missing: ~n then reads what n would have read
    act = activation(~n)
    s   = add(via(pooling|conv, act), _)

`operations` is an operation, a family, `any`, or alternatives joined by `|`; `?` behind it makes the statement
optional. An argument is the name of another statement (its output is read here), a free name (any value; the same name
means the same value), `_` (any value), or `...` as the last one (any further inputs). `~` before a name passes through
`TRANSPARENT` operations, `via(operations, name)` through any number of the operations given, along every path: the
statement stands for the nearest node that fits. Without parentheses any inputs match. `name=literal` asks for an
attribute, `!=`, `<`, `<=`, `>` and `>=` compare; one that the model leaves out has its default. Operands of add, mul,
mean, maximum and minimum match in either order. `#` starts a comment.

`matching.py` finds the matches.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from gnelint.ir.graph import Node
from gnelint.lint.kinds import ExpressionError, operations
from gnelint.records import dataclass

TRANSPARENT = frozenset(
    {"identity", "dropout", "bias", "scale", "reshape", "transpose", "slice", "split", "pad", "roll", "flip",
     "depth_to_space", "space_to_depth"}
)  # fmt: skip
"""What `~` passes through: the value goes on entry by entry, shifted or scaled by constants."""

_STATEMENT = re.compile(r"(?P<name>[A-Za-z]\w*)\s*=\s*(?P<ops>[\w|\s]+?)\s*(?P<optional>\?)?\s*(?:\((?P<args>.*)\))?")
_REFERENCE = re.compile(r"(?P<through>~)?(?P<name>[A-Za-z_]\w*)")
_VIA = re.compile(r"via\s*\((?P<ops>[\w|\s]+),\s*(?P<name>[A-Za-z]\w*)\s*\)")
_PREDICATE = re.compile(r"(?P<key>[a-z]\w*)\s*(?P<test>==|!=|<=|>=|=|<|>)\s*(?P<value>.+)")
_COMMA = re.compile(r",(?![^(]*\))")

_TESTS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class PatternError(ValueError):
    """A pattern that is not valid; `line` counts from 1 within the pattern's text."""

    def __init__(self, line: int, problem: str) -> None:
        self.line = line
        super().__init__(problem)


@dataclass(frozen=True)
class Argument:
    """One operand: a name (`_` for any) and the operations that lie on the way to it."""

    name: str
    through: frozenset[str] = frozenset()

    @property
    def is_path(self) -> bool:
        """Whether the way may branch: `~` passes through nothing that does."""
        return not self.through <= TRANSPARENT


@dataclass(frozen=True)
class Predicate:
    """A condition on an attribute; of a list, every entry must fulfil it (for != one entry that differs is enough)."""

    key: str
    test: str
    value: Any

    def holds(self, node: Node) -> bool:
        """Whether the node has the attribute and it is as asked for."""
        try:
            found = node.attribute(self.key)
        except KeyError:
            return False
        entries = found if isinstance(found, (tuple, list)) else (found,)
        equal = all(entry == self.value for entry in entries)
        if self.test in ("=", "=="):
            return equal
        if self.test == "!=":
            return not equal
        try:
            return bool(entries) and all(_TESTS[self.test](entry, self.value) for entry in entries)
        except TypeError:  # None, which is no bound, or a text
            return False


@dataclass(frozen=True)
class Statement:
    """One line of a pattern; `arguments` None means any inputs, `open_ended` that further inputs may follow."""

    name: str
    operations: frozenset[str]
    arguments: tuple[Argument, ...] | None
    open_ended: bool
    predicates: tuple[Predicate, ...]
    optional: bool


@dataclass(frozen=True)
class Pattern:
    """A compiled pattern; the last statement leads back to all others."""

    text: str
    statements: tuple[Statement, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names that are bound to nodes, in the order of the statements."""
        return tuple(statement.name for statement in self.statements)

    @property
    def anchor(self) -> str:
        """The first name that every match binds: where the match stands in the network."""
        return next(statement.name for statement in self.statements if not statement.optional)


def compile_pattern(text: str) -> Pattern:
    """Compile the text of a pattern.

    Raises:
        PatternError: it does not parse, names an unknown operation, or its last statement does not lead to all others.
    """
    statements: list[Statement] = []
    lines: list[int] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.partition("#")[0].strip()
        if line:
            statements.append(_parse_statement(line, number, {statement.name for statement in statements}))
            lines.append(number)
    if not statements:
        raise PatternError(1, "the pattern is empty")
    names = {statement.name for statement in statements}
    for statement, number in zip(statements, lines, strict=True):
        for argument in statement.arguments or ():
            if argument.is_path and argument.name not in names:
                raise PatternError(number, f'via(): "{argument.name}" is not a statement')
    if statements[-1].optional:
        raise PatternError(lines[-1], "the last statement cannot be optional")
    reached, pending = {statements[-1].name}, [statements[-1]]
    while pending:
        read = {argument.name for argument in pending.pop().arguments or ()} & names - reached
        reached |= read
        pending.extend(statement for statement in statements if statement.name in read)
    if names - reached:
        raise PatternError(1, f'the last statement does not lead back to "{sorted(names - reached)[0]}"')
    _check_acyclic(statements, lines)
    return Pattern(text, tuple(statements))


def _check_acyclic(statements: list[Statement], lines: list[int]) -> None:
    done: set[str] = set()
    pending = list(zip(statements, lines, strict=True))
    names = {statement.name for statement in statements}
    while pending:
        ready = [
            (statement, number)
            for statement, number in pending
            if all(argument.name in done or argument.name not in names for argument in statement.arguments or ())
        ]
        if not ready:
            raise PatternError(pending[0][1], f'"{pending[0][0].name}" reads its own output')
        done.update(statement.name for statement, _ in ready)
        pending = [entry for entry in pending if entry[0].name not in done]


def _parse_statement(line: str, number: int, earlier: set[str]) -> Statement:
    parsed = _STATEMENT.fullmatch(line)
    if parsed is None:
        raise PatternError(number, f'"{line}" is not a statement; write name = operation(arguments)')
    name = parsed["name"]
    if name in earlier:
        raise PatternError(number, f'"{name}" is defined twice')
    named = _operations(parsed["ops"], number)
    arguments: list[Argument] = []
    predicates: list[Predicate] = []
    open_ended = False
    written = parsed["args"]
    for part in (part.strip() for part in _COMMA.split(written)) if written and written.strip() else ():
        predicate = _PREDICATE.fullmatch(part)
        if open_ended and predicate is None:
            raise PatternError(number, '"..." must be the last argument')
        if part == "...":
            open_ended = True
        elif predicate is not None:
            predicates.append(_predicate(predicate, number))
        else:
            arguments.append(_argument(part, name, number))
    optional = parsed["optional"] is not None
    if optional and (len(arguments) != 1 or arguments[0].name == "_"):
        raise PatternError(number, f'"{name}" is optional and must read one name, which stands in its place')
    if written is None:
        return Statement(name, named, None, True, tuple(predicates), optional)
    return Statement(name, named, tuple(arguments), open_ended, tuple(predicates), optional)


def _operations(text: str, number: int) -> frozenset[str]:
    try:
        return operations(text)
    except ExpressionError as error:
        raise PatternError(number, str(error)) from None


def _argument(part: str, owner: str, number: int) -> Argument:
    via, reference = _VIA.fullmatch(part), _REFERENCE.fullmatch(part)
    if via is not None:
        return Argument(via["name"], _operations(via["ops"], number))
    if reference is None or reference["name"] == owner:
        raise PatternError(number, f'"{part}" is not an argument')
    return Argument(reference["name"], TRANSPARENT if reference["through"] else frozenset())


def _predicate(parsed: re.Match[str], number: int) -> Predicate:
    value = _literal(parsed["value"], number)
    if parsed["test"] in _TESTS and (isinstance(value, (bool, str)) or value is None):
        raise PatternError(number, f'"{parsed[0]}": only numbers are compared by size')
    return Predicate(parsed["key"], parsed["test"], value)


def _literal(text: str, number: int) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise PatternError(number, f'"{text}" is not a number, a string, True, False or None') from None
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise PatternError(number, f'"{text}" is not a number, a string, True, False or None')
    return value
