"""The Python interface gives what the command line gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gnelint
from gnelint.errors import ModelError, RuleError, UsageError
from tests.test_cli import write_mlp


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mlp(tmp_path_factory.mktemp("models") / "bad.onnx", gain=0.5)


def test_a_file(bad: Path) -> None:
    result = gnelint.check(bad)
    assert {finding.rule for finding in result.findings} == {"GNE101", "GNE501"}
    assert result.prediction.gradient_log2 is not None
    assert result.prediction.gradient_log2 < -40
    assert result.to_dict()["summary"]["errors"] == 31
    assert "The gradient vanishes" in str(result)


def test_a_module() -> None:
    torch = pytest.importorskip("torch")
    layers = [part for _ in range(24) for part in (torch.nn.Linear(64, 64), torch.nn.ReLU())]
    result = gnelint.check(torch.nn.Sequential(*layers), (torch.randn(16, 64),))
    assert {finding.rule for finding in result.findings if finding.severity == "error"} == {"GNE102", "GNE501"}
    assert result.prediction.graph.source == "torch"


def test_inputs_of_a_module_in_every_form() -> None:
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(6, 4)

        def forward(self, x: Any = None, *, scale: Any = None) -> Any:
            return self.linear(x) if scale is None else self.linear(x) * scale

    net, x = Net(), torch.randn(5, 6)
    analyses = [
        gnelint.check(net, x),
        gnelint.check(net, (x,)),
        gnelint.check(net, {"x": x}),
        gnelint.check(net, x.numpy()),
        gnelint.check(net, x, example_kwargs={"scale": torch.ones(4)}),
        gnelint.check(net, example_kwargs={"x": x.numpy()}),
        gnelint.check(net, inputs="5,6"),
        gnelint.check(net, inputs=["x=5,6"]),
    ]
    for found in analyses:
        graph = found.prediction.graph
        assert graph.values[graph.inputs[0]].shape == (5, 6)
    found = gnelint.check(torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU()))
    assert "inputs are guessed from its first layer: 8,6; --input sets others" in found.notes
    with pytest.raises(ModelError, match=r"TorchScript module, which cannot be traced\. Point at the module"):
        gnelint.check(torch.jit.script(torch.nn.Linear(3, 2)), torch.randn(4, 3))


def test_keywords_reach_what_fixes_and_measures() -> None:
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            layers = [part for _ in range(6) for part in (torch.nn.Linear(16, 16), torch.nn.ReLU())]
            self.layers = torch.nn.Sequential(*layers)

        def forward(self, x: Any, *, scale: Any) -> Any:
            return self.layers(x) * scale

    torch.manual_seed(0)
    net, keywords = Net(), {"scale": torch.ones(8, 1)}
    plan = gnelint.plan_fixes(net, torch.randn(8, 16), example_kwargs=keywords)
    assert plan.example_kwargs.keys() == {"scale"}
    assert plan.edits
    assert plan.measured(seconds=5).tried is not None
    measured = gnelint.verify(net, example_inputs=torch.randn(8, 16), example_kwargs=keywords, probes=2)
    assert measured.verification.target.prediction.graph.inputs == ("x", "scale")
    with pytest.raises(ModelError, match="the shapes of its inputs are not known"):
        gnelint.plan_fixes(net)


def test_a_checkpoint_is_laid_over_what_is_measured(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    (tmp_path / "net.py").write_text(
        "import torch\ndef make():\n    return torch.nn.Linear(6, 4), (torch.randn(8, 6),)\n"
    )
    torch.save({"weight": torch.full((4, 6), 0.5), "bias": torch.zeros(4)}, tmp_path / "w.pt")
    found = gnelint.verify(f"{tmp_path}/net.py:make", weights=tmp_path / "w.pt", probes=2)
    assert found.verification.target.prediction.blocks[0].phi == pytest.approx(6 * 0.25)


def test_an_analysis_offers_its_parts(bad: Path) -> None:
    found = gnelint.check(bad)
    assert found.blocks == found.prediction.blocks
    assert [each.node.name for each in found.profile][:2] == ["fc0", "act0"]
    assert repr(found) == f"<Analysis of {bad}: squared gradient norm 2^-59 at the input; 31 errors, 0 warnings>"
    assert "fc0" not in repr(found)


def test_findings_raise(bad: Path, tmp_path: Path) -> None:
    found = gnelint.check(bad)
    with pytest.raises(AssertionError) as raised:
        found.raise_for_findings()
    assert isinstance(raised.value, gnelint.GradientNormError)
    said = str(raised.value)
    assert "The gradient vanishes" in said
    assert "GNE101 error    gain-mismatch" in said
    assert "fix: multiply " in said
    assert said.endswith("31 errors, 0 warnings.  Why: gnelint rule GNE101")
    found.raise_for_findings("never")
    gnelint.check(write_mlp(tmp_path / "good.onnx")).raise_for_findings("info")
    with pytest.raises(UsageError, match="'fatal' is none of error, warning, info, never"):
        found.raise_for_findings("fatal")  # type: ignore[arg-type]


RULE = """\
schema: 1
id: ACME001
name: any-rectifier
group: activation
severity: {severity}
stage: any
summary: There is a rectifier.
pattern: a = relu(x)
message: "it is a rectifier"
explain: "It says so."
"""


@pytest.mark.parametrize(("severity", "fails"), [("error", (1, 1, 1)), ("warning", (0, 1, 1)), ("info", (0, 0, 1))])
def test_the_severity_that_raises(tmp_path: Path, severity: str, fails: tuple[int, ...]) -> None:
    (tmp_path / "rule.yaml").write_text(RULE.format(severity=severity))
    model = write_mlp(tmp_path / "model.onnx", depth=1)
    found = gnelint.check(model, rules=[tmp_path / "rule.yaml"], select=["ACME001"])
    for fail_on, raises in zip(("error", "warning", "info"), fails, strict=True):
        if raises:
            with pytest.raises(gnelint.GradientNormError, match="any-rectifier"):
                found.raise_for_findings(fail_on)  # type: ignore[arg-type]
        else:
            found.raise_for_findings(fail_on)  # type: ignore[arg-type]


def test_settings(bad: Path) -> None:
    assert {f.rule for f in gnelint.check(bad, select=["GNE5"]).findings} == {"GNE501"}
    assert {f.rule for f in gnelint.check(bad, ignore=["GNE5"]).findings} == {"GNE101"}
    assert gnelint.check(bad, stage="trained").findings == ()
    assert gnelint.check(bad, select=["GNE101"], params={"GNE101": {"tolerance": 9.0}}).findings == ()


def test_mistakes(bad: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        gnelint.check(tmp_path / "nowhere.onnx")
    with pytest.raises(RuleError):
        gnelint.check(bad, rules=[tmp_path / "nowhere.yaml"])
    with pytest.raises(UsageError):
        gnelint.check(bad, mode="test")  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        gnelint.check(bad, stage="late")  # type: ignore[arg-type]
    write_mlp(tmp_path / "a.onnx", depth=1)
    write_mlp(tmp_path / "b.onnx", depth=1)
    with pytest.raises(UsageError, match="2 models"):
        gnelint.check(tmp_path)


def test_the_package_offers_what_it_says() -> None:
    assert all(hasattr(gnelint, name) for name in gnelint.__all__)
    with pytest.raises(AttributeError):
        gnelint.nonsense  # noqa: B018


def test_the_page_of_an_analysis(bad: Path) -> None:
    page = gnelint.check(bad).to_html()
    assert page.lower().startswith("<!doctype html>")
    assert "GNE101" in page


def test_data_that_went_through_is_no_training() -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3))
    x = torch.randn(8, 3, 8, 8)

    def looks_trained() -> bool | None:
        trained: bool | None = gnelint.check(module, x).to_dict()["summary"]["trained"]
        return trained

    assert looks_trained() is False
    nn.init.uniform_(module[1].weight)  # drawn so
    for _ in range(20):
        module(x)
    assert looks_trained() is False
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        (module(x) - 1).square().mean().backward()
        optimizer.step()
    assert looks_trained() is True


def test_parameters_are_counted_as_the_model_has_them() -> None:
    """Of 40 experts 16 were read and counted, and what is no parameter was."""
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Experts(nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Parameter(torch.randn(40, 8, 8) / 8**0.5)
            self.router = nn.Linear(8, 40, bias=False)
            self.register_buffer("shift", torch.randn(8))

        def forward(self, x: Any) -> Any:
            x = x + self.shift
            chance, expert = self.router(x).softmax(-1).max(-1)
            order = expert.argsort()
            ends = torch.bincount(expert, minlength=40).cumsum(0).to(torch.int32)
            return torch._grouped_mm(x[order], self.up, offs=ends) * chance[order, None]

    found = gnelint.check(Experts(), example_inputs=(torch.randn(64, 8),)).to_dict()
    assert found["summary"]["parameters"] == 40 * 8 * 8 + 40 * 8


def test_an_input_whose_numbers_are_not_known_is_named() -> None:
    """The step of a diffusion model: an integer whose sines go into layers."""
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Timed(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.step, self.enter, self.leave = nn.Linear(32, 64), nn.Linear(16, 64), nn.Linear(64, 16)

        def forward(self, x: Any, step: Any) -> Any:
            angles = step[:, None].float() * torch.logspace(0, -4, 16)
            return self.leave(torch.relu(self.enter(x) + self.step(torch.cat([angles.sin(), angles.cos()], 1))))

    analysis = gnelint.check(Timed(), (torch.randn(8, 16), torch.arange(8)))
    assert analysis.prediction.gradient_log2 is not None
    assert [note for note in analysis.notes if '"step"' in note and "random phases" in note]


def test_a_table_of_layers(bad: Path) -> None:
    pandas = pytest.importorskip("pandas")
    result = gnelint.check(bad)
    table = result.to_dataframe()
    assert isinstance(table, pandas.DataFrame)
    assert list(table["name"]) == [each.name for each in result.profile]
    assert next(iter(table["rules"])) == ("GNE101",)
    assert table["phi"].dtype == float
    assert set(table["block"]) == {block.name for block in result.blocks}


def test_a_table_of_layers_without_pandas(bad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="needs pandas, which is not installed"):
        gnelint.check(bad).to_dataframe()


def test_what_is_handed_out_is_listed_before_it_is_loaded() -> None:
    listed = subprocess.run(
        [sys.executable, "-c", "import gnelint; print(*dir(gnelint))"], capture_output=True, text=True, check=True
    )
    assert {*gnelint.__all__} <= {*listed.stdout.split()}
    assert all(hasattr(gnelint, name) for name in gnelint.__all__)
