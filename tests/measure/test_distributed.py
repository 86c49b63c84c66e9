"""Several processes under torchrun say what one process says, with weights in each or sharded over all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gnelint.measure.sharding import STAGES, Operation, _cut
from tests.models import CASES
from tests.models.export import export_onnx

SHARDED = """
import sys
from gnelint import cli
from gnelint.measure import verify
verify._must_be_sharded = lambda graph, settings, team: True  # as if no device could hold them
sys.exit(cli.main())
"""
MLP = ("tests/models/mlp.py:mlp", "--input", "64,256", "--probes", "7")
GPT2 = ("tests/models/transformer.py:gpt2", "--input", "2,16:int64", "--probes", "3", "--train", "3")


def verified(arguments: tuple[str, ...], out: Path, *, processes: int = 1, program: str = "") -> dict[str, Any]:
    """The JSON that `gnelint verify` writes, run by one process or by several."""
    script = out.with_suffix(".py")
    script.write_text(program or "import sys\nfrom gnelint import cli\nsys.exit(cli.main())\n")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*(launcher if processes > 1 else [sys.executable]), str(script), "verify", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd(), "GLOO_SOCKET_IFNAME": "lo"}
    options = ["--device", "cpu", "--format", "json", "-o", str(out)]
    done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(out.read_text())
    return report


def same(first: Any, second: Any) -> bool:
    """Whether two reports say the same up to rounding, notes aside."""
    if isinstance(first, dict):
        keys = first.keys() - {"notes"}
        return keys == second.keys() - {"notes"} and all(same(first[key], second[key]) for key in keys)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, float):
        return first == pytest.approx(second, rel=1e-4, abs=1e-5)
    return bool(first == second)


@pytest.mark.slow
def test_two_processes_estimate_what_one_does(tmp_path: Path) -> None:
    one, two = verified(MLP, tmp_path / "one"), verified(MLP, tmp_path / "two", processes=2)
    assert one["targets"][0]["verification"]["probes"] == 7
    assert one == two


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [MLP, GPT2], ids=["mlp", "gpt2, tied, trained"])
def test_weights_sharded_over_processes_change_nothing(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    one = verified(arguments, tmp_path / "one")
    sharded = verified(arguments, tmp_path / "two", processes=2, program=SHARDED)
    assert same(one, sharded)
    assert any("spread over 2 processes" in note for note in sharded["targets"][0]["verification"]["notes"])
    assert one["targets"][0]["verification"]["weight_gradients"]


@pytest.mark.slow
def test_an_onnx_files_weights_are_sharded_too(tmp_path: Path) -> None:
    path = tmp_path / "vit.onnx"
    export_onnx(CASES["vit"], path, opset=17, training=True, dynamo=False)
    arguments = (str(path), "--probes", "2")
    one = verified(arguments, tmp_path / "one")
    sharded = verified(arguments, tmp_path / "two", processes=2, program=SHARDED)
    assert same(one, sharded)


@pytest.mark.slow
def test_processes_that_draw_different_weights_are_told(tmp_path: Path) -> None:
    module = tmp_path / "unseeded.py"
    module.write_text(
        "import os, torch\n"
        "def net():\n"
        "    torch.manual_seed(int(os.environ['RANK']))\n"
        "    return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))\n"
    )
    with pytest.raises(AssertionError, match="the processes have built different weights"):
        verified((f"{module}:net", "--input", "4,8", "--probes", "2"), tmp_path / "out", processes=2)


def test_stages_hold_each_weight_once() -> None:
    operations = [Operation((f"x{i}", f"w{i}"), (f"x{i + 1}",)) for i in range(64)]
    operations.append(Operation(("x64", "w0"), ("y",)))  # tied to the first
    cuts, shared = _cut(operations, {f"w{i}": 1000 for i in range(64)}, ["y"])
    assert shared == ("w0",)
    assert sorted(name for cut in cuts for name in cut.weights) == sorted(f"w{i}" for i in range(1, 64))
    assert STAGES <= len(cuts) <= STAGES + 1
    assert [number for cut in cuts for number in cut.numbers] == list(range(65))
    assert all(set(cut.reads) <= {f"x{cut.numbers[0]}", "w0"} for cut in cuts)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_estimate_what_one_does(tmp_path: Path) -> None:
    one = verified((*MLP, "--device", "cuda"), tmp_path / "one")
    two = verified((*MLP, "--device", "cuda"), tmp_path / "two", processes=2)
    assert same(one, two)
