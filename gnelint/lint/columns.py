"""What expressions compute with: one entry a match.

    number, truth   floats, nan where it is not known; a truth value is 1, 0 or nan
    text            objects, None where it is not known
    node, block     positions in the graph's nodes and in the prediction's blocks, -1 for none

A function of the language is called for each node, block or pair once and remembered: 40 rules ask the same of the
same nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnelint.lint.facts import Facts
from gnelint.lint.index import Mask
from gnelint.lint.kinds import Function, Kind

Column = NDArray[Any]

TRUTH_TEXT = {1.0: True, 0.0: False}


def constant(value: Any, size: int) -> Column:
    """A column that repeats one value."""
    if isinstance(value, str):
        filled = np.empty(size, object)
        filled[:] = value
        return filled
    return np.full(size, float(value))


def plain(kind: Kind, entry: Any) -> Any:
    """An entry of a column as Python knows it: None, a number, True, False or a text."""
    if kind == "text":
        return entry
    if math.isnan(entry):
        return None
    return TRUTH_TEXT[entry] if kind == "truth" else float(entry)


@dataclass
class _Memory:
    """A function's values at nodes or blocks, by position; the last entry stands for none."""

    values: Column
    known: Mask


@dataclass
class Columns:
    """The facts of one prediction, column by column; what was asked once is remembered."""

    facts: Facts
    _at_places: dict[tuple[Any, ...], _Memory] = field(default_factory=dict)
    _at_keys: dict[tuple[Any, ...], dict[Any, Any]] = field(default_factory=dict)

    def call(self, function: Function, kinds: Sequence[Kind], arguments: Sequence[Any], size: int) -> Column:
        """A function's values.

        Args:
            function: of the language, not one of numbers alone.
            kinds: of the arguments; literal ones are passed on as they are.
            arguments: a column each, or the literal.
            size: number of matches.
        """
        places = [place for place, argument in enumerate(arguments) if isinstance(argument, np.ndarray)]
        literals = tuple(argument for argument in arguments if not isinstance(argument, np.ndarray))
        key = (function.signature, *(kinds[place] for place in places), *literals)
        if not places:
            return _column(function.result, [self._value(function, arguments)] * size)
        if len(places) == 1 and kinds[places[0]] in ("node", "block"):
            return self._of_places(key, function, kinds[places[0]], places[0], arguments)
        entries = list(zip(*(arguments[place].tolist() for place in places), strict=True))
        known = self._at_keys.setdefault(key, {})
        makers = [self._maker(kinds[place]) for place in places]
        given = list(arguments)
        for entry in set(entries) - known.keys():
            for place, maker, position in zip(places, makers, entry, strict=True):
                given[place] = maker(position)
            known[entry] = self._value(function, given)
        return _column(function.result, [known[entry] for entry in entries])

    def _of_places(
        self, key: tuple[Any, ...], function: Function, kind: Kind, place: int, arguments: Sequence[Any]
    ) -> Column:
        """The values of a function of one node or block and of literals."""
        column = arguments[place]
        objects: Sequence[Any] = self.facts.graph.nodes if kind == "node" else self.facts.prediction.blocks
        memory = self._at_places.get(key)
        if memory is None:
            empty = _column(function.result, [None if function.result == "text" else -1] * (len(objects) + 1))
            memory = self._at_places[key] = _Memory(empty, np.zeros(len(objects) + 1, np.bool_))
        missing = column[~memory.known[column]]
        given = list(arguments)
        for position in dict.fromkeys(missing.tolist()):
            given[place] = objects[position] if position >= 0 else None
            memory.values[position] = self._value(function, given)
        memory.known[missing] = True
        found: Column = memory.values[column]
        return found

    def _value(self, function: Function, given: Sequence[Any]) -> Any:
        """One value as a column holds it."""
        if not function.takes_unknown and any(each is None for each in given):
            value = None
        else:
            try:
                value = function.call(self.facts, *given)
            except (OverflowError, ValueError):
                value = None
        if function.result == "text":
            return value
        if function.result in ("node", "block"):
            return -1 if value is None else value
        return math.nan if value is None else value

    def _maker(self, kind: Kind) -> Callable[[Any], Any]:
        """From an entry of a column to the object that functions get; None if there is none."""
        if kind == "node":
            nodes = self.facts.graph.nodes
            return lambda entry: nodes[entry] if entry >= 0 else None
        if kind == "block":
            blocks = self.facts.prediction.blocks
            return lambda entry: blocks[entry] if entry >= 0 else None
        return lambda entry: plain(kind, entry)


def _column(kind: Kind, values: list[Any]) -> Column:
    if kind == "text":
        found = np.empty(len(values), object)
        found[:] = values
        return found
    return np.array(values, np.intp if kind in ("node", "block") else np.float64)
