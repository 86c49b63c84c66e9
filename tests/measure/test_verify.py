"""A verification as a whole: repeatable, on the user's data, with less memory than asked for, in other precisions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import gnelint
from gnelint.cli import cli, main
from gnelint.errors import ModelError, UsageError
from gnelint.measure import verify as verifying
from tests.benchmarks.onnx_agreement import LIGHT
from tests.measure.device import DEVICE
from tests.models import CASES

MLP = CASES["mlp"]


def verified(module: nn.Module | None = None, **options) -> gnelint.VerifyResult:
    options = {"probes": 3, "device": DEVICE} | options
    return gnelint.verify(module or MLP.module(), example_inputs=MLP.example_inputs(), **options)


def test_a_run_repeats_bit_for_bit() -> None:
    assert verified().to_dict() == verified().to_dict()
    assert verified().to_dict() != verified(seed=1).to_dict()


def test_a_targets_own_draws_repeat_too(tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text("import torch\ndef net():\n    return torch.nn.Linear(8, 8)\n")
    state = torch.get_rng_state()
    first, second = (gnelint.verify(f"{path}:net", inputs=["4,8"], probes=2, device=DEVICE).to_dict() for _ in "ab")
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)


def test_probing_stops_at_the_precision_asked_for() -> None:
    rough, fine = verified(probes=None, relative_error=0.1), verified(probes=None, relative_error=0.004)
    assert rough.verification.target.measurement.probes < fine.verification.target.measurement.probes
    for result, wanted in ((rough, 0.1), (fine, 0.004)):
        blocks = result.verification.target.measurement.blocks.values()
        assert max(block.phi.relative_error for block in blocks) <= wanted


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_precisions_agree(dtype: str) -> None:
    one, other = verified(probes=16), verified(probes=16, dtype=dtype)
    pairs = zip(
        one.verification.target.measurement.blocks.values(),
        other.verification.target.measurement.blocks.values(),
        strict=True,
    )
    assert all(first.phi.value == pytest.approx(second.phi.value, rel=0.05) for first, second in pairs)
    assert other.verification.target.dtype == dtype


def test_float32_that_is_not_precise_enough_is_said() -> None:
    class Cancels(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return ((x + 3e7) - 3e7).sin()  # float32 has no odd numbers there

    found = gnelint.verify(Cancels(), example_inputs=(torch.randn(8, 256),), probes=2, device=DEVICE)
    (note,) = found.verification.target.notes
    assert note.startswith("float32 rounding changes phi of")
    assert note.endswith("measure with --dtype float64")


def test_real_data_is_what_the_network_runs_on(tmp_path: Path) -> None:
    data = 5.0 + torch.randn(64, 256).numpy()
    np.savez(tmp_path / "data.npz", input=data)
    moments = verified(data=tmp_path / "data.npz").verification.target.measurement.moments["input"]
    assert moments.mean == pytest.approx(float(data.mean()), rel=1e-5)
    assert moments.second_moment == pytest.approx(float((data**2).mean()), rel=1e-5)
    of_function = verified(data=lambda: [data]).verification.target.measurement.moments["input"]
    assert of_function == moments


def test_training_targets_of_a_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", input=MLP.example_inputs()[0].numpy(), target=np.arange(64) % 10)
    training = verified(data=tmp_path / "data.npz", train=3).verification.target.training
    assert training.task == "the targets given"
    assert len(training.steps) == 3


def test_the_batch_is_chosen_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "available", lambda device: 8_000_000)
    found = verified().verification.target
    assert found.batch < 64
    assert f"64 examples do not fit into memory: measured on {found.batch}" in found.notes


def test_float64_is_left_out_where_it_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "available", lambda device: 15_000_000)
    found = verified().verification.target
    assert found.batch == 64
    assert "float32 was not checked against float64: there is not enough memory" in found.notes


def test_memory_that_runs_out_halves_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    honest, calls = verifying.Tape, []

    def tape(*arguments, **options):
        calls.append(1)
        if len(calls) < 3:
            raise torch.OutOfMemoryError("out of memory")
        return honest(*arguments, **options)

    monkeypatch.setattr(verifying, "Tape", tape)
    found = verified().verification.target
    assert found.batch == 16
    assert "32 examples do not fit into memory: measured on 16" in found.notes


def test_not_even_one_example_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    def tape(*arguments, **options):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(verifying, "Tape", tape)
    with pytest.raises(ModelError, match="one example does not fit into memory"):
        verified()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"probes": 1}, "--probes: 1 cannot give an interval"),
        ({"relative_error": 2.0, "probes": None}, "--rel-error"),
        ({"device": "cuda:77"}, "--device cuda:77"),
        ({"device": "tpu"}, "--device tpu: is no device"),
        ({"tolerance": -1.0}, "--tolerance"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        verified(**options)


def test_a_module_without_numbers_cannot_be_run() -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with pytest.raises(ModelError, match="on the meta device and holds no numbers"):
        gnelint.verify(module, example_inputs=(torch.zeros(2, 4, device="meta"),), probes=2, device=DEVICE)


def test_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "nets.py"
    path.write_text(
        "import torch\n"
        "def chain(gain):\n"
        "    layers = []\n"
        "    for _ in range(10):\n"
        "        layers += [torch.nn.Linear(128, 128), torch.nn.ReLU()]\n"
        "        torch.nn.init.normal_(layers[-2].weight, std=gain / 8)\n"
        "    return torch.nn.Sequential(*layers)\n"
        "def good():\n    return chain(1.0)\n"
        "def bad():\n    return chain(0.5)\n"
    )
    common = ["--input", "32,128", "--probes", "4", "--device", DEVICE]
    better = CliRunner().invoke(cli, ["verify", f"{path}:bad", f"{path}:good", *common])
    assert better.exit_code == 0, better.output
    assert "Better:" in better.output
    assert max(len(line) for line in better.output.splitlines() if not line.startswith(str(path))) <= 80
    worse = CliRunner().invoke(cli, ["verify", f"{path}:good", f"{path}:bad", *common, "--format", "json"])
    assert worse.exit_code == 1
    report = json.loads(worse.output)
    said = report["verification"].pop("worse")
    assert report["verification"] == {"holds": False, "fixed_is_worse": True}
    assert any("exactly zero grows" in reason for reason in said)
    assert [entry["target"] for entry in report["targets"]] == [f"{path}:good", f"{path}:bad"]


def test_a_defect_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(verifying, "analyse", lambda graph, sampler=None: 1 / 0)
    monkeypatch.setattr("sys.argv", ["gnelint", "verify", "tests/models/mlp.py:mlp", "--input", "8,256"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("gnelint: tests/models/mlp.py:mlp: gnelint itself failed (ZeroDivision")


def test_placeholders_are_measured_though_nothing_is_predicted() -> None:
    path = LIGHT / "light_squeezenet.onnx"
    assert gnelint.check(path).prediction.blocks
    found = gnelint.verify(path, probes=2, device=DEVICE)
    assert found.holds
    assert str(found).endswith("Nothing could be compared.\n")
    assert found.verification.target.measurement.blocks
