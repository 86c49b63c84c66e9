"""Lowerings of complex tensors, which are pairs of real ones here, and of Fourier transforms.

A complex value is a real one with an axis more at the end: the real and the imaginary part. Products with constants of
length one (rotary embeddings) and transforms are linear maps of these pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from gnelint.readers.emitter import CannotLowerError, Shape
from gnelint.readers.lowering import add, multiply
from gnelint.readers.torch.constants import Constant, derived
from gnelint.readers.torch.emitter import Call, Emitter, Flow, Operand
from gnelint.readers.torch.ops.constants import written
from gnelint.records import dataclass

_MOST = 1 << 22
"""Entries of the largest matrix that is written for a transform."""


@dataclass(frozen=True)
class Complex:
    """A complex tensor that depends on the network's input, as its parts."""

    real: Flow
    imaginary: Flow

    @property
    def shape(self) -> Shape:
        """Of the complex tensor."""
        return self.real.shape

    @property
    def dtype(self) -> str:
        """As torch names it."""
        return "complex64"


def _parts(em: Emitter, x: Any) -> tuple[Operand, Operand]:
    """The real and the imaginary part."""
    if isinstance(x, Complex):
        return x.real, x.imaginary
    if isinstance(x, Constant) and x.dtype.startswith("complex"):
        return derived(_real, x), derived(_imaginary, x)
    flow = em.flow(x)
    return flow, em.scale(flow, 0.0)


def _real(x: torch.Tensor) -> torch.Tensor:
    return x.real.contiguous()


def _imaginary(x: torch.Tensor) -> torch.Tensor:
    return x.imag.contiguous()


def _view_as_complex(em: Emitter, call: Call) -> Any:
    x = em.flow(call["self"])
    last = len(x.shape) - 1
    real, imaginary = (em.reshape(em.slice(x, last, at, at + 1), x.shape[:-1]) for at in (0, 1))
    return Complex(real, imaginary)


def _view_as_real(em: Emitter, call: Call) -> Any:
    parts = [em.reshape(em.flow(part), (*call.shape[:-1], 1)) for part in _parts(em, call["self"])]
    return em.concat(parts, len(call.shape) - 1)


def _conjugated(em: Emitter, call: Call) -> Any:
    x = call["self"]
    if not _is_complex(x):
        return em.flow(x)
    real, imaginary = _parts(em, x)
    return Complex(em.flow(real), em.scale(em.flow(imaginary), -1.0))


def _complex(em: Emitter, call: Call) -> Any:
    return Complex(em.flow(call["real"]), em.flow(call["imag"]))


def multiplied(em: Emitter, a: Any, b: Any, shape: Shape) -> Any:
    """The product of two tensors one of which is complex."""
    if not _is_complex(a):
        a, b = b, a
    return _product(em, a, b, lambda one, other: multiply(em, one, other, shape), shape)


def _product(em: Emitter, a: Any, b: Any, real_product: Callable[[Any, Any], Any], shape: Shape) -> Complex:
    """(a + ib)(c + id) = ac - bd + i (ad + bc) for whatever multiplies real tensors; either may be real itself."""
    if not _is_complex(a):
        return Complex(*(em.flow(real_product(a, part)) for part in _parts(em, b)))
    if not _is_complex(b):
        return Complex(*(em.flow(real_product(part, b)) for part in _parts(em, a)))
    (r1, i1), (r2, i2) = _parts(em, a), _parts(em, b)
    real = add(em, real_product(r1, r2), real_product(i1, i2), shape, -1.0)
    return Complex(em.flow(real), em.flow(add(em, real_product(r1, i2), real_product(i1, r2), shape)))


def _is_complex(x: Any) -> bool:
    return isinstance(x, Complex) or (isinstance(x, Constant) and x.dtype.startswith("complex"))


def each_part(lower: Callable[[Emitter, Call], Any]) -> Callable[[Emitter, Call], Any]:
    """A lowering that moves entries, of one tensor or of several, for complex ones part by part."""

    def of_parts(em: Emitter, call: Call) -> Any:
        moved = {name: call[name] for name in ("self", "src", "tensors") if name in call.arguments}
        if not any(map(_is_complex, tree_leaves(list(moved.values())))):
            return lower(em, call)
        found = []
        for index in (0, 1):
            own = {name: tree_map(lambda x: _parts(em, x)[index], given) for name, given in moved.items()}  # noqa: B023
            found.append(lower(em, _real_call(call, own)))
        return Complex(*map(em.flow, found))

    return of_parts


def product_of_parts(lower: Callable[[Emitter, Call], Any]) -> Callable[[Emitter, Call], Any]:
    """A lowering that multiplies two tensors and sums, for complex ones by their parts."""

    def of_parts(em: Emitter, call: Call) -> Any:
        names = [name for name in ("tensors", "self", "other", "mat2", "vec2") if name in call.arguments]
        operands = tree_leaves([call[name] for name in names])
        if not any(map(_is_complex, operands)):
            return lower(em, call)
        if len(operands) != 2:
            raise CannotLowerError("a product of several complex numbers")

        def product(one: Any, other: Any) -> Any:
            given = {"tensors": [one, other]} if names == ["tensors"] else dict(zip(names, (one, other), strict=True))
            return lower(em, _real_call(call, given))

        a, b = operands
        return _product(em, a, b, product, call.shape)

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
        return em.emit("hypot", [x.real, x.imaginary], call.shape) if isinstance(x, Complex) else lower(em, call)

    return of_parts


def _part(index: int) -> Callable[[Emitter, Call], Any]:
    def lower(em: Emitter, call: Call) -> Any:
        return em.flow(_parts(em, call["self"])[index])

    return lower


# --- transforms -------------------------------------------------------------------------------------------------------


def _along(em: Emitter, x: Operand, matrix: torch.Tensor, name: str, axis: int) -> Flow:
    """A constant (out, in) matrix along an axis, whose entries beyond its columns are cut and missing ones are zero."""
    flow = em.flow(x)
    size = flow.shape[axis]
    if not isinstance(size, int) or matrix.numel() > _MOST:
        raise CannotLowerError("a transform that is too long, or of symbolic length")
    if size > matrix.shape[1]:
        flow = em.slice(flow, axis, 0, matrix.shape[1])
    weight = written(matrix[:, : min(size, matrix.shape[1])].float().contiguous(), name).parameter()
    last = [a for a in range(len(flow.shape)) if a != axis] + [axis]
    moved = em.transpose(flow, last)
    mapped = em.emit("linear", [moved], (*moved.shape[:-1], matrix.shape[0]), parameters={"weight": weight})
    return em.transpose(mapped, [last.index(a) for a in range(len(last))])


def _factor(norm: str | None, length: int, inverse: bool) -> float:
    if norm == "ortho":
        return 1.0 / math.sqrt(length)
    return 1.0 / length if inverse == (norm != "forward") else 1.0


def _transformed(em: Emitter, x: Any, length: int, axis: int, norm: str | None, inverse: bool) -> Complex:
    """The discrete Fourier transform along an axis."""
    angle = 2 * math.pi * torch.outer(torch.arange(length), torch.arange(length)).double().remainder(length) / length
    factor = _factor(norm, length, inverse)
    cosine, sine = factor * angle.cos(), factor * angle.sin() * (1 if inverse else -1)
    real, imaginary = _parts(em, x)
    re, im = (_along(em, real, matrix, f"transform of {length}", axis) for matrix in (cosine, sine))
    if not isinstance(x, Complex):
        return Complex(re, im)
    return Complex(
        em.flow(add(em, re, _along(em, imaginary, sine, f"transform of {length}", axis), re.shape, -1.0)),
        em.flow(add(em, im, _along(em, imaginary, cosine, f"transform of {length}", axis), im.shape)),
    )


def _fft(inverse: bool) -> Callable[[Emitter, Call], Any]:
    def lower(em: Emitter, call: Call) -> Any:
        axis = call["dim"] % len(call.shape)
        return _transformed(em, call["self"], int(call["n"] or call["self"].shape[axis]), axis, call["norm"], inverse)

    return lower


def _fft_of_several(inverse: bool) -> Callable[[Emitter, Call], Any]:
    def lower(em: Emitter, call: Call) -> Any:
        x, rank = call["self"], len(call.shape)
        dims = call["dim"] if call["dim"] is not None else range(rank)
        sizes = call["s"] or [x.shape[dim] for dim in dims]
        for dim, size in zip(dims, sizes, strict=True):
            x = _transformed(em, x, int(size), dim % rank, call["norm"], inverse)
        return x

    return lower


def _rfft(em: Emitter, call: Call) -> Any:
    axis = call["dim"] % len(call.shape)
    length = int(call["n"] or call["self"].shape[axis])
    found = _transformed(em, call["self"], length, axis, call["norm"], inverse=False)
    half = length // 2 + 1
    return Complex(em.slice(found.real, axis, 0, half), em.slice(found.imaginary, axis, 0, half))


def _irfft(em: Emitter, call: Call) -> Any:
    """The half of a spectrum stands for its mirror image: all but the first and, of an even length, the last count
    twice."""
    axis, length = call["dim"] % len(call.shape), int(call.shape[call["dim"]])
    half = length // 2 + 1
    angle = 2 * math.pi * torch.outer(torch.arange(length), torch.arange(half)).double().remainder(length) / length
    twice = torch.full((half,), 2.0, dtype=torch.float64)
    twice[0] = 1.0
    if length % 2 == 0:
        twice[-1] = 1.0
    factor = _factor(call["norm"], length, inverse=True)
    real, imaginary = _parts(em, call["self"])
    of_real = _along(em, real, factor * twice * angle.cos(), f"transform of {length}", axis)
    of_imaginary = _along(em, imaginary, -factor * twice * angle.sin(), f"transform of {length}", axis)
    return add(em, of_real, of_imaginary, call.shape)


COMPLEX_OPS: Mapping[str, Callable[[Emitter, Call], Any]] = {
    "view_as_complex": _view_as_complex,
    "view_as_real": _view_as_real,
    "complex": _complex,
    **dict.fromkeys(("_conj", "_conj_physical", "conj_physical"), _conjugated),
    "real": _part(0),
    "imag": _part(1),
    "fft_fft": _fft(inverse=False),
    "fft_ifft": _fft(inverse=True),
    **dict.fromkeys(("fft_fftn", "fft_fft2"), _fft_of_several(inverse=False)),
    **dict.fromkeys(("fft_ifftn", "fft_ifft2"), _fft_of_several(inverse=True)),
    "fft_rfft": _rfft,
    "fft_irfft": _irfft,
}
