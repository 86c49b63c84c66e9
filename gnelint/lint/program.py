"""What a rule file matches and computes, compiled: its pattern, its run, its expressions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any, cast

from gnelint.errors import RuleError
from gnelint.lint.expression import (
    Expression,
    Name,
    Template,
    compile_condition,
    compile_expression,
    compile_template,
)
from gnelint.lint.finding import Safety
from gnelint.lint.functions import FUNCTIONS
from gnelint.lint.kinds import ExpressionError, Kind, operations
from gnelint.lint.pattern import Pattern, PatternError, compile_pattern
from gnelint.lint.severity import Severity
from gnelint.records import cached_property, dataclass

if TYPE_CHECKING:
    from gnelint.lint.document import Document
    from gnelint.lint.document import Path as KeyPath


@dataclass(frozen=True)
class FixPlan:
    """What a rule file says of its fix; `factor` is the name `factor` in the rule's scope if there is one."""

    kind: str
    safety: Safety
    title: Template
    target: str | None
    has_factor: bool


@dataclass(frozen=True)
class RunPlan:
    """How a rule's matches make up runs.

    Attributes:
        ends_at: operations at which a path ends.
        each: whether every match is a finding of its own, and not the run as a whole.
    """

    ends_at: frozenset[str]
    each: bool = True


@dataclass(frozen=True, eq=False)
class Program:
    """The expressions of a rule, compiled; what is said of a finding is compiled with the first one.

    Attributes:
        where: conditions that a match must pass to count at all (`total` sums over those that do).
        lets: named expressions, each may use the ones before it.
        when: the condition that makes a match a finding; None always does.
        severities: tried in order, the first whose condition holds (None holds) gives the severity; none, no finding.
        compiler: what compiles the rest.
    """

    where: tuple[Expression, ...]
    lets: tuple[tuple[str, Expression], ...]
    when: Expression | None
    severities: tuple[tuple[Expression | None, Severity], ...]
    compiler: Compiler = field(repr=False)

    @property
    def scope(self) -> Mapping[str, Name]:
        """What the names of the expressions stand for."""
        return self.compiler.scope

    @cached_property
    def message(self) -> Template:
        """The sentence of a finding."""
        return self.compiler.template(("message",))

    @cached_property
    def measured(self) -> Expression | None:
        """The number that is judged."""
        return self.compiler.number_at("measured")

    @cached_property
    def expected(self) -> Expression | None:
        """What it should be."""
        return self.compiler.number_at("expected")

    @cached_property
    def fix(self) -> FixPlan | None:
        """What would put it right."""
        return self.compiler.fix()

    def compile_all(self) -> None:
        """Compile what is left.

        Raises:
            RuleError: a part does not compile; the error names its line.
        """
        _ = self.message, self.measured, self.expected, self.fix


def program_of(document: Document, pattern: Pattern | None) -> Program:
    """The expressions of a rule file, compiled; `pattern` is what the rule matches.

    Raises:
        RuleError: one does not compile; the error names its line.
    """
    return Compiler(document, pattern).program()


def pattern_of(document: Document) -> Pattern | None:
    """What a rule file matches; None unless it is over nodes.

    Raises:
        RuleError: the pattern is missing, not wanted, or does not compile.
    """
    data, over = document.data, document.data.get("over", "nodes")
    if over != "nodes":
        if "pattern" in data:
            raise document.error(("pattern",), f"a rule over {over} has no pattern", "Leave one of them out.")
        return None
    if "pattern" not in data:
        raise document.error((), "the rule has no pattern", "Add one, or say over: blocks or over: network.")
    try:
        return compile_pattern(data["pattern"])
    except PatternError as error:
        line = document.text_lines[("pattern",)] + error.line - 1
        raise RuleError(f"{document.file}:{line}", f"pattern: {error}") from None


def run_of(document: Document) -> RunPlan:
    """What `total` and its like run over in a rule file.

    Raises:
        RuleError: a run ends at what is no operation.
    """
    run = document.data.get("run", {})
    named = run.get("ends_at", "normalization")
    try:
        ends_at = frozenset() if named == "none" else operations(named)
    except ExpressionError as error:
        raise document.error(("run", "ends_at"), str(error)) from None
    return RunPlan(ends_at, run.get("findings", "each") == "each")


_PARAMETER_KINDS: Mapping[type, Kind] = {bool: "truth", int: "number", float: "number", str: "text"}


class Compiler:
    """Compiles the expressions of a rule; every error names its line."""

    def __init__(self, document: Document, pattern: Pattern | None) -> None:
        self.document = document
        self.data: dict[str, Any] = document.data
        self.scope: dict[str, Name] = {}
        if self.data.get("over") == "blocks":
            self._define(("over",), "block", Name("block"))
        for name in () if pattern is None else pattern.names:
            self._define(("pattern",), name, Name("node"))
        for name, parameter in self.data.get("params", {}).items():
            self._define(("params", name), name, Name(_PARAMETER_KINDS[type(parameter["default"])]))

    def program(self) -> Program:
        data = self.data
        where = tuple(self._where(index) for index in range(len(data.get("where", ()))))
        lets = [(name, self._let(("let", name), name)) for name in data.get("let", {})]
        if "factor" in data.get("fix", {}):
            lets.append(("factor", self._let(("fix", "factor"), "factor")))
        return Program(
            where=where,
            lets=tuple(lets),
            when=self._condition(("when",)) if "when" in data else None,
            severities=self._severities(),
            compiler=self,
        )

    def number_at(self, key: str) -> Expression | None:
        """The number under a key; None where the rule has none."""
        return self._number((key,)) if key in self.data else None

    def fix(self) -> FixPlan | None:
        """What the rule says of its fix; None where it says nothing."""
        if "fix" not in self.data:
            return None
        fix = self.data["fix"]
        target = fix.get("target")
        if target is not None and self.scope.get(target, Name("number")).kind not in ("node", "block"):
            raise self.document.error(("fix", "target"), f'"{target}" is neither a node nor a block of this rule')
        title = self.template(("fix", "title"))
        return FixPlan(fix["kind"], fix["safety"], title, target, "factor" in fix)

    def _value(self, path: KeyPath) -> Any:
        value: Any = self.data
        for key in path:
            value = value[key]
        return value

    def _define(self, path: KeyPath, name: str, meaning: Name) -> None:
        if name in self.scope:
            raise self.document.error(path, f'the name "{name}" is taken already', "Choose another.")
        self.scope[name] = meaning

    def _expression(self, path: KeyPath, condition: bool = False) -> Expression:
        text = _source(self._value(path))
        compiler = compile_condition if condition else compile_expression
        try:
            return compiler(text, self.scope, FUNCTIONS)
        except ExpressionError as error:
            raise self.document.error(path, f'expression "{text}": {error}') from None

    def _condition(self, path: KeyPath) -> Expression:
        return self._expression(path, condition=True)

    def _number(self, path: KeyPath) -> Expression:
        expression = self._expression(path)
        if expression.kind != "number":
            raise self.document.error(path, f'expression "{expression.text}" is a {expression.kind}, not a number')
        return expression

    def _where(self, index: int) -> Expression:
        expression = self._condition(("where", index))
        if expression.of_run:
            raise self.document.error(
                ("where", index),
                "a function of the whole run is over what passes `where` and cannot be used in it",
                "Move it to `when`.",
            )
        return expression

    def _let(self, path: KeyPath, name: str) -> Expression:
        expression = self._expression(path)
        self._define(path, name, Name(expression.kind, expression.of_run))
        return expression

    def _severities(self) -> tuple[tuple[Expression | None, Severity], ...]:
        given = self.data["severity"]
        if isinstance(given, str):
            return ((None, cast(Severity, given)),)
        return tuple(
            (self._condition(("severity", index, "when")) if "when" in entry else None, entry["severity"])
            for index, entry in enumerate(given)
        )

    def template(self, path: KeyPath) -> Template:
        """The text under a path, with the expressions in it."""
        text = self._value(path)
        try:
            return compile_template(text, self.scope, FUNCTIONS)
        except ExpressionError as error:
            raise self.document.error(path, f'text "{text.strip()}": {error}') from None


def _source(value: str | float | bool) -> str:
    """The text of an expression; YAML reads `when: true` and `expected: 1` as values of their own."""
    return value if isinstance(value, str) else repr(value)
