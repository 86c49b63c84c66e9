"""What a check does grows with the number of nodes, and no further: counted in calls, which no other load changes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from gnelint.app.checking import MOST_PLANNED, NOT_PLANNED, Analysis, check_graph
from gnelint.lint.rulefile import load_rules
from gnelint.lint.selection import Settings, selected_rules, unselected_rules
from gnelint.readers.reading import read_target
from gnelint.readers.target import resolve
from gnelint.theory.fields.channel_correlation import ChannelCorrelation, Followed, meetings
from tests.models.large import KINDS, write


def _checked(path: Path) -> Analysis:
    (target,) = resolve(str(path))
    rules, settings = load_rules(()), Settings()
    graph = read_target(target)
    return check_graph(graph, selected_rules(rules, settings), settings, (), unselected_rules(rules, settings))


def _calls(path: Path) -> int:
    """Functions that are called, of Python and of C, while a file is read, analysed, linted, advised and told."""
    count = 0

    def called(frame: object, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(called)
    try:
        str(_checked(path))
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_work_is_linear_in_nodes(kind: str, tmp_path: Path) -> None:
    small, middle, large = (write(kind, count, tmp_path / f"{count}.onnx") for count in (20, 160, 640))
    _calls(small)
    assert _calls(large) <= 4.5 * _calls(middle)


@pytest.mark.parametrize("kind", ["tree", "factors"])
def test_joins_and_long_blocks_are_linear(kind: str, tmp_path: Path) -> None:
    small, large = (write(kind, count, tmp_path / f"{count}.onnx") for count in (16, 64))
    _calls(small)
    assert _calls(large) <= 4.5 * _calls(small)


def test_a_sum_of_any_length_is_taken_apart(tmp_path: Path) -> None:
    """1,000 terms that were added one by one were "gnelint itself failed": no more than that were taken apart."""
    assert _checked(write("added", 1_200, tmp_path / "sum.onnx")).prediction.coverage == 1.0


def test_a_sum_of_many_asks_some_pairs() -> None:
    """Of 200 parts that follow one value as far: what the pairs of all would tell."""
    parts = [(1.0, ChannelCorrelation(follows=(Followed("x", 0.0, 0.02, level=0.02),)))] * 200
    met = parts[0][1].meeting(parts[1][1])[0]
    assert met > 0.0
    assert meetings(parts)[0] == pytest.approx(met * (1.0 - 1.0 / 200))


@pytest.mark.slow
def test_a_large_network_is_checked_without_its_plan(tmp_path: Path) -> None:
    found = _checked(write("residual", MOST_PLANNED // 3, tmp_path / "deep.onnx"))
    assert found.findings
    assert NOT_PLANNED not in found.notes or len(found.prediction.graph.nodes) > MOST_PLANNED
    deeper = _checked(write("factors", MOST_PLANNED + 1, tmp_path / "deeper.onnx"))
    assert deeper.prediction.coverage == 1.0
    bent = _checked(write("chain", MOST_PLANNED // 2 + 10, tmp_path / "bent.onnx"))
    assert not any(finding.fix is not None for finding in bent.findings) or NOT_PLANNED in bent.notes
