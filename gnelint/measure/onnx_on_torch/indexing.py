"""Operators that read or write entries by index."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from gnelint.measure.onnx_on_torch.axes import axis_of, numbers
from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.table import CannotRunError, operator
from gnelint.measure.onnx_on_torch.unsigned import on_bits, widened

_EXTREMES = {"max": "amax", "min": "amin"}
"""Reductions of ONNX by their name in torch."""


def _from_front(indices: Tensor, length: int) -> Tensor:
    """Indices along an axis counted from the front; a negative one counts from the back."""
    found = indices.long()
    if bool(((found < -length) | (found >= length)).any()):
        raise CannotRunError(f"an index beyond an axis of length {length}")
    return torch.where(found < 0, found + length, found)


# --- gather -------------------------------------------------------------------------------------------------------


@operator("Gather")
def gather(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """Slices of x across an axis, laid out as the indices are."""
    axis = axis_of(call.get("axis"), x.dim())
    chosen = x.index_select(axis, _from_front(indices, x.shape[axis]).reshape(-1))
    return chosen.reshape(x.shape[:axis] + indices.shape + x.shape[axis + 1 :])


@operator("GatherElements", since=11)
def gather_elements(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """y[i, j] = x[indices[i, j], j] for axis 0, and so on."""
    axis = axis_of(call.get("axis"), x.dim())
    chosen = _from_front(indices, x.shape[axis])
    return on_bits(lambda bits: bits.gather(axis, chosen), x)


@operator("GatherND", since=11)
def gather_nd(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """Blocks of x at index tuples, which run along the last axis; the first `batch_dims` axes go side by side."""
    batch, depth = call.get("batch_dims", 0), indices.shape[-1]
    count, lengths = prod(x.shape[:batch]), x.shape[batch : batch + depth]
    if len(lengths) < depth or x.shape[:batch] != indices.shape[:batch]:
        raise CannotRunError(f"indices of shape {list(indices.shape)} into shape {list(x.shape)}")
    block = x.shape[batch + depth :]
    rows = x.reshape(count * prod(lengths), *block)
    tuples = indices.reshape(count, prod(indices.shape[batch:-1]), depth)
    start = torch.arange(count, device=x.device).unsqueeze(1) * prod(lengths)
    chosen = start + _flat_indices(tuples, lengths)
    return rows.index_select(0, chosen.reshape(-1)).reshape(indices.shape[:-1] + block)


def _flat_indices(tuples: Tensor, lengths: torch.Size) -> Tensor:
    """Index tuples along the last axis as positions in a flattened block of these lengths."""
    found = torch.zeros(tuples.shape[:-1], dtype=torch.int64, device=tuples.device)
    for position, length in enumerate(lengths):
        found = found * length + _from_front(tuples[..., position], length)
    return found


@operator("ArrayFeatureExtractor", domain="ai.onnx.ml")
def array_feature_extractor(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """Columns of x; a vector is a matrix of one row."""
    rows = x if x.dim() > 1 else x.reshape(1, -1)
    return rows.index_select(-1, _from_front(indices, x.shape[-1]).reshape(-1))


@operator("Compress", since=9)
def compress(call: Call, x: Tensor, condition: Tensor) -> Tensor:
    """Slices of x for which the condition holds, entries of the flattened x without an axis."""
    axis = call.get("axis")
    chosen = condition.nonzero().squeeze(1)
    return x.reshape(-1).index_select(0, chosen) if axis is None else x.index_select(axis_of(axis, x.dim()), chosen)


@operator("NonZero", since=9)
def nonzero(call: Call, x: Tensor) -> Tensor:
    """Indices of the entries that are not 0, a column for each; a scalar is a vector of one."""
    return (x.reshape(1) if x.dim() == 0 else x).ne(0).nonzero().t().contiguous()


@operator("OneHot", since=9)
def one_hot(call: Call, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    """values[1] where the position along a new axis is the index, values[0] elsewhere."""
    axis = axis_of(call.get("axis"), indices.dim() + 1)
    length = int(depth)
    whole = indices.long()
    if call.version < 11 and bool(((whole < 0) & (whole >= -length)).any()):
        raise CannotRunError("negative indices before opset 11")  # the standard has them nowhere, ONNX Runtime inside
    chosen = torch.where(whole < 0, whole + length, whole).unsqueeze(axis)
    positions = torch.arange(length, device=chosen.device).reshape([-1] + [1] * (indices.dim() - axis))
    off, on = values.unbind()
    return torch.where(chosen == positions, on, off)


@operator("Unique", since=11)
def unique(call: Call, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The different entries, or slices across an axis; where each comes first, which each entry is, how many."""
    axis = call.get("axis")
    slices, along = (x.reshape(-1), 0) if axis is None else (x, axis_of(axis, x.dim()))
    _, inverse, counts = torch.unique(
        slices.detach(), dim=None if axis is None else along, return_inverse=True, return_counts=True
    )
    positions = torch.arange(slices.shape[along], device=x.device)
    first = torch.full_like(counts, slices.shape[along]).scatter_reduce(0, inverse, positions, "amin")
    if not call.get("sorted"):
        order = first.argsort()
        first, counts, inverse = first[order], counts[order], order.argsort()[inverse]
    return slices.index_select(along, first), first, inverse, counts


# --- scatter ------------------------------------------------------------------------------------------------------


@operator("Scatter", since=9)
@operator("ScatterElements", since=11)
def scatter_elements(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """x with x[indices[i, j], j] = updates[i, j] for axis 0, and so on, or combined with what was there."""
    axis = axis_of(call.get("axis"), x.dim())
    return _scatter(x, axis, _from_front(indices, x.shape[axis]), updates, call.get("reduction", "none"))


@operator("ScatterND", since=11)
def scatter_nd(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """x with blocks at index tuples, which run along the last axis, replaced or combined with what was there."""
    depth = indices.shape[-1]
    lengths, block = x.shape[:depth], x.shape[depth:]
    if len(lengths) < depth or updates.shape != indices.shape[:-1] + block:
        shapes = [list(tensor.shape) for tensor in (updates, indices, x)]
        raise CannotRunError(f"updates of shape {shapes[0]} at indices of shape {shapes[1]} into shape {shapes[2]}")
    width = prod(block)
    rows = _flat_indices(indices, lengths).reshape(-1, 1)
    changed = _scatter(
        x.reshape(prod(lengths), width),
        0,
        rows.expand(-1, width),
        updates.reshape(rows.shape[0], width),
        call.get("reduction", "none"),
    )
    return changed.reshape(x.shape)


def _scatter(x: Tensor, axis: int, indices: Tensor, updates: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return on_bits(lambda bits, new: bits.scatter(axis, indices, new), x, updates)
    if reduction not in ("add", "mul", *_EXTREMES):
        raise CannotRunError(f'reduction "{reduction}"')
    if reduction == "add":  # the same on the bits of signed and unsigned integers, as is the product
        return on_bits(lambda bits, new: bits.scatter_add(axis, indices, new), x, updates)
    if reduction == "mul" and x.is_floating_point():
        return _multiplied(x, axis, indices, updates)
    if reduction == "mul":
        return on_bits(lambda bits, new: bits.scatter_reduce(axis, indices, new, "prod"), x, updates)
    extreme = widened(x).scatter_reduce(axis, indices, widened(updates), _EXTREMES[reduction])
    return extreme.to(x.dtype)


def _multiplied(x: Tensor, axis: int, indices: Tensor, updates: Tensor) -> Tensor:
    """x times the updates that go to each entry; torch's own scatter of products has 0 for its forward derivative.

    One factor for an entry at a time: the updates that are not yet, or no longer, their turn go to a place behind x.
    """
    if indices.numel() == 0:
        return x
    length, turns = x.shape[axis], _count_before(axis, indices)
    ones = x.new_ones([*x.shape[:axis], length + 1, *x.shape[axis + 1 :]])
    for turn in range(int(turns.max()) + 1):
        targets = torch.where(turns == turn, indices, length)
        x = x * ones.scatter(axis, targets, updates).narrow(axis, 0, length)
    return x


def _count_before(axis: int, indices: Tensor) -> Tensor:
    """How often each index came before along the axis."""
    ordered, origin = indices.sort(dim=axis, stable=True)
    lengths = [1] * indices.dim()
    lengths[axis] = -1
    places = torch.arange(indices.shape[axis], device=indices.device).reshape(lengths).expand(indices.shape)
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins.narrow(axis, 1, ordered.shape[axis] - 1).copy_(ordered.diff(dim=axis) != 0)
    first = torch.where(begins, places, 0).cummax(axis).values
    return torch.zeros_like(indices).scatter(axis, origin, places - first)


@operator("TensorScatter", since=24)
def tensor_scatter(call: Call, past: Tensor, update: Tensor, write_indices: Tensor | None = None) -> Tensor:
    """The cache with the update written along an axis, from each sample's own position on."""
    axis = axis_of(call.get("axis"), past.dim())
    if axis == 0:
        raise CannotRunError("a cache along the batch axis")
    length, mode = past.shape[axis], call.get("mode")
    positions = torch.arange(update.shape[axis], device=past.device).expand(past.shape[0], -1)
    if write_indices is not None:
        positions = positions + write_indices.reshape(-1, 1)
    if mode == "circular":
        positions = positions % length
    elif mode != "linear" or bool(((positions < 0) | (positions >= length)).any()):
        raise CannotRunError(f'mode "{mode}" with a cache of length {length} and indices {numbers(positions)[:8]}')
    lengths = [past.shape[0]] + [1] * (past.dim() - 1)
    lengths[axis] = update.shape[axis]
    return _scatter(past, axis, positions.reshape(lengths).expand(update.shape), update, "none")
