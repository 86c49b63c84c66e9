"""Sizes that a file leaves open: those that its weights tell, then those that are common, then any that fit.

An operation that does not fit tells how many entries it got and how many it takes. How the first follow the sizes that
were assumed is asked of the file itself, by reading it once more with one of them changed: along most ways they are the
same, behind a flattening a multiple, behind a pooling a part, and a line through two readings leads to the third.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field

from gnelint.errors import UnreadableError
from gnelint.ir.graph import Graph, Value
from gnelint.onnxfile.file import Gap, MisfitError
from gnelint.readers.onnx.inputs import ASSUMED, BoundInputs, Sizes
from gnelint.records import dataclass, replace

READINGS = 64
"""Readings in search of a size at most, each of which ends at an operation that does not fit."""
OPERATIONS = 60_000
"""Operations that are read in all before the search is given up: a few seconds' worth."""
LONGEST = 1 << 18
"""The longest axis that is tried."""
SHORTER = (32, 8)
"""Lengths of sequences that are tried where loops over the usual one have more steps than are read."""


@dataclass(frozen=True)
class Attempt:
    """A model read with one choice of sizes.

    Attributes:
        bound: the inputs with these sizes.
        reached: operations read.
        graph: the model, None if it does not fit.
        problem: why not.
        cut_short: whether a loop has too many steps and was left as it is.
    """

    bound: BoundInputs
    reached: int
    graph: Graph | None = None
    problem: UnreadableError | None = None
    cut_short: bool = False

    @property
    def gap(self) -> Gap | None:
        """How far the first operation that does not fit is from fitting."""
        return self.problem.gap if isinstance(self.problem, MisfitError) else None


@dataclass
class Fitting:
    """Looks for sizes with which a model can be read.

    Attributes:
        bind: fixes the inputs, some sizes being assumed.
        walk: reads the model with such inputs.
        sizes: the assumed ones, and those found so far.
        readings, operations: in search of a size, that may still be made and read.
    """

    bind: Callable[[Sizes], BoundInputs]
    walk: Callable[[BoundInputs], Attempt]
    sizes: Sizes = ASSUMED[0]
    readings: int = READINGS
    operations: int = OPERATIONS
    _tried: list[list[Value]] = field(default_factory=list)

    def fitted(self) -> Graph:
        """The model.

        Raises:
            UnreadableError: no sizes fit; it says what does not with the first ones.
        """
        first = self._read(self.bind(self.sizes))
        found = first if first.graph is not None else self._found(first)
        if found.cut_short and found.bound.assumed:
            shorter = (self._read(self.bind(replace(self.sizes, sequence=length))) for length in SHORTER)
            found = next((each for each in shorter if each.graph is not None and not each.cut_short), found)
        if found.graph is not None:
            return found.graph
        assert first.problem is not None
        raise first.problem

    def _found(self, first: Attempt) -> Attempt:
        self._tried.append(first.bound.values)
        told = self._followed(first, exact=True)
        if told.graph is not None:
            return told
        for count, other in enumerate(filter(None, map(self._common, ASSUMED))):
            if other.graph is not None:
                return other
            if count and not isinstance(other.problem, MisfitError):  # other sizes will not mend it
                break
        return self._followed(told, exact=False)

    def _common(self, sizes: Sizes) -> Attempt | None:
        """The model with other assumed sizes; None where they were tried."""
        bound = self.bind(replace(sizes, given=self.sizes.given))
        if bound.values in self._tried or self.operations < 0:
            return None
        self._tried.append(bound.values)
        return self._read(bound)

    def _followed(self, attempt: Attempt, *, exact: bool) -> Attempt:
        """The attempt that gets farthest, one operation that does not fit after the other.

        Args:
            exact: stop at one that takes any size beyond its own, and follow those that only one fits.
        """
        while (gap := attempt.gap) is not None and (gap.exact or not exact):
            farther = self._farther(attempt, gap)
            if farther is None:
                break
            attempt = farther
        return attempt

    def _farther(self, attempt: Attempt, gap: Gap) -> Attempt | None:
        """The first attempt with one size changed that gets beyond the operation; the size is kept."""
        assumed = attempt.bound.assumed
        alone = [(name,) for name in sorted(assumed, key=lambda name: assumed[name] != gap.entries)]
        sides = tuple(name for name, size in assumed.items() if size == self.sizes.image)
        for names in (*alone, *([sides] if len(sides) > 1 else [])):
            for tried, sizes in self._moved(attempt, gap, names):
                if _is_farther(tried, attempt, gap):
                    self.sizes = sizes
                    return tried
        return None

    def _moved(self, attempt: Attempt, gap: Gap, names: Sequence[str]) -> Iterator[tuple[Attempt, Sizes]]:
        """Attempts with another size for all of these names: of a window the double and so on, else where a line
        leads; through the square root of what two sides of an image make."""
        size, root = attempt.bound.assumed[names[0]], 1.0 / len(names)
        if not gap.exact:
            for times in range(1, LONGEST.bit_length()):
                for tried, sizes in self._with(names, size << times):
                    yield tried, sizes
                    if not _follows(tried, attempt, gap):
                        return
            return
        for probe in (round(size + gap.wanted**root - gap.entries**root), 2 * size, size + 1):
            for tried, sizes in self._with(names, probe):
                yield tried, sizes
                if tried.gap is not None and _follows(tried, attempt, gap):
                    for other in _on_the_line(size, gap, probe, tried.gap, root):
                        yield from self._with(names, other)
                if _same_place(tried, attempt):
                    return

    def _with(self, names: Sequence[str], size: int) -> Iterator[tuple[Attempt, Sizes]]:
        """The model with this size; nothing where it is none, or enough was read."""
        if 0 < size <= LONGEST and self.readings > 0 and self.operations > 0:
            self.readings -= 1
            sizes = replace(self.sizes, given={**self.sizes.given, **dict.fromkeys(names, size)})
            yield self._read(self.bind(sizes)), sizes

    def _read(self, bound: BoundInputs) -> Attempt:
        attempt = self.walk(bound)
        self.operations -= attempt.reached
        return attempt


def _is_farther(tried: Attempt, attempt: Attempt, gap: Gap) -> bool:
    fewer = _same_place(tried, attempt) and tried.gap is not None and tried.gap.others < gap.others
    return tried.graph is not None or tried.reached > attempt.reached or fewer


def _same_place(tried: Attempt, attempt: Attempt) -> bool:
    return tried.gap is not None and tried.reached == attempt.reached


def _follows(tried: Attempt, attempt: Attempt, gap: Gap) -> bool:
    """Whether the operation's input has grown or shrunk with the size."""
    return _same_place(tried, attempt) and tried.gap is not None and tried.gap.entries != gap.entries


def _on_the_line(size: int, gap: Gap, probe: int, other: Gap, root: float) -> list[int]:
    """Sizes at which a line through two readings has the entries that are wanted, the nearest first: behind strides a
    few sizes give the same number of entries."""
    slope = (other.entries**root - gap.entries**root) / (probe - size)
    best = size + (gap.wanted**root - gap.entries**root) / slope
    around = min(math.ceil(1.0 / abs(slope)), 4)
    near = range(round(best) - around, round(best) + around + 1)
    return sorted(near, key=lambda each: abs(each - best))
