"""Rule files: YAML read with its lines, checked, and compiled to `Rule`.

The rules that ship with gnelint are checked against the JSON Schema by the tests, a user's when they are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

from gnelint.errors import RuleError
from gnelint.files import read_bytes
from gnelint.lint.document import Document
from gnelint.lint.document import Path as KeyPath
from gnelint.lint.explaining import cycle
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
from gnelint.lint.shipped import shipped_documents

SCHEMA = 1
"""The newest major of the rule format that this version reads."""

MAX_FILE_SIZE = 1 << 18

Over = Literal["nodes", "blocks", "network"]


@dataclass(frozen=True)
class Parameter:
    """A number, text or switch of a rule that a configuration may set."""

    default: float | str | bool
    help: str


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


@dataclass(frozen=True)
class Program:
    """The expressions of a rule, compiled.

    Attributes:
        where: conditions that a match must pass to count at all (`total` sums over those that do).
        lets: named expressions, each may use the ones before it.
        when: the condition that makes a match a finding; None always does.
        severities: tried in order, the first whose condition holds (None holds) gives the severity; none, no finding.
        scope: what the names of the expressions stand for.
    """

    where: tuple[Expression, ...]
    lets: tuple[tuple[str, Expression], ...]
    when: Expression | None
    severities: tuple[tuple[Expression | None, Severity], ...]
    message: Template
    measured: Expression | None
    expected: Expression | None
    fix: FixPlan | None
    scope: Mapping[str, Name]


@dataclass(frozen=True)
class Rule:
    """A rule.

    Attributes:
        over: what it looks at: matches of its pattern, every block, or the network once.
        pattern: None unless `over` is "nodes".
        explained_by: ids of the rules that it yields to (`gnelint.lint.explaining`).
        run: what `total` and its like run over.
        references, tests: as the file has them.
        document: the file that it was read from.
    """

    id: str
    name: str
    group: str
    status: Literal["stable", "preview"]
    stage: Literal["init", "any"]
    summary: str
    over: Over
    pattern: Pattern | None
    params: Mapping[str, Parameter]
    explained_by: tuple[str, ...]
    run: RunPlan
    explain: str
    references: tuple[Mapping[str, str], ...]
    tests: tuple[Mapping[str, Any], ...]
    document: Document = field(repr=False)

    @property
    def file(self) -> str:
        """Where it was read from."""
        return self.document.file

    @cached_property
    def program(self) -> Program:
        """Its expressions. They are compiled when they are first asked for: most rules match nothing in a network."""
        return _Compiler(self).program()


@dataclass(frozen=True)
class RuleSet:
    """Rules in the order of their ids, and what a person should know about files that were left out."""

    rules: tuple[Rule, ...]
    warnings: tuple[str, ...] = ()

    def get(self, word: str) -> Rule | None:
        """The rule of this id or name, in letters of either case."""
        wanted = word.upper()
        return next((rule for rule in self.rules if wanted in (rule.id, rule.name.upper())), None)


def builtin_directory() -> Path:
    """Where gnelint's own rules are: inside an installed package, or beside the package in a checkout.

    Raises:
        RuleError: neither place holds any; the installation is damaged.
    """
    package = Path(__file__).resolve().parents[1]
    for directory in (package / "_rules", package.parent / "rules"):
        if any(directory.glob("*.yaml")):
            return directory
    raise RuleError(str(package / "_rules"), "gnelint's own rules are missing", "Install gnelint again.")


def is_builtin(rule: Rule) -> bool:
    """Whether a rule is one of gnelint's own."""
    return Path(rule.file).resolve().parent == builtin_directory().resolve()


def load_rules(paths: Sequence[Path] = ()) -> RuleSet:
    """gnelint's own rules and those of the given files and directories.

    Raises:
        RuleError: a file is missing or not valid, two rules have one id, or rules yield to each other in a circle.
    """
    found: dict[str, Rule] = {}
    warnings: list[str] = []
    documents = shipped_documents(sorted(builtin_directory().glob("*.yaml")))
    for rule in (*map(_rule, documents), *(load_rule(path) for path in rule_files(paths))):
        if isinstance(rule, str):
            warnings.append(rule)
        elif rule.id in found:
            raise RuleError(rule.file, f"the id {rule.id} belongs to {found[rule.id].file} already", "Choose another.")
        else:
            found[rule.id] = rule
    loop = cycle({rule.id: rule.explained_by for rule in found.values()})
    if loop:
        told = " to ".join((*loop, loop[0]))
        raise RuleError(found[loop[0]].file, f"explained_by: {told} yield in a circle", "Break it at one of them.")
    return RuleSet(tuple(found[key] for key in sorted(found)), tuple(warnings))


def rule_files(paths: Sequence[Path]) -> list[Path]:
    """The files themselves, and those in the directories among them.

    Raises:
        RuleError: a directory holds none.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(entry for entry in path.iterdir() if entry.suffix in (".yaml", ".yml"))
            if not inside:
                raise RuleError(str(path), "the directory holds no rule file", "Rule files end in .yaml or .yml.")
            files.extend(inside)
        else:
            files.append(path)
    return files


def load_rule(path: Path) -> Rule | str:
    """Read and check one file. The answer is a sentence, and no rule, if the file needs a newer gnelint.

    Raises:
        RuleError: the file cannot be read or is not a valid rule.
    """
    try:
        raw = read_bytes(path, MAX_FILE_SIZE)
    except OSError as error:
        raise RuleError(str(path), f"cannot be read ({error.strerror})", "Check the path given to --rules.") from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise RuleError(str(path), "not a text in UTF-8", "Rule files are YAML.") from None
    from gnelint.lint.yaml_marks import parse  # slow to import, and only a user's own rules need it

    document = parse(text, str(path))
    if not isinstance(document.data, dict):
        raise document.error((), "a rule file holds keys and values", "Start from one of gnelint's own rules.")
    schema = document.data.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise document.error(("schema",), "the first key must be schema: 1")
    if schema > SCHEMA:
        return f"{path}: needs rule schema {schema}, this gnelint reads {SCHEMA}; skipped. Update gnelint."
    validate_document(document)
    rule = _rule(document)
    _ = rule.program  # an error in it is one of the file, not a surprise in front of a model
    return rule


def validate_document(document: Document) -> None:
    """Check a parsed rule file against the JSON Schema.

    Raises:
        RuleError: it does not conform; the error names the line and the key.
    """
    import difflib

    import jsonschema  # slow to import, and only a user's own rules need it

    schema = json.loads(Path(__file__).with_name("rule.schema.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    error = jsonschema.exceptions.best_match(validator.iter_errors(document.data))
    if error is None:
        return
    path: KeyPath = tuple(error.absolute_path)
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        allowed = list(error.schema["properties"])
        key = next(key for key in error.instance if key not in allowed)
        close = difflib.get_close_matches(str(key), allowed, n=1)
        advice = f'Did you mean "{close[0]}"?' if close else f"Known keys: {', '.join(allowed)}."
        raise document.error((*path, key), f'unknown key "{key}"', advice)
    raise document.error(path, error.message)


_PARAMETER_KINDS: Mapping[type, Kind] = {bool: "truth", int: "number", float: "number", str: "text"}


def _rule(document: Document) -> Rule:
    """The rule in a document that conforms to the schema."""
    data = document.data
    return Rule(
        id=data["id"],
        name=data["name"],
        group=data["group"],
        status=data.get("status", "stable"),
        stage=data["stage"],
        summary=data["summary"],
        over=data.get("over", "nodes"),
        pattern=_pattern(document),
        params={name: Parameter(**entry) for name, entry in data.get("params", {}).items()},
        explained_by=tuple(data.get("explained_by", ())),
        run=_run(document),
        explain=data["explain"],
        references=tuple(data.get("references", ())),
        tests=tuple(data.get("tests", ())),
        document=document,
    )


def _pattern(document: Document) -> Pattern | None:
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


def _run(document: Document) -> RunPlan:
    run = document.data.get("run", {})
    named = run.get("ends_at", "normalization")
    try:
        ends_at = frozenset() if named == "none" else operations(named)
    except ExpressionError as error:
        raise document.error(("run", "ends_at"), str(error)) from None
    return RunPlan(ends_at, run.get("findings", "each") == "each")


class _Compiler:
    """Compiles the expressions of a rule; every error names its line."""

    def __init__(self, rule: Rule) -> None:
        self.document = rule.document
        self.data: dict[str, Any] = rule.document.data
        self.scope: dict[str, Name] = {}
        if rule.over == "blocks":
            self._define(("over",), "block", Name("block"))
        for name in () if rule.pattern is None else rule.pattern.names:
            self._define(("pattern",), name, Name("node"))
        for name, parameter in rule.params.items():
            self._define(("params", name), name, Name(_PARAMETER_KINDS[type(parameter.default)]))

    def program(self) -> Program:
        data = self.data
        where = tuple(self._where(index) for index in range(len(data.get("where", ()))))
        lets = [(name, self._let(("let", name), name)) for name in data.get("let", {})]
        has_factor = "factor" in data.get("fix", {})
        if has_factor:
            lets.append(("factor", self._let(("fix", "factor"), "factor")))
        return Program(
            where=where,
            lets=tuple(lets),
            when=self._condition(("when",)) if "when" in data else None,
            severities=self._severities(),
            message=self._template(("message",)),
            measured=self._number(("measured",)) if "measured" in data else None,
            expected=self._number(("expected",)) if "expected" in data else None,
            fix=self._fix(has_factor) if "fix" in data else None,
            scope=self.scope,
        )

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

    def _template(self, path: KeyPath) -> Template:
        text = self._value(path)
        try:
            return compile_template(text, self.scope, FUNCTIONS)
        except ExpressionError as error:
            raise self.document.error(path, f'text "{text.strip()}": {error}') from None

    def _fix(self, has_factor: bool) -> FixPlan:
        fix = self.data["fix"]
        target = fix.get("target")
        if target is not None and self.scope.get(target, Name("number")).kind not in ("node", "block"):
            raise self.document.error(("fix", "target"), f'"{target}" is neither a node nor a block of this rule')
        return FixPlan(fix["kind"], fix["safety"], self._template(("fix", "title")), target, has_factor)


def _source(value: str | float | bool) -> str:
    """The text of an expression; YAML reads `when: true` and `expected: 1` as values of their own."""
    return value if isinstance(value, str) else repr(value)
