"""How long what is being done may still take, as people are told on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable

_SOON = 2.0
"""Seconds that must have passed before anything is foretold of those that are left."""
_EVERY = 0.2
"""Seconds from one word about nodes to the next."""
_PARTS = 1000


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


class Line:
    """The line on a terminal that says what is being done, and where in it the work is."""

    def __init__(self, show: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> None:
        """Show nothing yet.

        Args:
            show: replaces the line.
            now: the time in seconds.
        """
        self._show = show
        self._now = now
        self._doing = ""
        self._shown = -_EVERY
        self._share = 1.0
        self._clock = Clock(now)

    def begin(self, doing: str) -> None:
        """Say what is done from here."""
        self._doing, self._share = doing, 1.0
        self._show(doing)

    def at(self, place: str, share: float | None = None) -> None:
        """Say where the work is; what is said too soon after the last word is left out.

        Args:
            place: a step, or a node of the network.
            share: how much of the step is done, if that is known.
        """
        if share is not None and share < self._share:
            self._clock = Clock(self._now)
        self._share = 1.0 if share is None else share
        now = self._now()
        if not place or (share is not None and now - self._shown < _EVERY):
            return
        self._shown = now
        part = "" if share is None else f"{share:.0%}{self._clock.left(int(share * _PARTS), _PARTS)} "
        self._show(f"{self._doing}: {part}{place}")
