"""What `check` does with one network: analysed, linted, advised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Any

from gnelint.analysis.prediction import Block, NodePrediction, Prediction
from gnelint.analysis.sampling import MakeSampler
from gnelint.budget import at
from gnelint.errors import GradientNormError, UsageError
from gnelint.ir.graph import Graph
from gnelint.lint.engine import lint_and_suppress
from gnelint.lint.finding import Finding
from gnelint.lint.rulefile import Rule
from gnelint.lint.selection import Settings
from gnelint.lint.severity import FAIL_ON, FailOn, reaches
from gnelint.lint.suppression import Suppression, Verdict
from gnelint.lint.total import Excess, excess
from gnelint.records import dataclass

if TYPE_CHECKING:
    import pandas

MOST_PLANNED = 1_000
"""Nodes up to which a check works out what `gnelint fix` would do: that takes ten times the analysis itself."""
_WEIGHTS, _NODES = 1_000, 10_000
"""Weights for each node from which on it does so for more, and how many at most: what a check costs follows from how
much there is to read, and thousands of nodes without numbers are no network that anybody trains."""
COLUMNS = (
    "name", "op", "shape", "mean", "second_moment", "phi", "phi_variance", "gradient_norm2", "gradient_log2",
    "error_bits", "basis",
)  # fmt: skip
"""What a table of layers holds of the profile in the JSON report."""
MOST_CHANGED = 1 << 28
"""Entries of weights up to which it does: it tries other numbers in all of them at once."""
NOT_PLANNED = (
    f"What is to be done is the rules' own advice: in a network of more than {MOST_PLANNED} nodes ({_NODES} if "
    f"each has {_WEIGHTS} weights), or of {MOST_CHANGED / 1e6:.0f} million weights, `gnelint fix` works out the edits."
)


@dataclass(frozen=True, repr=False)
class Analysis:
    """What is said of one network.

    Attributes:
        prediction: every predicted number.
        findings: by rule id, then in topological order.
        notes: what the reader saw and which rules were skipped, a sentence each.
        suppressed: number of findings that suppressions left out.
        verdicts: what became of each suppression.
        rules: those that were run.
        settings: what was chosen about them.
        excess: the network's total if it is out of range, whichever rules were run.
        sha256: of the model file's bytes, None where there is no such file.
        init_code: a Python file whose function initialises a fresh model as the fixes would have it, None without any.
    """

    prediction: Prediction
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    suppressed: int = 0
    verdicts: tuple[Verdict, ...] = ()
    rules: tuple[Rule, ...] = ()
    settings: Settings = field(default_factory=Settings)
    excess: Excess | None = None
    sha256: str | None = None
    init_code: str | None = None

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks, in topological order."""
        return self.prediction.blocks

    @property
    def profile(self) -> tuple[NodePrediction, ...]:
        """The prediction for each node on a gradient path, in topological order."""
        return self.prediction.nodes

    def raise_for_findings(self, fail_on: FailOn = "error") -> None:
        """Fail if there are findings of this severity or a worse one.

        Raises:
            GradientNormError: there are; an AssertionError, so that a test fails with it.
            UsageError: there is no such severity.
        """
        __tracebackhide__ = True  # of pytest: the line of the test is what failed
        if fail_on not in FAIL_ON:
            raise UsageError("fail_on", f"{fail_on!r} is none of {', '.join(FAIL_ON)}")
        if any(reaches(finding.severity, fail_on) for finding in self.findings):
            from gnelint.output.text import failure

            raise GradientNormError(failure(self.to_dict(), self._names(), fail_on))

    def to_dict(self) -> dict[str, Any]:
        """The entry of this network in the JSON report, schema "gnelint/1"."""
        from gnelint.output.entry import Circumstances, target

        ran = tuple(rule.id for rule in self.rules)
        chosen = {
            name: list(value) if isinstance(value, tuple) else value for name, value in vars(self.settings).items()
        }
        made = Circumstances(self.notes, ran, chosen, self.excess, self.sha256, self.init_code)
        return target(self.prediction, self.findings, self.suppressed, made)

    def to_dataframe(self) -> pandas.DataFrame:
        """A row for each layer with what is predicted of it, and the ids of the rules that speak of it.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UsageError("to_dataframe", "needs pandas, which is not installed", "pip install pandas") from None
        entry = self.to_dict()
        spoke: dict[str, list[str]] = {}
        for finding in entry["findings"]:
            for name in finding["nodes"]:
                spoke.setdefault(name, []).append(finding["rule"])
        block = {name: each["name"] for each in entry["blocks"] for name in each["nodes"]}
        rows = [
            {column: layer[column] for column in COLUMNS}
            | {"block": block.get(layer["name"]), "rules": tuple(dict.fromkeys(spoke.get(layer["name"], ())))}
            for layer in entry["profile"]
        ]
        return pandas.DataFrame(rows, columns=[*COLUMNS, "block", "rules"])

    def to_html(self) -> str:
        """The report as one page that asks for nothing from outside, as `gnelint check --html` writes it."""
        from gnelint.output.html import render
        from gnelint.output.json import document

        return render(document([self.to_dict()], self.rules))

    def __str__(self) -> str:
        """The report for people."""
        from gnelint.output.text import Style, render

        return render(self.to_dict(), self._names(), self.notes, Style())

    def __repr__(self) -> str:
        """The network and how many findings there are, in a line."""
        from gnelint.output.text import brief

        return f"<Analysis of {brief(self.to_dict())}>"

    def _repr_html_(self) -> str:
        """The report for notebooks."""
        from gnelint.output.notebook import render

        return render(self.to_dict(), self._names(), self.notes)

    def _names(self) -> dict[str, str]:
        return {rule.id: rule.name for rule in self.rules}


def check_graph(
    graph: Graph,
    rules: Sequence[Rule],
    settings: Settings,
    suppressions: Sequence[Suppression] = (),
    others: Sequence[Rule] = (),
    sampler: MakeSampler | None = None,
) -> Analysis:
    """Analyse and lint a graph that has been read; what its file asks to ignore is left out too.

    Args:
        graph: the network.
        rules: those to run.
        settings: what was chosen about them.
        suppressions: the findings that are accepted.
        others: the rules that were not asked for; what they would say of a total out of range is told.
        sampler: what runs the parts that no formula describes; None leaves them out.
    """
    from gnelint.analysis.propagation import analyse

    return check_prediction(analyse(graph, sampler), rules, settings, suppressions, others)


def check_prediction(
    prediction: Prediction,
    rules: Sequence[Rule],
    settings: Settings,
    suppressions: Sequence[Suppression] = (),
    others: Sequence[Rule] = (),
) -> Analysis:
    """Lint a graph that has been analysed; the arguments are those of `check_graph`."""
    result, left = lint_and_suppress(prediction, rules, settings, suppressions)
    notes = tuple(dict.fromkeys((*prediction.graph.notes, *prediction.notes, *result.skipped)))
    ran = tuple(rule for rule in rules if rule.id in result.ran)
    beyond = excess(prediction, result, others, settings)
    findings, code = left.findings, None
    fixable = any(finding.fix is not None and finding.fix.safety != "display" for finding in findings)
    if fixable and not _is_planned(prediction.graph):
        notes = (*notes, NOT_PLANNED)
    elif fixable:
        from gnelint.fixes.advice import advised  # what plans fixes is slow to import
        from gnelint.fixes.planning import FixRequest
        from gnelint.writers.init_code import init_code

        at("planning fixes")
        advice = advised(prediction, findings, FixRequest(rules, settings, suppressions))
        findings, plan = advice.findings, advice.plan
        code = None if plan is None else init_code(plan.edits, plan.before, plan.after)
    return Analysis(prediction, findings, notes, left.count, left.verdicts, ran, settings, beyond, init_code=code)


def _is_planned(graph: Graph) -> bool:
    """Whether a check works out edits of the network."""
    weights = sum(parameter.size for parameter in graph.parameters() if parameter.provenance == "data")
    return len(graph.nodes) <= max(MOST_PLANNED, min(weights // _WEIGHTS, _NODES)) and weights <= MOST_CHANGED
