"""Operations of the vocabulary written as nodes: by their own operator, else by their formula."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from gnelint.ops import VOCABULARY
from gnelint.ops.record import Operation
from gnelint.records import dataclass
from gnelint.writers.base import CannotEditError
from gnelint.writers.onnx.fragments import Sketch


def pointwise(sketch: Sketch, op: str, given: Mapping[str, Any], x: str) -> str:
    """An operation of one variable, as the operator that its record names where the opset has that, else by its
    formula. The name of what it writes.

    Raises:
        CannotEditError: it cannot be written.
    """
    record = VOCABULARY.get(op)
    if record is None or record.function is None:
        raise CannotEditError(f"{op} cannot be written")
    numbers = {**record.attributes, **given}
    named = _named(sketch, record, numbers, x)
    if named is not None:
        return named
    if sketch.version < 7:
        raise CannotEditError(f"{op} cannot be written with opset {sketch.version}")
    found: Written = record.function.value(_arrays(sketch), Written(sketch, x), **numbers)
    return found.name


def _named(sketch: Sketch, record: Operation, numbers: Mapping[str, Any], x: str) -> str | None:
    """The operation as an operator of its own; None if the opset has none with these attributes."""
    for form in record.onnx or ():
        fixed = {**record.attributes, **form.given}
        same = all(numbers[name] == fixed[name] for name in numbers if name not in form.attributes)
        if same and form.since is not None and sketch.version >= form.since:
            return sketch.op(form.op_type, x, **{theirs: numbers[ours] for ours, theirs in form.attributes.items()})
    return None


@dataclass(frozen=True)
class Written:
    """A value of a sketch that formulas compute with: every operation is a node."""

    sketch: Sketch
    name: str

    def op(self, op_type: str, *operands: Written | float) -> Written:
        """What an operator makes of the operands."""
        names = [operand.name if isinstance(operand, Written) else operand for operand in operands]
        return Written(self.sketch, self.sketch.op(op_type, *names))

    def __add__(self, other: Written | float) -> Written:
        return self if other == 0.0 else self.op("Add", self, other)

    def __sub__(self, other: Written | float) -> Written:
        return self.op("Sub", self, other)

    def __mul__(self, other: Written | float) -> Written:
        return self if other == 1.0 else self.op("Mul", self, other)

    def __truediv__(self, other: Written | float) -> Written:
        return self if other == 1.0 else self.op("Div", self, other)

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: float) -> Written:
        return self.op("Sub", other, self)

    def __rtruediv__(self, other: float) -> Written:
        return self.op("Div", other, self)

    def __pow__(self, exponent: float) -> Written:
        return self.op("Pow", self, float(exponent))

    def __neg__(self) -> Written:
        return self.op("Neg", self)

    def __gt__(self, other: Written | float) -> Written:
        return self.op("Greater", self, other)


_ELEMENTARY = ("abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "cos", "cosh", "erf", "exp", "log",
               "reciprocal", "sigmoid", "sin", "sinh", "softplus", "sqrt", "tan", "tanh")  # fmt: skip


def _arrays(sketch: Sketch) -> SimpleNamespace:
    """What formulas compute with when they are written down."""

    def named(op: str, **numbers: Any) -> Callable[[Written], Written]:
        def write(x: Written) -> Written:
            found = _named(sketch, VOCABULARY[op], {**VOCABULARY[op].attributes, **numbers}, x.name)
            if found is None:
                raise CannotEditError(f"opset {sketch.version} has no operator for {numbers.get('kind', op)}")
            return Written(sketch, found)

        return write

    def operator(op_type: str) -> Callable[..., Written]:
        return lambda x, *rest: x.op(op_type, x, *rest)

    return SimpleNamespace(
        **{name: named(name) for name in _ELEMENTARY},
        **{kind: named("step", kind=kind) for kind in ("ceil", "floor", "round", "sign", "trunc")},
        clip=lambda x, low, high: Written(sketch, _clip(sketch, x.name, low, high)),
        elu=lambda x, alpha: Written(sketch, sketch.op("Elu", x.name, alpha=alpha)),
        maximum=operator("Max"), minimum=operator("Min"), where=operator("Where"),
        normal_cdf=lambda x: (named("erf")(x * math.sqrt(0.5)) + 1.0) * 0.5,
        normal_pdf=lambda x: named("exp")(x * x * -0.5) / math.sqrt(2.0 * math.pi),
    )  # fmt: skip


def _clip(sketch: Sketch, x: str, low: float | None, high: float | None) -> str:
    bounds = {name: bound for name, bound in (("min", low), ("max", high)) if bound is not None}
    if sketch.version < 11:
        return sketch.op("Clip", x, **bounds)
    return sketch.op("Clip", x, "" if low is None else float(low), *([] if high is None else [float(high)]))
