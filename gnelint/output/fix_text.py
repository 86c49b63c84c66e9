"""The report of `gnelint fix` for people: what is changed, what becomes of the gradient, what is left and why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from gnelint.lint.places import alike, alike_edits, folded
from gnelint.output.text import WIDTH, elide, in_few_words, printable, stage_text, wrapped
from gnelint.words import plural, power

_LABEL = 38
_SAFETY = {
    "preserving": "the function stays the same",
    "init": "another starting point",
    "retrain": "another architecture: train again",
}


def render(
    entry: Mapping[str, Any], rule_names: Mapping[str, str], *, whole: bool, dry: bool, code: Path | None = None
) -> str:
    """The report on one target.

    Args:
        entry: what `fix_json.entry` made.
        rule_names: the name of each rule, by id.
        whole: list every edit, where alike ones are folded otherwise.
        dry: no model was to be written.
        code: the file with the initialisation's code that was written.
    """
    lines = [f"{entry['target']}: {_headline(entry, dry)}", *_stage(entry["before"])]
    by_rule = [
        (key, list(edits)) for key, edits in groupby(entry["edits"], key=lambda edit: (edit["rule"], edit["safety"]))
    ]
    for (rule, safety), edits in by_rule:
        lines += ["", f"  {rule} {rule_names.get(rule, '')} ({_SAFETY.get(safety, safety)})"]
        lines += _edits(edits, whole)
    if entry["edits"]:
        lines += ["", *_gradient(entry)]
    for sentence in _measured(entry):
        lines += ["", *wrapped(sentence, "  ")]
    for note in entry["notes"]:
        lines += ["", *wrapped(note, "  ")]
    refused = [refusal for refusal in entry["left"] if not refusal["choice"]]
    if refused:
        lines += ["", "  Left as it is:", *_left(refused, rule_names)]
    lines += _choices([refusal for refusal in entry["left"] if refusal["choice"]])
    lines += ["", *wrapped(_closing(entry, dry, code), "")]
    return "\n".join(map(printable, lines)) + "\n"


def sentence(entry: Mapping[str, Any]) -> str:
    """What was done to a file, in a line: how many edits, whether they were measured, what was taken back."""
    made = f"{_headline(entry, False)}{' made' if entry['edits'] else ''}."
    done = "nothing written: the fixed model measures worse." if entry["worse"] else made
    return " ".join([f"{entry['target']}: {done}", *_measured(entry)])


def _stage(before: Mapping[str, Any]) -> Iterator[str]:
    """Why edits of the starting point are not made, where the weights are not fresh."""
    verdict, said = before["stage"]["verdict"], stage_text(before)
    if verdict == "unsure":
        said = (
            f"{said} Edits that change where training starts are left out; if it is untrained, --stage init makes them."
        )
    if verdict in ("trained", "unsure"):
        yield from wrapped(said, "  ")


def _headline(entry: Mapping[str, Any], dry: bool) -> str:
    count = len(entry["edits"])
    if not count:
        return "nothing that can be fixed" if any(not left["choice"] for left in entry["left"]) else "nothing to fix"
    return f"{plural(count, 'edit')}{' would be made' if dry else ''}"


def _edits(edits: Sequence[Mapping[str, Any]], whole: bool) -> Iterator[str]:
    groups = [[edit] for edit in edits] if whole else alike_edits(edits)
    for group in groups:
        yield from _edit_lines(group)


def _edit_lines(group: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    (what,), phi = alike(edit["what"] for edit in group), _phi(group)
    line = f"    {_names([edit['subject'] for edit in group]):<{_LABEL}} {what}"
    if phi and len(line) + 2 + len(phi) <= WIDTH:
        yield f"{line}  {phi}"
        return
    if len(line) <= WIDTH:
        yield line
    else:
        yield f"    {_names([edit['subject'] for edit in group], WIDTH - 4)}"
        yield from wrapped(what, "      ")
    if phi:
        yield f"      {phi}"


def _names(names: Sequence[str], width: int = _LABEL) -> str:
    if len(names) == 1:
        return elide(names[0], width)
    whole = ", ".join(folded(names))
    if len(whole) <= width:
        return whole
    return in_few_words(f"{len(names)} places", names, width)


def _phi(group: Sequence[Mapping[str, Any]]) -> str:
    before, after = ([edit["phi"][at] for edit in group if edit["phi"][at] is not None] for at in (0, 1))
    if not before or not after:
        return ""
    return f"phi {_span(before)} -> {_span(after)}"


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low}..{high}"


def _gradient(entry: Mapping[str, Any]) -> Iterator[str]:
    before, after = (entry[when]["gradient_ratio_log2"] for when in ("before", "after"))
    if before is None or after is None:
        return
    at = entry["after"]["cotangent_at"]
    reference = "the output" if at == "output" else at
    text = f"The gradient's squared norm at the input, relative to {reference}: {_power(before)} -> {_power(after)}."
    yield from wrapped(text, "  ")


def _power(bits: float) -> str:
    return power(bits) if math.isfinite(bits) else "0"


def _left(left: Sequence[Mapping[str, Any]], rule_names: Mapping[str, str]) -> Iterator[str]:
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for refusal in left:
        groups.setdefault((refusal["rule"], refusal["severity"], refusal["reason"]), []).append(refusal)
    for (rule, severity, reason), group in groups.items():
        times = f" ({len(group)} places)" if len(group) > 1 else ""
        yield f"    {rule} {severity:<7}  {rule_names.get(rule, '')}{times}"
        yield from wrapped(f"{reason}.", "      ")
        if group[0]["advice"] is not None:
            yield from wrapped(f"advice: {group[0]['advice']}", "      ")


def _choices(left: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line that says how many infos are left to the user, and how to have them edited."""
    if left:
        rules = ",".join(sorted({refusal["rule"] for refusal in left}))
        yield ""
        yield f"  Left to your choice: {plural(len(left), 'info')} (--extend-select {rules} edits them)."


def _measured(entry: Mapping[str, Any]) -> Iterator[str]:
    """What was measured of the network as it is and of the fixed one, and what was taken back for it."""
    if entry["not_measured"] is not None and entry["edits"]:
        yield f"Not measured: {entry['not_measured']}."
    found = entry["measured"]
    if found is not None and found["after"] is not None and entry["edits"]:
        yield _before_and_after(found["before"], found["after"])
    for back in entry["taken_back"]:
        yield f"Taken back: {back['kind']} ({', '.join(back['rules'])}): {'; '.join(back['reasons'])}."


def _before_and_after(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    spreads = [_power(found["spread_log2"]) for found in (before, after) if found["spread_log2"] is not None]
    if len(spreads) < 2:
        return f"Measured with {after['probes']} probes: no gradient is lost."
    without = [found["parameters_without_gradient"] for found in (before, after)]
    more = f"; {without[0]} -> {without[1]} parameters without gradient" if any(without) else ""
    return (
        f"Measured with {after['probes']} probes: the gradient's squared norms along the depth lie within a factor of "
        f"{spreads[0]} -> {spreads[1]}{more}."
    )


def _closing(entry: Mapping[str, Any], dry: bool, code: Path | None) -> str:
    after = entry["after"]
    counts = [(after["errors"], "error"), (after["warnings"], "warning"), (after["infos"], "info")]
    left = ", ".join(plural(count, noun) for count, noun in counts if count)
    remains = f"{left} {'would remain' if dry and entry['edits'] else 'left'}" if left else "No findings left"
    if entry["worse"]:
        return f"Nothing written: the fixed model measures worse. {remains}."
    written = [str(file) for file in (entry["output"], code) if file is not None]
    if written:
        return f"{remains}. Wrote {' and '.join(written)}"
    return f"{remains}. Nothing written."
