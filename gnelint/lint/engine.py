"""Rules on a prediction: which apply, what they match, and what they say there."""

from __future__ import annotations

from collections.abc import Sequence

from gnelint.analysis.prediction import Prediction
from gnelint.budget import at
from gnelint.lint.beside import of_losses
from gnelint.lint.explaining import unexplained
from gnelint.lint.finding import Finding
from gnelint.lint.fingerprint import marked
from gnelint.lint.rulefile import Rule
from gnelint.lint.running import Run
from gnelint.lint.selection import Settings, Stage
from gnelint.lint.suppression import Suppressed, Suppression, in_model, suppress
from gnelint.records import dataclass
from gnelint.words import plural


@dataclass(frozen=True)
class LintResult:
    """Findings by rule and place.

    Attributes:
        findings: by rule id, then in topological order; without those that other ones explain.
        skipped: one sentence for each reason why rules were skipped.
        ran: ids of the rules that were not.
    """

    findings: tuple[Finding, ...]
    skipped: tuple[str, ...] = ()
    ran: tuple[str, ...] = ()


def lint(prediction: Prediction, rules: Sequence[Rule], settings: Settings) -> LintResult:
    """Run rules over one prediction. The findings come by rule id, then in topological order."""
    applicable, skipped = _by_stage(prediction, rules, settings.stage)
    run = Run(prediction, settings.loss)
    found = [finding for rule in applicable for finding in run.findings(rule, settings.params.get(rule.id, {}))]
    findings = unexplained(prediction.graph, found, {rule.id: rule.explained_by for rule in applicable})
    said = (*marked(prediction.graph, findings), *of_losses(prediction.graph, applicable, settings))
    ordered = tuple(sorted(said, key=lambda finding: finding.rule))
    return LintResult(ordered, skipped, tuple(rule.id for rule in applicable))


def lint_and_suppress(
    prediction: Prediction, rules: Sequence[Rule], settings: Settings, suppressions: Sequence[Suppression] = ()
) -> tuple[LintResult, Suppressed]:
    """What the rules found, and that without what is suppressed, here or in the model file itself."""
    at("matching the rules")
    result = lint(prediction, rules, settings)
    return result, suppress(result.findings, (*suppressions, *in_model(prediction.graph)), result.ran)


def _by_stage(prediction: Prediction, rules: Sequence[Rule], stage: Stage) -> tuple[tuple[Rule, ...], tuple[str, ...]]:
    untrained = stage == "init" or (stage == "auto" and prediction.trained is False)
    initial = [rule for rule in rules if rule.stage == "init"]
    if untrained or not initial:
        return tuple(rules), ()
    if stage == "trained":
        reason = "as --stage trained asks"
    elif prediction.trained:
        reason = "the weights look trained (--stage init judges them all the same)"
    elif prediction.stage.verdict == "unsure":
        reason = "whether the weights are trained is not sure (if they are not, --stage init judges them)"
    elif any(node.missing_weights for node in prediction.graph.nodes):
        reason = "its weights are placeholders, one repeated value each"
    else:
        reason = "it has no weights to judge"
    count = f"{plural(len(initial), 'rule')} for untrained networks skipped: {reason}"
    return tuple(rule for rule in rules if rule.stage != "init"), (count,)
