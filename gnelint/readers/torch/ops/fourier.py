"""Lowerings of Fourier transforms, which are linear maps of the two parts of what they read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any
from zlib import crc32

import torch

from gnelint.readers.emitter import CannotLowerError, Shape
from gnelint.readers.torch.emitter import Call, Emitter
from gnelint.readers.torch.ops.complex import Complex, Part, paired, parts, plus, tensor
from gnelint.readers.torch.ops.constants import written

_MOST = 1 << 22
"""Entries of the largest matrix that is written for a transform."""


def _along(em: Emitter, part: Part, shape: Shape, matrix: torch.Tensor, axis: int) -> Part:
    """A constant (out, in) matrix along an axis of a part of this shape, whose entries beyond its columns are cut and
    missing ones are zero."""
    if part == 0.0:
        return 0.0
    flow = em.flow(tensor(em, part, shape))
    size = flow.shape[axis]
    if not isinstance(size, int) or matrix.numel() > _MOST:
        raise CannotLowerError("a transform that is too long, or of symbolic length")
    if size > matrix.shape[1]:
        flow = em.slice(flow, axis, 0, matrix.shape[1])
    kept = matrix[:, : min(size, matrix.shape[1])].float().contiguous()
    # cosines and sines are two matrices: what has one name is one tensor to those who look for what is computed twice
    weight = written(kept, f"transform of {matrix.shape[1]}, {crc32(kept.numpy().tobytes()):08x}").parameter()
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
    real, imaginary = parts(x)
    shape = (*x.shape[:axis], length, *x.shape[axis + 1 :])

    def along(part: Part, matrix: torch.Tensor) -> Part:
        return _along(em, part, x.shape, matrix, axis)

    return Complex(
        plus(em, along(real, cosine), along(imaginary, sine), shape, -1.0),
        plus(em, along(real, sine), along(imaginary, cosine), shape),
        shape,
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
    halves = (em.slice(em.flow(tensor(em, part, found.shape)), axis, 0, half) for part in (found.real, found.imaginary))
    return paired(halves, call.shape)


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
    real, imaginary = parts(call["self"])
    shape = call["self"].shape
    of_real = _along(em, real, shape, factor * twice * angle.cos(), axis)
    of_imaginary = _along(em, imaginary, shape, -factor * twice * angle.sin(), axis)
    return tensor(em, plus(em, of_real, of_imaginary, call.shape), call.shape)


FOURIER_OPS: Mapping[str, Callable[[Emitter, Call], Any]] = {
    "fft_fft": _fft(inverse=False),
    "fft_ifft": _fft(inverse=True),
    **dict.fromkeys(("fft_fftn", "fft_fft2"), _fft_of_several(inverse=False)),
    **dict.fromkeys(("fft_ifftn", "fft_ifft2"), _fft_of_several(inverse=True)),
    "fft_rfft": _rfft,
    "fft_irfft": _irfft,
}
