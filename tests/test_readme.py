"""README's commands and output are those of this version."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

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


def test_the_commands_name_files_that_exist() -> None:
    for path in re.findall(r"\]\((?!https?:)([\w./-]+)\)", README):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"-m (tests\.benchmarks\.\w+)", README):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module
