"""Kernels in Triton, for CUDA: single and half precision, channels outermost in a sample or innermost, sums in single.

A channel that fits one program stays on the chip between its two passes: x is read once, and in the derivative dy and x
are (8 bytes an entry forward, 12 backward, in single precision). A longer one is cut into pieces that several programs
add up; each program of the second pass adds up the pieces' sums, so there is no launch in between (12 and 20 bytes).
The rectifier and the residual are part of the second pass, and the rectifier's derivative of both.

A block is what one program sees of the channels: one channel, or `B` neighbours where channels are innermost. Its
entries are walked in tiles of (A, B): samples and positions of a channel, or rows and channels.
"""
# the language of kernels has no type annotations, and wants the branch that is not taken in an else
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"
# ruff: noqa: RET505

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gnelint.nn.kernels.native import dense, wide
from gnelint.records import dataclass

TYPES = (torch.float32, torch.bfloat16, torch.float16)
_TILE = 4096
"""Entries of a tile."""
_RESIDENT = 1 << 15
"""Entries that one program holds: 32 registers of each of 1024 threads."""
_PER_PROCESSOR = 8
"""Programs for each multiprocessor, so that loads of some hide behind the arithmetic of others."""
_MOST_PIECES = 128


@triton.jit
def _tile(t, block, N, C, L, A: tl.constexpr, B: tl.constexpr, LAST: tl.constexpr):
    """Where tile t of a block lies in memory, and which of it is there."""
    if LAST:
        row = t * A + tl.arange(0, A)[:, None]
        channel = block * B + tl.arange(0, B)[None, :]
        return row.to(tl.int64) * C + channel, (row < N * L) & (channel < C)
    else:
        across = tl.cdiv(L, B)
        sample = (t // across) * A + tl.arange(0, A)[:, None]
        position = (t % across) * B + tl.arange(0, B)[None, :]
        return (sample.to(tl.int64) * C + block) * L + position, (sample < N) & (position < L)


@triton.jit
def _channels(block, B: tl.constexpr, LAST: tl.constexpr):
    """The channels of a block, as a row."""
    if LAST:
        return block * B + tl.arange(0, B)
    else:
        return block + tl.zeros((1,), tl.int32)


@triton.jit
def _summed(tile, LAST: tl.constexpr):
    """The sum of a tile for each channel of its block."""
    if LAST:
        return tl.sum(tile, 0)
    else:
        return tl.sum(tl.sum(tile, 1), 0) + tl.zeros((1,), tile.dtype)


@triton.jit
def _added_up(partial, channel, C, PIECES: tl.constexpr, P: tl.constexpr):
    """The sum over the pieces for each channel of a block."""
    piece = tl.arange(0, P)[:, None]
    here = (piece < PIECES) & (channel[None, :] < C)
    return tl.sum(tl.load(partial + piece * C + channel[None, :], here, 0.0), 0)


@triton.jit
def _optional(pointer, channel, C, default, GIVEN: tl.constexpr):
    if GIVEN:
        return tl.load(pointer + channel, channel < C, 0.0).to(tl.float32)
    else:
        return tl.zeros(channel.shape, tl.float32) + default


@triton.jit
def _root(second):
    return tl.sqrt(tl.where(second < 1.1754943508222875e-38, 1.1754943508222875e-38, second))


@triton.jit
def _written(tile, factor, shift, residual, y, at, here, RESIDUAL: tl.constexpr, RELU: tl.constexpr):
    """factor tile + shift, with what stands behind a normalisation."""
    value = tile * factor[None, :] + shift[None, :]
    if RESIDUAL:
        value += tl.load(residual + at, here, 0.0).to(tl.float32)
    if RELU:
        value = tl.where(value < 0.0, 0.0, value)
    tl.store(y + at, value.to(y.dtype.element_ty), here)


@triton.jit
def _pulled(dy, y, at, here, RELU: tl.constexpr):
    """dy where the rectifier let pass."""
    value = tl.load(dy + at, here, 0.0).to(tl.float32)
    if RELU:
        value = tl.where(tl.load(y + at, here, 1.0).to(tl.float32) > 0.0, value, 0.0)
    return value


@triton.jit
def _squares(x, partial, N, C, L, tiles, A: tl.constexpr, B: tl.constexpr, LAST: tl.constexpr, PIECES: tl.constexpr):
    block, piece = tl.program_id(0), tl.program_id(1)
    total = tl.zeros((A, B), tl.float32)
    for t in range(piece, tiles, PIECES):
        at, here = _tile(t, block, N, C, L, A, B, LAST)
        tile = tl.load(x + at, here, 0.0).to(tl.float32)
        total += tile * tile
    channel = _channels(block, B, LAST)
    tl.store(partial + piece * C + channel, _summed(total, LAST), channel < C)


@triton.jit
def _normalise(
    x, partial, weight, bias, residual, y, second, N, C, L, tiles, count, eps,
    A: tl.constexpr, B: tl.constexpr, LAST: tl.constexpr, PIECES: tl.constexpr, P: tl.constexpr,
    WEIGHT: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr, RELU: tl.constexpr,
):  # fmt: skip
    block, first = tl.program_id(0), tl.program_id(1)
    channel = _channels(block, B, LAST)
    m = _added_up(partial, channel, C, PIECES, P) / count
    factor = _optional(weight, channel, C, 1.0, WEIGHT) / (_root(m) + eps)
    shift = _optional(bias, channel, C, 0.0, BIAS)
    for t in range(first, tiles, tl.num_programs(1)):
        at, here = _tile(t, block, N, C, L, A, B, LAST)
        tile = tl.load(x + at, here, 0.0).to(tl.float32)
        _written(tile, factor, shift, residual, y, at, here, RESIDUAL, RELU)
    if first == 0:
        tl.store(second + channel, m, channel < C)


@triton.jit
def _resident(
    x, weight, bias, residual, y, second, N, C, L, count, eps,
    A: tl.constexpr, B: tl.constexpr,
    WEIGHT: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr, RELU: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    channel = _channels(block, B, False)
    at, here = _tile(0, block, N, C, L, A, B, False)
    tile = tl.load(x + at, here, 0.0).to(tl.float32)
    m = _summed(tile * tile, False) / count
    factor = _optional(weight, channel, C, 1.0, WEIGHT) / (_root(m) + eps)
    _written(tile, factor, _optional(bias, channel, C, 0.0, BIAS), residual, y, at, here, RESIDUAL, RELU)
    tl.store(second + channel, m, channel < C)


@triton.jit
def _dots(
    dy, x, y, partial, N, C, L, tiles,
    A: tl.constexpr, B: tl.constexpr, LAST: tl.constexpr, PIECES: tl.constexpr, RELU: tl.constexpr,
):  # fmt: skip
    block, piece = tl.program_id(0), tl.program_id(1)
    total, product = tl.zeros((A, B), tl.float32), tl.zeros((A, B), tl.float32)
    for t in range(piece, tiles, PIECES):
        at, here = _tile(t, block, N, C, L, A, B, LAST)
        dz = _pulled(dy, y, at, here, RELU)
        total += dz
        product += dz * tl.load(x + at, here, 0.0).to(tl.float32)
    channel = _channels(block, B, LAST)
    tl.store(partial + piece * C + channel, _summed(total, LAST), channel < C)
    tl.store(partial + (PIECES + piece) * C + channel, _summed(product, LAST), channel < C)


@triton.jit
def _coefficients(product, dm, weight, second, channel, C, count, eps, WEIGHT: tl.constexpr, DM: tl.constexpr):
    """What dx has of dz, what it has of -x, and the derivative by the weight."""
    r = _root(tl.load(second + channel, channel < C, 1.0))
    q = r + eps
    factor = _optional(weight, channel, C, 1.0, WEIGHT) / q
    by_weight = product / q
    pull = by_weight * factor / r - 2.0 * _optional(dm, channel, C, 0.0, DM)
    return factor, pull / count, by_weight


@triton.jit
def _differentiate(
    dy, x, y, partial, dm, weight, second, dx, dz_kept, dweight, dbias, N, C, L, tiles, count, eps,
    A: tl.constexpr, B: tl.constexpr, LAST: tl.constexpr, PIECES: tl.constexpr, P: tl.constexpr,
    WEIGHT: tl.constexpr, DM: tl.constexpr, RELU: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    block, first = tl.program_id(0), tl.program_id(1)
    channel = _channels(block, B, LAST)
    total = _added_up(partial, channel, C, PIECES, P)
    product = _added_up(partial + PIECES * C, channel, C, PIECES, P)
    factor, pull, by_weight = _coefficients(product, dm, weight, second, channel, C, count, eps, WEIGHT, DM)
    for t in range(first, tiles, tl.num_programs(1)):
        at, here = _tile(t, block, N, C, L, A, B, LAST)
        dz = _pulled(dy, y, at, here, RELU)
        tile = tl.load(x + at, here, 0.0).to(tl.float32)
        tl.store(dx + at, (dz * factor[None, :] - tile * pull[None, :]).to(dx.dtype.element_ty), here)
        if KEEP:
            tl.store(dz_kept + at, dz.to(dz_kept.dtype.element_ty), here)
    if first == 0:
        tl.store(dweight + channel, by_weight, channel < C)
        tl.store(dbias + channel, total, channel < C)


@triton.jit
def _resident_differentiate(
    dy, x, y, dm, weight, second, dx, dz_kept, dweight, dbias, N, C, L, count, eps,
    A: tl.constexpr, B: tl.constexpr,
    WEIGHT: tl.constexpr, DM: tl.constexpr, RELU: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    channel = _channels(block, B, False)
    at, here = _tile(0, block, N, C, L, A, B, False)
    dz = _pulled(dy, y, at, here, RELU)
    tile = tl.load(x + at, here, 0.0).to(tl.float32)
    product = _summed(dz * tile, False)
    factor, pull, by_weight = _coefficients(product, dm, weight, second, channel, C, count, eps, WEIGHT, DM)
    tl.store(dx + at, (dz * factor[None, :] - tile * pull[None, :]).to(dx.dtype.element_ty), here)
    if KEEP:
        tl.store(dz_kept + at, dz.to(dz_kept.dtype.element_ty), here)
    tl.store(dweight + channel, by_weight, channel < C)
    tl.store(dbias + channel, _summed(dz, False), channel < C)


@dataclass(frozen=True)
class _Walk:
    """How the entries of a tensor are walked.

    Attributes:
        sizes: N, C and the positions of a sample.
        last: channels are innermost.
        tile: entries of a tile along both axes, powers of 2.
        blocks, tiles: blocks of channels, and tiles of each.
        pieces: programs that add up one block.
        writers: programs that write one block.
        whole: the tile that holds a channel whole; None where none does, or few channels would leave the chip idle.
    """

    sizes: tuple[int, int, int]
    last: bool
    tile: tuple[int, int]
    blocks: int
    tiles: int
    pieces: int
    writers: int
    whole: tuple[int, int] | None

    @classmethod
    def over(cls, x: Tensor, held: int) -> _Walk:
        """Of a dense tensor; `held` is how many tensors a program would have to hold."""
        n, c, length = x.size(0), x.size(1), max(x.numel() // max(x.size(0) * x.size(1), 1), 1)
        last = x.dim() == 2 or not x.is_contiguous()
        power = triton.next_power_of_2
        wanted = _processors(x.device) * _PER_PROCESSOR
        whole = None
        if last:
            b = min(power(c), 64)
            a = min(_TILE // b, power(n * length))
            blocks, tiles = triton.cdiv(c, b), triton.cdiv(n * length, a)
        else:
            b = min(power(length), 1024)
            a = min(max(_TILE // b, 1), power(n))
            blocks, tiles = c, triton.cdiv(n, a) * triton.cdiv(length, b)
            if power(n) * power(length) * held <= _RESIDENT and 2 * c >= _processors(x.device):
                whole = (power(n), power(length))
        pieces = min(max(triton.cdiv(wanted, blocks), 1), tiles, _MOST_PIECES)
        return cls((n, c, length), last, (a, b), blocks, tiles, pieces, min(4 * pieces, tiles), whole)

    @property
    def count(self) -> int:
        """Entries of a channel."""
        return self.sizes[0] * self.sizes[2]

    @property
    def warps(self) -> int:
        """Of a program that holds a channel whole: 32 entries a thread at most."""
        assert self.whole is not None
        return min(max(self.whole[0] * self.whole[1] // 1024, 1), 32)


def _processors(device: torch.device) -> int:
    """Multiprocessors of a card; 2 where Triton's interpreter stands in for one."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, eps: float, relu: bool
) -> tuple[Tensor, Tensor]:
    """y and m."""
    x = dense(x)
    y, second = torch.empty_like(x), x.new_zeros(x.size(1), dtype=wide(x))
    if x.numel() == 0:
        return y, second
    residual = None if residual is None else _like(residual, x)
    walk = _Walk.over(x, 1)
    given = {"WEIGHT": weight is not None, "BIAS": bias is not None, "RESIDUAL": residual is not None, "RELU": relu}
    with torch.cuda.device_of(x):
        if walk.whole is not None:
            a, b = walk.whole
            _resident[walk.blocks,](
                x, weight, bias, residual, y, second, *walk.sizes, walk.count, eps, A=a, B=b, **given,
                num_warps=walk.warps,
            )  # fmt: skip
            return y, second
        partial = second.new_empty(walk.pieces, x.size(1))
        tile = {"A": walk.tile[0], "B": walk.tile[1], "LAST": walk.last, "PIECES": walk.pieces}
        _squares[walk.blocks, walk.pieces](x, partial, *walk.sizes, walk.tiles, **tile)
        _normalise[walk.blocks, walk.writers](
            x, partial, weight, bias, residual, y, second, *walk.sizes, walk.tiles, walk.count, eps, **tile,
            P=triton.next_power_of_2(walk.pieces), **given,
        )  # fmt: skip
    return y, second


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
    x = dense(x)
    dx, dweight, dbias = torch.empty_like(x), torch.zeros_like(second), torch.zeros_like(second)
    dz = torch.empty_like(x) if keep else dx.new_empty(0)
    if x.numel() == 0:
        return dx, dweight, dbias, dz
    dy, y = _like(dy, x), None if y is None else _like(y, x)
    walk = _Walk.over(x, 2)
    given = {"WEIGHT": weight is not None, "DM": dm is not None, "RELU": y is not None, "KEEP": keep}
    written = (dx, dz, dweight, dbias)
    with torch.cuda.device_of(x):
        if walk.whole is not None:
            a, b = walk.whole
            _resident_differentiate[walk.blocks,](
                dy, x, y, dm, weight, second, *written, *walk.sizes, walk.count, eps, A=a, B=b, **given,
                num_warps=walk.warps,
            )  # fmt: skip
            return dx, dweight, dbias, dz
        partial = second.new_empty(2 * walk.pieces, x.size(1))
        tile = {"A": walk.tile[0], "B": walk.tile[1], "LAST": walk.last, "PIECES": walk.pieces}
        _dots[walk.blocks, walk.pieces](dy, x, y, partial, *walk.sizes, walk.tiles, **tile, RELU=y is not None)
        _differentiate[walk.blocks, walk.writers](
            dy, x, y, partial, dm, weight, second, *written, *walk.sizes, walk.tiles, walk.count, eps, **tile,
            P=triton.next_power_of_2(walk.pieces), **given,
        )  # fmt: skip
    return dx, dweight, dbias, dz


def _like(tensor: Tensor, x: Tensor) -> Tensor:
    return tensor if tensor.stride() == x.stride() else torch.empty_like(x).copy_(tensor)
