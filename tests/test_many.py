"""Many targets as a user runs them: told one by one, and what was done by an interrupt is not lost."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.test_cli import write_mlp
from tests.test_strangers import gnelint, started

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are of POSIX")


def folder(path: Path, count: int = 3) -> Path:
    for index in range(count):
        write_mlp(path / f"m{index}.onnx", depth=2 + index)
    return path


def test_a_line_for_each_target(tmp_path: Path) -> None:
    (folder(tmp_path) / "broken.onnx").write_bytes(b"no model" * 20)
    said = gnelint("check", "--no-cache", "--format", "jsonl", ".", cwd=tmp_path)
    whole = gnelint("check", "--no-cache", "--format", "json", ".", cwd=tmp_path)
    lines = [json.loads(line) for line in said.stdout.splitlines()]
    assert said.returncode == whole.returncode == 2
    assert {line.pop("schema") for line in lines} == {"gnelint/1"}
    assert [line for line in lines if "error" not in line] == json.loads(whole.stdout)["targets"]
    assert [line["target"] for line in lines if "error" in line] == ["broken.onnx"]


def test_lines_go_into_a_file_as_well(tmp_path: Path) -> None:
    gnelint("check", "-q", "--format", "jsonl", "-o", "out.jsonl", ".", cwd=folder(tmp_path))
    assert len((tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()) == 3


SLOW = """
import os, time
import gnelint.readers.onnx.reader as reader
usual = reader._read
def slow(path, *rest):
    if path.name == "m2.onnx":
        time.sleep(60)
    return usual(path, *rest)
reader._read = slow
"""
"""The third file takes longer than the test waits."""


@pytest.mark.parametrize("form", ["jsonl", "text"])
@pytest.mark.parametrize("jobs", ["1", "3"])
def test_an_interrupt_keeps_what_was_done(
    form: str, jobs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    names = ["m0.onnx", "m1.onnx", "m2.onnx"]
    process = started("check", "-j", jobs, "--format", form, *names, cwd=folder(tmp_path), start_new_session=True)
    records = tmp_path / ".gnelint_cache" / "records"
    while process.poll() is None and (not records.is_dir() or len(list(records.glob("*.json"))) < 2):
        time.sleep(0.05)
    time.sleep(1.5)  # both small files are answered; the first process takes the answers
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines() == ["gnelint: stopped after 2 of 3 targets."]
    assert all(name in out for name in names[:2])
    assert "m2.onnx" not in out


@pytest.mark.slow
def test_a_cluster_says_the_same(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    (folder(tmp_path) / "broken.onnx").write_bytes(b"no model" * 20)
    words = ("check", "--no-cache", "--format", "json", ".")
    here, there = gnelint(*words, cwd=tmp_path), gnelint(*words, "--backend", "ray", cwd=tmp_path)
    assert there.stdout == here.stdout
    assert (there.returncode, there.stderr) == (here.returncode, here.stderr)


def test_a_backend_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    result = gnelint("check", "--backend", "ray", "m0.onnx", cwd=folder(tmp_path, 1))
    assert result.returncode == 2
    assert 'pip install "gnelint[ray]"' in result.stderr
