"""Markdown for a comment on a pull request: the verdict on each target, its findings by rule, the rest folded away."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gnelint.lint.places import folded
from gnelint.lint.severity import SEVERITIES
from gnelint.output.report import Checked, Report
from gnelint.output.since import Change, changes
from gnelint.output.text import (
    Style,
    clipped,
    count_text,
    depth_table,
    fix_text,
    grouped,
    nothing_found,
    places,
    printable,
    stage_text,
    verdict,
)
from gnelint.words import plural, power

LIMIT = 65_000
"""Characters; GitHub refuses a comment of more than 65,536."""

_PLACES = 80
_LONGEST = 600
_MOST_UNREAD = 10
_MOST_CHANGES = 50
_HEAD = ("| severity | rule | where | what | fix |", "|---|---|---|---|---|")
_MARKUP = "\\`*_{}[]|~"
_LIVE = re.compile(rf"[{re.escape(_MARKUP)}<>&$]|@(?=\w)|#(?=\d)|:(?=//)|(?<=\bwww)\.", re.IGNORECASE)
"""Markup, HTML and formulas; what makes a mention, a reference to an issue or an address."""


def render(report: Report) -> str:
    """The run as GitHub-flavoured Markdown of at most `LIMIT` characters; what does not fit is counted."""
    speaking = [target for target in report.targets if target.findings]
    silent = [target for target in report.targets if not target.findings]
    text = "\n".join([*_opening(report, speaking, silent), ""])
    left_out = []
    for target in speaking:
        section = "\n".join(["", *_section(target, report), ""])
        if len(text) + len(section) > LIMIT - _LONGEST:
            left_out.append(target)
        else:
            text += section
    if left_out:
        more = plural(len(left_out), "more target")
        text += f"\nThere is no room here for {more} with findings: run gnelint to see them.\n"
    return text


def _opening(report: Report, speaking: Sequence[Checked], silent: Sequence[Checked]) -> Iterator[str]:
    counts = report.count()
    found = count_text({f"{severity}s": counts[severity] for severity in SEVERITIES}) if speaking else "no findings"
    if any(target.entry["summary"].get("out_of_range") is not None for target in silent):
        found += ", and a total out of range"
    failing = sum(target.fails for target in report.targets)
    yield f"### gnelint: {found}"
    yield ""
    if failing:
        yield f"{plural(failing, 'target')} of {len(report.targets)} {'fails' if failing == 1 else 'fail'}."
    elif report.targets:
        yield "No target fails." if speaking else f"{plural(len(report.targets), 'target')} checked."
    if silent and speaking:
        names = ", ".join(folded(target.entry["target"] for target in silent))
        yield f"Without findings: {_escaped(names)}."
    beyond = [target.entry for target in silent if target.entry["summary"].get("out_of_range") is not None]
    if beyond:
        yield ""
        yield from (f"- {_escaped(entry['target'])}: {_escaped(nothing_found(entry))}" for entry in beyond)
    if report.unread:
        yield ""
        yield f"{plural(len(report.unread), 'target')} could not be checked:"
        yield ""
        yield from (f"- {_escaped(unread.reason)}" for unread in report.unread[:_MOST_UNREAD])
        if len(report.unread) > _MOST_UNREAD:
            yield f"- ... and {len(report.unread) - _MOST_UNREAD} more"
    if report.earlier:
        yield ""
        yield from _since(changes(report.earlier[-1].report, [target.entry for target in report.targets]), report)


def _since(found: Sequence[Change], report: Report) -> Iterator[str]:
    """What has changed since an earlier report, a line for each target where anything has."""
    moved = [each for each in found if each.new or each.gone or not each.is_known or _moved(each)]
    if not moved:
        yield "Nothing has changed since the earlier report."
        return
    yield "| since the earlier report | gradient | new | gone |"
    yield "|---|---|---|---|"
    for each in moved[:_MOST_CHANGES]:
        name = each.target if each.is_known else f"{each.target} (new)"
        cells = (name, _turn(each), _rules(each.new, report), _rules(each.gone, report))
        yield f"| {' | '.join(map(_escaped, cells))} |"
    if len(moved) > _MOST_CHANGES:
        yield ""
        yield f"{len(moved) - _MOST_CHANGES} more targets have changed."


def _moved(change: Change) -> bool:
    """Whether the gradient's change is another by more than a report would show."""
    return _bits(change.before) != _bits(change.after)


def _turn(change: Change) -> str:
    texts = [_bits(bits) for bits in (change.before, change.after)]
    return texts[1] if not change.is_known or texts[0] == texts[1] else " → ".join(texts)


def _bits(bits: float | None) -> str:
    return "not known" if bits is None else power(bits)


def _rules(findings: Sequence[Mapping[str, Any]], report: Report) -> str:
    """How often each rule speaks of these, worst first."""
    return ", ".join(
        f"{len(group)} × {report.title(group[0]['rule'])} ({group[0]['severity']})" for group in grouped(findings)
    )


def _section(target: Checked, report: Report) -> Iterator[str]:
    yield f"#### {_escaped(target.entry['target'])}"
    yield ""
    yield _escaped(f"{verdict(target.entry)} {stage_text(target.entry['summary'])}".rstrip())
    yield ""
    yield from _HEAD
    for group in grouped(target.findings):
        yield _row(group, report, target.entry["summary"]["trained"])
    yield ""
    yield f"<details><summary>Gradient over depth{', notes' * bool(target.notes)}</summary>"
    yield ""
    yield "~~~text"
    yield from map(printable, depth_table(target.entry, Style()))
    yield "~~~"
    yield ""
    if target.notes:
        yield from (f"- {_escaped(note)}" for note in target.notes)
        yield ""
    yield "</details>"


def _row(group: Sequence[Mapping[str, Any]], report: Report, trained: bool | None) -> str:
    first = group[0]
    fix = fix_text(group, trained)
    cells = (first["severity"], report.title(first["rule"]), places(group, _PLACES), first["message"], fix)
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    """Text as it is read, whatever is in it: no markup, no table cells, no mentions, references or addresses."""
    return _LIVE.sub(_harmless, clipped(text, _LONGEST))


def _harmless(found: re.Match[str]) -> str:
    char = found[0]
    if char in "@#":
        return f"{char}&#8203;"
    return f"\\{char}" if char in _MARKUP else f"&#{ord(char)};"
