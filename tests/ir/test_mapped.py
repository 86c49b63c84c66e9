"""What is read of a mapped file leaves the memory, and is read anew."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from gnelint.ir.mapped import Handed, let_go, pieces, sampled, taken


def resident() -> int:
    """Bytes of mapped files that lie in this process' memory."""
    return int(Path("/proc/self/statm").read_text().split()[2]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_what_is_let_go_is_read_anew(tmp_path: Path) -> None:
    numbers = np.arange(1 << 22, dtype=np.float32)
    numbers.tofile(tmp_path / "data")
    array = np.asarray(np.memmap(tmp_path / "data", np.uint8, "r"))[12:].view(np.float32)
    total = array.sum(dtype=np.float64)
    before = resident()
    let_go(array[5:])
    assert resident() < before - 0.9 * numbers.nbytes
    assert array.sum(dtype=np.float64) == total


def test_other_arrays_stay() -> None:
    array = np.ones(1 << 16)
    let_go(array)
    assert array.sum() == 1 << 16


def stored(folder: Path, monkeypatch: pytest.MonkeyPatch, count: int = 1 << 22) -> np.ndarray:
    """Numbers in a mapped file which counts as a large one."""
    monkeypatch.setattr("gnelint.ir.mapped.LARGE", count * 2)
    np.arange(count, dtype=np.float32).tofile(folder / "data")
    return np.asarray(np.memmap(folder / "data", np.uint8, "r")).view(np.float32)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
@pytest.mark.parametrize("across", [False, True])
def test_reading_in_pieces_keeps_a_part_in_memory(
    across: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = stored(tmp_path, monkeypatch).reshape(2048, 2048)
    array = array.T if across else array
    before, total, most = resident(), 0.0, 0
    for part, piece in pieces(array, 128):
        assert np.array_equal(piece, array[part])
        assert piece.shape == (128, 2048)
        total += float(piece.sum(dtype=np.float64))
        most = max(most, resident() - before)
    assert total == (array.size - 1) * array.size / 2
    assert resident() - before < array.nbytes // 4
    assert across or most < array.nbytes // 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_who_has_seen_enough_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = stored(tmp_path, monkeypatch).reshape(2048, 2048).T
    before = resident()
    for _, piece in pieces(array, 64):
        assert piece.sum() > 0
        break
    assert resident() - before < array.nbytes // 4


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_parts_that_are_spread_over_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = stored(tmp_path, monkeypatch).reshape(64, 256, 256)
    before = resident()
    assert np.array_equal(taken(array[:, ::3, :2]), np.arange(array.size).reshape(array.shape)[:, ::3, :2])
    assert np.array_equal(taken(array.T[:5]), np.arange(array.size).reshape(array.shape).T[:5])
    assert np.array_equal(sampled(array.reshape(-1), 100), np.arange(0, array.size, 100))
    assert resident() - before < array.nbytes // 4


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_many_that_are_handed_out_leave_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = stored(tmp_path, monkeypatch)
    monkeypatch.setattr("gnelint.ir.mapped.LARGE", array.nbytes // 8)
    handed, before, most = Handed(), resident(), 0
    for part in np.split(array, 64):
        assert handed.out(part).sum() > 0
        most = max(most, resident() - before)
    assert most < array.nbytes // 2


def test_what_is_small_is_no_copy() -> None:
    array = np.arange(12.0).reshape(3, 4)
    assert taken(array[:2]).base is array.base
    assert np.array_equal(sampled(array.reshape(-1), 5), [0.0, 5.0, 10.0])
    assert [part for part, _ in pieces(array, 2)] == [slice(0, 2), slice(2, 4)]
    assert list(pieces(array[:0], 2)) == []
