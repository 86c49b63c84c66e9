"""The report in a notebook's cell, rendered from the JSON contract: HTML without script, style sheet or colour.

It takes the notebook's own text colour and background, so that it is legible in light and dark themes alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from gnelint.output.html.network import Network
from gnelint.output.text import (
    WIDTH,
    Style,
    clipped,
    count_text,
    depth_table,
    elide,
    fix_text,
    grouped,
    nothing_found,
    places,
    verdict,
)
from gnelint.words import power

_PLACES = 60
_LONGEST = 600
_CELL = (
    "text-align:left;vertical-align:top;padding:0.2em 0.8em 0.2em 0;"
    "border-bottom:1px solid rgba(128,128,128,0.4);overflow-wrap:anywhere;min-width:8em"
)
_NARROW = f"{_CELL};white-space:nowrap;min-width:0"
"""Of the columns for severity and rule, which browsers would squeeze to a letter's width."""
_WIDE, _TALL = 640, 110
"""Of the chart, in pixels."""
_QUIET = 5.0
"""Bits that it spans at least to either side, so that a quiet network does not look dramatic."""
_COLUMNS = ("severity", "rule", "where", "what", "fix")


def render(target: Mapping[str, Any], rule_names: Mapping[str, str], notes: Sequence[str]) -> str:
    """The verdict, a row for each rule that spoke, and the table of blocks folded away.

    Args:
        target: the network's entry in the JSON report.
        rule_names: the name of each rule, by id.
        notes: sentences for people.
    """
    return "\n".join(
        [
            '<div class="gnelint" style="max-width:72em;line-height:1.4">',
            f"<p><strong>{_shown(elide(target['target'], WIDTH))}</strong>: {_shown(verdict(target))}</p>",
            *_chart(target),
            *_findings(target, rule_names),
            *_folded("Gradient over depth", _block_table(target)),
            *_folded(f"Notes ({len(notes)})", _list(notes)),
            "</div>",
        ]
    )


def _chart(target: Mapping[str, Any]) -> Iterator[str]:
    """The squared gradient norm over depth as a line in the notebook's own colour, from the input to the output."""
    points = [(at, bits) for at, bits, _ in Network(target, "", {}).trunk if bits is not None]
    if len(points) < 2:
        return
    (first, last), levels = (points[0][0], points[-1][0]), [bits for _, bits in points]
    low, high = min(*levels, -_QUIET), max(*levels, _QUIET)
    line = " ".join(
        f"{(at - first) / (last - first) * _WIDE:.1f},{(high - bits) / (high - low) * _TALL:.1f}" for at, bits in points
    )
    zero = high / (high - low) * _TALL
    told = f"Squared gradient norm over depth: {power(levels[0])} at the input, {power(levels[-1])} at the output"
    wide, tall = _WIDE + 4, _TALL + 8
    yield f'<svg role="img" aria-label="{told}" viewBox="-2 -4 {wide} {tall}" width="{wide}" height="{tall}">'
    yield f'<line x1="0" x2="{_WIDE}" y1="{zero:.1f}" y2="{zero:.1f}" stroke="currentColor" stroke-opacity="0.3"/>'
    yield f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-width="2"/></svg>'
    yield f'<p style="margin:0"><small>{told}; the line is at 1.</small></p>'


def _findings(target: Mapping[str, Any], rule_names: Mapping[str, str]) -> Iterator[str]:
    if not target["findings"]:
        yield f"<p>{_shown(nothing_found(target))}</p>"
        return
    yield '<table style="border-collapse:collapse">'
    yield f'<caption style="text-align:left;color:inherit">{count_text(target["summary"])}</caption>'
    yield f"<thead>{_row('th', _COLUMNS)}</thead><tbody>"
    for group in grouped(target["findings"]):
        first = group[0]
        fix = fix_text(group, target["summary"]["trained"])
        rule = f"{first['rule']} {rule_names.get(first['rule'], '')}".strip()
        cells = (first["severity"], rule, places(group, _PLACES), first["message"], fix)
        yield _row("td", cells)
    yield "</tbody></table>"


def _row(tag: str, cells: Sequence[str]) -> str:
    scope = ' scope="col"' if tag == "th" else ""
    styles = (*(_NARROW,) * 2, *(_CELL,) * (len(cells) - 2))
    made = (f'<{tag}{scope} style="{style}">{_shown(cell)}</{tag}>' for style, cell in zip(styles, cells, strict=True))
    return f"<tr>{''.join(made)}</tr>"


def _block_table(target: Mapping[str, Any]) -> list[str]:
    if not target["blocks"] and not target["profile"]:
        return []
    lines = "\n".join(_shown(line) for line in depth_table(target, Style()))
    return [f'<pre style="background:none;color:inherit">{lines}</pre>']


def _list(notes: Sequence[str]) -> list[str]:
    return [f"<ul>{''.join(f'<li>{_shown(note)}</li>' for note in notes)}</ul>"] if notes else []


def _folded(title: str, body: Sequence[str]) -> list[str]:
    return [f"<details><summary>{title}</summary>", *body, "</details>"] if body else []


def _shown(text: str) -> str:
    return escape(clipped(text, _LONGEST))
