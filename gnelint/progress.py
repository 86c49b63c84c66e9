"""How long what is being done may still take, as people are told on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable

_SOON = 2.0
"""Seconds that must have passed before anything is foretold of those that are left."""


class Clock:
    """Foretells from the time that some steps took the time of those that are left."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Begin now.

        Args:
            now: the time in seconds.
        """
        self._now = now
        self._start = now()

    def left(self, done: int, steps: int) -> str:
        """Such as ", 2 min left"; "" while too little is known, and where nothing is left.

        Args:
            done: steps that are over.
            steps: of all.
        """
        passed = self._now() - self._start
        if done < 1 or done >= steps or passed < _SOON:
            return ""
        seconds = passed / done * (steps - done)
        for length, unit in ((3600, "h"), (60, "min")):
            if seconds >= 1.5 * length:
                return f", {seconds / length:.0f} {unit} left"
        return f", {max(seconds, 1):.0f} s left"
