"""Reports of a run, made of predictions by hand, for the tests of its renderings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gnelint.analysis.prediction import Prediction
from gnelint.ir.graph import Location
from gnelint.lint.engine import lint
from gnelint.lint.finding import Advice, Finding
from gnelint.lint.rulefile import load_rules
from gnelint.lint.selection import Settings
from gnelint.output.entry import target
from gnelint.output.report import Checked, Report
from tests.builders import chain, graph, node, prediction

RULES = load_rules()
SPEAKING = ("GNE101", "GNE102", "GNE202", "GNE401", "GNE501", "GNE502", "GNE901")
"""Enough for reports of every shape."""

EVIL = (
    "\033[2J\r\n::error::x | `a` <script>alert(1)</script> <!-- [k](http://evil) {0} @octocat #1 $x$ ##[endgroup] "
    "www.evil.org ]]> &amp; %0A \x00 \u202eright \u2603"
)
"""A name as a hostile model may have it."""


def checked(of: Prediction, name: str = "model.onnx", **more: Any) -> Checked:
    """What the rules say of a prediction."""
    rules = [rule for rule in RULES.rules if rule.id in SPEAKING]
    found = lint(of, rules, Settings())
    return _checked({**target(of, found.findings), "target": name}, name, **{"ran": found.ran, **more})


def saying(*findings: Finding, name: str = "model.onnx", **more: Any) -> Checked:
    """A target with these findings."""
    return _checked({**target(chain(2), findings), "target": name}, name, **more)


def _checked(entry: dict[str, Any], name: str, **more: Any) -> Checked:
    return Checked(entry, **{"selected": SPEAKING, "ran": SPEAKING, "file": name, **more})


def report(*targets: Checked, **more: Any) -> Report:
    """A run in the directory /work."""
    rules = tuple(rule for rule in RULES.rules if rule.id in SPEAKING)
    return Report(targets, **{"rules": rules, "root": Path("/work"), **more})


def vanishing(depth: int = 30) -> Prediction:
    """A chain in which the gradient vanishes; its linear layers are at lines of model.py."""
    return chain(depth, gain=0.25, blocks=True)


def hostile() -> Checked:
    """A target whose every name is hostile, with a finding that has everything."""
    nodes = [node(EVIL, "linear", ["x"]), node("odd", "unmodelled", [EVIL])]
    made = prediction(graph(nodes, name=EVIL), {EVIL: 1.0}, unmodelled=["odd"])
    finding = Finding(
        "GNE101", "error", f"of {EVIL}", (EVIL,), EVIL, Location(EVIL, 3), 0.25, 1.0, Advice("gain", "init", EVIL)
    )
    entry = {**target(made, [finding]), "target": EVIL}
    return Checked(entry, (f"a note on {EVIL}",), SPEAKING, SPEAKING, EVIL)
