"""What is read of a mapped file leaves the memory, and is read anew."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from gnelint.ir.mapped import let_go


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
