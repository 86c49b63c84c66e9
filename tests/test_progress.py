"""What is foretold of the time that is left."""

from __future__ import annotations

import pytest

from gnelint.progress import Clock


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
