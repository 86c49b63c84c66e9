"""The emitted code: it reads as a person would write it, runs on a fresh model and leaves nothing to fix."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import gnelint
from gnelint.ir.graph import Parameter
from gnelint.theory.weights.statistics import distribution, weight_statistics
from tests.models.plain import plain_conv, plain_mlp

SNAPSHOTS = Path(__file__).parent / "snapshots"


def mlp() -> nn.Module:
    return plain_mlp(depth=30, width=128, gain=0.7)


def default_mlp() -> nn.Module:
    return plain_mlp(depth=30, width=128, init="default")


def orthogonal_mlp() -> nn.Module:
    return plain_mlp(depth=30, width=128, init="orthogonal")


def conv() -> nn.Module:
    return plain_conv(depth=20, channels=32, gain=0.7)


def delta_orthogonal_conv() -> nn.Module:
    return plain_conv(depth=12, channels=16, inputs=16, init="delta_orthogonal", gain=0.7)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (16, 128)),
    "default_mlp": (default_mlp, (16, 128)),
    "conv": (conv, (4, 3, 12, 12)),
    "orthogonal_mlp": (orthogonal_mlp, (16, 128)),
    "delta_orthogonal_conv": (delta_orthogonal_conv, (4, 16, 8, 8)),
}


def built(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return make()


def emitted(name: str) -> str:
    make, shape = NETWORKS[name]
    return gnelint.plan_fixes(built(make), torch.zeros(shape)).init_code()


def run(code: str, model: nn.Module) -> None:
    namespace: dict[str, object] = {}
    exec(compile(code, "init.py", "exec"), namespace)
    initialise = namespace["init_weights"]
    assert callable(initialise)
    initialise(model)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_fresh_model_gets_the_scales_of_the_fixed_one(name: str) -> None:
    make, shape = NETWORKS[name]
    module, x = built(make), torch.zeros(shape)
    plan = gnelint.plan_fixes(module, x)
    assert plan.edits
    fixed, unmade = plan.apply()
    assert unmade == ()
    fresh = built(make, seed=5)
    run(plan.init_code(), fresh)
    for (key, found), wanted in zip(fresh.named_parameters(), fixed.parameters(), strict=True):
        if found.dim() > 1:
            bound = 0.03 + 6.0 * (2 / found.numel()) ** 0.5  # the gains that count as one, and six standard errors
            assert float(found.square().mean() / wanted.square().mean()) ** 0.5 == pytest.approx(1.0, abs=bound), key


@pytest.mark.parametrize("name", NETWORKS)
def test_the_rules_are_silent_about_the_fresh_model(name: str) -> None:
    make, shape = NETWORKS[name]
    plan = gnelint.plan_fixes(built(make), torch.zeros(shape))
    fresh = built(make, seed=5)
    run(plan.init_code(), fresh)
    asked = {edit.rule for edit in plan.edits}
    assert not asked & {finding.rule for finding in gnelint.check(fresh, torch.zeros(shape)).findings}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_text_is_clean(name: str, tmp_path: Path) -> None:
    path = tmp_path / "init.py"
    path.write_text(emitted(name))
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--isolated", "--line-length", "100", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["orthogonal_mlp", "delta_orthogonal_conv"])
def test_orthogonal_starts_are_drawn_orthogonal_again(name: str) -> None:
    make, shape = NETWORKS[name]
    fresh = built(make, seed=5)
    run(gnelint.plan_fixes(built(make), torch.zeros(shape)).init_code(), fresh)
    names = {"delta_orthogonal_conv": "delta-orthogonal", "orthogonal_mlp": "orthogonal"}
    for layer in fresh:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            array = layer.weight.detach().numpy()
            parameter = Parameter("w", array.shape, "float32", lambda array=array: array)
            assert distribution(parameter, weight_statistics(parameter)) == names[name]


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_the_text(name: str) -> None:
    assert emitted(name) == (SNAPSHOTS / f"init_{name}.py.txt").read_text()
