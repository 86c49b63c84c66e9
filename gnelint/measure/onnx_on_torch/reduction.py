"""Operators that reduce along axes, or run along one: Reduce*, ArgMax, CumSum, TopK, Softmax and its relatives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod

import torch
from torch import Tensor

from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.table import CannotRunError, operator

Reduction = Callable[[Tensor, tuple[int, ...], bool], Tensor]
"""Reduces a floating, int64 or bool tensor over axes, none of them negative; keeps them with length 1 if told to."""

_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
"""Types for which torch has no reductions."""


# --- along several axes -------------------------------------------------------------------------------------------


def _sum(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep)


def _mean(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keepdim=keep)
    return x.sum(axes, keepdim=keep).div(prod(x.shape[axis] for axis in axes), rounding_mode="trunc")


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _maximum(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return _of_nothing(x, axes, keep, largest=False) if _is_empty(x, axes) else x.amax(axes, keepdim=keep)


def _minimum(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return _of_nothing(x, axes, keep, largest=True) if _is_empty(x, axes) else x.amin(axes, keepdim=keep)


def _sum_of_squares(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return (x * x).sum(axes, keepdim=keep)


def _l1_norm(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return x.abs().sum(axes, keepdim=keep)


def _l2_norm(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.linalg.vector_norm(_real(x), 2, axes, keepdim=keep)


def _log_sum(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return _real(x).sum(axes, keepdim=keep).log()


def _log_sum_exp(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return _real(x).logsumexp(axes, keepdim=keep)


_REDUCTIONS: dict[str, Reduction] = {
    "ReduceSum": _sum,
    "ReduceMean": _mean,
    "ReduceProd": _product,
    "ReduceMax": _maximum,
    "ReduceMin": _minimum,
    "ReduceSumSquare": _sum_of_squares,
    "ReduceL1": _l1_norm,
    "ReduceL2": _l2_norm,
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": _log_sum_exp,
}


def _reduce(reduction: Reduction, call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """The reduction over the axes of the attribute or the input; over all of them, or none, if it names none."""
    named = axes.tolist() if axes is not None else call.get("axes", ())
    wide = x if x.is_floating_point() or x.dtype is torch.bool else _signed(x)
    if not named and call.get("noop_with_empty_axes"):  # what comes before and after the reduction acts all the same
        return reduction(wide.unsqueeze(-1), (x.dim(),), False).to(x.dtype)
    chosen = tuple(axis % x.dim() for axis in named) if named and x.dim() else tuple(range(x.dim()))
    return reduction(wide, chosen, bool(call.get("keepdims"))).to(x.dtype)


for _name, _reduction in _REDUCTIONS.items():
    operator(_name)(partial(_reduce, _reduction))


def _signed(x: Tensor) -> Tensor:
    """Integers as int64."""
    wide = x.long()
    if x.dtype is torch.uint64 and bool((wide < 0).any()):
        raise CannotRunError("unsigned integers of 2^63 and more")
    return wide


def _real(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.double()


def _is_empty(x: Tensor, axes: tuple[int, ...]) -> bool:
    return any(x.shape[axis] == 0 for axis in axes)


def _of_nothing(x: Tensor, axes: tuple[int, ...], keep: bool, *, largest: bool) -> Tensor:
    """The extreme of an empty set: the largest or the smallest number that the type has."""
    if x.is_floating_point():
        value: float = float("inf") if largest else float("-inf")
    elif x.dtype is torch.bool:
        value = largest
    else:
        value = torch.iinfo(x.dtype).max if largest else torch.iinfo(x.dtype).min
    return torch.full_like(x.sum(axes, keepdim=keep), value, dtype=x.dtype)


# --- indices ------------------------------------------------------------------------------------------------------


@operator("ArgMax")
def argmax(call: Call, x: Tensor) -> Tensor:
    """The index of the largest entry along an axis; of several the first, or the last if asked for."""
    return _extreme_index(call, x, torch.argmax)


@operator("ArgMin")
def argmin(call: Call, x: Tensor) -> Tensor:
    """The index of the smallest entry along an axis; of several the first, or the last if asked for."""
    return _extreme_index(call, x, torch.argmin)


def _extreme_index(call: Call, x: Tensor, find: Callable[..., Tensor]) -> Tensor:
    axis, keep = call.get("axis"), bool(call.get("keepdims"))
    wide = x if x.is_floating_point() else _signed(x)
    if not call.get("select_last_index"):
        return find(wide, dim=axis, keepdim=keep)
    return x.shape[axis] - 1 - find(wide.flip(axis), dim=axis, keepdim=keep)


@operator("TopK", since=10)
def top_k(call: Call, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """The k largest or smallest entries along an axis and their indices, equal ones by their index."""
    return _top_k(call, x, int(k))


@operator("TopK", since=1)
def top_k_attribute(call: Call, x: Tensor) -> tuple[Tensor, Tensor]:
    """The k largest entries along an axis and their indices; k is an attribute."""
    return _top_k(call, x, call.need("k"))


def _top_k(call: Call, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    axis = call.get("axis")
    wide = _signed(x) if x.dtype in _UNSIGNED else x
    # torch.topk promises no order among equals; a stable sort does
    values, indices = torch.sort(wide, dim=axis, descending=bool(call.get("largest", 1)), stable=True)
    return values.narrow(axis, 0, k).to(x.dtype), indices.narrow(axis, 0, k)


# --- cumulative ---------------------------------------------------------------------------------------------------


@operator("CumSum")
def cumsum(call: Call, x: Tensor, axis: Tensor) -> Tensor:
    """Sums of the entries up to each, or from each on; without the entry itself if exclusive."""
    return _cumulated(call, x, int(axis), torch.cumsum, 0)


@operator("CumProd")
def cumprod(call: Call, x: Tensor, axis: Tensor) -> Tensor:
    """Products of the entries up to each, or from each on; without the entry itself if exclusive."""
    return _cumulated(call, x, int(axis), torch.cumprod, 1)


def _cumulated(call: Call, x: Tensor, axis: int, run: Callable[..., Tensor], neutral: int) -> Tensor:
    reverse = bool(call.get("reverse"))
    values = x if x.is_floating_point() else x.long()
    values = values.flip(axis) if reverse else values
    if call.get("exclusive") and x.shape[axis]:
        first = torch.full_like(values.narrow(axis, 0, 1), neutral)
        values = torch.cat([first, values.narrow(axis, 0, x.shape[axis] - 1)], axis)
    result = run(values, dim=axis)
    return (result.flip(axis) if reverse else result).to(x.dtype)


# --- softmax ------------------------------------------------------------------------------------------------------


def _softmax(x: Tensor, axis: int) -> Tensor:
    return x.softmax(axis)


def _log_softmax(x: Tensor, axis: int) -> Tensor:
    return x.log_softmax(axis)


def _hardmax(x: Tensor, axis: int) -> Tensor:
    """1 at the first of the largest entries, 0 elsewhere: constant almost everywhere, so without derivative."""
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)


_Normalizer = Callable[[Tensor, int], Tensor]
_NORMALIZERS: dict[str, _Normalizer] = {"Softmax": _softmax, "LogSoftmax": _log_softmax, "Hardmax": _hardmax}


def _along_axis(normalizer: _Normalizer, call: Call, x: Tensor) -> Tensor:
    """Along one axis: since opset 13."""
    return normalizer(x, call.get("axis"))


def _flattened(normalizer: _Normalizer, call: Call, x: Tensor) -> Tensor:
    """Over all axes from `axis` on, taken as one: before opset 13."""
    axis = call.get("axis")
    axis = axis + x.dim() if axis < 0 else axis
    return normalizer(x.reshape(*x.shape[:axis], prod(x.shape[axis:])), -1).reshape(x.shape)


for _name, _normalizer in _NORMALIZERS.items():
    operator(_name, since=1)(partial(_flattened, _normalizer))
    operator(_name, since=13)(partial(_along_axis, _normalizer))
