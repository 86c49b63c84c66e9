"""Lowerings of complex tensors, which are pairs of real ones here.

A complex value is a real one with an axis more at the end: the real and the imaginary part. Products with constants of
length one (rotary embeddings) are linear maps of these pairs. What has no formula here is run as it is, with all that
is computed of it until numbers are real again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from gnelint.readers.emitter import CannotLowerError, Shape
from gnelint.readers.lowering import add, divide, multiply
from gnelint.readers.torch.constants import Constant, derived
from gnelint.readers.torch.emitter import Call, Emitter, Flow, Operand
from gnelint.readers.torch.ops.constants import written
from gnelint.records import dataclass

Part = Flow | Constant | float
"""One part of a complex tensor; a number is that number everywhere."""


@dataclass(frozen=True)
class Complex:
    """A complex tensor that depends on the network's input, as its parts.

    Attributes:
        real, imaginary: of this shape, or broadcast to it.
        shape: of the complex tensor.
    """

    real: Part
    imaginary: Part
    shape: Shape

    @property
    def dtype(self) -> str:
        """As torch names it."""
        return "complex64"

    @property
    def flows(self) -> tuple[Flow, ...]:
        """The parts that depend on the network's input."""
        return tuple(part for part in (self.real, self.imaginary) if isinstance(part, Flow))


def paired(both: Iterable[Part], shape: Shape) -> Complex:
    """A complex tensor of this shape from its two parts."""
    real, imaginary = both
    return Complex(real, imaginary, shape)


def is_complex(x: Any) -> bool:
    """Whether an operand, or what an operation returns, is complex."""
    if isinstance(x, Flow | Constant | Call):
        return x.dtype.startswith("complex")
    return isinstance(x, Complex | complex)


def parts(x: Any) -> tuple[Part, Part]:
    """The real and the imaginary part.

    Raises:
        CannotLowerError: a complex tensor without parts: nobody has a formula for what computed it.
    """
    if isinstance(x, Complex):
        return x.real, x.imaginary
    if isinstance(x, int | float | complex):
        return x.real, x.imag
    if isinstance(x, Flow) and is_complex(x):
        raise CannotLowerError("complex numbers of an operation that is not known")
    return (derived(_real, x), derived(_imaginary, x)) if is_complex(x) else (x, 0.0)


def _real(x: torch.Tensor) -> torch.Tensor:
    return x.real.contiguous()


def _imaginary(x: torch.Tensor) -> torch.Tensor:
    return x.imag.contiguous()


def tensor(em: Emitter, part: Part, shape: Shape) -> Operand:
    """A part as a tensor of this shape."""
    if isinstance(part, Flow):
        return em.expand(part, shape)
    sizes = tuple(size for size in shape if isinstance(size, int))
    if len(sizes) < len(shape):
        raise CannotLowerError("a constant of symbolic size")
    if isinstance(part, Constant):
        return part if part.shape == sizes else derived(lambda x: x.expand(sizes), part)
    return written(torch.full(sizes, float(part)), f"{part} {sizes}")


# --- arithmetic -------------------------------------------------------------------------------------------------------


def plus(em: Emitter, a: Part, b: Part, shape: Shape, alpha: float = 1.0) -> Part:
    """a + alpha b, where nothing is added that is zero."""
    if isinstance(b, int | float):
        return a + alpha * b if isinstance(a, int | float) else add(em, a, alpha * b, shape) if b else a
    if isinstance(a, int | float) and a == 0:
        return _times(em, b, alpha, shape)
    return add(em, a, b, shape, alpha)


def _times(em: Emitter, a: Part, b: Part, shape: Shape) -> Part:
    """a b, where nothing is multiplied by zero or one."""
    if isinstance(a, int | float):
        a, b = b, a
    if isinstance(b, int | float):
        if isinstance(a, int | float) or b == 0:
            return a * b if isinstance(a, int | float) else 0.0
        return a if b == 1 else multiply(em, a, b, shape)
    return multiply(em, a, b, shape)


def _product(em: Emitter, a: Any, b: Any, real_product: Callable[[Part, Part], Part], shape: Shape) -> Complex:
    """(r + is)(t + iu) = rt - su + i (ru + st) for whatever multiplies real tensors."""
    (r, s), (t, u) = parts(a), parts(b)
    real = plus(em, real_product(r, t), real_product(s, u), shape, -1.0)
    return Complex(real, plus(em, real_product(r, u), real_product(s, t), shape), shape)


def _multiplied(em: Emitter, call: Call) -> Any:
    return _product(em, call["self"], call["other"], lambda a, b: _times(em, a, b, call.shape), call.shape)


def _sum_of(first: str, second: str, sign: float) -> Callable[[Emitter, Call], Any]:
    def lower(em: Emitter, call: Call) -> Any:
        alpha = call.get("alpha", 1)
        (r, s), (t, u) = parts(call[first]), parts(call[second])
        if not isinstance(alpha, int | float):
            raise CannotLowerError("a complex factor of a sum")
        sums = (plus(em, one, other, call.shape, sign * alpha) for one, other in ((r, t), (s, u)))
        return paired(sums, call.shape)

    return lower


def _divided(em: Emitter, call: Call) -> Any:
    """By what is real, or by a number."""
    a, b = call["self"], call["other"]
    if isinstance(b, complex):
        return _product(em, a, 1.0 / b, lambda one, other: _times(em, one, other, call.shape), call.shape)
    if is_complex(b):
        raise CannotLowerError("a quotient of complex tensors")
    real, imaginary = (0.0 if part == 0.0 else divide(em, part, b, call.shape) for part in parts(a))
    return Complex(real, imaginary, call.shape)


def _negated(em: Emitter, call: Call) -> Any:
    return paired((_times(em, part, -1.0, call.shape) for part in parts(call["self"])), call.shape)


def _squared(em: Emitter, call: Call) -> Any:
    if call.get("exponent", 2) != 2:
        raise CannotLowerError("a power of complex numbers")
    x = call["self"]
    return _product(em, x, x, lambda a, b: _times(em, a, b, call.shape), call.shape)


def _exponential(em: Emitter, call: Call) -> Any:
    """e^(r + is), on a circle of radius e^r."""
    radius, angle = parts(call["self"])
    grown = 1.0 if radius == 0.0 else em.emit("exp", [tensor(em, radius, call.shape)], call.shape)
    return _on_circle(em, grown, tensor(em, angle, call.shape), call.shape)


def _polar(em: Emitter, call: Call) -> Any:
    return _on_circle(em, call["abs"], call["angle"], call.shape)


def _on_circle(em: Emitter, radius: Part, angle: Operand, shape: Shape) -> Complex:
    waves = (em.emit(wave, [angle], angle.shape) for wave in ("cos", "sin"))
    return paired((_times(em, radius, wave, shape) for wave in waves), shape)


OF_COMPLEX: Mapping[str, Callable[[Emitter, Call], Any]] = {
    "mul": _multiplied,
    "add": _sum_of("self", "other", 1.0),
    "sub": _sum_of("self", "other", -1.0),
    "rsub": _sum_of("other", "self", -1.0),
    "div": _divided,
    "neg": _negated,
    "pow": _squared,
    "square": _squared,
    "exp": _exponential,
}
"""What these do where their result is complex."""


def of_complex(name: str, lower: Callable[[Emitter, Call], Any]) -> Callable[[Emitter, Call], Any]:
    """A lowering of real tensors with what it does where its result is complex."""
    own = OF_COMPLEX[name]
    return lambda em, call: (own if call.dtype.startswith("complex") else lower)(em, call)


# --- parts ------------------------------------------------------------------------------------------------------------


def _view_as_complex(em: Emitter, call: Call) -> Any:
    x = em.flow(call["self"])
    last = len(x.shape) - 1
    real, imaginary = (em.reshape(em.slice(x, last, at, at + 1), x.shape[:-1]) for at in (0, 1))
    return Complex(real, imaginary, x.shape[:-1])


def _view_as_real(em: Emitter, call: Call) -> Any:
    shape = call.shape[:-1]
    both = [em.reshape(em.flow(tensor(em, part, shape)), (*shape, 1)) for part in parts(call["self"])]
    return em.concat(both, len(shape))


def _conjugated(em: Emitter, call: Call) -> Any:
    x = call["self"]
    if not is_complex(x):
        return x
    real, imaginary = parts(x)
    return Complex(real, _times(em, imaginary, -1.0, call.shape), call.shape)


def _complex(em: Emitter, call: Call) -> Any:
    return Complex(call["real"], call["imag"], call.shape)


def _part(index: int) -> Callable[[Emitter, Call], Any]:
    def lower(em: Emitter, call: Call) -> Any:
        return tensor(em, parts(call["self"])[index], call.shape)

    return lower


def each_part(lower: Callable[[Emitter, Call], Any]) -> Callable[[Emitter, Call], Any]:
    """A lowering that moves or adds entries, of one tensor or of several, for complex ones part by part; what is made
    complex has nothing in its imaginary part."""

    def of_parts(em: Emitter, call: Call) -> Any:
        names = [name for name in ("self", "src", "tensors", "other") if name in call.arguments]
        moved = {name: call[name] for name in names}
        if not any(map(is_complex, (*tree_leaves(list(moved.values())), call))):
            return lower(em, call)
        filled = parts(call.get("value", 0.0))
        found = []
        for index in (0, 1):
            own = tree_map(lambda x: parts(x)[index], moved)  # noqa: B023
            zero = all(part == 0.0 for part in (*tree_leaves(own), filled[index]))
            given = tree_map(lambda part, x: tensor(em, part, getattr(x, "shape", ())), own, moved)
            given |= {"value": filled[index]} if "value" in call.arguments else {}
            found.append(0.0 if zero else lower(em, _real_call(call, given)))
        return paired(found, call.shape) if is_complex(call) else tensor(em, found[0], call.shape)

    return of_parts


def product_of_parts(lower: Callable[[Emitter, Call], Any]) -> Callable[[Emitter, Call], Any]:
    """A lowering that multiplies two tensors and sums, for complex ones by their parts; a bias is added to them."""

    def of_parts(em: Emitter, call: Call) -> Any:
        names = [
            name for name in ("tensors", "self", "other", "mat2", "vec2", "input", "weight") if name in call.arguments
        ]
        operands = tree_leaves([call[name] for name in names])
        if not any(map(is_complex, operands)):
            return lower(em, call)
        if len(operands) != 2:
            raise CannotLowerError("a product of several complex numbers")

        def product(one: Part, other: Part) -> Part:
            if one == 0.0 or other == 0.0:
                return 0.0
            pair = [tensor(em, part, x.shape) for part, x in zip((one, other), operands, strict=True)]
            given = {"tensors": pair} if names == ["tensors"] else dict(zip(names, pair, strict=True))
            found: Part = lower(em, _real_call(call, {"bias": None, **given} if "bias" in call.arguments else given))
            return found

        a, b = operands
        found = _product(em, a, b, product, call.shape)
        if call.get("bias") is None:
            return found
        pairs = zip(parts(found), parts(call["bias"]), strict=True)
        return paired((plus(em, part, bias, call.shape) for part, bias in pairs), call.shape)

    return of_parts


def _real_call(call: Call, given: Mapping[str, Any]) -> Call:
    """The same operation on parts, which are real."""
    outputs = tuple(
        None if output is None else (output[0], _PARTS.get(output[1], output[1])) for output in call.outputs
    )
    return Call(call.node, {**call.arguments, **given}, outputs)


_PARTS = {"complex64": "float32", "complex128": "float64", "complex32": "float16"}


def length_of_parts(lower: Callable[[Emitter, Call], Any]) -> Callable[[Emitter, Call], Any]:
    """The lowering of abs, for complex tensors the length of both parts."""

    def of_parts(em: Emitter, call: Call) -> Any:
        x = call["self"]
        if not is_complex(x):
            return lower(em, call)
        both = [tensor(em, part, call.shape) for part in parts(x) if part != 0.0]
        if len(both) == 1:
            return lower(em, _real_call(call, {"self": both[0]}))
        return em.emit("hypot", both, call.shape)

    return of_parts


COMPLEX_OPS: Mapping[str, Callable[[Emitter, Call], Any]] = {
    "view_as_complex": _view_as_complex,
    "view_as_real": _view_as_real,
    "complex": _complex,
    "polar": _polar,
    **dict.fromkeys(("_conj", "_conj_physical", "conj_physical"), _conjugated),
    "real": _part(0),
    "imag": _part(1),
}
