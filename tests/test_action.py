"""The GitHub action: its steps are what its inputs say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_cli import write_mlp

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".github" / "actions" / "gnelint"
ACTION: dict[str, Any] = yaml.safe_load((FOLDER / "action.yml").read_text())
STEPS = {step.get("name"): step for step in ACTION["runs"]["steps"]}


def bash(script: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a step's script as the runner does."""
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    return subprocess.run(command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False)


def step(name: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a step that calls gnelint, with the gnelint under test."""
    return bash(f'gnelint() {{ "{sys.executable}" -m gnelint "$@"; }}\n{STEPS[name]["run"]}', cwd, **env)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_mlp(tmp_path / "bad.onnx", gain=0.5, depth=24, width=32)
    write_mlp(tmp_path / "good.onnx", depth=2, width=32)
    return tmp_path


def test_every_input_is_described_and_used() -> None:
    text = (FOLDER / "action.yml").read_text()
    assert ACTION["runs"]["using"] == "composite"
    for name, given in ACTION["inputs"].items():
        assert given["description"]
        assert isinstance(given["default"], str)
        assert re.search(rf"\binputs\.{name}\b", text)


@pytest.mark.parametrize(("torch", "extra"), [("false", ""), ("true", "[torch]")])
def test_it_installs_the_repository_that_it_is_in(tmp_path: Path, torch: str, extra: str) -> None:
    script = STEPS["Install gnelint"]["run"].replace("python -m pip install --quiet", "echo")
    shown = bash(script, tmp_path, GITHUB_ACTION_PATH=str(FOLDER), TORCH=torch).stdout.strip()
    place = shown.removesuffix(extra)
    assert shown == place + extra
    assert (Path(place) / "pyproject.toml").samefile(ROOT / "pyproject.toml")


@pytest.mark.parametrize(
    ("targets", "args", "code"),
    [("good.onnx", "", 0), ("b*.onnx good.onnx", "", 1), (".", "-q --fail-on never", 0), ("none.onnx", "", 2)],
)
def test_it_fails_as_gnelint_does(folder: Path, targets: str, args: str, code: int) -> None:
    result = step("Check", folder, TARGETS=targets, ARGS=args)
    assert result.returncode == code, result.stderr


def test_it_annotates_unless_told_otherwise(folder: Path) -> None:
    assert (
        "::error file=bad.onnx,title=GNE101 gain-mismatch::"
        in step("Check", folder, TARGETS="bad.onnx", ARGS="").stdout
    )
    assert step("Check", folder, TARGETS="bad.onnx", ARGS="--format text").stdout.startswith("bad.onnx: 48 nodes")


@pytest.mark.parametrize(("targets", "code"), [("good.onnx", 0), ("bad.onnx", 0), ("bad.onnx none.onnx", 2)])
def test_only_a_whole_run_is_uploaded(folder: Path, targets: str, code: int) -> None:
    file = folder / "out" / "gnelint.sarif"
    file.parent.mkdir()
    result = step("Write SARIF", folder, TARGETS=targets, ARGS="-q", SARIF=str(file))
    assert (result.returncode, result.stdout) == (code, "")
    (run,) = json.loads(file.read_text())["runs"]
    assert run["invocations"][0]["executionSuccessful"] == (code == 0)
    write, upload = STEPS["Write SARIF"], STEPS["Upload SARIF"]
    assert write["env"]["SARIF"] == upload["with"]["sarif_file"]
    assert "inputs.sarif == 'true'" in write["if"]
    assert f"steps.{write['id']}.outcome == 'success'" in upload["if"]
