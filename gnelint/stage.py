"""Whether a network is trained, fresh, or one cannot tell, decided from its tensors by evidence that has a name.

Each piece of evidence is a likelihood ratio, trained against fresh, in bits; their sum decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from gnelint.graph import Graph
from gnelint.theory.weights import WeightStatistics, looks_initialised, mostly_zero, weight_statistics

Verdict = Literal["fresh", "trained", "unsure", "none"]

FRESH_BELOW, TRAINED_ABOVE = 3.0, 6.0
"""Bits of the sum below which a network is called fresh, and above which it is called trained."""

FORGOTTEN = 0.5
"""A running variance below it is less than half the 1 that it began with: of more passes than an export makes."""


@dataclass(frozen=True)
class Evidence:
    """One thing that speaks for or against training.

    Attributes:
        text: what was seen, for people: follows "trained: " or "fresh: ".
        tensor: name of the tensor it was seen in, None for several.
        log_odds: log2 of its likelihood in a trained network over that in a fresh one.
    """

    text: str
    tensor: str | None
    log_odds: float


@dataclass(frozen=True)
class Judgement:
    """What the weights are.

    Attributes:
        verdict: `none` where there are no weights to judge.
        log_odds: the sum, in bits: above 0 for trained.
        evidence: the strongest first.
    """

    verdict: Verdict = "none"
    log_odds: float = 0.0
    evidence: tuple[Evidence, ...] = ()

    @property
    def trained(self) -> bool | None:
        """True for trained, False for fresh, None where that is not known."""
        return {"trained": True, "fresh": False}.get(self.verdict)

    @property
    def reason(self) -> str | None:
        """The strongest evidence for the verdict in words, None if there is none."""
        sign = -1.0 if self.verdict == "fresh" else 1.0
        best = max(self.evidence, key=lambda each: sign * each.log_odds, default=None)
        return best.text if best is not None and sign * best.log_odds > 0 else None


def judge(graph: Graph, statistics: Mapping[str, WeightStatistics]) -> Judgement:
    """Judge the weights of a graph.

    Args:
        graph: what was read.
        statistics: of its weights, by parameter name, as far as they are known already.
    """
    sizes = {parameter.name: parameter.shape for parameter in graph.parameters()}
    if not any(known.size >= 256 and len(sizes[name]) >= 2 for name, known in statistics.items()):
        return Judgement()
    evidence = sorted(_evidence(graph, statistics), key=lambda each: -abs(each.log_odds))
    total = sum(each.log_odds for each in evidence)
    verdict: Verdict = "fresh" if total < FRESH_BELOW else "trained" if total > TRAINED_ABOVE else "unsure"
    return Judgement(verdict, total, tuple(evidence))


def _evidence(graph: Graph, statistics: Mapping[str, WeightStatistics]) -> Iterator[Evidence]:
    parameters = {parameter.name: parameter for parameter in graph.parameters()}
    judged = [name for name, known in statistics.items() if known.size >= 256 and len(parameters[name].shape) >= 2]
    heavy = [name for name in judged if not looks_initialised(statistics[name]) and not mostly_zero(parameters[name])]
    if len(heavy) > len(judged) / 4:
        yield Evidence(f"the entries of {heavy[0]} have heavy tails", heavy[0], 10.0)
    norms = [node.parameters for node in graph.nodes if "running_var" in node.parameters and "scale" in node.parameters]
    learned = [
        roles["scale"].name
        for roles in norms
        if not statistics[roles["scale"].name].is_constant
        and weight_statistics(roles["running_var"]).minimum < FORGOTTEN
    ]
    if len(learned) > len(norms) / 2:
        yield Evidence(f"{learned[0]} differs between channels and its statistics are of many steps", learned[0], 10.0)
