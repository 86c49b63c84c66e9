"""Arithmetic that asks for no facts."""

from __future__ import annotations

import numpy as np

from gnelint.lint.columns import Column
from gnelint.lint.functions.signature import function, of_numbers


def _least(*columns: Column) -> Column:
    found: Column = np.min(np.stack(columns), axis=0)
    return found


def _largest(*columns: Column) -> Column:
    found: Column = np.max(np.stack(columns), axis=0)
    return found


def _default(x: Column, y: Column) -> Column:
    return np.where(np.isnan(x), y, x)


def _choose(condition: Column, x: Column, y: Column) -> Column:
    return np.where(np.isnan(condition), np.nan, np.where(condition == 1.0, x, y))


NUMBERS = (
    of_numbers("abs(x)", np.fabs, "absolute value"),
    of_numbers("log2(x)", np.log2, "binary logarithm; -inf at 0, unknown below"),
    of_numbers("exp2(x)", np.exp2, "2 to the power of x"),
    of_numbers("sqrt(x)", np.sqrt, "square root; unknown below 0"),
    of_numbers("min(x, y)", _least, "the least of two or more", variadic=True),
    of_numbers("max(x, y)", _largest, "the largest of two or more", variadic=True),
    of_numbers("default(x, y)", _default, "x, or y where x is not known"),
    of_numbers("is_known(x)", lambda x: 1.0 - np.isnan(x), "x is known", result="truth"),
    function("choose(c, x, y)", "number", _choose, "x where c holds, y where it does not", numbers=True),
)
