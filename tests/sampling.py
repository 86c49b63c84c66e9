"""Which of many cases the quick run takes; the slow run (-m slow) takes the others."""

from __future__ import annotations

import zlib

import pytest


def is_sampled(name: str, one_in: int) -> bool:
    """Whether a case is one of about so many, by its name: a new case does not move the choice."""
    return zlib.crc32(name.encode()) % one_in == 0


def slow_unless(quick: bool) -> list[pytest.MarkDecorator]:
    """Marks for `pytest.param`."""
    return [] if quick else [pytest.mark.slow]
