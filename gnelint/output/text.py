"""The report for people, rendered from the JSON contract alone: plain ASCII, 80 columns, colour only when asked for."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from itertools import takewhile
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gnelint.lint.places import alike, changes, folded, scope, visible
from gnelint.lint.severity import FailOn, reaches
from gnelint.records import dataclass
from gnelint.words import plural, power, size

WIDTH = 80
_LABEL = 26
_PHI = 7
_BAR = 27
_SPAN = 10.0
"""Bits that a full bar stands for at least, so that a quiet network does not look dramatic."""
_ALIKE = 1.5
"""Factor between the phi of two blocks up to which they count as alike."""
_PERIODS = (1, 2, 3, 4)
"""Lengths of a pattern of blocks that may repeat (attention, MLP, attention, MLP, ...)."""
_FOLD_FROM = 6
_MOST_ROWS = 40
_LONGEST_WORD, _LONGEST_TEXT = 400, 8000
"""Letters of a name in a sentence, and of a paragraph: no model of anybody's has longer ones."""

_COUNTS = ("errors", "warnings", "infos")
_TARGET = 34

_COLOURS = {"error": "31", "warning": "33", "info": "36"}
_SAFETY = {
    "init": "safe: this model is untrained",
    "preserving": "safe: the function stays the same",
    "retrain": "changes the architecture: train again",
}


@dataclass(frozen=True)
class Style:
    """How a report is shown.

    Attributes:
        colour: whether to send terminal colours.
        table: whether to show the table of blocks.
        fold: whether to fold runs of like blocks.
        fix: the command that would fix the target, "" for none.
        rules: what else `gnelint rule ID` needs to find a rule of the user's own, by id.
    """

    colour: bool = False
    table: bool = True
    fold: bool = True
    fix: str = ""
    rules: Mapping[str, str] = field(default_factory=dict)


def render(target: Mapping[str, Any], rule_names: Mapping[str, str], notes: Sequence[str], style: Style) -> str:
    """The report on one target.

    Args:
        target: its entry in the JSON report.
        rule_names: the name of each rule, by id.
        notes: sentences for people: what was skipped, what the reader saw.
        style: how to show it.
    """
    lines = [_header(target), "", *wrapped(verdict(target), "  "), *wrapped(stage_text(target["summary"]), "  ")]
    for note in notes:
        lines.extend(wrapped(f"Note: {note}", "  "))
    if style.table and (target["blocks"] or target["profile"]):
        lines.extend(["", *depth_table(target, style)])
    lines = [printable(line) for line in lines]
    for group in grouped(target["findings"]):
        title, *body = (printable(line) for line in _finding_lines(group, rule_names, target["summary"]["trained"]))
        if style.colour:
            title, body = _painted(title, group[0]["severity"]), list(_linked(body, group))
        lines.extend(["", title, *body])
    lines.extend(["", *wrapped(_closing(target, style), "")])
    if style.fix and any(finding["fix"] and finding["fix"]["edits"] for finding in target["findings"]):
        lines.append(f"Fix: {printable(style.fix)}")  # in a line of its own, however long: it is there to be copied
    return "\n".join(lines) + "\n"


def failure(target: Mapping[str, Any], rule_names: Mapping[str, str], fail_on: FailOn) -> str:
    """What a test says that fails because of this target: the findings that count, without the table of blocks."""
    counted = [finding for finding in target["findings"] if reaches(finding["severity"], fail_on)]
    return render({**target, "findings": counted}, rule_names, (), Style(table=False)).rstrip()


def summary(targets: Sequence[Mapping[str, Any]], *, clean: bool = True) -> str:
    """Many targets in a line each, the worst first: findings, what becomes of the gradient, the rule that says most.

    Args:
        targets: entries of the JSON report.
        clean: whether to show those without findings; where nothing is left, nothing is said.
    """
    shown = [target for target in targets if clean or target["findings"]]
    if not shown:
        return ""
    worst_first = sorted(shown, key=lambda target: tuple(-target["summary"][count] for count in _COUNTS))
    folder, names = _told_apart([printable(target["target"]) for target in worst_first], _TARGET)
    title = f"target in {elide(folder, _TARGET - 10)}" if folder else "target"
    lines = [f"  errors warnings  gradient  {title:<{_TARGET}}  first finding"]
    for target, name in zip(worst_first, names, strict=True):
        counts, ratio = target["summary"], target["summary"]["gradient_ratio"]
        gradient = "?" if ratio is None else _power(ratio).replace("less than ", "<")
        silent = "" if counts.get("out_of_range") is None else "out of range"
        first = grouped(target["findings"])[0][0]["rule"] if target["findings"] else silent
        lines.append(
            f"  {counts['errors']:>6} {counts['warnings']:>8}  {gradient:>8}  {name:<{_TARGET}}  {first}".rstrip()
        )
    failing = sum(target["summary"]["errors"] > 0 for target in targets)
    said = f"{plural(len(targets), 'target')}, {failing} with errors. For details name one, or add -v."
    return "\n".join([*lines, "", *wrapped(said, "")]) + "\n"


def _told_apart(names: Sequence[str], width: int) -> tuple[str, list[str]]:
    """The folder that long names share, "" where all fit, and the names without it in at most `width` characters.

    They are cut where they stay different from each other, if there is such a place.
    """
    if all(len(name) <= width for name in names):
        return "", list(names)
    levels = zip(*(name.split("/")[:-1] for name in names), strict=False)
    folder = "".join(f"{level[0]}/" for level in takewhile(lambda level: len(set(level)) == 1, levels))
    inside = [name[len(folder) :] for name in names]
    starts = [text if len(text) <= width else f"{text[: width - 2]}.." for text in inside]
    ends = [text if len(text) <= width else f"..{text[2 - width :]}" for text in inside]
    choices = ([elide(text, width) for text in inside], starts, ends)
    return folder, max(choices, key=lambda made: len(set(made)))


def brief(target: Mapping[str, Any]) -> str:
    """The target and what was found, in a line."""
    ratio = target["summary"]["gradient_ratio"]
    change = "unknown gradient" if ratio is None else f"squared gradient norm {_power(ratio)} at the input"
    return f"{elide(printable(target['target']), WIDTH)}: {change}; {count_text(target['summary'])}"


def count_text(summary: Mapping[str, Any]) -> str:
    """How many findings there are, as "2 errors, 1 warning"."""
    found = [plural(summary["errors"], "error"), plural(summary["warnings"], "warning")]
    return ", ".join([*found, plural(summary["infos"], "info")] if summary["infos"] else found)


def statistics(report: Mapping[str, Any]) -> str:
    """How often each rule spoke, most often first, rendered from the JSON statistics."""
    lines = []
    for rule in report["statistics"]:
        severities = [severity for severity in ("error", "warning", "info") if rule[f"{severity}s"]]
        targets = f"  in {rule['targets']} of {report['targets']} targets" if report["targets"] > 1 else ""
        lines.append(f"{rule['count']:>7}  {rule['rule']}  {'/'.join(severities):<7}  {rule['name']}{targets}")
    total = sum(rule["count"] for rule in report["statistics"])
    return "\n".join([*lines, f"{plural(total, 'finding')}."]) + "\n"


def elide(text: str, width: int) -> str:
    """The text in at most `width` characters, its middle left out."""
    if len(text) <= width:
        return text
    tail = (width - 2) // 2
    return f"{text[: width - 2 - tail]}..{text[len(text) - tail :]}"


def clipped(text: str, width: int) -> str:
    """The text with nothing invisible in it, in at most `width` characters: names may be of any length."""
    return elide(visible(elide(text, width)), width)


def _parameters(summary: Mapping[str, Any]) -> str:
    count = summary["parameters"]
    return f"{size(count)} parameter{'s' * (count != 1)}"


def _header(target: Mapping[str, Any]) -> str:
    summary = target["summary"]
    state = state_words(summary)
    mode = {"train": "training mode", "eval": "evaluation mode"}[target["mode"]]
    facts = [plural(summary["nodes"], "node"), _parameters(summary), *state, mode]
    return f"{target['target']}: {', '.join(facts)}"


def stage_text(summary: Mapping[str, Any]) -> str:
    """That the weights are trained, or may be, and the strongest reason why, in a line; empty for fresh ones, of which
    the header says enough."""
    stage = summary.get("stage") or {"verdict": "none", "reason": None}
    said = {"trained": "Trained", "unsure": "Perhaps trained"}.get(stage["verdict"])
    return "" if said is None or stage["reason"] is None else f"{said}: {stage['reason']}."


def state_words(summary: Mapping[str, Any]) -> list[str]:
    """What the weights are, as a word among others; none where there are none to judge."""
    unsure = (summary.get("stage") or {}).get("verdict") == "unsure"
    return {True: ["trained"], False: ["untrained"], None: ["perhaps trained"] * unsure}[summary["trained"]]


def verdict(target: Mapping[str, Any]) -> str:
    """What becomes of the gradient, in a sentence or two."""
    summary = target["summary"]
    ratio, at = summary["gradient_ratio"], summary["cotangent_at"]
    rules = {finding["rule"] for finding in target["findings"]}
    subject = "The gradient's"
    if summary.get("out_of_range") is not None:
        rules.add(summary["out_of_range"]["rule"])
    if "GNE501" in rules:
        subject = "The gradient vanishes: its"
    elif "GNE502" in rules:
        subject = "The gradient explodes: its"
    if ratio is None:
        sentence = "How the gradient changes on its way to the input is not known for this network."
    else:
        reference, moved = "the output", ""
        if at != "output":
            reference, moved = (
                at,
                f"No gradient passes from the output to {at} at the start; what follows is from there. ",
            )
        sentence = f"{moved}{subject} squared norm at the input is {_power(ratio)} of that at {reference}"
        sentence += f"{_give_or_take(summary)}."
    if summary["coverage"] is not None and summary["coverage"] < 1.0:
        sentence += f" {summary['coverage']:.1%} of the nodes on its path have a formula."
    return sentence


def _give_or_take(summary: Mapping[str, Any]) -> str:
    """How far one network may lie from the power of two, nine times in ten."""
    bits = summary["error_bits"]
    return "" if bits is None else f" (exponent +-{bits:.0f})" if bits >= 10 else f" (exponent +-{max(bits, 0.1):.1f})"


def _power(ratio: float) -> str:
    bits = _bits(ratio)
    return "less than 2^-1074" if bits is None else power(bits)


def _bits(ratio: float | None) -> float | None:
    return math.log2(ratio) if ratio is not None and ratio > 0.0 else None


@dataclass(frozen=True)
class _Row:
    """A block in the table: its place, name, phi, the log2 of the gradient at its entry, and what it is made of."""

    index: int
    label: str
    phi: float | None
    bits: float | None
    makeup: tuple[str, ...]

    def like(self, other: _Row) -> bool:
        """Whether the two do the same to the gradient."""
        if self.makeup != other.makeup or self.phi is None or other.phi is None:
            return self.makeup == other.makeup and self.phi is other.phi
        small, large = sorted((self.phi, other.phi))
        return large <= small * _ALIKE if small > 0 else large == small


def _rows(target: Mapping[str, Any]) -> list[_Row]:
    profile = {entry["name"]: entry for entry in target["profile"]}
    blocks = target["blocks"] or [
        {"name": name, "nodes": [name], "phi": entry["phi"]} for name, entry in profile.items()
    ]
    rows = []
    for index, block in enumerate(blocks, start=1):
        inside = [profile[name] for name in block["nodes"] if name in profile]
        leaving = _bits(inside[-1]["gradient_norm2"]) if inside else None
        factor = _bits(block["phi"])
        entering = None if leaving is None or factor is None else leaving + factor
        makeup = tuple(entry["op"] for entry in inside)
        rows.append(_Row(index, _short_name(block["name"]), block["phi"], entering, makeup))
    return rows


def _short_name(name: str) -> str:
    """ "layer1.0.conv1 .. layer1.0.relu" as "layer1.0: conv1 .. relu"."""
    first, dots, last = name.partition(" .. ")
    shared = 0
    for shared, (a, b) in enumerate(zip(first.split(".")[:-1], last.split(".")[:-1], strict=False), start=1):
        if a != b:
            shared -= 1
            break
    if not dots or shared == 0:
        return name
    scope = ".".join(first.split(".")[:shared])
    return f"{scope}: {first[len(scope) + 1 :]} .. {last[len(scope) + 1 :]}"


def depth_table(target: Mapping[str, Any], style: Style) -> Iterator[str]:
    """A line for each block, with phi and the gradient as a bar; runs of like blocks are folded."""
    rows = _rows(target)
    known = [row.bits for row in rows if row.bits is not None]
    top = max([0.0, *known])
    span = max(top - min(known, default=0.0), _SPAN)
    yield f"  depth  {'block':<{_LABEL}}     phi  log2 of squared gradient norm"
    for row in _folded(rows, style.fold):
        yield row if isinstance(row, str) else _row_line(row, top, span)


def _row_line(row: _Row, top: float, span: float) -> str:
    phi = "?" if row.phi is None else _fitting(row.phi, _PHI)
    start = f"  {row.index:>5}  {elide(row.label, _LABEL):<{_LABEL}} {phi:>{_PHI}}"
    if row.bits is None:
        return f"{start}       ?"
    bar = "#" * round((row.bits - top + span) / span * _BAR)
    return f"{start}  {round(row.bits):>6}  {bar}".rstrip()


def _fitting(value: float, width: int) -> str:
    """A number with three digits, or with so many as fit the width: 1234.5 is 1.2e+03 in seven characters."""
    texts = [f"{value:.{digits}g}" for digits in (3, 2, 1)]
    return next((text for text in texts if len(text) <= width), texts[-1])


def _folded(rows: Sequence[_Row], fold: bool) -> Iterator[_Row | str]:
    """The rows, long runs of like ones cut down, and the middle of what is still too long left out."""
    if not fold:
        yield from rows
        return
    shown: list[_Row | str] = []
    start = 0
    while start < len(rows):
        period, stop = _longest_run(rows, start)
        kept = 2 * max(period, 2)
        if stop - start >= max(_FOLD_FROM, kept + 2):
            hidden = stop - start - kept
            shown.extend(rows[start : start + kept // 2])
            shown.append(f"         ... {hidden} more like these")
            shown.extend(rows[stop - kept // 2 : stop])
            start = stop
        else:
            shown.append(rows[start])
            start += 1
    if len(shown) > _MOST_ROWS:
        keep = _MOST_ROWS // 2
        left_out = f"         ... {len(shown) - 2 * keep} more rows (-v shows all)"
        shown = [*shown[:keep], left_out, *shown[-keep:]]
    yield from shown


def _longest_run(rows: Sequence[_Row], start: int) -> tuple[int, int]:
    """The period and the end of the longest run of repeating rows that begins here, the shorter period first."""
    best = (1, start + 1)
    for period in _PERIODS:
        stop = start + period
        while stop < len(rows) and rows[stop].like(rows[start + (stop - start) % period]):
            stop += 1
        if stop < len(rows):  # whole periods only, unless the table ends here
            stop -= (stop - start) % period
        if stop - start >= 2 * period and stop > best[1]:
            best = (period, stop)
    return best


def grouped(findings: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Findings of one rule and severity together, errors first."""
    groups: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for finding in findings:
        key = (("error", "warning", "info").index(finding["severity"]), finding["rule"])
        groups.setdefault(key, []).append(finding)
    return [groups[key] for key in sorted(groups)]


def _painted(title: str, severity: str) -> str:
    return title.replace(severity, f"\033[1;{_COLOURS[severity]}m{severity}\033[0m", 1)


def _linked(lines: Sequence[str], group: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The lines with the place in the user's source as a link (OSC 8), which terminals without them show as text."""
    location = next((finding["location"] for finding in group if finding["location"] is not None), None)
    shown = "" if location is None else printable(f"      at {location_text(location)}")
    for line in lines:
        if shown and location is not None and line.startswith(shown):
            url = f"file://{quote(str(Path(location['file']).absolute()))}"
            at = len("      at ")
            line = f"{line[:at]}\033]8;;{url}\033\\{shown[at:]}\033]8;;\033\\{line[len(shown) :]}"
        yield line


def _finding_lines(
    group: Sequence[Mapping[str, Any]], rule_names: Mapping[str, str], trained: bool | None
) -> Iterator[str]:
    first = group[0]
    severity = first["severity"]
    title = f"  {first['rule']} {severity:<7}  {rule_names.get(first['rule'], '')}"
    where = places(group, WIDTH - len(title) - 2)
    yield f"{title}{where:>{max(WIDTH - len(title), 0)}}"
    yield from wrapped(first["message"], "      ")
    values = sorted(finding["measured"] for finding in group if finding["measured"] is not None)
    if values and f"{values[0]:.2g}" != f"{values[-1]:.2g}":
        expected = "" if first["expected"] is None else f", expected {first['expected']:.3g}"
        yield f"      predicted {values[0]:.3g} to {values[-1]:.3g} over the {len(group)} places{expected}"
    locations = list(dict.fromkeys(location_text(f["location"]) for f in group if f["location"] is not None))
    if locations:
        more = f" and {len(locations) - 1} more" if len(locations) > 1 else ""
        yield from wrapped(f"at {locations[0]}{more}", "      ")
    fix = fix_text(group, trained)
    if fix:
        yield from wrapped(f"fix: {fix}", "      ")


def fix_text(group: Sequence[Mapping[str, Any]], trained: bool | None) -> str:
    """What the fixes of one rule's findings do and cost, "" without any; `trained` as in the summary."""
    fixes = [finding["fix"] for finding in group if finding["fix"] is not None]
    if not fixes:
        return ""
    kind = fixes[0]["safety"]
    safety = "changes the starting point" if kind == "init" and trained is not False else _SAFETY.get(kind)
    return f"{'; '.join(mends(fixes))}{f' ({safety})' if safety else ''}"


def mends(fixes: Sequence[Mapping[str, Any]], most: int = 4) -> list[str]:
    """What these fixes do in few clauses: the edits that `gnelint fix` makes, what else is advised, what is left."""
    edits = [edit for fix in fixes for edit in fix.get("edits", ())]
    # what is another architecture is said to be one, and advice to be advice
    kept = [fix for fix in fixes if fix.get("reason") and fix["safety"] in ("init", "preserving")]
    said = changes(edits) if edits else alike(fix["description"] for fix in fixes if fix not in kept)
    if len(said) > most:
        said = [*said[: most - 1], f"{len(said) - most + 1} more changes"]
    for reason in dict.fromkeys(fix["reason"] for fix in kept):
        group = [fix for fix in kept if fix["reason"] == reason]
        where = f"{len(group)} of {len(fixes)} places: " if len(group) < len(fixes) else ""
        advised = alike(fix["description"] for fix in group if not fix["edits"])
        said.append(f"{where}{advised[0]}; gnelint fix leaves it: {reason}" if advised else f"{where}{reason}")
    return said


def places(group: Sequence[Mapping[str, Any]], width: int) -> str:
    """Where the findings of one rule are, in about `width` characters."""
    blocks = [finding["block"] for finding in group if len(finding["nodes"]) > 2 and finding["block"] is not None]
    are_blocks = len(set(blocks)) == len(group)
    names = blocks if are_blocks else [(finding["nodes"] or ["whole network"])[0] for finding in group]
    if len(group) == 1:
        return elide(names[0], max(width, 8))
    count = f"{len(group)} {'blocks' if are_blocks else 'places'}"
    whole = f"{count}: {', '.join(folded(names))}"
    if len(whole) <= width:
        return whole
    return in_few_words(count, names, width)


def in_few_words(count: str, names: Sequence[str], width: int) -> str:
    """Where so many things are, in about `width` characters: their scope if they have one, else the first and last."""
    inside = scope(names)
    if inside is not None and len(f"{count} in {inside}") <= width:
        return f"{count} in {inside}"
    room = max((width - len(count) - 6) // 2, 6)
    return f"{count}: {elide(names[0], room)} .. {elide(names[-1], room)}"


def location_text(location: Mapping[str, Any]) -> str:
    """A place in a source file, as "model.py:12"."""
    return str(location["file"]) if location["line"] is None else f"{location['file']}:{location['line']}"


def _closing(target: Mapping[str, Any], style: Style) -> str:
    summary = target["summary"]
    baseline = summary["baseline"]
    aside = [f"{summary['suppressed']} suppressed"] if summary["suppressed"] else []
    if baseline is not None:
        aside.append(f"{plural(baseline['known'], 'known finding')} of the baseline not shown")
        if baseline["gone"]:
            aside.append(f"{plural(baseline['gone'], 'finding')} of the baseline {_is_are(baseline['gone'])} gone")
    more = f" {'; '.join(aside)}." if aside else ""
    if not target["findings"]:
        return f"{nothing_found(target)}{more}"
    first = grouped(target["findings"])[0][0]["rule"]
    return f"{count_text(summary)}.{more}  Why: gnelint rule {first}{style.rules.get(first, '')}"


def nothing_found(target: Mapping[str, Any]) -> str:
    """What is said where no finding is reported: never just that there is none where the total is out of range."""
    summary = target["summary"]
    beyond = summary.get("out_of_range")
    new = "new " * (summary["baseline"] is not None)
    if beyond is None:
        return f"No {new}findings."
    silent = beyond["not_selected"]
    bits = beyond["gradient_log2"]
    total = "" if bits is None else f", 2^{bits:.0f} from the last layer to the input"
    if not silent:
        return f"No {new}findings; that the total is out of range{total}, is accepted."
    one = len(silent) == 1
    why = f"{', '.join(silent)} {'speaks' if one else 'speak'} of it and {_was_were(len(silent))} not selected"
    return f"No {new}findings by the rules that were asked, but the total is out of range{total}: {why}."


def _was_were(count: int) -> str:
    return "was" if count == 1 else "were"


def _is_are(count: int) -> str:
    return "is" if count == 1 else "are"


def wrapped(text: str, indent: str) -> list[str]:
    """The text in lines of at most 80 characters, each behind the indent; words and texts without end are cut."""
    if len(text) > _LONGEST_WORD:
        text = elide(
            " ".join(elide(word, _LONGEST_WORD) for word in text[: 2 * _LONGEST_TEXT].split(" ")), _LONGEST_TEXT
        )
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def printable(text: str) -> str:
    """Names may hold anything: what is not ASCII, or would steer a terminal, is shown escaped."""
    return "".join(char if " " <= char <= "~" else char.encode("unicode_escape").decode() for char in text)
