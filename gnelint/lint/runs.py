"""Runs: the matches of a rule that lie one behind the other, and sums and other numbers over them.

The path of a match leads through it and meets as many matches as a path can; of paths that meet equally many, it
follows the first operand. A run is the matches whose paths begin at the same one. Operations given by the rule (by
default normalisation, which puts right what scale the part before it got wrong) end a path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnelint.lint.columns import Column
from gnelint.lint.index import Index, Indices
from gnelint.records import dataclass
from gnelint.theory.sorting import median

Pointers = Indices
"""For each place the next one on the path, -1 at its end."""


@dataclass(frozen=True)
class Runs:
    """The places of a rule's matches in the network, linked along paths.

    Attributes:
        place: for each match the number of its place; matches that begin at one node share it.
        before, behind: for each place the one before and behind it on its path.
    """

    place: Indices
    before: Pointers
    behind: Pointers

    @classmethod
    def of(cls, index: Index, anchors: Indices, ends_at: frozenset[str]) -> Runs:
        """Link matches; `anchors` are the nodes where they stand, -1 for a match that stands nowhere."""
        nodes, place = np.unique(anchors, return_inverse=True)
        if nodes.size and nodes[0] < 0:
            alone = np.full(nodes.size, -1, np.intp)
            inner = cls.of(index, nodes[1:], ends_at)
            before, behind = alone.copy(), alone
            before[1:] = np.where(inner.before < 0, -1, inner.before + 1)
            behind[1:] = np.where(inner.behind < 0, -1, inner.behind + 1)
            return cls(place, before, behind)
        numbered = np.full(len(index.nodes), -1, np.intp)
        numbered[nodes] = np.arange(nodes.size)
        closed = index.is_op(ends_at).tolist()
        order = range(len(index.nodes))
        before = _linked(numbered.tolist(), index.read_from, order, closed, nodes.size)
        behind = _linked(numbered.tolist(), index.read_by, reversed(order), closed, nodes.size)
        return cls(place, before, behind)

    def apply(self, function: str, values: Column) -> Column:
        """For each match, a function of `expression.RUN_FUNCTIONS`; `values` are its argument (1 where it has none)."""
        if function == "total":
            return self.total(values)
        if function == "product":
            with np.errstate(all="ignore"):
                return np.exp2(self.total(np.log2(values)))
        if function == "count":
            return self.total(np.ones(len(self.place)))
        if function in ("is_first", "is_last"):
            pointers = self.before if function == "is_first" else self.behind
            return (pointers[self.place] < 0).astype(np.float64)
        return self._over_runs(_REDUCTIONS[function], values)

    def total(self, values: Column) -> Column:
        """For each match the sum over its path.

        A value that is not known counts as 0. Of several matches at one place the largest in absolute value counts.
        """
        values = np.where(np.isnan(values), 0.0, values)
        order = np.argsort(np.abs(values), kind="stable")
        own = np.zeros(len(self.before))
        own[self.place[order]] = values[order]
        with np.errstate(invalid="ignore"):
            summed = _accumulated(self.before, own) + _accumulated(self.behind, own) - own
        # an infinite weight stays infinite where it counts twice: inf + inf - inf is not a number
        found: Column = np.where(np.isinf(own), own, summed)[self.place]
        return found

    def labels(self) -> Indices:
        """For each match the number of its run: the place that its path begins at."""
        label, pointers = np.arange(len(self.before)), self.before
        while (pointers >= 0).any():
            label = np.where(pointers >= 0, label[pointers], label)
            pointers = np.where(pointers >= 0, pointers[pointers], -1)
        return label[self.place]

    def _over_runs(self, reduce: Callable[[Column], Any], values: Column) -> Column:
        """For each match a number over all known values of its run; nan if there are none."""
        labels = self.labels()
        order = np.argsort(labels, kind="stable")
        result = np.full(len(values), np.nan)
        for rows in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
            known = values[rows][~np.isnan(values[rows])]
            if known.size:
                result[rows] = reduce(known)
        return result


_REDUCTIONS: Mapping[str, Callable[[Column], Any]] = {
    "lowest": np.min,
    "highest": np.max,
    "average": np.mean,
    "median": median,
}


def _linked(
    place: Sequence[int],
    neighbours: Sequence[Sequence[int]],
    order: Iterable[int],
    closed: Sequence[bool],
    places: int,
) -> Pointers:
    """For each place the nearest one, over the neighbours, on the path that meets most; `order` visits those first."""
    counts = [0] * len(place)
    nearest = [-1] * len(place)
    pointers = np.full(places, -1, np.intp)
    for node in order:
        if closed[node]:
            continue
        count, best = 0, -1
        for neighbour in neighbours[node]:
            if counts[neighbour] > count:
                count, best = counts[neighbour], nearest[neighbour]
        own = place[node]
        if own >= 0:
            pointers[own] = best
            count, best = count + 1, own
        counts[node], nearest[node] = count, best
    return pointers


def _accumulated(pointers: Pointers, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each place the sum over it and all that the pointers lead to, by doubling their reach."""
    total = values.copy()
    while (pointers >= 0).any():
        follows = pointers >= 0
        with np.errstate(invalid="ignore"):
            total = np.where(follows, total + total[pointers], total)
        pointers = np.where(follows, pointers[pointers], -1)
    return total
