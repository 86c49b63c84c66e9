"""Lowerings of data movement: views, slices, joins, and reductions along axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from gnelint.readers.emitter import CannotLowerError
from gnelint.readers.lowering import gather
from gnelint.readers.torch.constants import Constant, Tensors, derived
from gnelint.readers.torch.emitter import Call, Emitter, Operand
from gnelint.readers.torch.ops.normalization import reduced_axes

Lowering = Callable[[Emitter, Call], Any]


def _permute(em: Emitter, call: Call) -> Operand:
    rank = len(call.shape)
    return em.emit("transpose", [call["self"]], call.shape, perm=tuple(axis % rank for axis in call["dims"]))


def _swap(first: str, second: str) -> Lowering:
    def lower(em: Emitter, call: Call) -> Operand:
        perm = list(range(len(call.shape)))
        if perm:
            a, b = call[first] % len(perm), call[second] % len(perm)
            perm[a], perm[b] = perm[b], perm[a]
        return em.emit("transpose", [call["self"]], call.shape, perm=tuple(perm))

    return lower


def _reverse(em: Emitter, call: Call) -> Operand:
    return em.emit("transpose", [call["self"]], call.shape, perm=tuple(reversed(range(len(call.shape)))))


def _expand(em: Emitter, call: Call) -> Operand:
    flow = em.flow(call["self"])
    return em.emit("identity" if flow.shape == call.shape else "expand", [flow], call.shape)


def _copy(em: Emitter, call: Call) -> Operand:
    return em.expand(call["src"], call.shape)


def _repeat_interleave(em: Emitter, call: Call) -> Operand:
    x, repeats, axis = em.flow(call["self"]), call["repeats"], call["dim"]
    if not isinstance(repeats, int) or axis is None:
        raise CannotLowerError("a repetition that differs from entry to entry")
    axis %= len(x.shape)
    apart = em.emit("reshape", [x], (*x.shape[: axis + 1], 1, *x.shape[axis + 1 :]))
    return em.emit("reshape", [em.expand(apart, (*x.shape[: axis + 1], repeats, *x.shape[axis + 1 :]))], call.shape)


def _bounds(call: Call, size: Any) -> tuple[int, int, int]:
    """Start, end and step of a slice within an axis; a symbolic axis keeps its given end."""
    start, end, step = call["start"], call["end"], call.get("step", 1)
    start, end = 0 if start is None else start, 2**63 - 1 if end is None else end
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
        start, end, step = slice(start, end, step).indices(size)
    if not all(isinstance(bound, int) for bound in (start, end, step)):
        raise CannotLowerError("a slice whose bounds are symbolic")
    return start, end, step


def _slice(em: Emitter, call: Call) -> Operand:
    x = em.flow(call["self"])
    axis = call["dim"] % len(x.shape)
    start, end, step = _bounds(call, x.shape[axis])
    if x.shape == call.shape:
        return em.emit("identity", [x], call.shape)
    return em.emit("slice", [x], call.shape, axes=(axis,), starts=(start,), ends=(end,), steps=(step,))


def _narrow(em: Emitter, call: Call) -> Operand:
    axis = call["dim"] % len(call.shape)
    if not isinstance(call["start"], int) or not isinstance(call["length"], int):
        raise CannotLowerError("a slice whose bounds are symbolic")
    return em.slice(call["self"], axis, call["start"], call["start"] + call["length"])


def _select(em: Emitter, call: Call) -> Operand:
    x = em.flow(call["self"])
    axis, index = call["dim"] % len(x.shape), call["index"]
    size = x.shape[axis]
    if isinstance(index, int) and index < 0 and isinstance(size, int):
        index += size
    if not isinstance(index, int) or index < 0:
        raise CannotLowerError("a selection whose index is symbolic")
    return em.reshape(em.slice(x, axis, index, index + 1), call.shape)


def _split(em: Emitter, call: Call) -> Any:
    x = em.flow(call["self"])
    axis = call.get("dim", 0) % len(x.shape)
    outputs = [output for output in call.outputs if output is not None]
    return em.emit_many("split", [x], outputs, axis=axis, sizes=tuple(shape[axis] for shape, _ in outputs))


def _unbind(em: Emitter, call: Call) -> Any:
    x = em.flow(call["self"])
    axis = call["dim"] % len(x.shape)
    part = ((*x.shape[:axis], 1, *x.shape[axis + 1 :]), x.dtype)
    count = len(call.outputs)
    parts = em.emit_many("split", [x], (part,) * count, axis=axis, sizes=(1,) * count)
    return tuple(
        em.reshape(found, output[0]) if output is not None and call.reads(index) else None
        for index, (found, output) in enumerate(zip(parts, call.outputs, strict=True))
    )


def _cat(em: Emitter, call: Call) -> Operand:
    pieces = [piece for piece in call["tensors"] if piece.shape != (0,)]  # torch ignores these
    axis = call["dim"] % len(call.shape)
    return em.emit("concat", pieces, call.shape, call.dtype, axis=axis)


def _stack(em: Emitter, call: Call) -> Operand:
    axis = call["dim"] % len(call.shape)
    pieces = [em.reshape(x, (*x.shape[:axis], 1, *x.shape[axis:])) for x in call["tensors"]]
    return em.emit("concat", pieces, call.shape, call.dtype, axis=axis)


def _scatter(em: Emitter, call: Call) -> Operand:
    """x with a slice of it replaced: what lies before, the new part, what lies behind."""
    x, part = call["self"], call["src"]
    axis = call["dim"] % len(x.shape)
    size = x.shape[axis]
    if not isinstance(size, int):
        raise CannotLowerError("a write into an axis of symbolic size")
    if "index" in call.arguments:
        start = call["index"] % size
        end, step = start + 1, 1
        part = em.reshape(part, (*x.shape[:axis], 1, *x.shape[axis + 1 :]))
    else:
        start, end, step = _bounds(call, size)
    if step != 1:
        raise CannotLowerError("a write into every other entry")
    pieces = [em.expand(part, (*x.shape[:axis], end - start, *x.shape[axis + 1 :]))]
    if start > 0:
        pieces.insert(0, em.slice(x, axis, 0, start))
    if end < size:
        pieces.append(em.slice(x, axis, end, size))
    return pieces[0] if len(pieces) == 1 else em.emit("concat", pieces, call.shape, call.dtype, axis=axis)


def _index(em: Emitter, call: Call) -> Operand:
    """One index tensor is a gather; several constant ones on neighbouring axes are one over the merged axis."""
    x, indices = call["self"], list(call["indices"])
    used = [axis for axis, index in enumerate(indices) if index is not None]
    picked = [indices[axis] for axis in used]
    if not used or used != list(range(used[0], used[0] + len(used))) or any(i.dtype == "bool" for i in picked):
        raise CannotLowerError("an indexing that is no gather")
    axis = used[0]
    if len(used) == 1:
        return gather(em, x, picked[0], axis, call.shape)
    sizes = x.shape[axis : axis + len(used)]
    if not all(isinstance(i, Constant) for i in picked) or not all(isinstance(size, int) for size in sizes):
        raise CannotLowerError("an indexing by several tensors that depend on the input")
    merged: Constant = _positive(picked[0], sizes[0])
    total = int(sizes[0])
    for index, size in zip(picked[1:], sizes[1:], strict=True):
        merged = derived(torch.add, derived(torch.mul, merged, size), _positive(index, size))
        total *= int(size)
    flat = em.reshape(x, (*x.shape[:axis], total, *x.shape[axis + len(used) :]))
    return gather(em, flat, merged, axis, call.shape)


def _positive(index: Constant, size: Any) -> Constant:
    return derived(torch.remainder, index, int(size))


def _index_select(em: Emitter, call: Call) -> Operand:
    return gather(em, call["self"], call["index"], call["dim"] % len(call.shape), call.shape)


def _roll(em: Emitter, call: Call) -> Operand:
    x, shifts, dims = em.flow(call["self"]), call["shifts"], call["dims"]
    shifts = (shifts,) if isinstance(shifts, int) else tuple(shifts)
    axes = tuple(axis % len(x.shape) for axis in ((dims,) if isinstance(dims, int) else dims))
    if not axes:
        raise CannotLowerError("a roll over the flattened tensor")
    return em.emit("roll", [x], call.shape, axes=axes, shifts=shifts)


def _flip(em: Emitter, call: Call) -> Operand:
    return em.emit("flip", [call["self"]], call.shape, axes=tuple(axis % len(call.shape) for axis in call["dims"]))


def _reduce(op: str) -> Lowering:
    def lower(em: Emitter, call: Call) -> Any:
        x = em.flow(call["self"])
        axes = reduced_axes(call, len(x.shape))
        keepdims = bool(call.get("keepdim", False))
        found = em.emit(op, [x], call.shape, call.dtype, axes=axes, keepdims=keepdims)
        return found if len(call.outputs) == 1 else (found, None)

    return lower


def _norm(em: Emitter, call: Call) -> Operand:
    x = em.flow(call["self"])
    order = call["ord"] if "ord" in call.arguments else call.get("p", 2)
    order = 2 if order is None else order
    op = {2: "reduce_l2", 1: "reduce_sum", math.inf: "reduce_max"}.get(order)
    if op is None:
        raise CannotLowerError(f"a norm of order {order}")
    if order != 2:
        x = em.emit("abs", [x], x.shape)
    axes = reduced_axes(call, len(x.shape))
    return em.emit(op, [x], call.shape, axes=axes, keepdims=bool(call.get("keepdim", False)))


def _cumsum(em: Emitter, call: Call) -> Operand:
    return em.emit("cumsum", [call["self"]], call.shape, call.dtype, axis=call["dim"] % max(len(call.shape), 1))


def _diagonal_mask(em: Emitter, call: Call) -> Operand:
    """tril and triu keep some entries: multiplication by a constant mask."""
    x = em.flow(call["self"])
    rows, columns = x.shape[-2:]
    if not isinstance(rows, int) or not isinstance(columns, int):
        raise CannotLowerError("a triangle of symbolic size")
    cut = torch.tril if "tril" in str(call.node.target) else torch.triu
    diagonal, dtype = int(call["diagonal"]), getattr(torch, x.dtype)
    name = f"{cut.__name__} {rows}x{columns} {diagonal}"

    def triangle(changed: Tensors) -> torch.Tensor:
        mask: torch.Tensor = cut(torch.ones(rows, columns, dtype=dtype), diagonal)
        return mask

    mask = Constant(name, (rows, columns), x.dtype, triangle)
    return em.times(x, mask, call.shape)


SHAPE_OPS: Mapping[str, Lowering] = {
    "permute": _permute,
    "transpose": _swap("dim0", "dim1"),
    **dict.fromkeys(("t", "numpy_T"), _reverse),
    **dict.fromkeys(("expand", "broadcast_to", "expand_as"), _expand),
    "copy": _copy,
    "repeat_interleave": _repeat_interleave,
    "slice": _slice,
    "narrow": _narrow,
    "select": _select,
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split"), _split),
    "unbind": _unbind,
    **dict.fromkeys(("cat", "concat"), _cat),
    "stack": _stack,
    **dict.fromkeys(("slice_scatter", "select_scatter"), _scatter),
    **dict.fromkeys(("index", "_unsafe_index"), _index),
    "index_select": _index_select,
    "roll": _roll,
    "flip": _flip,
    **dict.fromkeys(("mean",), _reduce("reduce_mean")),
    **dict.fromkeys(("sum",), _reduce("reduce_sum")),
    **dict.fromkeys(("amax", "max"), _reduce("reduce_max")),
    **dict.fromkeys(("amin", "min"), _reduce("reduce_min")),
    **dict.fromkeys(("linalg_vector_norm", "norm"), _norm),
    "cumsum": _cumsum,
    **dict.fromkeys(("tril", "triu"), _diagonal_mask),
}  # fmt: skip
