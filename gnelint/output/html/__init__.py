"""The report as one HTML file: a pure rendering of the JSON report that asks for nothing from outside itself.

The same report gives the same bytes. What the page shows is in the markup: it can be read without JavaScript, which
only sorts, filters and shows what is pointed at.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from gnelint.lint.places import visible
from gnelint.output.html import basis, chart, comparison, findings, history, layers, picture, verdict
from gnelint.output.html.network import Network
from gnelint.output.html.words import short
from gnelint.output.report import Earlier
from gnelint.records import dataclass


@dataclass(frozen=True)
class _Part:
    """All that the page says of one network."""

    key: str
    name: str
    full: str
    identity: Sequence[str]
    verdict: verdict.Verdict
    command: str | None
    notes: Sequence[str]
    chart: chart.Chart | None
    has_earlier: bool
    runs: Sequence[picture.Run]
    is_drawn: bool
    groups: Sequence[findings.Group]
    init_code: str
    passed: Sequence[Mapping[str, Any]]
    suppressed: int
    columns: Sequence[layers.Column]
    rows: Sequence[layers.Row]
    ops: Sequence[str]
    assumptions: Sequence[basis.Assumption]
    unmodelled: Sequence[basis.Assumption]
    tally: Sequence[tuple[str, str, int]]
    circumstances: Sequence[tuple[str, str]]
    training: Mapping[str, Any] | None


def render(report: Mapping[str, Any], earlier: Sequence[Earlier] = ()) -> str:
    """The page.

    Args:
        report: what `json.document` or `verify_json.document` made; measured numbers are shown where there are any.
        earlier: other reports, the oldest first. The networks of the last of them are set against those of the same
            target; of several the page shows how the networks went through them. Without any, two networks in the
            report are set against each other, the first as it was before.
    """
    rules = {rule["id"]: rule for rule in report.get("rules", [])}
    networks = [Network(entry, f"t{at}", rules) for at, entry in enumerate(report["targets"])]
    before = _before(networks, earlier)
    parts = [_part(network, before.get(network.key), report.get("versions", {})) for network in networks]
    worse = report.get("verification", {}).get("worse", ())
    compared = [network for network in networks if network.key in before]
    comparisons = [comparison.compare(before[network.key], network, worse) for network in compared]
    look, script = style(), _asset("report.js")
    page = _environment().get_template("report.html.j2")
    return page.render(
        title=", ".join(part.name for part in parts[:3]) + (", …" if len(parts) > 3 else ""),
        version=report["version"],
        schema=report["schema"],
        parts=parts,
        comparisons=comparisons,
        history=_history(networks, earlier),
        width=history.WIDTH,
        height=history.HEIGHT,
        holds=report.get("verification", {}).get("holds"),
        style=look,
        script=script,
        style_hash=_digest(look),
        script_hash=_digest(script),
    )


def style() -> Markup:
    """The page's style sheet."""
    return _asset("report.css")


def _before(networks: Sequence[Network], earlier: Sequence[Earlier]) -> dict[str, Network]:
    """What each network is compared with, by its key."""
    if not earlier:
        return {networks[1].key: networks[0]} if len(networks) == 2 else {}
    known = _networks_of(earlier[-1])
    if len(known) == len(networks) == 1:  # a mended model has another name
        return {networks[0].key: known[0]}
    by_name = {network.entry["target"]: network for network in known}
    return {each.key: by_name[each.entry["target"]] for each in networks if each.entry["target"] in by_name}


def _history(networks: Sequence[Network], earlier: Sequence[Earlier]) -> history.History | None:
    if len(earlier) < 2:
        return None
    return history.history([*((each.name, _networks_of(each)) for each in earlier), ("now", networks)])


def _networks_of(earlier: Earlier) -> list[Network]:
    rules = {rule["id"]: rule for rule in earlier.report.get("rules", [])}
    return [Network(entry, "old", rules) for entry in earlier.report["targets"]]


def _part(network: Network, earlier: Network | None, versions: Mapping[str, str]) -> _Part:
    entry = network.entry
    rows = layers.rows(network)
    verification = entry.get("verification") or {}
    return _Part(
        key=network.key,
        name=short(entry["target"], 80),
        full=visible(entry["target"]),
        identity=verdict.identity(network),
        verdict=verdict.verdict(network),
        command=verdict.command(network),
        notes=[visible(note) for note in dict.fromkeys([*entry.get("notes", []), *verification.get("notes", [])])],
        chart=chart.draw(network, earlier),
        has_earlier=earlier is not None and bool(earlier.stretches),
        runs=picture.draw(network),
        is_drawn=len(network.nodes) <= picture.MOST_NODES,
        groups=findings.groups(network),
        init_code=entry.get("init_code") or "",
        passed=findings.passed(network),
        suppressed=network.summary["suppressed"],
        columns=layers.columns(network),
        rows=rows,
        ops=sorted({row.cells[0] for row in rows}),
        assumptions=basis.assumptions(network),
        unmodelled=basis.unmodelled(network),
        tally=basis.tally(network),
        circumstances=basis.circumstances(network, versions),
        training=verification.get("training"),
    )


@functools.lru_cache(maxsize=1)
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("gnelint.output"), autoescape=True, trim_blocks=True, lstrip_blocks=True, auto_reload=False
    )


@functools.lru_cache(maxsize=4)
def _asset(name: str) -> Markup:
    """A file that becomes a part of the page as it is."""
    source, *_ = _environment().loader.get_source(_environment(), name)  # type: ignore[union-attr]
    return Markup(source)


def _digest(text: str) -> str:
    """What the page's content security policy knows its own style and script by."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
