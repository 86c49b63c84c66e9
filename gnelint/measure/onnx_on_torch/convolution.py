"""Convolutions of every kind."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.sampling import linear_taps, place_type, read_taps
from gnelint.measure.onnx_on_torch.table import CannotRunError, operator
from gnelint.measure.onnx_on_torch.windows import Windows, auto_pad, pad_spatial, per_axis, read_windows, split_pads

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@operator("Conv")
def conv(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y[m, i] = sum_c,k w[m, c, k] x[c, stride i + dilation k - pad] + b[m]."""
    windows = read_windows(call, x.shape[2:], weight.shape[2:])
    padding = windows.begins
    if windows.begins != windows.ends:
        x, padding = pad_spatial(x, windows.begins, windows.ends), (0,) * windows.rank
    convolution = _CONVOLUTIONS[windows.rank]
    return convolution(x, weight, bias, windows.strides, padding, windows.dilations, call.get("group"))


@operator("ConvTranspose")
def conv_transpose(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The transpose of Conv's linear map, plus b: y[m, stride i + dilation k - pad] sums w[c, m, k] x[c, i]."""
    windows = read_windows(call, x.shape[2:], weight.shape[2:])
    full = tuple(
        (size - 1) * stride + span
        for size, stride, span in zip(x.shape[2:], windows.strides, windows.spans, strict=True)
    )
    begins, lengths = _cut(call, windows, x.shape[2:], full)
    spare = tuple(length - size + 2 * begin for length, size, begin in zip(lengths, full, begins, strict=True))
    transposed, group = _TRANSPOSED[windows.rank], call.get("group")
    most = tuple(max(pair) for pair in zip(windows.strides, windows.dilations, strict=True))
    if min(begins) >= 0 and all(0 <= extra < limit for extra, limit in zip(spare, most, strict=True)):
        return transposed(x, weight, bias, windows.strides, begins, spare, group, windows.dilations)
    y = transposed(x, weight, None, windows.strides, 0, 0, group, windows.dilations)
    ends = [length - size + begin for length, size, begin in zip(lengths, full, begins, strict=True)]
    y = pad_spatial(y, [-begin for begin in begins], ends)
    return y if bias is None else y + bias.reshape(-1, *[1] * windows.rank)


def _cut(
    call: Call, windows: Windows, sizes: tuple[int, ...], full: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Per axis, what is cut off the begin of the full result, and the length that is kept."""
    extra = per_axis(call, "output_padding", windows.rank, 0)
    lengths = tuple(call.get("output_shape") or ())[-windows.rank :]  # batch and channels come first in old files
    mode = auto_pad(call)
    if not lengths and mode in ("NOTSET", "VALID"):
        lengths = tuple(
            size + more - begin - end
            for size, more, begin, end in zip(full, extra, windows.begins, windows.ends, strict=True)
        )
        return windows.begins, lengths
    if not lengths:
        lengths = tuple(size * stride for size, stride in zip(sizes, windows.strides, strict=True))
    totals = [max(size + more - length, 0) for size, more, length in zip(full, extra, lengths, strict=True)]
    return split_pads(totals, upper=mode == "SAME_UPPER")[0], lengths


@operator("DeformConv", since=19)
def deform_conv(
    call: Call, x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """y[m, i] = sum_c,k w[m, c, k] mask[k, i] x[c, stride i + dilation k - pad + offset[k, i]] + b[m], x read linearly
    between its entries and 0 outside."""
    windows = read_windows(call, x.shape[2:], weight.shape[2:])
    rank, lengths = windows.rank, windows.lengths(x.shape[2:])
    batch, channels = x.shape[:2]
    groups, group = call.get("offset_group"), call.get("group")
    taps, points = math.prod(windows.kernel), math.prod(lengths)
    if tuple(offset.shape[2:]) != lengths:
        raise CannotRunError(f"offsets for {tuple(offset.shape[2:])} windows where there are {lengths}")
    moved = offset.to(place_type(offset.dtype)).reshape(batch * groups, taps, rank, points)
    places = moved + _grid(windows, lengths, moved)
    read = read_taps(
        x.reshape(batch * groups, channels // groups, *x.shape[2:]),
        [linear_taps(along.flatten(1)) for along in places.unbind(2)],
    )
    read = read.reshape(batch, groups, channels // groups, taps, points)
    if mask is not None:
        read = read * mask.reshape(batch, groups, 1, taps, points)
    columns = read.reshape(batch, group, channels // group * taps, points)
    y = weight.reshape(group, weight.shape[0] // group, -1) @ columns
    y = y.reshape(batch, weight.shape[0], *lengths)
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)


def _grid(windows: Windows, lengths: tuple[int, ...], like: Tensor) -> Tensor:
    """Where the windows' entries lie in the input: (kernel entries, axes, windows)."""
    entries = _flat_grid([range(0, span, step) for span, step in zip(windows.spans, windows.dilations, strict=True)])
    starts = _flat_grid(
        [
            range(-begin, length * stride - begin, stride)
            for begin, length, stride in zip(windows.begins, lengths, windows.strides, strict=True)
        ]
    )
    return (entries.T.unsqueeze(2) + starts).to(like)


def _flat_grid(axes: list[range]) -> Tensor:
    """All combinations of the axes' places, the last axis fastest: (axes, combinations)."""
    return torch.stack([part.flatten() for part in torch.meshgrid(*map(torch.tensor, axes), indexing="ij")])


@operator("Col2Im", since=18)
def col2im(call: Call, x: Tensor, image_shape: Tensor, block_shape: Tensor) -> Tensor:
    """Adds the columns (C prod(block), windows) up into the image from which such windows are taken."""
    sizes, kernel = tuple(image_shape.tolist()), tuple(block_shape.tolist())
    rank = len(sizes)
    pads = per_axis(call, "pads", 2 * rank, 0)
    windows = Windows(
        kernel, per_axis(call, "strides", rank, 1), per_axis(call, "dilations", rank, 1), pads[:rank], pads[rank:]
    )
    padded = [size + begin + end for size, begin, end in zip(sizes, windows.begins, windows.ends, strict=True)]
    places = _grid(windows, windows.lengths(sizes), x.new_empty(0, dtype=torch.int64))
    index = torch.zeros_like(places[:, 0])
    for axis in range(rank):
        index = index * padded[axis] + places[:, axis] + windows.begins[axis]
    columns = x.reshape(x.shape[0], x.shape[1] // math.prod(kernel), index.numel())
    image = columns.new_zeros(*columns.shape[:2], math.prod(padded)).index_add(2, index.flatten(), columns)
    image = image.reshape(*columns.shape[:2], *padded)
    return pad_spatial(image, [-begin for begin in windows.begins], [-end for end in windows.ends])
