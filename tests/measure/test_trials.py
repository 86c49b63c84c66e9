"""What `fix` measures before it writes: what is worse is taken back and named, the rest is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor, nn
from torch.nn import functional as F

import gnelint
from gnelint.api import FixPlan
from gnelint.app import batch
from gnelint.cli import cli
from gnelint.fixes import planning
from gnelint.fixes.edits import Edit, EditTensor, Fill
from gnelint.fixes.planning import FixOutcome, FixRequest
from gnelint.ir.graph import Graph
from gnelint.measure import trials
from gnelint.measure.trials import tried
from gnelint.writers import rewriting
from tests.models.export import write_onnx


def chain() -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    layers = [layer for _ in range(6) for layer in (nn.Linear(32, 32), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(32, 10)), (torch.randn(8, 32),)


class Residual(nn.Module):
    """Blocks x + branch(x), the branch ending in a batch normalisation."""

    def __init__(self, depth: int = 3, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Linear(4, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width),
                          nn.BatchNorm1d(width))
            for _ in range(depth)
        )  # fmt: skip
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = F.relu(x + block(x))
        return self.head(x)


@pytest.fixture
def residual() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Residual(), torch.randn(16, 4)


@pytest.fixture
def killing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is planned for gains sets a layer's weights to zero."""
    plan = planning.plan_fixes

    def kill(graph: Graph, wishes: FixRequest) -> FixOutcome:
        found = plan(graph, wishes)
        edit = Edit(EditTensor("6.weight", Fill(0.0)), "GNE102", (), "gain", "init")
        return replace(found, edits=() if "gain" in wishes.without else (edit,))

    monkeypatch.setattr(planning, "plan_fixes", kill)
    monkeypatch.setattr(rewriting, "plan_fixes", kill)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are fixed in this process, where what a test has patched holds."""
    monkeypatch.setattr(batch, "_works_here", lambda job, processes: True)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    module, inputs = chain()
    return write_onnx(module.train(), inputs, tmp_path / "bad.onnx", opset=17, dynamo=False, fold=False)


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, ["fix", *words])


def planned(module: nn.Module, x: Tensor, *edits: Edit) -> FixPlan:
    """A plan with these edits, and no others."""
    plan = gnelint.plan_fixes(module, x, select=["GNE901"])
    return replace(plan, plan=replace(plan.plan, edits=edits))


def zeroed(tensor: str) -> Edit:
    return Edit(EditTensor(tensor, Fill(0.0)), "GNE402", (), "zero_scale", "init")


def test_a_fix_that_kills_is_taken_back_and_named(here: None, killing: None, model: Path) -> None:
    done = run("bad.onnx", "-o", "good.onnx", "--emit-init", "init.py")
    assert done.exit_code == 1
    assert "Taken back: gain (GNE102): 6 of 14 parameters lost their gradient" in " ".join(done.output.split())
    assert "Nothing written" in done.output
    assert not Path("good.onnx").exists()
    assert not Path("init.py").exists()
    assert run("bad.onnx", "-o", "good.onnx", "--no-verify").exit_code == 0
    assert Path("good.onnx").exists()
    module, inputs = chain()
    with pytest.warns(UserWarning, match="taken back: gain"):
        fixed = gnelint.fix(module, inputs)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), fixed.parameters(), strict=True))


def test_zeroed_last_scales_of_a_healthy_network_are_refused(residual: tuple[nn.Module, Tensor]) -> None:
    edits = [zeroed(f"blocks.{block}.4.weight") for block in range(3)]
    found = planned(*residual, *edits).measured().tried
    assert found is not None
    assert found.worse
    assert found.plan.edits == ()
    (back,) = found.taken_back
    assert (back.kind, back.rules, back.edits) == ("zero_scale", ("GNE402",), 3)
    assert "parameters lost their gradient (blocks.0.0.weight" in back.text


def test_measuring_leaves_the_module_and_the_generators_alone(residual: tuple[nn.Module, Tensor]) -> None:
    module, x = residual
    module.eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = torch.get_rng_state()
    plan = planned(module, x, zeroed("stem.bias"))
    first, again = (plan.measured().tried for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert not module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert first is not None
    assert first.trial is not None
    assert not first.trial.harms
    assert again is not None
    assert first.trial == again.trial


def test_the_same_function_is_measured_in_the_form_of_inference(residual: tuple[nn.Module, Tensor]) -> None:
    """A bias that batch statistics take out and running ones do not."""
    bias = replace(zeroed("blocks.0.0.bias"), safety="preserving")
    found = planned(*residual, bias).measured().tried
    assert found is not None
    (back,) = found.taken_back
    assert "of the inference form changes by" in back.text


def made(*kinds: str) -> FixOutcome:
    module, inputs = chain()
    plan = gnelint.plan_fixes(module, inputs, select=["GNE901"]).plan
    return replace(plan, edits=tuple(replace(zeroed("0.weight"), kind=kind) for kind in kinds))


def harmful(test: Callable[[set[str]], bool]) -> Callable[[FixOutcome], Any]:
    return lambda plan: SimpleNamespace(harms=("worse",) if test({edit.kind for edit in plan.edits}) else ())


@pytest.mark.parametrize(
    ("test", "kept"),
    [
        (lambda kinds: "b" in kinds, {"a", "c"}),
        (lambda kinds: {"a", "c"} <= kinds, {"a", "b"}),
        (lambda kinds: bool(kinds), set()),
        (lambda kinds: False, {"a", "b", "c"}),
    ],
)
def test_one_kind_is_taken_back_and_the_others_are_kept(test: Callable[[set[str]], bool], kept: set[str]) -> None:
    whole = made("a", "b", "c")

    def again(wishes: FixRequest) -> FixOutcome:
        left: Mapping[str, str] = wishes.without
        return replace(whole, edits=tuple(edit for edit in whole.edits if edit.kind not in left), request=wishes)

    found = tried(whole, again, harmful(test))
    assert {edit.kind for edit in found.plan.edits} == kept
    assert {back.kind for back in found.taken_back} == {"a", "b", "c"} - kept
    assert found.worse == (not kept)


def test_what_only_follows_from_what_is_taken_back_is_left_out() -> None:
    whole = made("a", "b")

    def again(wishes: FixRequest) -> FixOutcome:
        return replace(whole, edits=whole.edits[:1] if "a" not in wishes.without else (), request=wishes)

    found = tried(whole, again, harmful(lambda kinds: "a" in kinds))
    assert found.plan.edits == ()
    assert [back.kind for back in found.taken_back] == ["a"]


def test_without_torch_one_line_says_so(here: None, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials.importlib.util, "find_spec", lambda name: None)
    done = run("bad.onnx", "-o", "good.onnx")
    assert done.exit_code == 0
    assert "Not measured: PyTorch is not installed." in done.output
    assert Path("good.onnx").exists()
    assert "--verify: needs PyTorch" in str(run("bad.onnx", "-o", "other.onnx", "--verify").exception)


def test_what_takes_too_long_is_not_measured(model: Path) -> None:
    done = run("bad.onnx", "-o", "good.onnx", "--verify-seconds", "1e-9")
    assert "Not measured: it takes longer than the 1e-09 s allowed." in done.output
    assert Path("good.onnx").exists()
    assert run("bad.onnx", "-o", "other.onnx", "--verify-seconds", "1e-9", "--verify").exit_code == 2
    assert not Path("other.onnx").exists()


def test_a_module_that_cannot_be_run_is_fixed_unmeasured() -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    found = planned(module, torch.empty(2, 4, device="meta"), zeroed("0.bias")).measured().tried
    assert found is not None
    assert "meta device" in str(found.unmeasured)
    assert found.plan.edits


def test_what_was_written_is_said(model: Path) -> None:
    done = run("bad.onnx", "--emit-init", "init.py")
    assert "Wrote init.py" in done.output
    assert "Nothing written" not in done.output
    assert "Measured with 8 probes" in done.output


def test_verify_calls_a_network_worse_that_lost_its_gradients(residual: tuple[nn.Module, Tensor]) -> None:
    module, x = residual
    killed, _ = planned(module, x, zeroed("head.weight")).apply()
    found = gnelint.verify(module, killed, x, probes=2)
    assert found.verification.worse
    assert "parameters lost their gradient" in str(found)
    assert not gnelint.verify(killed, module, x, probes=2).verification.worse
