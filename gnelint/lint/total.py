"""Whether what the whole network does to the gradient is out of range, whichever rules were asked for.

A user may select and ignore rules as he likes, and is told all the same where no rule that ran says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from gnelint.analysis.prediction import Prediction
from gnelint.lint.engine import LintResult, lint
from gnelint.lint.rulefile import Rule
from gnelint.lint.selection import Settings
from gnelint.records import dataclass

JUDGES = ("GNE501", "GNE502")
"""The rules about the total; each finding's `measured` is its log2."""


@dataclass(frozen=True)
class Excess:
    """A total that is out of range.

    Attributes:
        rule: id of the rule that judges it.
        bits: log2 of the factor on the squared gradient norm between the last layer's input and the network's.
        not_selected: ids of the rules that would speak of the network, had they been asked for; looked for only where
            those that were asked for found nothing.
    """

    rule: str
    bits: float | None
    not_selected: tuple[str, ...] = ()


def excess(prediction: Prediction, result: LintResult, others: Sequence[Rule], settings: Settings) -> Excess | None:
    """The total if it is out of range, else None; as the rules about it judge, with the parameters they are given.

    Args:
        prediction: the network.
        result: what the rules found that were asked for.
        others: the rules that were not.
        settings: which stage is judged, and the parameters.
    """
    unasked = lint(prediction, [rule for rule in others if rule.id in JUDGES], settings)
    judged = [finding for finding in (*result.findings, *unasked.findings) if finding.rule in JUDGES]
    if not judged:
        return None
    if result.findings:
        return Excess(judged[0].rule, judged[0].measured)
    speaking = (finding.rule for finding in lint(prediction, others, settings).findings)
    return Excess(judged[0].rule, judged[0].measured, tuple(dict.fromkeys(speaking)))
