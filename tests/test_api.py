"""The Python interface gives what the command line gives."""

from __future__ import annotations

from pathlib import Path

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
