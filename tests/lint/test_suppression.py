"""Suppressions: what they cover, and what is said of those that cover nothing."""

from __future__ import annotations

import dataclasses

import pytest

from gnelint.lint.finding import Finding
from gnelint.lint.rulefile import load_rules
from gnelint.lint.suppression import Suppression, Verdict, in_model, suppress, unused
from tests.builders import graph, node

A = Finding("GNE101", "error", "m", ("layers.0.fc", "layers.0.act"), "layers.0")
B = Finding("GNE101", "error", "m", ("layers.1.fc", "layers.1.act"), "layers.1")
WHOLE = Finding("GNE501", "error", "m")
RAN = ("GNE101", "GNE501")


@pytest.mark.parametrize(
    ("suppression", "left"),
    [
        (Suppression(("GNE101",)), [WHOLE]),
        (Suppression(("ALL",)), []),
        (Suppression(("GNE1", "GNE5")), []),
        (Suppression(("GNE101",), ("layers.0.*",)), [B, WHOLE]),
        (Suppression(("GNE101",), ("*.act",)), [WHOLE]),
        (Suppression(("GNE101",), ("layers.1",)), [A, WHOLE]),
        (Suppression(("ALL",), ("*",)), [WHOLE]),
        (Suppression(("GNE102",)), [A, B, WHOLE]),
        (Suppression(("GNE101",), ("layers.[!0].*",)), [A, WHOLE]),
    ],
)
def test_what_is_left(suppression: Suppression, left: list[Finding]) -> None:
    result = suppress([A, B, WHOLE], [suppression], RAN)
    assert list(result.findings) == left
    assert result.count == 3 - len(left)


def test_equal_findings_are_counted_each() -> None:
    assert suppress([A, dataclasses.replace(A)], [Suppression(("GNE1",))], RAN).count == 2


def test_verdicts_by_selector() -> None:
    given = Suppression(("GNE101", "GNE5", "GNE102"), ("layers.*",), "here")
    assert suppress([A, B, WHOLE], [given], RAN).verdicts == (
        Verdict("here", "GNE101", True),
        Verdict("here", "GNE5", False),
        Verdict("here", "GNE102", None),
    )


def test_unused_is_what_no_network_used() -> None:
    verdicts = [
        Verdict("a", "GNE101", False), Verdict("a", "GNE101", True), Verdict("a", "GNE501", False),
        Verdict("b", "GNE102", None), Verdict("b", "GNE5011", None),
    ]  # fmt: skip
    assert unused(verdicts, load_rules()) == (
        "a: GNE501 suppresses nothing. Remove it.",
        "b: GNE5011: no rule has this id, prefix or name. Did you mean GNE501? `gnelint rules` lists them.",
    )


def test_names_of_the_file_become_names_of_the_graph() -> None:
    made = graph([node("Add_1", "layer_norm", ["x"], axes=(1,)), node("call/[0]", "relu", ["Add_1"])])
    fused = dataclasses.replace(made.nodes[0], sources=("Pow_1", "Add_1"))
    ignores = {"": ("GNE9",), "Pow_1": ("GNE1",), "call": ("GNE2",), "gone": ("GNE3",)}
    made = dataclasses.replace(made, nodes=(fused, made.nodes[1]), ignores=ignores)
    found = in_model(made)
    assert [one.names for one in found] == [(), ("Add_1",), ("call/[0]",), ("gone",)]
    assert found[1].source == 'model: gnelint.ignore of node "Pow_1"'
    about = [Finding("GNE2", "info", "m", ("call/[0]",)), Finding("GNE2", "info", "m", ("Add_1",))]
    assert suppress(about, found, ("GNE2",)).findings == (about[1],)
