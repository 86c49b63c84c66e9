"""What is foretold of the time that is left."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from gnelint.progress import Clock, Line


@pytest.mark.parametrize(
    ("passed", "done", "steps", "said"),
    [
        (1.0, 1, 100, ""),
        (10.0, 0, 100, ""),
        (10.0, 5, 5, ""),
        (10.0, 5, 6, ", 2 s left"),
        (2.0, 99, 100, ", 1 s left"),
        (10.0, 1, 10, ", 2 min left"),
        (10.0, 1, 1000, ", 3 h left"),
    ],
)
def test_what_is_left(passed: float, done: int, steps: int, said: str) -> None:
    times = iter([5.0, 5.0 + passed])
    assert Clock(lambda: next(times)).left(done, steps) == said


def test_a_line_says_where_the_work_is_and_what_is_left() -> None:
    times, said = Times(), list[str]()
    line = Line(said.append, times)
    line.begin("net.onnx")
    line.at("exporting it")
    for share in (0.0, 0.1, 0.25):
        line.at('node "a" (Conv)', share)
        times.now += 1.0
    line.at("matching the rules")
    assert said == [
        "net.onnx",
        "net.onnx: exporting it",
        'net.onnx: 10% node "a" (Conv)',
        'net.onnx: 25%, 6 s left node "a" (Conv)',
        "net.onnx: matching the rules",
    ]


def test_nodes_that_follow_each_other_at_once_are_not_all_said() -> None:
    times, said = Times(), list[str]()
    line = Line(said.append, times)
    for number in range(100):
        line.at(f"node {number}", number / 100)
        times.now += 0.01
    assert 2 < len(said) < 8


class Times:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


NETWORK = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(8, 8) for _ in range(4)]), torch.randn(2, 8)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a terminal of its own")
@pytest.mark.parametrize("command", [("check",), ("fix", "--diff")])
def test_a_terminal_sees_the_steps_of_one_model(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    shown = on_terminal(["-m", "gnelint", *command, "net.py:net"], tmp_path)
    for step in ("building it", "exporting it", "matching the rules"):
        assert f"net.py:net: {step}" in shown


def test_who_reads_no_terminal_sees_no_steps(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    command = [sys.executable, "-m", "gnelint", "check", "net.py:net"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "exporting" not in done.stdout + done.stderr


def on_terminal(arguments: Sequence[str], folder: Path) -> str:
    """What Python with these arguments shows on a terminal of 80 columns."""
    import pty

    ours, theirs = pty.openpty()
    child = subprocess.Popen([sys.executable, *arguments], cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal is an error
        while piece := os.read(ours, 4096):
            shown += piece
    os.close(ours)
    child.wait()
    return shown.decode()
