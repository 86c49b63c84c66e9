"""The findings by rule, what passed, and the rules' explanations as markup."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from markdown_it import MarkdownIt
from markupsafe import Markup

from gnelint.lint.places import folded, visible
from gnelint.lint.severity import SEVERITIES
from gnelint.output.html.network import Network
from gnelint.output.html.verdict import ADVICE, APPLIED, UNSAFE, fix_class
from gnelint.output.html.words import number, short
from gnelint.output.text import location_text, mends
from gnelint.records import dataclass

_MOST_PLACES = 200
_MOST_PICTURED = 6
_MESSAGE = 1000
_WHERE = 60
_COSTS = {
    "init": "safe: this model is untrained",
    "preserving": "safe: the function stays the same",
    "retrain": "changes the architecture: train again",
    "display": "advice: no edit",
}


@dataclass(frozen=True)
class Place:
    """Where a rule has found something: names, the block's index if it has one, source, and the number judged."""

    name: str
    block: int | None
    location: str
    measured: str


@dataclass(frozen=True)
class Bin:
    """A bar of a histogram, in percent of its width and height."""

    x: float
    height: float


@dataclass(frozen=True)
class Pictured:
    """The histogram of a weight that a finding is about.

    Attributes:
        name: of the tensor.
        bins: the bars, from the lowest entries to the highest.
        width: of a bar, in percent.
        low, high, std: in words.
        zero: where 0 lies, in percent; None where it lies outside.
        text: what is to be seen, for those who do not see it.
    """

    name: str
    bins: Sequence[Bin]
    width: float
    low: str
    high: str
    std: str
    zero: float | None
    text: str


@dataclass(frozen=True)
class Group:
    """What one rule found at one severity.

    Attributes:
        rule, name, severity, summary: of the rule.
        where: the places in few words.
        message: the first finding's.
        before, after: the number judged and what it should be.
        fix, cost, fixed_by: what would mend it, what that costs, and who does it.
        places, more: where, and how many are left to the JSON report.
        pictured: the weights of the first places.
        explanation: the rule's own words.
        is_open: whether it is shown open.
    """

    rule: str
    name: str
    severity: str
    summary: str
    where: str
    count: int
    message: str
    before: str
    after: str
    fix: str
    cost: str
    fixed_by: str
    places: Sequence[Place]
    more: int
    pictured: Sequence[Pictured]
    explanation: Markup
    references: Sequence[tuple[str, str]]
    is_open: bool

    @property
    def has_source(self) -> bool:
        """Whether the source of a place is known."""
        return any(place.location for place in self.places)


def groups(network: Network) -> list[Group]:
    """Findings of one rule and severity together, errors first."""
    found: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for finding in network.entry["findings"]:
        found.setdefault((SEVERITIES.index(finding["severity"]), finding["rule"]), []).append(finding)
    return [_group(network, found[key], is_open=at < 3) for at, key in enumerate(sorted(found))]


def passed(network: Network) -> list[Mapping[str, Any]]:
    """The rules that were run and found nothing."""
    spoke = {finding["rule"] for finding in network.entry["findings"]}
    return [
        network.rules[rule]
        for rule in network.entry.get("rules_ran", [])
        if rule not in spoke and rule in network.rules
    ]


def _group(network: Network, findings: Sequence[Mapping[str, Any]], *, is_open: bool) -> Group:
    first = findings[0]
    rule = network.rules.get(first["rule"], {})
    fix = first["fix"]
    trained = network.summary["trained"]
    cost = "" if fix is None else _COSTS[fix["safety"]]
    if fix is not None and fix["safety"] == "init" and trained is not False:
        cost = "changes the starting point"
    by = {APPLIED: "gnelint fix", UNSAFE: "gnelint fix --unsafe-fixes", ADVICE: "", None: ""}[fix_class(fix, trained)]
    measured = sorted(finding["measured"] for finding in findings if finding["measured"] is not None)
    return Group(
        rule=first["rule"],
        name=rule.get("name", ""),
        severity=first["severity"],
        summary=rule.get("summary", ""),
        where=_where(findings),
        count=len(findings),
        message=short(first["message"], _MESSAGE),
        before=_range(measured),
        after=number(first["expected"]),
        fix="; ".join(short(each, _MESSAGE) for each in _edits(findings)),
        cost=cost,
        fixed_by=by,
        places=[_place(network, finding) for finding in findings[:_MOST_PLACES]],
        more=max(len(findings) - _MOST_PLACES, 0),
        pictured=_pictured(network, findings),
        explanation=markup(rule.get("explanation") or ""),
        references=[_reference(each) for each in rule.get("references", [])],
        is_open=is_open,
    )


def _range(measured: Sequence[float]) -> str:
    if not measured:
        return ""
    low, high = number(measured[0]), number(measured[-1])
    return low if low == high else f"{low} to {high}"


def _edits(findings: Sequence[Mapping[str, Any]]) -> list[str]:
    return mends([finding["fix"] for finding in findings if finding["fix"] is not None])


def _where(findings: Sequence[Mapping[str, Any]]) -> str:
    names = [short((finding["nodes"] or ["whole network"])[0]) for finding in findings]
    shown = ", ".join(folded(names))
    return shown if len(shown) <= _WHERE else f"{short(names[0], _WHERE // 2)} … {short(names[-1], _WHERE // 2)}"


def _place(network: Network, finding: Mapping[str, Any]) -> Place:
    nodes = finding["nodes"]
    stretch = next((network.block_of[name] for name in nodes if name in network.block_of), None)
    names = ", ".join(short(name) for name in nodes[:3]) + (f" and {len(nodes) - 3} more" if len(nodes) > 3 else "")
    return Place(
        name=names or "whole network",
        block=None if stretch is None else stretch.index,
        location="" if finding["location"] is None else visible(location_text(finding["location"])),
        measured=number(finding["measured"]),
    )


def _pictured(network: Network, findings: Sequence[Mapping[str, Any]]) -> list[Pictured]:
    """The weights of the first places, each once."""
    found: dict[str, Mapping[str, Any]] = {}
    for finding in findings:
        for node in filter(None, map(network.nodes.get, finding["nodes"])):
            found.update({weight["name"]: weight for weight in node.get("weights", []) if weight.get("histogram")})
    return [_picture(weight) for weight in list(found.values())[:_MOST_PICTURED]]


def _picture(weight: Mapping[str, Any]) -> Pictured:
    shown = weight["histogram"]
    counts, low, high = shown["counts"], shown["low"], shown["high"]
    most, width = max(counts, default=1) or 1, 100 / max(len(counts), 1)
    name, std = short(weight["name"], _WHERE), number(weight["std"])
    return Pictured(
        name=name,
        bins=[Bin(round(at * width, 2), round(100 * count / most, 1)) for at, count in enumerate(counts)],
        width=round(width, 2),
        low=number(low),
        high=number(high),
        std=std,
        zero=round(-100 * low / (high - low), 1) if low <= 0 <= high and low < high else None,
        text=f"Histogram of {name} from {number(low)} to {number(high)}, standard deviation {std}",
    )


def _reference(reference: Mapping[str, str]) -> tuple[str, str]:
    url = f"https://arxiv.org/abs/{reference['arxiv']}" if "arxiv" in reference else reference.get("url", "")
    return reference["title"], url if url.startswith(("https://", "http://")) else ""


def markup(text: str) -> Markup:
    """Markdown as HTML: what looks like HTML in it is text, and nothing is fetched."""
    return Markup(_markdown().render(text))


@functools.lru_cache(maxsize=1)
def _markdown() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False}).disable(["image", "html_block", "html_inline"])

    def lower(self: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
        """Headings one below those of the page."""
        tokens[index].tag = "h5"
        return str(self.renderToken(tokens, index, options, env))

    made.add_render_rule("heading_open", lower)
    made.add_render_rule("heading_close", lower)
    return made
