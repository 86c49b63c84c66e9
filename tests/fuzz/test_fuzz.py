"""A few cases of the fuzzer in every run: it finds what it is there to find, and makes the same files everywhere."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest

from gnelint.app import batch
from tests.fuzz.mutations import mutated

if sys.platform == "win32":
    pytest.skip("limits are of POSIX", allow_module_level=True)

from random import Random

from gnelint.output import text
from tests.fuzz.__main__ import Case, run


@pytest.fixture(autouse=True)
def no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own process is not to be held to a budget."""
    monkeypatch.setattr("tests.fuzz.__main__.hold", lambda budget: None)
    monkeypatch.setattr("tests.fuzz.__main__.BYTES", 1 << 60)


def test_a_case_is_the_same_file_everywhere() -> None:
    assert Case(3, 7).data() == Case(3, 7).data() == mutated(Random("3:7"))
    assert len({Case(0, number).data() for number in range(50)}) == 50


def test_most_cases_are_models() -> None:
    parsed = 0
    for number in range(60):
        try:
            onnx.ModelProto.FromString(Case(0, number).data())
            parsed += 1
        except Exception:
            continue
    assert parsed > 45


@pytest.mark.parametrize("number", range(25))
def test_nothing_but_an_answer_comes_of_a_case(number: int) -> None:
    assert run(Case(1, number)).wrong == ()


def test_what_goes_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*rest: object) -> str:
        raise KeyError("a defect")

    good = next(number for number in range(100) if run(Case(1, number)).kind == "checked")
    monkeypatch.setattr(text, "render", fails)
    assert any("a defect" in wrong for wrong in run(Case(1, good)).wrong)
    monkeypatch.setattr(batch, "_checked", fails)
    assert any("itself failed" in wrong for wrong in run(Case(1, good)).wrong)


def test_a_pt2_case_is_the_same_file_everywhere_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from tests.fuzz import pt2

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pt2, "hold", lambda budget: None)
    monkeypatch.setattr(pt2, "BYTES", 1 << 60)
    assert pt2.Case(3, 7).data() == pt2.Case(3, 7).data()
    assert [pt2.run(pt2.Case(0, number)).wrong for number in range(8)] == [()] * 8


@pytest.mark.slow
def test_what_a_killed_run_leaves_is_counted(tmp_path: Path) -> None:
    from tests.fuzz import kills

    assert kills.main(["--fixes", "2", "--checks", "1", "-o", str(tmp_path / "kills.json")]) == 0
