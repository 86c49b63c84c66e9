"""Reports for the tests of the HTML page, made by hand: no reader, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gnelint.analysis.prediction import Block, Prediction
from gnelint.ir.graph import Node
from gnelint.lint.engine import lint
from gnelint.lint.finding import Finding
from gnelint.lint.rulefile import load_rules
from gnelint.lint.selection import Settings, selected_rules
from gnelint.output.entry import Circumstances, target
from gnelint.output.json import document
from tests.builders import chain, graph, node, prediction, statistics

HOSTILE = (
    '<script>document.title="owned"</script>',
    '"><img src=x onerror="document.title=1">',
    "</title></style></script>{{ 7 * 7 }}<b>",
    "\u202eright to left\u2066 and\u2069 back\x00\x1b[2J\n\ud800",
    "שלום עולם مرحبا",
    "x" * 10_000,
)
"""Names that a model may hold."""


def report(*predictions: Prediction, findings: Sequence[Finding] | None = None) -> dict[str, Any]:
    """The report on some networks, linted with gnelint's own rules unless findings are given."""
    # the weights of graphs made by hand are zero, or one draw for all layers
    rules = selected_rules(load_rules(), Settings(ignore=("GNE109", "GNE594")))
    entries = []
    for at, each in enumerate(predictions):
        result = lint(each, rules, Settings())
        named = replace(each, graph=replace(each.graph, name=f"model{at}.onnx"))
        found = result.findings if findings is None else findings
        entries.append(target(named, found, made=Circumstances(result.skipped, result.ran)))
    return document(entries, rules)


def vanishing() -> Prediction:
    """50 layers that each pass a quarter of the gradient's square."""
    return chain(50, gain=0.25, blocks=True)


def residual(blocks: int = 12, *, names: Sequence[str] = ()) -> Prediction:
    """Residual blocks of five nodes behind a linear stem; some nodes under the given names."""
    nodes: list[Node] = [node("stem", "linear", ["x"], weight=(64, 64))]
    parts = [Block("stem", "serial", ("stem",), "x", "stem:out", phi=1.0)]
    previous = "stem"
    for at in range(blocks):
        first = names[at] if at < len(names) else f"layer{at}.norm"
        tag = f"layer{at}"
        nodes += [
            node(first, "layer_norm", [previous], axes=(1,)),
            node(f"{tag}.fc1", "linear", [first], weight=(64, 64)),
            node(f"{tag}.act", "gelu", [f"{tag}.fc1"]),
            node(f"{tag}.fc2", "linear", [f"{tag}.act"], weight=(64, 64)),
            node(f"{tag}.add", "add", [f"{tag}.fc2", previous]),
        ]
        parts.append(
            Block(
                tag if at >= len(names) else first,
                "residual",
                tuple(each.name for each in nodes[-5:]),
                f"{previous}:out",
                f"{tag}.add:out",
                phi=1.5,
                branch_phi=0.5,
                join=f"{tag}.add",
                shortcut_phi=1.0,
                assumptions=("the branches are uncorrelated",),
            )
        )
        previous = f"{tag}.add"
    made = graph(nodes)
    weights = {f"{each.name}.weight": statistics(1 / 64) for each in nodes if each.parameters}
    return prediction(made, {each.name: 1.0 for each in nodes}, blocks=parts, weights=weights)
