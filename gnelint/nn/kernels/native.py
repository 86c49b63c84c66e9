"""Torch's own vectorised primitives, on any device that they run on: passes over memory that need no compiler.

Its batch normalisation in evaluation form, with mean 0, variance 1 and our gain as weight, is gain x + bias in one
pass. The derivative of that by the weight is sum(x dy), that by the bias sum(dy), in one pass; of x with itself the
first is the sum of squares. Where a sample's channel is one piece of memory the Euclidean norm of it is faster still.

Passes over memory (r reads, w writes of the size of x): forward 2r 1w; backward 2r 1w for the sums and the first term
of dx, which comes with them as the derivative by x, and 2r 1w for the second.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_ROWS = 4096
"""Rows that are added up before their sum joins the others': torch's kernel adds them one by one in single precision,
which over 1.6 million rows costs three digits."""

_PIECE = 1 << 18
"""Entries of a piece: three of them in single precision fit the last cache, whoever else works on the machine."""

_sums = torch.ops.aten.native_batch_norm_backward.default
_normalise = torch.ops.aten.native_batch_norm.out
_rectified = torch.ops.aten.threshold_backward.default


def wide(x: Tensor) -> torch.dtype:
    """The type that sums over x are taken in."""
    return x.dtype if x.dtype == torch.float64 else torch.float32


def forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, eps: float, relu: bool
) -> tuple[Tensor, Tensor]:
    """y and m."""
    second = squares(x) / per_channel(x)
    y = affine(x, gain(root(second) + eps, weight), bias)
    if residual is not None:
        y.add_(residual)
    return y.relu_() if relu else y, second


def backward(
    dy: Tensor,
    dm: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    second: Tensor,
    y: Tensor | None,
    eps: float,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dx, dweight, dbias, dz."""
    dz = dy if y is None else _rectified(dy, y, 0)
    r = root(second)
    q = r + eps
    factor = gain(q, weight)
    total, product, scaled = dots(dz, x, factor)
    dweight = product / q
    count = per_channel(x)
    pull = (dweight * factor).div_(r.mul_(count))
    if dm is not None:
        pull -= 2.0 / count * dm
    dx = combined(dz, x, factor, pull, scaled)
    return dx, dweight, total, dz.new_empty(0) if not keep else dz.clone() if y is None else dz


def per_channel(x: Tensor) -> int:
    """Entries of one channel; 1 of none."""
    return int(max(x.numel() // max(x.size(1), 1), 1))


def root(second: Tensor) -> Tensor:
    """sqrt(m), of a channel of zeros the root of the smallest number: the root's derivative there is infinite."""
    return second.clamp_min(torch.finfo(second.dtype).tiny).sqrt_()


def gain(q: Tensor, weight: Tensor | None) -> Tensor:
    """weight / q."""
    return q.reciprocal() if weight is None else weight.to(q.dtype) / q


def squares(x: Tensor) -> Tensor:
    """Sum of squares of each channel."""
    if x.dim() > 2 and x.dtype == wide(x) and x.is_contiguous() and x.numel() > 0:
        return torch.linalg.vector_norm(x.flatten(2), dim=2).square_().sum(0)
    return dots(x, x)[1]


def dots(dy: Tensor, x: Tensor, factor: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Sum of dy and of x dy of each channel; and factor dy, if one is given and it comes with the sums."""
    kind, channels = wide(x), x.size(1)
    zeros = x.new_zeros(channels, dtype=kind)
    if x.numel() == 0:
        return zeros, zeros.clone(), None
    ones = torch.ones_like(zeros)
    x = dense(x)
    images = _image(_laid_out(dy, x)), _image(x)
    rest = zeros, ones, zeros, ones, False, 0.0
    if images[0].is_contiguous() or x.numel() <= _ROWS * channels:
        comes = factor is not None and x.dim() == 4
        scaled, product, total = _sums(*images, ones if factor is None else factor, *rest, [comes, True, True])
        return total, product, scaled if comes else None
    total, product = zeros, zeros.clone()
    for pair in _pieces(_ROWS * channels, *images):
        _, more, most = _sums(*pair, ones, *rest, [False, True, True])
        product += more
        total = total + most
    return total, product, None


def combined(dy: Tensor, x: Tensor, factor: Tensor, pull: Tensor, scaled: Tensor | None) -> Tensor:
    """factor dy - pull x, laid out as x; `scaled`, if it is there, is the first term and becomes the result."""
    x = dense(x)
    factor, pull = (each.to(x.dtype)[(..., *(None,) * (x.dim() - 2))] for each in (factor, pull))
    if scaled is not None:
        return scaled.addcmul_(x, pull, value=-1)
    if x.numel() <= _PIECE:
        return torch.mul(_laid_out(dy, x), factor).addcmul_(x, pull, value=-1)
    dx = torch.empty_like(x)
    factor, pull = (each.view(-1, 1, 1) for each in (factor, pull))
    for to, some, of in _pieces(_PIECE, _image(dx), _image(_laid_out(dy, x)), _image(x)):
        torch.mul(some, factor, out=to).addcmul_(of, pull, value=-1)
    return dx


def affine(x: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
    """gain x + bias, a new tensor laid out as x."""
    x = dense(x)
    if x.numel() == 0:
        return torch.empty_like(x)
    zeros, ones = torch.zeros_like(gain), torch.ones_like(gain)
    shift = bias if bias is None or bias.dtype == gain.dtype else bias.to(gain.dtype)
    if x.dim() == 4:
        return torch.native_batch_norm(x, gain, shift, zeros, ones, False, 0.0, 0.0)[0]
    y = torch.empty_like(x)  # what autograd is given back is no view, so that a ReLU behind it may work in place
    unused = gain.new_empty(0), gain.new_empty(0)
    _normalise(
        _image(x), gain, shift, zeros, ones, False, 0.0, 0.0, out=_image(y), save_mean=unused[0], save_invstd=unused[1]
    )
    return y


def _pieces(entries: int, *images: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Images of one layout in pieces of about so many entries: by samples, or by rows."""
    if images[0].numel() <= entries:
        return [images]
    if not images[0].is_contiguous() and images[0].size(0) > 1:
        images = tuple(map(_rows, images))
    axis = 0 if images[0].is_contiguous() else 2
    size = max(1, entries * images[0].size(axis) // images[0].numel())
    return zip(*(image.split(size, axis) for image in images), strict=True)


def dense(x: Tensor) -> Tensor:
    """x with its channels outermost in a sample or innermost, and no gaps."""
    return x if x.is_contiguous() or x.movedim(1, -1).is_contiguous() else x.contiguous()


def _laid_out(dy: Tensor, x: Tensor) -> Tensor:
    return dy if dy.stride() == x.stride() else torch.empty_like(x).copy_(dy)


def _image(x: Tensor) -> Tensor:
    """x with four axes, the shape that torch has fast kernels for."""
    if x.dim() == 4:
        return x
    if x.dim() > 2 and x.is_contiguous():
        return x.flatten(2).unsqueeze(3)
    return _rows(x)


def _rows(x: Tensor) -> Tensor:
    """x, whose channels are innermost, as (1, C, rows, 1)."""
    return x.movedim(1, -1).reshape(1, -1, 1, x.size(1)).permute(0, 3, 1, 2)
