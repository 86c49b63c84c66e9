"""The reports of `gnelint verify`: measured numbers beside predicted ones in JSON, and the text rendered from it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from gnelint.analysis.prediction import Prediction
from gnelint.measure.compare import compare
from gnelint.measure.estimate import Estimate
from gnelint.measure.measuring import BlockMeasurement, Measurement
from gnelint.measure.tape import Moments
from gnelint.measure.training import Step, TrainingRun
from gnelint.measure.verify import Verification, Verified
from gnelint.output.json import dumps
from gnelint.output.text import WIDTH, Style
from gnelint.output.verify_json import document
from gnelint.output.verify_text import render
from tests.builders import chain
from tests.output.snapshots import assert_matches


def near(value: float, *, by: float = 0.01) -> Estimate:
    return Estimate(value, value * (1 - by), value * (1 + by), 8)


def bits(value: float) -> Estimate:
    return Estimate(value, value - 0.1, value + 0.1, 8)


def measured(of: Prediction, *, doubled: str = "") -> Measurement:
    """What was predicted, measured; the node of this name and the block around it at twice of that."""
    phi = {found.node.name: found.phi * (1 + (found.node.name == doubled)) for found in of.nodes if found.phi}
    return Measurement(
        blocks={
            block.name: BlockMeasurement(near(block.phi * (1 + (doubled in block.nodes))), near(0.5, by=0.1))
            for block in of.blocks
        },
        nodes={name: near(value) for name, value in phi.items()},
        gradients={"x": bits(of.gradient_log2 + bool(doubled))}
        | {found.output: bits(found.gradient_log2) for found in of.nodes},
        transfers={name: near(value) for name, value in phi.items()},
        parameters={f"{found.node.name}.weight": bits(found.gradient_log2 + 3) for found in of.nodes},
        moments={found.output: Moments(0.1, 1.0) for found in of.nodes},
        probes=8,
    )


def verified(of: Prediction, **options: object) -> Verified:
    found = measured(of, doubled=str(options.pop("doubled", "")))
    verdict = compare(of, found, 0.5)
    return replace(Verified(of, found, verdict, 16, "cpu", "float32", notes=("batch of 16",)), **options)


def text(verification: Verification, **style: bool) -> str:
    made = render(document(verification), Style(**style))
    assert made.isascii()
    assert [line for line in made.splitlines() if len(line) > WIDTH] == []
    return made


def test_what_holds() -> None:
    verification = Verification(verified(chain(30, blocks=True)))
    assert verification.holds
    assert_matches("verify_holds.txt", text(verification))


def test_what_does_not_hold_is_named() -> None:
    verification = Verification(verified(chain(30, blocks=True), doubled="fc7"))
    assert not verification.holds
    made = text(verification)
    assert_matches("verify_differs.txt", made)
    assert "differs: fc7 (linear) multiplies the squared gradient norm by 4; 2 was" in made


def test_before_and_after() -> None:
    verification = Verification(verified(chain(6, gain=0.25, blocks=True)), verified(chain(6, blocks=True)))
    assert verification.holds
    assert_matches("verify_better.txt", text(verification))
    backward = Verification(verification.fixed, verification.target)
    assert not backward.holds
    assert "Worse:" in text(backward)


def test_a_training() -> None:
    steps = tuple(Step(2.0 / (1 + n), {f"fc{i}": float(-n - i) for i in range(4)}) for n in range(30))
    run = TrainingRun(steps, "random classes")
    assert_matches("verify_trained.txt", text(Verification(verified(chain(4, blocks=True), training=run))))
    lost = replace(run, steps=(*steps, Step(math.nan, {})))
    assert "The loss is no longer a number" in text(Verification(verified(chain(4), training=lost)))


def test_every_layers_weight_gradient_is_listed_when_asked() -> None:
    of = Verification(verified(chain(30, blocks=True)))
    assert "fc17" not in text(of).split("Weight gradients")[1]
    listed = text(of, fold=False).split("Weight gradients")[1]
    assert all(f"fc{index} " in listed for index in range(30))


def test_measured_and_interval_stand_beside_each_prediction() -> None:
    report = json.loads(dumps(document(Verification(verified(chain(3, blocks=True))))))
    (entry,) = report["targets"]
    assert report["schema"] == "gnelint/1"
    for block in entry["blocks"]:
        assert block["measured"]["phi"] == pytest.approx(block["phi"])
        low, high = block["interval"]["phi"]
        assert low < block["phi"] < high
        assert block["verdict"] == "agrees"
        assert set(block["measured"]) == {"phi", "phi_variance"}
    for node in entry["profile"]:
        assert node["measured"]["gradient_norm2"] == pytest.approx(node["gradient_norm2"])
        assert node["measured"]["second_moment"] == 1.0
        assert node["measured"]["phi"] == pytest.approx(node["phi"])
    assert entry["summary"]["measured"]["gradient_ratio"] == pytest.approx(entry["summary"]["gradient_ratio"])
    assert entry["verification"]["probes"] == 8


def test_numbers_beyond_a_doubles_range_are_no_crash() -> None:
    made = chain(4000, gain=0.25, blocks=True)
    assert "2^-8000" in text(Verification(verified(made)))
    assert json.loads(dumps(document(Verification(verified(made)))))
