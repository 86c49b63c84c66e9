"""Sums, products, choices and concatenation of several values."""

from gnelint.components.combine.choices import Hypot, Maximum, Minimum, Where
from gnelint.components.combine.constants import Constant
from gnelint.components.combine.products import Divide, Multiply
from gnelint.components.combine.side_by_side import Concatenate
from gnelint.components.combine.sums import Add, Mean, Subtract

__all__ = [
    "Add",
    "Concatenate",
    "Constant",
    "Divide",
    "Hypot",
    "Maximum",
    "Mean",
    "Minimum",
    "Multiply",
    "Subtract",
    "Where",
]
