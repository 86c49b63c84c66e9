"""Processes that answer: none of them waits for what is done with the answers."""

from __future__ import annotations

import time
from contextlib import closing

from gnelint.app.workers import Workers


def begun(job: int) -> float:
    """When a job begins; a clock that all processes share."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def lost(job: int, code: int, place: str) -> float:
    raise AssertionError(f"job {job} ended with {code}")


def test_the_next_job_begins_while_an_answer_is_looked_at() -> None:
    with closing(Workers(begun, lost, 1, "nothing").answers(range(3))) as answers:
        next(answers)
        looked = time.clock_gettime(time.CLOCK_MONOTONIC)
        time.sleep(0.3)
        second, third = answers
    assert second < looked + 0.3
    assert third > second
