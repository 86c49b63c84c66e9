"""What is asked of rule files beyond being valid, and their tests: networks with what a rule must say of them, and why
it does not where it does not."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from gnelint.analysis.prediction import Prediction
from gnelint.analysis.propagation import analyse
from gnelint.errors import GnelintError, RuleError, UsageError
from gnelint.fixes.planning import FixRequest, plan_fixes
from gnelint.lint.engine import lint
from gnelint.lint.expression import Expression, compile_expression, parts
from gnelint.lint.finding import Finding
from gnelint.lint.functions import FUNCTIONS
from gnelint.lint.rulefile import Rule, RuleSet, builtin_directory, is_builtin, load_rule, load_rules, rule_files
from gnelint.lint.running import Matches, Run
from gnelint.lint.selection import Settings, Stage, no_such_rule
from gnelint.output.rules import catalogue_row, catalogue_section
from gnelint.records import dataclass
from gnelint.words import plural

if TYPE_CHECKING:
    from gnelint.ir.graph import Graph

HEADINGS = ("What it checks", "Why it matters", "Example", "What to do", "When to ignore it")
"""Of `explain`, in this order."""
WIDTH = 120
"""Characters in a line of `explain`, at most."""
_MAX_SHOWN = 3
"""Matches whose conditions are printed where a test fails."""


@dataclass(frozen=True)
class Outcome:
    """Whether a test, or what else is asked of a rule file, holds, and what to print of it."""

    holds: bool
    lines: tuple[str, ...]


@dataclass
class Examples:
    """The rules whose tests are run, and the predictions of the networks that were read for them.

    Attributes:
        rules: all that may speak.
        chosen: those whose tests are run.
    """

    rules: RuleSet
    chosen: tuple[Rule, ...]
    _predictions: dict[tuple[Any, ...], Prediction] = field(default_factory=dict)
    _exported: TemporaryDirectory[str] = field(default_factory=TemporaryDirectory)

    @classmethod
    def of(cls, texts: Sequence[str]) -> Examples:
        """The rules of files and directories, and gnelint's own by their ids.

        Raises:
            RuleError: a file is not valid.
            UsageError: a text is neither a file nor the id of a rule.
        """
        known = load_rules()
        own = {Path(rule.file).resolve(): rule for rule in known.rules}
        paths: list[Path] = []
        chosen: list[str] = []
        for text in texts:
            path = Path(text)
            if not path.exists():
                rule = known.get(text.upper())
                if rule is None:
                    looks_like_path = path.suffix in (".yaml", ".yml") or len(path.parts) > 1
                    raise UsageError(text, "no such file") if looks_like_path else no_such_rule(text, known)
                chosen.append(rule.id)
                continue
            for file in rule_files([path]):
                if file.resolve() in own:
                    chosen.append(own[file.resolve()].id)
                else:
                    paths.append(file)
        loaded = load_rules(paths)
        files = {str(path) for path in paths}
        chosen.extend(rule.id for rule in loaded.rules if rule.file in files)
        return cls(loaded, tuple(rule for rule in loaded.rules if rule.id in chosen))

    def names(self, rule: Rule) -> Outcome:
        """Whether a rule yields to rules that exist. Of a file that is checked alone the others may not be at hand."""
        unknown = [other for other in rule.explained_by if self.rules.get(other) is None]
        alone = len(self.chosen) == 1
        start = "note " if alone else "FAIL "
        lines = tuple(f"{start} {rule.id}  explained_by: {no_such_rule(other, self.rules)}" for other in unknown)
        return Outcome(alone or not unknown, lines)

    def demands(self, rule: Rule) -> Outcome:
        """Whether a valid rule file is as one should be; gnelint's own are asked for more.

        Raises:
            RuleError: the file, one of gnelint's own, is not valid.
        """
        lacks = list(_lacks(rule))
        path = Path(rule.file)
        if is_builtin(rule):
            load_rule(path)  # a user's file was checked against the schema when it was read
            lacks += _own_lacks(rule, path)
        return Outcome(not lacks, tuple(f"FAIL  {rule.id}  {lack}" for lack in lacks))

    def run(self, rule: Rule, test: Mapping[str, Any], *, exported: bool = False) -> Outcome:
        """Run one test of a rule.

        Args:
            rule: whose test it is.
            test: one of its entries.
            exported: read the network from the ONNX file that it is exported to (gnelint's own alone).

        Raises:
            RuleError: its network cannot be found, or not be read.
        """
        try:
            prediction = self._prediction(rule, test, exported)
        except GnelintError as error:
            raise _place(rule, test, error) from error
        result = lint(prediction, [rule], Settings(loss=test.get("loss")))
        complaints = _complaints(test, result.findings)
        if "others" in test:
            complaints += self._others(rule, test, prediction)
        model = f"{test['model']}{' as ONNX' * exported}"
        said = f"{rule.id}  {model}: {plural(len(result.findings), 'finding')}"
        if "after_fix" in test:
            complaints += self._after_fix(rule, test, prediction)
        if "todo" in test:
            if complaints:
                return Outcome(True, (f"todo  {said} ({test['todo']})",))
            return Outcome(False, (f"FAIL  {said}", f"      holds by now: remove its todo ({test['todo']})"))
        if not complaints:
            return Outcome(True, (f"ok    {said}",))
        why = [f"      {reason}" for reason in (*complaints, *result.skipped)]
        if not result.skipped:
            missing = len(result.findings) < test["findings"]
            why += [f"        {line}" for line in explained(Run(prediction), rule, missing)]
        return Outcome(False, (f"FAIL  {said}", *why))

    def _heard(self, rule: Rule) -> list[Rule]:
        """The rule itself and all others but preview ones: a stable rule's tests must not break because of those."""
        return [other for other in self.rules.rules if other.status in ("stable", rule.status)]

    def _after_fix(self, rule: Rule, test: Mapping[str, Any], prediction: Prediction) -> list[str]:
        fixed = plan_fixes(prediction.graph, FixRequest([rule], Settings(select=(rule.id,)), unsafe=True))
        found = (
            []
            if len(fixed.remaining) == test["after_fix"]
            else [f"{plural(len(fixed.remaining), 'finding')} after the fix, {test['after_fix']} expected"]
        )
        found += [f"not fixed: {left.reason}" for left in fixed.left[:_MAX_SHOWN]] if found else []
        stage: Stage = "trained" if prediction.trained else "init"
        before, after = (
            {
                finding.rule
                for finding in lint(state, self._heard(rule), Settings(stage=stage)).findings
                if finding.severity == "error"
            }
            for state in (prediction, fixed.after)
        )
        return found + [f"{other} finds an error after the fix" for other in sorted(after - before)]

    def _others(self, rule: Rule, test: Mapping[str, Any], prediction: Prediction) -> list[str]:
        found = {
            finding.rule for finding in lint(prediction, self._heard(rule), Settings(loss=test.get("loss"))).findings
        } - {rule.id}
        return [f"{other} speaks here too and is not among its others" for other in sorted(found - {*test["others"]})]

    def _prediction(self, rule: Rule, test: Mapping[str, Any], exported: bool) -> Prediction:
        training = test.get("mode", "train") == "train"
        directory = Path(rule.file).parent
        key = (directory, test["model"], training, exported, *test.get("input", ()))
        if key not in self._predictions:
            path = Path(self._exported.name, f"{len(self._predictions)}.onnx") if exported else None
            self._predictions[key] = analyse(_read(rule, directory, test, training, path))
        return self._predictions[key]


def _place(rule: Rule, test: Mapping[str, Any], error: GnelintError) -> RuleError:
    """Why the network of a test cannot be read, with file, line and key."""
    read = load_rule(Path(rule.file)) if is_builtin(rule) else rule  # what ships compiled has no lines
    document = rule.document if isinstance(read, str) else read.document
    key = "input" if error.subject.startswith("--input") else "model"
    problem = error.problem if error.subject == test["model"] else f"{error.subject}: {error.problem}"
    return document.error(("tests", rule.tests.index(test), key), f"{test['model']!r}: {problem}", error.advice)


def _lacks(rule: Rule) -> Iterator[str]:
    """What any rule file should have and this one has not, each with what to do."""
    headings = re.findall(r"^## (.*)$", rule.explain, re.M)
    if headings != [*HEADINGS]:
        yield f"explain: its headings are {', '.join(headings) or 'none'}. Write ## {', ## '.join(HEADINGS)}."
    for number, line in enumerate(rule.explain.splitlines(), start=1):
        if len(line) > WIDTH:
            yield f"explain: its line {number} has {len(line)} characters. Break it at {WIDTH}."
    if rule.group != "coverage" and not any(test["findings"] for test in rule.tests):  # half of a network is no network
        yield "tests: none has findings. Add a network that the rule must speak of."
    if all(test["findings"] for test in rule.tests):
        yield "tests: none is without findings. Add a network of which the rule must be silent."


def _own_lacks(rule: Rule, path: Path) -> Iterator[str]:
    """What one of gnelint's own rule files should have besides."""
    if path.name != f"{rule.id}-{rule.name}.yaml":
        yield f"is in {path.name}. Call the file {rule.id}-{rule.name}.yaml."
    if not rule.references:
        yield "references: there are none. Say where it was reported or proved."
    for test in rule.tests:
        missing = [key for key in ("severity", "others") if test["findings"] and key not in test]
        if missing:
            yield f"tests: {test['model']} has no {' and no '.join(missing)}. Say what is heard there."
    kept = path.with_name("CATALOGUE.md").read_text(encoding="utf-8")
    if catalogue_row(rule) not in kept or catalogue_section(rule) not in kept:
        yield "CATALOGUE.md says something else of it. Run: gnelint rules --format markdown > rules/CATALOGUE.md"


def is_exported(test: Mapping[str, Any]) -> bool:
    """Whether a test is to hold for the ONNX file too that its network is exported to."""
    return is_fixture(test) and test.get("source") != "torch"


def is_fixture(test: Mapping[str, Any]) -> bool:
    """Whether a test names a network of tests/models, as those of gnelint's own rules do."""
    return ":" not in test["model"] and Path(test["model"]).suffix not in (".onnx", ".pt2")


def _read(rule: Rule, directory: Path, test: Mapping[str, Any], training: bool, exported: Path | None) -> Graph:
    from gnelint.readers.inputs import parse_input
    from gnelint.readers.reading import read_target
    from gnelint.readers.target import resolve

    text = test["model"]
    if not is_fixture(test):
        place = text if ":" in text and ".py:" not in text else str(directory / text)
        inputs = [parse_input(shape) for shape in test.get("input", ())]
        return read_target(resolve(place)[0], training=training, inputs=inputs)
    try:
        module, example_inputs = _fixtures().network(text)
    except (ImportError, ValueError, SyntaxError, TypeError) as error:
        advice = "Name a model.onnx or a nets.py:name beside the rule file."
        raise RuleError(text, f"names no network ({error})", advice) from None
    if exported is not None:
        from gnelint.readers.onnx.reader import read

        # what folds nodes together is off in either mode
        write_onnx = importlib.import_module("tests.models.export").write_onnx
        write_onnx(module.train(training), example_inputs, exported, opset=18, dynamo=False, fold=False)
        return read(exported, training=training)
    from gnelint.readers.torch.reader import read_module

    return read_module(module, example_inputs, name=text, training=training)


def _fixtures() -> Any:
    """The networks of a checkout, which gnelint's own rules name; an installed gnelint has none."""
    root = str(builtin_directory().parent)
    sys.path.insert(0, root)
    try:
        return importlib.import_module("tests.models")
    finally:
        sys.path.remove(root)


def _complaints(test: Mapping[str, Any], findings: Sequence[Finding]) -> list[str]:
    found = []
    if len(findings) != test["findings"]:
        found.append(f"{plural(test['findings'], 'finding')} expected")
    severities = sorted({finding.severity for finding in findings} - {test.get("severity", "")})
    if "severity" in test and severities:
        found.append(f"severity {test['severity']} expected, found {', '.join(severities)}")
    return found


def explained(run: Run, rule: Rule, missing: bool) -> list[str]:
    """What the conditions of a rule come to: at matches that are no finding if some are missing, else at findings."""
    every = run.all_matches(rule, {})
    if not every.size:
        return _unmatched(run, rule)
    lines: list[str] = []
    matches = every
    for condition in rule.program.where:
        holds = condition.holds(matches.rows())
        if missing and not holds.all():
            lines += _shown(matches, np.flatnonzero(~holds), "where", condition)
        matches = matches.only(np.flatnonzero(holds))
        if not matches.size:
            return lines
    conditions = [] if rule.program.when is None else [("when", rule.program.when)]
    conditions += [(f"severity {severity}", when) for when, severity in rule.program.severities if when is not None]
    if not missing and not conditions:
        conditions = [("where", condition) for condition in rule.program.where]
    for name, condition in conditions:
        holds = condition.holds(matches.rows())
        rows = np.flatnonzero(holds != missing)
        if len(rows):
            lines += _shown(matches, rows, name, condition)
    return lines


def _unmatched(run: Run, rule: Rule) -> list[str]:
    if rule.pattern is None:
        return ["the network has no blocks"]
    counts = [
        f"{statement.name}: {int(run.index.is_op(statement.operations).sum())}" for statement in rule.pattern.statements
    ]
    return ["the pattern matches nowhere; nodes with the operations of " + ", ".join(counts)]


def _shown(matches: Matches, rows: np.ndarray, name: str, condition: Expression) -> list[str]:
    lines = []
    for row in rows[:_MAX_SHOWN].tolist():
        one = matches.rows().rows(np.array([row]))
        where = ", ".join(node.name for node in matches.nodes(row)[:4]) or "the network"
        values = [
            (text, compile_expression(text, matches.rule.program.scope, FUNCTIONS)) for text in parts(condition.text)
        ]
        lines.append(f"at {where}: {name}: {condition.text} is {_text(condition.values(one)[0])}")
        lines += [f"    {text} = {_text(part.values(one)[0])}" for text, part in values if text != condition.text]
    if len(rows) > _MAX_SHOWN:
        lines.append(f"... and at {len(rows) - _MAX_SHOWN} more")
    return lines


def _text(value: Any) -> str:
    if value is None:
        return "not known"
    return str(value).lower() if isinstance(value, bool) else f"{value:.4g}" if isinstance(value, float) else str(value)
