"""README's commands and output are those of this version."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import gnelint
from gnelint.cli.check import FORMATS
from tests.test_pytest_plugin import plugin

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_output_shown_is_the_output_printed(tmp_path: Path) -> None:
    shown = re.search(r"```text\n(.*?)\n```", README, re.DOTALL)
    assert shown is not None
    environment = {**os.environ, "NO_COLOR": "1"}
    script = ROOT / "tests" / "models" / "plain_onnx.py"
    written = subprocess.run(
        [sys.executable, str(script), "plain50.onnx"], cwd=tmp_path, env=environment, capture_output=True, check=True
    )
    assert written.stdout == b"wrote plain50.onnx\n"
    checked = subprocess.run(
        [sys.executable, "-m", "gnelint", "check", "plain50.onnx"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 1, checked.stderr
    assert checked.stdout.strip() == shown.group(1).strip()


@pytest.mark.slow
def test_before_and_after_is_what_is_printed() -> None:
    shown = re.search(r"```console\n(.*?)\n```", README, re.DOTALL)
    command = re.search(r"^gnelint (verify .*a_ok .*)$", README, re.MULTILINE)
    assert shown is not None
    assert command is not None
    found = subprocess.run(
        [sys.executable, "-m", "gnelint", *command.group(1).split(), "--device", "cpu"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.group(1) in found.stdout


MODELS = """
import torch

def make_model(gain=1.0):
    torch.manual_seed(0)
    layers = []
    for width in (3, *[32] * 11):
        layers += [torch.nn.Conv2d(width, 32, 3, padding=1), torch.nn.ReLU()]
        torch.nn.init.kaiming_normal_(layers[-2].weight)
        layers[-2].weight.data *= gain
    return torch.nn.Sequential(*layers)
"""


def examples() -> list[str]:
    """The Python examples; they import a user's models."""
    layers = (ROOT / "gnelint" / "nn" / "README.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)\n```", README + layers, re.DOTALL)


def test_the_python_example_runs(tmp_path: Path) -> None:
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / "models.py").write_text(MODELS)
    (example,) = [each for each in examples() if "gnelint.check" in each]
    result = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "Sequential: 24 nodes" in result.stdout
    (tmp_path / "mypackage" / "models.py").write_text(MODELS.replace("gain=1.0", "gain=0.5"))
    result = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "gnelint.errors.GradientNormError: Sequential: 24 nodes" in result.stderr


def test_the_example_of_layers_runs(tmp_path: Path) -> None:
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / "models.py").write_text(MODELS)
    (example,) = [each for each in examples() if "nn.convert" in each]
    result = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert re.fullmatch(r"(triton|eager): .*triton is.*installed\n", result.stdout)


@pytest.mark.parametrize(("gain", "code"), [("1.0", 0), ("0.5", 1)])
def test_the_test_suite_example_runs(tmp_path: Path, gain: str, code: int) -> None:
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / "models.py").write_text(MODELS.replace("gain=1.0", f"gain={gain}"))
    (example,) = [each for each in examples() if "assert_gradient_norm" in each]
    (tmp_path / "test_model.py").write_text(example)
    command = [sys.executable, "-m", "pytest", "-q", *plugin(), "-p", "no:cacheprovider", "test_model.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == code, result.stdout
    assert ("GradientNormError" in result.stdout) == bool(code)


def test_the_formats_are_those_there_are() -> None:
    formats = (ROOT / "gnelint" / "output" / "README.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^\| `(\w+)` \|", formats, re.MULTILINE)) == FORMATS


def test_the_schema_is_written_down_as_it_says(tmp_path: Path) -> None:
    formats = (ROOT / "gnelint" / "output" / "README.md").read_text(encoding="utf-8")
    command = re.search(r'`python -c "(.*report_schema.*)"`', formats)
    assert command is not None
    result = subprocess.run([sys.executable, "-c", command[1]], cwd=tmp_path, capture_output=True, check=True)
    assert json.loads(result.stdout) == gnelint.report_schema()


def test_the_action_has_the_inputs_shown() -> None:
    page = (ROOT / ".github" / "CI.md").read_text(encoding="utf-8")
    shown = re.search(r"gnelint/\.github/actions/gnelint@REV\n    with:\n(.*?)\n  - if", page, re.DOTALL)
    assert shown is not None
    action = yaml.safe_load((ROOT / ".github" / "actions" / "gnelint" / "action.yml").read_text())
    assert set(re.findall(r"^ +(?:# )?(\w+):", shown[1], re.MULTILINE)) <= set(action["inputs"])


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 250


def test_the_commands_name_files_that_exist() -> None:
    for path in re.findall(r"\]\((?!https?:)([\w./-]+)\)", README):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"-m (tests\.benchmarks\.\w+)", README):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module
