"""The report in a notebook's cell, rendered from the JSON contract: HTML without script, style sheet or colour.

It takes the notebook's own text colour and background, so that it is legible in light and dark themes alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

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

_PLACES = 60
_LONGEST = 600
_CELL = (
    "text-align:left;vertical-align:top;padding:0.2em 0.8em 0.2em 0;"
    "border-bottom:1px solid rgba(128,128,128,0.4);overflow-wrap:anywhere;min-width:8em"
)
_NARROW = f"{_CELL};white-space:nowrap;min-width:0"
"""Of the columns for severity and rule, which browsers would squeeze to a letter's width."""
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
            *_findings(target, rule_names),
            *_folded("Gradient over depth", _block_table(target)),
            *_folded(f"Notes ({len(notes)})", _list(notes)),
            "</div>",
        ]
    )


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
