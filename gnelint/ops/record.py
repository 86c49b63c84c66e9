"""What is said of an operation, once: its signature, what it computes, how ONNX and torch call it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any

from gnelint.records import dataclass

INF = math.inf

Formula = Callable[..., Any]
"""f(xp, *inputs, **numbers): numbers are attributes and parameters by name, and `xp` has functions of arrays by the
vocabulary's names: of numpy (`theory.gaussian.arrays`), of torch (`nn.arrays`), or as nodes of an ONNX file
(`writers.onnx.formulas`)."""

Numbers = Mapping[str, Any]

Probe = Callable[[float], float]
"""A function that was found written out, at one of -1, 0, 0.01, 1 and 2."""

Range = tuple[float, float]

Piece = tuple[float, float, tuple[Any, ...]]
"""low, high and c of the polynomial c[0] + c[1] x + c[2] x^2 that holds on low < x <= high."""


def rounded(number: float) -> float:
    """Seven digits: what a number stored in single precision meant."""
    return float(f"{number:.7g}")


@dataclass(frozen=True)
class Joined:
    """What an operation computes of several inputs or of a parameter, entry by entry."""

    value: Formula


@dataclass(frozen=True, kw_only=True)
class Scalar:
    """A function of one variable whose Gaussian averages a component of its own gives.

    Attributes:
        value: f.
        idioms: attributes with which it is recognised where it is written out in elementary functions; or what reads
            them off its values, None where these are another function's. An activation must say, () for none.
        bounds: between what its values lie, or what gives that by the attributes.
    """

    value: Formula
    idioms: Sequence[Numbers] | Callable[[Probe], Numbers | None] | None = None
    bounds: Range | Callable[..., Range] = (-INF, INF)

    def range(self, numbers: Numbers) -> Range:
        """Between what its values lie with these attributes."""
        return self.bounds(**numbers) if callable(self.bounds) else self.bounds


@dataclass(frozen=True, kw_only=True)
class Smooth(Scalar):
    """A smooth function on the whole line, averaged by quadrature.

    Attributes:
        slope: f'.
        scaled_by: the attribute that multiplies the argument: it bends over lengths of 1 / that, else of 1.
        settled: whether it is a polynomial to rounding, away from 0.
    """

    slope: Formula
    scaled_by: str | None = None
    settled: bool = False


@dataclass(frozen=True, kw_only=True)
class Expanded(Scalar):
    """A function that is not defined everywhere, expanded to second order about the mean.

    Attributes:
        slope, curvature: f' and f''.
        domain: the open interval on which it is defined.
    """

    slope: Formula
    curvature: Formula
    domain: Range


@dataclass(frozen=True, kw_only=True)
class ExponentialBelow(Scalar):
    """p x for x > 0, a (e^{k x} - 1) below, averaged in closed form; p, a and k by the attributes."""

    coefficients: Callable[..., tuple[float, float, float]]


@dataclass(frozen=True, kw_only=True)
class Polynomials(Scalar):
    """A function made of polynomials, averaged in closed form.

    Attributes:
        pieces: the polynomials from left to right, by the attributes.
        value: as the pieces say, where it is not given.
    """

    pieces: Callable[..., tuple[Piece, ...]]
    value: Formula = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.value is None:
            object.__setattr__(self, "value", self._in_pieces)

    def _in_pieces(self, xp: Any, x: Any, **numbers: Any) -> Any:
        pieces = self.pieces(**numbers)
        found = _polynomial(x, pieces[-1])
        for piece in reversed(pieces[:-1]):
            found = xp.where(x > piece[1], found, _polynomial(x, piece))
        return found


def _polynomial(x: Any, piece: Piece) -> Any:
    return sum((c if power == 0 else c * x if power == 1 else c * x**power for power, c in enumerate(piece[2])), 0.0)


@dataclass(frozen=True)
class OnnxForm:
    """An ONNX operator that is this operation, as readers, the interpreter on torch and writers take it.

    Attributes:
        op_type: its name, with the domain in front where that is not ONNX's own ("com.microsoft.QuickGelu").
        since: the first opset in which it may be written; None where it is read alone.
        attributes: ours by what ONNX calls them.
        defaults: of these, by our names, where ONNX has others than ours.
        given: ours that the operator fixes.
        inputs: how many of its inputs are taken; None for all.
    """

    op_type: str
    since: int | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    defaults: Numbers = field(default_factory=dict)
    given: Numbers = field(default_factory=dict)
    inputs: int | None = 1


@dataclass(frozen=True)
class TorchForm:
    """An operation of ATen that is this one.

    Attributes:
        name: bare ("leaky_relu"), or with the overload that means this ("max.other").
        attributes: ours by the names of ATen's schema.
        given: ours that the operation fixes.
        inputs: names of the tensors in ATen's schema.
    """

    name: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    given: Numbers = field(default_factory=dict)
    inputs: tuple[str, ...] = ("self",)


@dataclass(frozen=True)
class Operation:
    """A canonical operation.

    Attributes:
        name: in graphs and rule patterns.
        family: the group that a rule pattern may name instead of the operation.
        doc: what it is, for people.
        inputs: names of the activation inputs; a trailing "*" takes any number, a trailing "?" may be left out.
        parameters: roles of constant operands; any may be absent unless the operation makes no sense without it.
        attributes: names with their defaults; `...` marks one without a default.
        function: what it computes, where it does so entry by entry.
        onnx, torch: what readers lower to it as it stands; what takes more than that has a lowering in the readers.
            A function of one variable must say, () where there is none.
        module: the class of torch.nn, where there is one.

    Raises:
        ValueError: a part is forgotten, or names an attribute that there is not.
    """

    name: str
    family: str
    doc: str
    inputs: tuple[str, ...] = ("x",)
    parameters: tuple[str, ...] = ()
    attributes: Numbers = field(default_factory=dict)
    function: Joined | Scalar | None = None
    onnx: tuple[OnnxForm, ...] | None = None
    torch: tuple[TorchForm, ...] | None = None
    module: str = ""

    def __post_init__(self) -> None:
        said = {"function": self.function, "onnx": self.onnx, "torch": self.torch}
        if self.family == "activation":
            said["function's idioms"] = getattr(self.function, "idioms", None)
        forgotten = [part for part, value in said.items() if value is None]
        if forgotten and self.family in ("activation", "pointwise"):
            raise ValueError(f"{self.name}: a record of the family {self.family} says its {', '.join(forgotten)}")
        forms: tuple[OnnxForm | TorchForm, ...] = (*(self.onnx or ()), *(self.torch or ()))
        named = {name for form in forms for name in (*form.attributes, *form.given)}
        if not named <= self.attributes.keys():
            raise ValueError(f"{self.name} has no attribute {', '.join(sorted(named - self.attributes.keys()))}")
