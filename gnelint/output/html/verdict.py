"""The first screen: what a busy person wants to know."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from markupsafe import Markup

from gnelint.output.html.network import Network
from gnelint.output.html.words import count, decimal, factor, joined, power, short
from gnelint.output.text import mends, nothing_found, stage_text, state_words
from gnelint.records import dataclass
from gnelint.words import size

Mood = Literal["good", "warn", "bad", "unknown"]

APPLIED, UNSAFE, ADVICE = "applied", "unsafe", "advice"


@dataclass(frozen=True)
class Fact:
    """A number that stands out: its label, itself, what is to be said of it, and the element that shows more."""

    label: str
    value: Markup
    note: Markup
    link: str = ""


@dataclass(frozen=True)
class Verdict:
    """What is said of a network first.

    Attributes:
        mood: of the headline.
        headline, sentence: whether the gradient survives, and what that means.
        facts: the numbers.
        needle: where the gradient's change lies between the ends of the meter, in percent; None if it is not known.
        band: left end and width of what is tolerated on the meter, in percent.
    """

    mood: Mood
    headline: str
    sentence: Markup
    facts: Sequence[Fact]
    needle: float | None
    band: tuple[float, float] | None


def verdict(network: Network) -> Verdict:
    """The verdict on a network."""
    mood, headline = _headline(network)
    needle, band = _meter(network)
    facts = [_change(network), *_measured(network), _worst(network), _found(network), _fix(network)]
    return Verdict(mood, headline, _sentence(network), facts, needle, band)


def _headline(network: Network) -> tuple[Mood, str]:
    spoke = {finding["rule"]: finding["severity"] for finding in network.entry["findings"]}
    errors = network.summary["errors"]
    ends = {"GNE501": "The gradient vanishes", "GNE502": "The gradient explodes"}
    for rule, text in ends.items():
        if rule in spoke:
            return ("bad" if spoke[rule] == "error" else "warn"), text
    beyond = network.summary.get("out_of_range")
    if beyond is not None:
        return "bad", ends[beyond["rule"]]
    if network.bits is None:
        if network.summary["gradient_ratio"] == 0.0:
            return "bad", "No gradient arrives at the input"
        return "unknown", "What becomes of the gradient is not known"
    if network.limits is not None:
        low, high = network.limits
        if network.bits < low or network.bits > high:
            return "warn", f"The gradient {'shrinks' if network.bits < 0 else 'grows'} on its way to the input"
        if errors:
            return (
                "bad",
                f"The gradient survives, but {count(errors, 'error')} {'needs' if errors == 1 else 'need'} you",
            )
        warnings = network.summary["warnings"]
        if warnings:
            return "warn", f"The gradient survives, with {count(warnings, 'warning')}"
        return "good", "The gradient survives"
    return ("bad" if errors else "unknown"), "The gradient's change is predicted, but not judged"


def _sentence(network: Network) -> Markup:
    summary = network.summary
    if network.bits is None:
        said = Markup("No number can be given for the way from the output to the input.")
    else:
        at = summary["cotangent_at"]
        start = Markup("the output") if at == "output" else Markup("<bdi>{}</bdi>").format(short(at))
        said = Markup("A gradient of norm 1 at {} reaches the input with norm {}.").format(
            start, decimal(network.bits / 2)
        )
        layers = len([stretch for stretch in network.stretches if stretch.has_weights])
        if layers > 1 and abs(network.bits) >= 10:
            does = "divided" if network.bits < 0 else "multiplied"
            each = 2.0 ** (abs(network.bits) / layers)
            said += f" Its square is {does} by {each:.2g} at each of {layers} blocks with weights, on average."
    if summary["coverage"] is not None and summary["coverage"] < 1.0:
        said += f" {summary['coverage']:.1%} of the nodes on its path have a formula; the rest is not guessed."
    stage = stage_text(summary)
    return said + Markup(" {}").format(short(stage, 300)) if stage else said


def _meter(network: Network) -> tuple[float | None, tuple[float, float] | None]:
    """A meter from -2 to +2 tolerances, the needle at its end for what lies beyond."""
    if network.limits is None:
        return None, None
    low, high = network.limits
    reach = 2 * max(-low, high)
    band = (round(50 + 50 * low / reach, 1), round(50 * (high - low) / reach, 1))
    if network.bits is None:
        return None, band
    return round(50 + 50 * min(max(network.bits / reach, -1.0), 1.0), 1), band


def _change(network: Network) -> Fact:
    bits = network.summary["error_bits"]
    doubt = Markup("") if bits is None else Markup("exponent ±{}, nine times in ten").format(f"{max(bits, 0.1):.1f}")
    link = "profile" if network.stretches else ""
    return Fact("Squared norm, input over output", power(network.bits), doubt, link)


def _measured(network: Network) -> list[Fact]:
    """What autograd says, where it was asked."""
    found = network.entry.get("verification")
    if found is None:
        return []
    bits = found["gradient_ratio_log2"]
    value = bits["measured"].get("value")
    if value is None:
        return [Fact("Measured by autograd", Markup("unknown"), Markup("no gradient arrives at the input"))]
    differing = found["differing"]
    verdicts = [stretch.block.get("verdict") for stretch in network.stretches]
    agree = Markup("{} of {} blocks as predicted").format(verdicts.count("agrees"), len(verdicts))
    more = Markup(", {} differ").format(count(len(differing), "number")) if differing else Markup("")
    return [Fact("Measured by autograd", power(value), agree + more, "profile")]


def _worst(network: Network) -> Fact:
    worst = network.worst
    if worst is None:
        return Fact("Block furthest from 1", Markup("unknown"), Markup("no block has a known factor"))
    name = Markup("<bdi>{}</bdi>").format(short(worst.name, 40))
    return Fact("Block furthest from 1", Markup("{}").format(factor(worst.phi)), name, f"b{worst.index}")


def _found(network: Network) -> Fact:
    summary = network.summary
    amount = summary["errors"] + summary["warnings"] + summary["infos"]
    kinds = (("errors", "error"), ("warnings", "warning"), ("infos", "info"))
    parts = [count(summary[key], noun) for key, noun in kinds if summary[key]]
    if summary["suppressed"]:
        parts.append(f"{summary['suppressed']} suppressed")
    rules = len(network.entry.get("rules_ran", []))
    clean = f"{count(rules, 'rule')} looked" if rules else "no rule was run"
    if summary.get("out_of_range") is not None:
        clean = nothing_found(network.entry)
    return Fact(
        "Findings", Markup("{}").format(f"{amount:,}"), Markup("{}").format(", ".join(parts) or clean), "findings"
    )


def fix_class(fix: Mapping[str, Any] | None, trained: bool | None) -> str | None:
    """Whether `gnelint fix` applies a fix by itself, only when told to change what was trained, or never."""
    if fix is None:
        return None
    if fix["safety"] == "preserving" or (fix["safety"] == "init" and trained is False):
        return ADVICE if fix.get("reason") and not fix["edits"] else APPLIED
    return ADVICE if fix["safety"] == "display" else UNSAFE


def _fix(network: Network) -> Fact:
    fixes = [finding["fix"] for finding in network.entry["findings"]]
    classes = [fix_class(fix, network.summary["trained"]) for fix in fixes]
    applied, unsafe, advice = (classes.count(each) for each in (APPLIED, UNSAFE, ADVICE))
    label = "gnelint fix would"
    if applied:
        kinds = mends([fix for fix, found in zip(fixes, classes, strict=True) if found == APPLIED])
        more = f" and {len(kinds) - 1} other change{'s' * (len(kinds) > 2)}" if len(kinds) > 1 else ""
        note = Markup("<bdi>{}</bdi>{}").format(short(kinds[0], 90), more)
        if unsafe:
            note += Markup("; {} more with <code>--unsafe-fixes</code>").format(unsafe)
        return Fact(label, Markup("mend {}").format(count(applied, "finding")), note, "findings")
    rest = [f"{unsafe} with --unsafe-fixes"] * bool(unsafe) + [f"advice for {advice}"] * bool(advice)
    nothing = "nothing was found" if not fixes else "no finding has a safe edit"
    return Fact(label, Markup("change nothing"), Markup("{}").format(joined(rest) if rest else nothing), "findings")


def command(network: Network) -> str | None:
    """The command that would write the mended model; None where that is nothing."""
    classes = {fix_class(finding["fix"], network.summary["trained"]) for finding in network.entry["findings"]}
    if not classes & {APPLIED, UNSAFE}:
        return None
    unsafe = "" if APPLIED in classes else " --unsafe-fixes"
    target = network.entry["target"]
    if network.entry["source"] == "onnx":
        return f"gnelint fix {shlex.quote(short(target, 200))} -o fixed.onnx{unsafe}"
    # a module that was handed over in Python has no name that a command could take
    return f"gnelint fix {shlex.quote(short(target, 200))} --diff{unsafe}" if ":" in target else None


def identity(network: Network) -> list[str]:
    """What was looked at, in a few words."""
    summary = network.summary
    mode = {"train": "training mode", "eval": "evaluation mode"}[network.entry["mode"]]
    return [
        count(summary["nodes"], "node"),
        f"{size(summary['parameters'], ' ')} parameter{'s' * (summary['parameters'] != 1)}",
        count(summary["blocks"], "block"),
        *state_words(summary),
        mode,
    ]
