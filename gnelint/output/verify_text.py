"""The report of `gnelint verify` for people, rendered from its JSON alone: plain ASCII, 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gnelint.output.text import WIDTH, Style, elide, printable, wrapped
from gnelint.words import plural

_LABEL = 22
_LAYER = 38
_BAR = 26
_FOLD_FROM = 24
_KEPT = 8
_COLOURS = {"agrees": "32", "differs": "1;31", "unknown": "33"}
_MOST_CAUSES = 8
_MOST_NAMED = 4


def render(report: Mapping[str, Any], style: Style) -> str:
    """The report on a network, or on one before and after it was fixed."""
    lines: list[str] = []
    for entry in report["targets"]:
        lines += [*_network(entry, style), ""]
    if len(report["targets"]) > 1:
        lines += [*_before_and_after(report), ""]
    lines += _closing(report)
    return "\n".join(lines) + "\n"


def _network(entry: Mapping[str, Any], style: Style) -> Iterator[str]:
    facts = entry["verification"]
    batch = "" if facts["batch"] is None else f", batch {facts['batch']}"
    probes = f"{facts['probes']} probes on {facts['device']} in {facts['dtype']}"
    yield from _titled(entry["target"], f"measured with {probes}{batch}")
    yield ""
    yield from wrapped(_end_to_end(entry), "  ")
    yield from wrapped(_agreement(entry), "  ")
    for note in facts["notes"]:
        yield from map(printable, wrapped(f"Note: {note}", "  "))
    if style.table and entry["blocks"]:
        yield ""
        yield from _table(entry["blocks"], style)
    yield from _causes(entry)
    yield from _weights(facts, style)
    if facts["training"] is not None:
        yield from _training(facts["training"])


def _titled(target: str, text: str) -> Iterator[str]:
    """A sentence behind the target's name, which is never broken: below it where both do not fit in a line."""
    title = printable(f"{target}:")
    if len(title) + 1 + len(text) <= WIDTH:
        yield f"{title} {text}"
        return
    yield title
    yield from map(printable, wrapped(text, "  "))


def _end_to_end(entry: Mapping[str, Any]) -> str:
    bits = entry["verification"]["gradient_ratio_log2"]
    if "value" not in bits["measured"]:
        return "No gradient arrives at the input."
    at = entry["summary"]["cotangent_at"]
    reference = "the output" if at == "output" else at
    low, high = bits["interval"]["value"]
    said = "nothing was predicted" if bits["value"] is None else f"predicted {_power(bits['value'])}"
    return (
        f"The gradient's squared norm at the input is {_power(bits['measured']['value'])} of that at {reference} "
        f"({'0' if low is None else _power(low)} to {_power(high)}; {said})."
    )


def _agreement(entry: Mapping[str, Any]) -> str:
    verdicts = [block["verdict"] for block in entry["blocks"]]
    known = [verdict for verdict in verdicts if verdict != "unknown"]
    sentence = f"{known.count('agrees')} of {len(known)} blocks measure as predicted"
    missing = len(verdicts) - len(known)
    return f"{sentence}; {missing} could not be compared." if missing else f"{sentence}."


def _table(blocks: Sequence[Mapping[str, Any]], style: Style) -> Iterator[str]:
    yield f"  depth  {'block':<{_LABEL}} predicted  measured  95% interval"
    rows = list(enumerate(blocks, start=1))
    if style.fold and len(rows) > _FOLD_FROM:
        ends = {index for index, _ in (*rows[:_KEPT], *rows[-_KEPT:])}
        visible = [row for row in rows if row[0] in ends or row[1]["verdict"] == "differs"]
    else:
        visible = rows
    last = 0
    for index, block in visible:
        if index > last + 1:
            yield f"         ... {index - last - 1} more (-v shows all)"
        last = index
        yield _row(index, block, style)


def _row(index: int, block: Mapping[str, Any], style: Style) -> str:
    measured = block["measured"].get("phi")
    interval = block["interval"].get("phi")
    between = "" if interval is None or None in interval else f"{interval[0]:.4g} to {interval[1]:.4g}"
    verdict = block["verdict"]
    mark = "" if verdict == "agrees" else verdict
    if style.colour and mark:
        mark = f"\033[{_COLOURS[verdict]}m{mark}\033[0m"
    label = elide(printable(block["name"]), _LABEL)
    line = f"  {index:>5}  {label:<{_LABEL}} {_short(block['phi']):>9} {_short(measured):>9}  {between:<18}"
    return f"{line} {mark}".rstrip()


def _causes(entry: Mapping[str, Any]) -> Iterator[str]:
    """The single operations that do something else than was predicted: where an error enters."""
    found = [sentence for node in entry["profile"] if (sentence := _cause(node))]
    if found:
        yield ""
    for sentence in found[:_MOST_CAUSES]:
        yield from map(printable, wrapped(f"differs: {sentence}", "  "))
    if len(found) > _MOST_CAUSES:
        yield f"  ... and {len(found) - _MOST_CAUSES} more operations"


def _cause(node: Mapping[str, Any]) -> str:
    transfer = node.get("transfer", {})
    what = f"{node['name']} ({node['op']})"
    if transfer.get("verdict") == "differs":
        ratio, measured = transfer["ratio"], transfer["measured"]["ratio"]
        return f"{what} multiplies the squared gradient norm by {_short(measured)}; {_short(ratio)} was predicted."
    if node["verdict"] == "differs":
        return f"{what} has phi {_short(node['measured']['phi'])}; {_short(node['phi'])} was predicted."
    return ""


def _weights(facts: Mapping[str, Any], style: Style) -> Iterator[str]:
    """How equal the layers' weight gradients are; each of them where everything is shown."""
    layers = [
        (layer["measured"]["norm2_log2"], layer["name"])
        for layer in facts["weight_gradients"]
        if layer["measured"].get("norm2_log2") is not None
    ]
    if len(layers) < 2:
        return
    (low, smallest), (high, largest) = min(layers), max(layers)
    yield ""
    sentence = (
        f"Weight gradients: squared norms of {len(layers)} layers lie within a factor of 2^{high - low:.1f} "
        f"(smallest {smallest}, largest {largest})."
    )
    none = len(facts["weight_gradients"]) - len(layers)
    more = f" {none} more get none." if none else ""
    yield from map(printable, wrapped(sentence + more, "  "))
    if not style.fold:
        yield f"  {'layer':<{_LAYER}} log2 of squared norm"
        for bits, name in layers:
            yield f"  {elide(printable(name), _LAYER):<{_LAYER}} {bits:>8.1f}  {_bar(bits - low, high - low)}".rstrip()


def _bar(part: float, whole: float) -> str:
    return "#" * round(_BAR * part / whole) if whole else ""


def _training(run: Mapping[str, Any]) -> Iterator[str]:
    steps = run["steps"]
    yield ""
    yield from wrapped(f"Trained for {len(steps)} steps on {run['task']}:", "  ")
    yield f"  {'step':>6}  {'loss':>10}  weight gradients, log2 of smallest .. largest squared norm"
    for index in _picked(len(steps)):
        step = steps[index]
        norms = [norm for norm in step["weight_gradients_log2"].values() if norm is not None]
        between = f"{min(norms):.1f} .. {max(norms):.1f}" if norms else "none"
        yield f"  {index:>6}  {_short(step['loss']):>10}  {between}"
    if run["diverged"]:
        yield "  The loss is no longer a number: training diverged."


def _picked(count: int) -> list[int]:
    """The first and the last step and a few between."""
    return sorted({round(index * (count - 1) / 9) for index in range(10)}) if count > 10 else list(range(count))


def _before_and_after(report: Mapping[str, Any]) -> Iterator[str]:
    before, after = report["targets"]
    yield f"  {'':<46} {'before':>12} {'after':>12}"
    ends = [entry["verification"]["gradient_ratio_log2"]["measured"].get("value") for entry in (before, after)]
    yield _pair("squared gradient norm, input over output", ends)
    for label, key in (
        ("largest over smallest along the depth", "spread_log2"),
        ("largest over smallest weight gradient", "weight_gradient_spread_log2"),
    ):
        yield _pair(label, [entry["verification"][key] for entry in (before, after)])
    losses = [_last_loss(entry) for entry in (before, after)]
    if any(loss is not None for loss in losses):
        yield f"  {'loss after training':<46} {_short(losses[0]):>12} {_short(losses[1]):>12}"
    yield ""
    yield from wrapped(_judgement(report), "  ")


def _pair(label: str, logs: Sequence[float | None]) -> str:
    before, after = map(_power, logs)
    return f"  {label:<46} {before:>12} {after:>12}"


def _last_loss(entry: Mapping[str, Any]) -> float | None:
    run = entry["verification"]["training"]
    return None if run is None else run["steps"][-1]["loss"]


def _judgement(report: Mapping[str, Any]) -> str:
    before, after = (entry["verification"]["spread_log2"] for entry in report["targets"])
    if report["verification"]["fixed_is_worse"]:
        return f"Worse: {'; '.join(report['verification']['worse'])}."
    if before is not None and after is not None and after < before - 0.5:
        return "Better: the gradient norms along the depth are more equal than they were."
    return "No worse: the gradient norms along the depth are as equal as they were."


def _closing(report: Mapping[str, Any]) -> Iterator[str]:
    verdicts = [block["verdict"] for entry in report["targets"] for block in entry["blocks"]]
    if report["verification"]["holds"]:
        known = any(verdict != "unknown" for verdict in verdicts)
        yield "Everything that could be compared measures as predicted." if known else "Nothing could be compared."
        return
    for entry in report["targets"]:
        names = entry["verification"]["differing"]
        if names:
            count = f"{plural(len(names), 'predicted number')} did not hold"
            listed = ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
            yield from _titled(entry["target"], f"{count}: {listed}.")
    if report["verification"]["fixed_is_worse"]:
        before, after = (entry["target"] for entry in report["targets"])
        yield from _titled(after, f"worse than {before}.")


def _short(value: float | None) -> str:
    return "?" if value is None else f"{value:.4g}"


def _power(bits: float | None) -> str:
    return "2^?" if bits is None else f"2^{bits:.1f}"
