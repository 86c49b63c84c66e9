"""Targets spread over a Ray cluster: the one that is there, else one of this machine that is started for the run.

A task gets the job and this process' directory, so that the cluster's machines must see the same files there; it has a
process of its own, whose end costs its own answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from gnelint.errors import UsageError

J = TypeVar("J")
A = TypeVar("A")


def answers(answer: Callable[[J], A], lost: Callable[[J, str], A], jobs: Sequence[J]) -> Generator[A, None, None]:
    """The answer to each job, in order.

    Args:
        answer: what a task does with a job; a function that is found by its name where gnelint is installed.
        lost: the answer for a job whose process is gone; it gets Ray's word for it.
        jobs: what is to be done.

    Raises:
        UsageError: Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise UsageError("--backend ray", "needs Ray, which is not installed", 'pip install "gnelint[ray]"') from None
    joined = not ray.is_initialized()
    if joined:
        ray.init(log_to_driver=False, logging_level="error")
    task = ray.remote(max_calls=1, max_retries=0)(_there)
    waiting = [task.remote(answer, job, os.getcwd()) for job in jobs]
    try:
        for job, reference in zip(jobs, waiting, strict=True):
            try:
                yield ray.get(reference)
            except ray.exceptions.RayError as error:
                yield lost(job, type(error).__name__)
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)
        if joined:
            ray.shutdown()


def _there(answer: Callable[[J], A], job: J, directory: str) -> A:
    os.chdir(directory)
    return answer(job)
