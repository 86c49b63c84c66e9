"""What the rules say of known architectures is what reports/benchmarks/ecosystem.json keeps of them."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks.ecosystem import OUT, differences, entry, grouped, targets
from tests.benchmarks.shipped import wrong

FAST = ("vgg16", "resnet18_zero", "mobilenet_v3_small", "convnext_tiny", "nf_resnet18", "vit", "gpt2", "llama")
ADVICE = "if that is meant: python -m tests.benchmarks.ecosystem architectures"


@pytest.mark.parametrize("name", FAST)
def test_nothing_came_or_went(name: str) -> None:
    kept = json.loads(OUT.read_text())["architectures"]
    assert differences({name: kept[name]}, {name: entry(name)}) == [], ADVICE


def test_every_architecture_is_kept() -> None:
    kept = json.loads(OUT.read_text())["architectures"]
    assert list(kept) == [name for name, _ in targets("architectures")]


def test_of_every_file_that_packages_ship_the_benchmark_keeps_what_is_right() -> None:
    """Nothing is said of them that holds only of fresh networks, and no fix touches what they compute."""
    kept = json.loads(OUT.read_text())["packages"]
    assert len({name.split("/")[0] for name in kept}) >= 12
    assert {name: problems for name, found in kept.items() if (problems := wrong(found))} == {}


def test_what_is_wrong_of_a_trained_network_is_seen() -> None:
    right = {"weights": "trained", "init_rules": [], "fix": {"written": False}}
    assert wrong(right) == wrong({**right, "weights": "unsure"}) == []
    assert wrong({**right, "weights": "fresh"}) == ["called fresh"]
    assert wrong({**right, "init_rules": ["GNE101"]})
    assert wrong({**right, "fix": {"written": True, "difference": 0.1}})
    assert wrong({**right, "fix": {"written": True, "difference": "ONNX Runtime does not run the fixed file"}})
    assert not wrong({**right, "fix": {"written": True, "difference": 1e-7}})


def test_differences_of_rule_severity_and_place_are_seen() -> None:
    def said(rule: str, severity: str, place: str) -> dict[str, object]:
        return {"findings": [{"rule": rule, "severity": severity, "message": "", "places": [place]}]}

    kept = {"a": said("GNE101", "error", "fc1 act1")}
    assert differences(kept, kept) == []
    assert differences(kept, {"a": said("GNE101", "warning", "fc1 act1")}) == [
        "- a: GNE101 error at fc1 act1",
        "+ a: GNE101 warning at fc1 act1",
    ]
    assert differences(kept, {"a": said("GNE101", "error", "fc2 act2")})
    assert differences(kept, {}) == ["- a: GNE101 error at fc1 act1"]
    assert differences({}, {"b": {"refused": "no", "findings": []}}) == ["+ b: refused: no"]
    assert grouped(()) == []
