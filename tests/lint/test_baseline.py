"""Baselines: what is new, what is known, what is gone, and files that are no baseline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gnelint.errors import UsageError
from gnelint.lint.baseline import Baseline, read_baseline


def finding(mark: str, severity: str = "error") -> dict[str, Any]:
    return {"rule": "GNE101", "severity": severity, "fingerprint": mark, "nodes": ["fc"], "message": "m"}


def written(path: Path, *marks: str, target: str = "m.onnx", severity: str = "error") -> Baseline:
    made = Baseline(path)
    made.record(target, [finding(mark, severity) for mark in marks])
    made.write()
    return read_baseline(path)


def test_new_known_and_gone(tmp_path: Path) -> None:
    made = written(tmp_path / "base.json", "a", "b", "c")
    found = made.compare("m.onnx", [finding("a"), finding("d"), finding("c")])
    assert [one["fingerprint"] for one in found.new] == ["d"]
    assert (found.known, found.gone) == (2, 1)
    other = made.compare("other.onnx", [finding("a")])
    assert (len(other.new), other.known, other.gone) == (1, 0, 0)


def test_each_known_finding_counts_once(tmp_path: Path) -> None:
    made = written(tmp_path / "base.json", "a")
    assert len(made.compare("m.onnx", [finding("a"), finding("a")]).new) == 1
    assert made.compare("m.onnx", []).gone == 1


@pytest.mark.parametrize(
    ("then", "now", "new"), [("warning", "error", 1), ("error", "warning", 0), ("info", "info", 0)]
)
def test_what_became_worse_is_new(tmp_path: Path, then: str, now: str, new: int) -> None:
    made = written(tmp_path / "base.json", "a", severity=then)
    assert len(made.compare("m.onnx", [finding("a", now)]).new) == new


def test_files_are_named_from_the_baselines_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "m.onnx").write_bytes(b"")
    written(tmp_path / "base.json", "a", target=str(tmp_path / "models" / "m.onnx"))
    assert list(json.loads((tmp_path / "base.json").read_text())["targets"]) == ["models/m.onnx"]
    monkeypatch.chdir(tmp_path / "models")
    assert read_baseline(Path("../base.json")).compare("m.onnx", [finding("a")]).known == 1


def test_other_targets_stay(tmp_path: Path) -> None:
    made = written(tmp_path / "base.json", "a", target="one")
    made.record("two", [])
    made.write()
    assert set(read_baseline(tmp_path / "base.json").targets) == {"one", "two"}


GOOD = {"rule": "GNE101", "severity": "error", "fingerprint": "a", "nodes": []}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "the baseline is damaged"),
        (b"{", "the baseline is damaged"),
        (b"[" * 100_000, "the baseline is damaged"),
        (b"\xff\xfe", "is no baseline of gnelint"),
        (b"[]", "is no baseline of gnelint"),
        (b'{"schema": "gnelint/1", "targets": []}', "is no baseline of gnelint"),
        (b'{"schema": "gnelint-baseline/2", "targets": {}}', "this gnelint reads gnelint-baseline/1"),
        (b'{"schema": "gnelint-baseline/1"}', "the baseline is damaged"),
        *(
            (json.dumps({"schema": "gnelint-baseline/1", "targets": {"m": entries}}).encode(), "is damaged")
            for entries in (3, [3], [{**GOOD, "fingerprint": 1}], [{**GOOD, "severity": "bad"}], [{}])
        ),
    ],
)
def test_what_is_no_baseline(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "base.json"
    path.write_bytes(content)
    for missing_is_empty in (False, True):
        with pytest.raises(UsageError) as caught:
            read_baseline(path, missing_is_empty)
        assert str(caught.value).startswith(f"{path}: ")
        assert why in str(caught.value)


def test_one_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such baseline"):
        read_baseline(tmp_path / "none.json")
    assert read_baseline(tmp_path / "none.json", missing_is_empty=True).targets == {}
    with pytest.raises(UsageError, match="cannot be read"):
        read_baseline(tmp_path)


def test_one_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        Baseline(tmp_path / "no" / "folder.json").write()
