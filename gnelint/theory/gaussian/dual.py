"""The formulas of operations on numbers with a derivative: forward-mode differentiation on arrays.

A formula that runs on numpy (`arrays`) runs on `Dual` numbers as it stands and differentiates itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from gnelint.records import dataclass
from gnelint.theory.gaussian.arrays import NUMPY

Number = Any
"""A `Dual`, or an array or plain number that does not depend on the variable."""


def value_of(x: Number) -> Any:
    """The number itself."""
    return x.value if isinstance(x, Dual) else x


def slope_of(x: Number) -> Any:
    """Its derivative."""
    return x.slope if isinstance(x, Dual) else 0.0


def _chained(outer: Any, inner: Any) -> np.ndarray:
    """outer * inner; where the inner derivative is 0 nothing passes, whatever the outer one is."""
    product = np.asarray(outer * inner)
    return np.where(inner == 0.0, 0.0, product) if np.isnan(product).any() else product


@dataclass(frozen=True, eq=False)
class Dual:
    """A number and its derivative by the one variable."""

    value: np.ndarray
    slope: np.ndarray

    __array_ufunc__ = None  # an array on the left leaves the operation to this class

    def __add__(self, other: Number) -> Dual:
        return Dual(self.value + value_of(other), self.slope + slope_of(other))

    __radd__ = __add__

    def __neg__(self) -> Dual:
        return Dual(-self.value, -self.slope)

    def __sub__(self, other: Number) -> Dual:
        return Dual(self.value - value_of(other), self.slope - slope_of(other))

    def __rsub__(self, other: Number) -> Dual:
        return Dual(value_of(other) - self.value, slope_of(other) - self.slope)

    def __mul__(self, other: Number) -> Dual:
        by_self, by_other = _chained(value_of(other), self.slope), _chained(self.value, slope_of(other))
        return Dual(self.value * value_of(other), by_self + by_other)

    __rmul__ = __mul__

    def __truediv__(self, other: Number) -> Dual:
        return self.__mul__(_reciprocal(other) if isinstance(other, Dual) else 1.0 / other)

    def __rtruediv__(self, other: Number) -> Any:
        return other * _reciprocal(self)

    def __pow__(self, exponent: float) -> Dual:
        return Dual(self.value**exponent, _chained(exponent * self.value ** (exponent - 1), self.slope))

    def __lt__(self, other: Number) -> Any:
        return self.value < value_of(other)

    def __le__(self, other: Number) -> Any:
        return self.value <= value_of(other)

    def __gt__(self, other: Number) -> Any:
        return self.value > value_of(other)

    def __ge__(self, other: Number) -> Any:
        return self.value >= value_of(other)


def _lifted(name: str, slope: Callable[..., Any]) -> Callable[..., Any]:
    """A function of `NUMPY` whose derivative by its first argument is slope(x, f(x), further arguments)."""
    function = getattr(NUMPY, name)

    def lifted(x: Number, *numbers: Any) -> Any:
        if not isinstance(x, Dual):
            return function(x, *numbers)
        y = function(x.value, *numbers)
        return Dual(y, _chained(slope(x.value, y, *numbers), x.slope))

    return lifted


_reciprocal = _lifted("reciprocal", lambda x, y: -(y**2))


def _where(condition: Number, a: Number, b: Number) -> Dual:
    holds = np.asarray(value_of(condition)) != 0
    return Dual(np.where(holds, value_of(a), value_of(b)), np.where(holds, slope_of(a), slope_of(b)))


def _inside(x: np.ndarray, y: np.ndarray, low: float | None, high: float | None) -> np.ndarray:
    return (x > (-math.inf if low is None else low)) & (x < (math.inf if high is None else high))


_SLOPES: dict[str, Callable[..., Any]] = {
    "abs": lambda x, y: np.sign(x),
    "acos": lambda x, y: -((1 - x**2) ** -0.5),
    "acosh": lambda x, y: (x**2 - 1) ** -0.5,
    "asin": lambda x, y: (1 - x**2) ** -0.5,
    "asinh": lambda x, y: (1 + x**2) ** -0.5,
    "atan": lambda x, y: 1 / (1 + x**2),
    "atanh": lambda x, y: 1 / (1 - x**2),
    "clip": _inside,
    "cos": lambda x, y: -np.sin(x),
    "cosh": lambda x, y: np.sinh(x),
    "elu": lambda x, y, alpha: np.where(x > 0.0, 1.0, y + alpha),
    "erf": lambda x, y: 2.0 / math.sqrt(math.pi) * np.exp(-(x**2)),
    "exp": lambda x, y: y,
    "log": lambda x, y: 1 / x,
    "normal_cdf": lambda x, y: NUMPY.normal_pdf(x),
    "normal_pdf": lambda x, y: -x * y,
    "sigmoid": lambda x, y: y * (1 - y),
    "sin": lambda x, y: np.cos(x),
    "sinh": lambda x, y: np.cosh(x),
    "softplus": lambda x, y: NUMPY.sigmoid(x),
    "sqrt": lambda x, y: 0.5 / y,
    "tan": lambda x, y: 1 + y**2,
    "tanh": lambda x, y: 1 - y**2,
    **dict.fromkeys(("ceil", "floor", "round", "sign", "trunc"), lambda x, y: 0.0),
}

DUAL = SimpleNamespace(
    maximum=lambda a, b: _where(value_of(a) >= value_of(b), a, b),
    minimum=lambda a, b: _where(value_of(a) <= value_of(b), a, b),
    reciprocal=_reciprocal,
    where=_where,
    **{name: _lifted(name, slope) for name, slope in _SLOPES.items()},
)
