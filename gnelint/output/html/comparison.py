"""Two networks side by side: before and after a fix."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from gnelint.output.html.network import Network
from gnelint.output.html.words import count, factor, power, short
from gnelint.records import dataclass

_BITS = 0.5
"""By how much the spread of the norms has to change to be called better or worse."""


@dataclass(frozen=True)
class Line:
    """A number before and after."""

    label: str
    before: Markup
    after: Markup


@dataclass(frozen=True)
class Comparison:
    """What changed from one network to the next.

    Attributes:
        mood, headline: in a word.
        before, after: names.
        lines: the numbers.
        gone, new: rules that found something only before, only after.
    """

    mood: str
    headline: str
    before: str
    after: str
    lines: Sequence[Line]
    gone: Sequence[str]
    new: Sequence[str]


def compare(before: Network, after: Network, worse: Sequence[str] = ()) -> Comparison:
    """The comparison of two networks, or of two answers on one; `worse` is what measured worse, a clause each."""
    spreads = before.spread, after.spread
    mood, headline = "unknown", "The two cannot be compared: a gradient is not known"
    if spreads[0] is not None and spreads[1] is not None:
        mood, headline = "good", "No worse: the gradient norms along the depth are as equal as they were"
        if spreads[1] < spreads[0] - _BITS:
            headline = "Better: the gradient norms along the depth are more equal than they were"
        elif spreads[1] > spreads[0] + _BITS:
            mood, headline = "bad", "Worse: the gradient norms along the depth are less equal than they were"
    if worse:
        mood, headline = "bad", f"Worse: {'; '.join(worse)}"
    spoke = [{finding["rule"] for finding in each.entry["findings"]} for each in (before, after)]
    return Comparison(
        mood,
        headline,
        short(before.entry["target"]),
        short(after.entry["target"]),
        [
            Line("Squared gradient norm, input over output", power(before.bits), power(after.bits)),
            Line("Largest over smallest along the depth", power(spreads[0]), power(spreads[1])),
            Line("Block furthest from 1", _worst(before), _worst(after)),
            *(
                Line(label, Markup("{}").format(before.summary[key]), Markup("{}").format(after.summary[key]))
                for label, key in (("Errors", "errors"), ("Warnings", "warnings"), ("Fixable", "fixable"))
            ),
            Line("Blocks", *(Markup("{}").format(count(len(each.stretches), "block")) for each in (before, after))),
        ],
        _named(after, spoke[0] - spoke[1], before),
        _named(after, spoke[1] - spoke[0], before),
    )


def _worst(network: Network) -> Markup:
    if network.worst is None:
        return Markup("unknown")
    return Markup("{} <bdi>{}</bdi>").format(factor(network.worst.phi), short(network.worst.name, 32))


def _named(network: Network, rules: set[str], other: Network) -> list[str]:
    known = {**other.rules, **network.rules}
    return [f"{rule} {known.get(rule, {}).get('name', '')}".strip() for rule in sorted(rules)]
