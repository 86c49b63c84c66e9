"""The report for people fits 80 columns, folds what repeats, and shows hostile names harmlessly."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

import gnelint
from gnelint.analysis.prediction import Block, Prediction
from gnelint.analysis.stage import Evidence, Judgement
from gnelint.ir.graph import Location
from gnelint.lint.engine import lint
from gnelint.lint.finding import Finding
from gnelint.lint.rulefile import load_rules
from gnelint.lint.selection import Settings
from gnelint.output import json
from gnelint.output.entry import target
from gnelint.output.text import WIDTH, Style, elide, render, statistics, summary
from tests.builders import chain, graph, node, prediction
from tests.models import network
from tests.output.snapshots import assert_matches

RULES = load_rules()
NAMES = {rule.id: rule.name for rule in RULES.rules}


SPEAKING = ("GNE101", "GNE102", "GNE202", "GNE401", "GNE501", "GNE502", "GNE901")
"""Enough for reports of every shape; what more rules say changes nothing about how it is shown."""


def entry(of: Prediction) -> dict[str, Any]:
    rules = [rule for rule in RULES.rules if rule.id in SPEAKING]
    return target(of, lint(of, rules, Settings()).findings)


def report(of: Prediction, style: Style | None = None, notes: tuple[str, ...] = ()) -> str:
    return render(entry(of), NAMES, notes, style or Style())


def assert_fits(text: str) -> None:
    assert text.isascii()
    assert [line for line in text.splitlines() if len(line) > WIDTH] == []


def test_a_vanishing_chain() -> None:
    text = report(chain(50, gain=0.25, blocks=True), notes=("normalisation was folded at export",))
    assert_fits(text)
    assert_matches("vanishing.txt", text)


def test_a_healthy_chain() -> None:
    text = report(chain(4, blocks=True))
    assert_fits(text)
    assert_matches("healthy.txt", text)


def test_an_exploding_chain() -> None:
    assert "The gradient explodes: its squared norm at the input is 2^100" in report(chain(50, gain=4.0, blocks=True))


@pytest.mark.parametrize("size", [1, 5000])
def test_any_size(size: int) -> None:
    nodes, previous = [], "x"
    for index in range(size):
        op = ("linear", "relu", "tanh")[index % 7 % 3]
        nodes.append(node(f"some.very.deeply.nested.module.path.number.{index}", op, [previous]))
        previous = nodes[-1].name
    made = prediction(graph(nodes), {each.name: 0.5 + index % 5 for index, each in enumerate(nodes)}, blocks=[])
    text = report(made)
    assert_fits(text)
    assert len(text.splitlines()) < 80


def test_blocks_that_alternate_fold_too() -> None:
    nodes, blocks, previous = [], [], "x"
    for index in range(12):
        for part, op in (("attention", "attention"), ("mlp", "linear")):
            nodes.append(node(f"blocks.{index}.{part}", op, [previous]))
            name = nodes[-1].name
            phi = 1.0 if part == "mlp" else 3.0
            blocks.append(Block(name, "residual", (name,), previous, f"{name}:out", phi=phi))
            previous = name
    text = report(prediction(graph(nodes), {}, blocks=blocks))
    assert "... 20 more like these" in text
    assert "blocks.0.attention" in text
    assert "blocks.11.mlp" in text
    assert "... " not in report(prediction(graph(nodes), {}, blocks=blocks), Style(fold=False))


def test_hostile_names_do_not_steer_the_terminal() -> None:
    evil = "\033[2Jgone\r\n\u202ename \u2603"
    nodes = [node(evil, "linear", ["x"]), node("odd", "unmodelled", [evil])]
    made = dataclasses.replace(prediction(graph(nodes, name=evil), {evil: 1.0}, unmodelled=["odd"]))
    text = report(made, Style(colour=True), notes=(evil,))
    painted = text.replace("\033[1;33m", "").replace("\033[0m", "")
    assert painted.isascii()
    assert "\033" not in painted
    assert "\r" not in painted


def test_colour_only_when_asked() -> None:
    made = chain(50, gain=0.25, blocks=True)
    assert "\033" not in report(made)
    assert "\033[1;31merror" in report(made, Style(colour=True))


def test_the_table_may_be_left_out() -> None:
    assert "depth" not in report(chain(4, blocks=True), Style(table=False))


def test_what_is_not_known_is_said() -> None:
    made = dataclasses.replace(chain(1), gradient_log2=None, nodes=(), blocks=(), coverage=0.5, stage=Judgement())
    text = report(made)
    assert "not known" in text
    assert "50.0% of the nodes" in text
    assert "untrained" not in text


@pytest.mark.parametrize(("bits", "said"), [(0.44, "(exponent +-0.4)"), (0.01, "+-0.1"), (23.4, "+-23)")])
def test_how_far_it_may_be_off_is_said(bits: float, said: str) -> None:
    text = report(dataclasses.replace(chain(2), error_bits=bits))
    assert said in " ".join(text.split())
    assert_fits(text)


def test_a_moved_cotangent_is_said() -> None:
    said = " ".join(report(dataclasses.replace(chain(2), cotangent_at="fc0:out")).split())
    assert "No gradient passes from the output to fc0:out at the start" in said
    assert "of that at fc0:out" in said
    assert said.index("No gradient passes") < said.index("squared norm")


def test_a_gradient_below_the_smallest_double() -> None:
    made = chain(1000, gain=0.25, blocks=True)
    assert "less than 2^-1074" in report(made)


def places(*findings: Finding) -> str:
    """The first line about the findings, behind the rule's name."""
    text = render(target(chain(2), findings), NAMES, (), Style())
    assert_fits(text)
    return next(line for line in text.splitlines() if "GNE101" in line).split("gain-mismatch")[1].strip()


def found(*nodes: str, block: str | None = None) -> Finding:
    return Finding("GNE101", "error", "message", nodes, block)


def test_places_that_repeat_are_folded() -> None:
    assert places(found("fc", "act")) == "fc"
    assert places(found()) == "whole network"
    assert places(found(), found()) == "2 places: whole network"
    assert places(*(found(f"layers.{i}.fc") for i in range(32))) == "32 places: layers.0-31.fc"
    blocks = [found(*(f"layers.{i}.{part}" for part in "abc"), block=f"layers.{i}") for i in range(32)]
    assert places(*blocks) == "32 blocks: layers.0-31"
    assert places(*blocks, *blocks) == "64 places: layers.0-31.a"
    assert places(*blocks[:3], *blocks[7:9]) == "5 blocks: layers.0-2,7-8"
    long = [found(f"encoder.layers.{i}.{part}") for i in range(12) for part in ("attention.query", "feedforward.up")]
    assert places(*long) == "24 places in encoder.layers.0-11"
    odd = [found("stem.convolution.first"), *long, found("a.head.of.some.kind.projection")]
    assert places(*odd).startswith("26 places: stem")


def test_what_is_left_out_is_said() -> None:
    made = entry(chain(2))
    baseline = {**made, "summary": {**made["summary"], "suppressed": 2, "baseline": {"known": 1, "gone": 1}}}
    shown = " ".join(render(baseline, NAMES, (), Style()).split())
    assert shown.endswith(
        "No new findings. 2 suppressed; 1 known finding of the baseline not shown; 1 finding of the baseline is gone."
    )


def test_statistics_count_by_rule() -> None:
    bad = entry(chain(50, gain=0.25, blocks=True))
    assert statistics(json.statistics([bad, bad], NAMES)) == (
        "    100  GNE101  error    gain-mismatch  in 2 of 2 targets\n"
        "      2  GNE501  error    vanishing-gradient  in 2 of 2 targets\n"
        "102 findings.\n"
    )


@pytest.mark.parametrize(("text", "width", "shown"), [("short", 10, "short"), ("abcdefghij", 6, "ab..ij")])
def test_elide(text: str, width: int, shown: str) -> None:
    assert elide(text, width) == shown


@pytest.mark.parametrize(
    ("verdict", "header", "said"),
    [
        ("trained", ", trained,", "Trained: 3 singular values of w lie beyond what a draw can have."),
        ("unsure", ", perhaps trained,", "Perhaps trained: 3 singular values of w lie beyond what a draw can have."),
        ("fresh", ", untrained,", ""),
    ],
)
def test_why_the_weights_are_taken_for_trained(verdict: Any, header: str, said: str) -> None:
    seen = Evidence("3 singular values of w lie beyond what a draw can have", "w", 5.0)
    text = report(dataclasses.replace(chain(1), stage=Judgement(verdict, 5.0, (seen,))))
    assert header in text
    assert said in text
    assert ("singular" in text) == bool(said)


def test_twenty_models() -> None:
    made = [entry(chain(4 + at, gain=(1.0, 0.25, 4.0, 0.5)[at % 4], blocks=True)) for at in range(20)]
    named = [{**each, "target": f"checkpoints/experiment_{at:02}/deep_network.onnx"} for at, each in enumerate(made)]
    text = summary(named)
    assert_fits(text)
    assert_matches("twenty.txt", text)


def test_a_good_transformer() -> None:
    module, inputs = network("gpt2(width=32, depth=2, heads=2)")
    text = str(gnelint.check(module, inputs))
    assert_fits(text)
    assert_matches("transformer.txt", text)


@pytest.mark.parametrize("gain", [1.15e3, 1.15e-7, 1.15e120])
def test_factors_of_any_size_fit(gain: float) -> None:
    assert_fits(report(chain(3, gain=gain, blocks=True)))


@pytest.mark.parametrize(
    ("differing", "folder", "shown"),
    [
        ("nets/{}.onnx", "target ", "nets/a.onnx"),
        ("a_folder/{}/of_checkpoints/of_networks.onnx", "target in a_folder/", "a/of_checkpoints/of_networks.onnx"),
        ("{}" + "_same" * 20, "target ", "a_same_same_same..e_same_same_same"),
        ("same_" * 4 + "{}" + "_same" * 20, "target ", "same_same_same_same_a_same_same_.."),
        ("same_" * 20 + "{}" + "_same" * 4, "target ", ".._same_same_a_same_same_same_same"),
    ],
)  # fmt: skip
def test_long_names_stay_different(differing: str, folder: str, shown: str) -> None:
    made = entry(chain(2, blocks=True))
    text = summary([{**made, "target": differing.format(letter)} for letter in "abc"])
    assert_fits(text)
    lines = text.splitlines()
    assert folder in lines[0]
    assert len(set(lines[1:4])) == 3
    assert shown in lines[1]


def test_on_a_terminal_the_source_is_a_link() -> None:
    found = Finding("GNE101", "error", "too small", ("fc0",), location=Location("/my code/net.py", 7))
    made = target(chain(2, blocks=True), [found, dataclasses.replace(found, nodes=("fc1",))])
    plain, coloured = (render(made, NAMES, (), Style(colour=colour)) for colour in (False, True))
    assert "      at /my code/net.py:7\n" in plain
    assert "\033]8;;file:///my%20code/net.py\033\\/my code/net.py:7\033]8;;\033\\\n" in coloured
    assert re.sub("\033(\\[[0-9;]*m|\\]8;;[^\033]*\033\\\\)", "", coloured) == plain
