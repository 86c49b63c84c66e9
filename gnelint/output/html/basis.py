"""What the numbers stand on: assumptions, what is not modelled, and how the report came about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gnelint.lint.places import folded, visible
from gnelint.output.html.network import Network
from gnelint.output.html.words import short
from gnelint.records import dataclass

BASES: Mapping[str, str] = {
    "exact": "a closed formula with the numbers of the file",
    "theorem": "composed of exact parts by a theorem whose assumptions are listed",
    "approximate": "a formula with an approximation in it",
    "sampled": "no formula: run on draws of its inputs from their predicted moments",
    "unmodelled": "no formula: unknown, never guessed",
}
_MOST = 8


@dataclass(frozen=True)
class Assumption:
    """Something that was taken for granted, and where."""

    text: str
    count: int
    where: str


def assumptions(network: Network) -> list[Assumption]:
    """What was assumed of layers and blocks, most often first."""
    found: dict[str, list[str]] = {}
    for part in (*network.entry["profile"], *network.entry["blocks"]):
        if part.get("basis") != "unmodelled":
            for text in part.get("assumptions", []):
                found.setdefault(text, []).append(part["name"])
    return [_assumption(text, found[text]) for text in sorted(found, key=lambda text: (-len(found[text]), text))]


def unmodelled(network: Network) -> list[Assumption]:
    """Layers without a formula, by the reason."""
    found: dict[str, list[str]] = {}
    for node in network.entry["profile"]:
        if node.get("basis") == "unmodelled":
            for text in node.get("assumptions") or ["no component models this operation"]:
                found.setdefault(text, []).append(node["name"])
    return [_assumption(text, names) for text, names in found.items()]


def _assumption(text: str, names: list[str]) -> Assumption:
    shown = folded(short(name) for name in names[: 20 * _MOST])
    more = "" if len(shown) <= _MOST else ", …"
    return Assumption(short(text, 300), len(names), ", ".join(short(name) for name in shown[:_MOST]) + more)


def tally(network: Network) -> list[tuple[str, str, int]]:
    """Each basis with its meaning and how many layers stand on it."""
    found = [node.get("basis") for node in network.entry["profile"]]
    return [(basis, meaning, found.count(basis)) for basis, meaning in BASES.items()]


def circumstances(network: Network, versions: Mapping[str, str]) -> list[tuple[str, str]]:
    """Everything that is needed to make the report again."""
    entry = network.entry
    found = [("target", visible(entry["target"])), ("mode", entry["mode"])]
    for value in entry.get("inputs", []):
        sizes = "unknown" if value["shape"] is None else ", ".join(map(str, value["shape"]))
        found.append(
            (f"input \u201c{short(value['name'])}\u201d", f"{short(sizes)} ({value['dtype'] or 'type unknown'})")
        )
    if entry.get("sha256"):
        found.append(("SHA-256 of the model file", entry["sha256"]))
    found += [
        (name.replace("_", " "), shown) for name, value in entry.get("options", {}).items() if (shown := _option(value))
    ]
    verification = entry.get("verification")
    if verification is not None:
        measured = f"{verification['probes']} probes on {verification['device']} in {verification['dtype']}"
        batch = verification["batch"]
        found.append(("measured with", measured + ("" if batch is None else f", batch {batch}")))
    return [*found, *versions.items()]


def _option(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_option(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(visible(str(each)) for each in value)
    if isinstance(value, bool):
        return "yes" if value else ""
    return visible(str(value))
