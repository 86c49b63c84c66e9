"""Lowerings of data movement: views, slices, joins, and reductions along axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from gnelint.readers.emitter import CannotLowerError, Shape, entries, with_entries
from gnelint.readers.lowering import add, gather, last_two_exchanged
from gnelint.readers.torch.constants import Constant, Tensors
from gnelint.readers.torch.emitter import Call, Emitter, Operand
from gnelint.readers.torch.ops.complex import each_part
from gnelint.readers.torch.ops.constants import written
from gnelint.readers.torch.ops.normalization import reduced_axes

Lowering = Callable[[Emitter, Call], Any]

_MOST = 1 << 24
"""Entries of the largest matrix that is written for sums over places."""


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


def _matrix_transpose(em: Emitter, call: Call) -> Operand:
    x: Operand = call["self"]
    return em.transpose(x, last_two_exchanged(len(call.shape)))


def _movedim(em: Emitter, call: Call) -> Operand:
    axes = len(call.shape)
    source, destination = (
        [axis % axes for axis in ((given,) if isinstance(given, int) else given)]
        for given in (call["source"], call["destination"])
    )
    x: Operand = call["self"]
    rest = iter(axis for axis in range(axes) if axis not in source)
    placed = dict(zip(destination, source, strict=True))
    return em.transpose(x, [placed[axis] if axis in placed else next(rest) for axis in range(axes)])


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
    return em.emit("concat", with_entries(pieces, axis), call.shape, call.dtype, axis=axis)


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
        return _written(em, x, part, axis, torch.arange(start, end, step))
    if start >= end:
        return em.flow(x)
    pieces = [em.expand(part, (*x.shape[:axis], end - start, *x.shape[axis + 1 :]))]
    if start > 0:
        pieces.insert(0, em.slice(x, axis, 0, start))
    if end < size:
        pieces.append(em.slice(x, axis, end, size))
    return pieces[0] if len(pieces) == 1 else em.emit("concat", pieces, call.shape, call.dtype, axis=axis)


def _written(em: Emitter, x: Operand, part: Operand, axis: int, places: torch.Tensor) -> Operand:
    """x with its entries at known places of an axis replaced: picked from x and the new part, side by side."""
    size = int(x.shape[axis])
    sources = torch.arange(size)
    sources[places % size] = size + torch.arange(len(places))  # the last of several writes to a place counts
    both = em.concat([em.flow(x), em.expand(part, (*x.shape[:axis], len(places), *x.shape[axis + 1 :]))], axis)
    return gather(em, both, written(sources, f"places {len(places)} of {size}"), axis, x.shape)


def _index(em: Emitter, call: Call) -> Operand:
    """One index tensor is a gather; several known ones are one over the merged axes."""
    x, indices = call["self"], list(call["indices"])
    used = [axis for axis, index in enumerate(indices) if index is not None]
    if len(used) == 1 and indices[used[0]].dtype != "bool":
        return gather(em, x, indices[used[0]], used[0], call.shape)
    axis, count, places = _places(x.shape, indices)
    merged = _merged(em, x, indices, axis, count)
    shape = (*merged.shape[:axis], *places.shape, *merged.shape[axis + 1 :])
    found = gather(em, merged, written(places, "indices"), axis, shape)
    return em.reshape(found, call.shape) if entries(call.shape) is not None else found


def _merged(em: Emitter, x: Operand, indices: Sequence[Any], axis: int, count: int) -> Operand:
    """x with the indexed axes made one, where torch puts it."""
    axes = _indexed_axes(indices)
    rest = [other for other in range(len(x.shape)) if other not in axes]
    moved = em.transpose(x, [*rest[:axis], *axes, *rest[axis:]])
    return em.reshape(moved, (*(x.shape[a] for a in rest[:axis]), count, *(x.shape[a] for a in rest[axis:])))


def _indexed_axes(indices: Sequence[Any]) -> list[int]:
    """The axes that are indexed; a mask takes as many as it has."""
    axes: list[int] = []
    place = 0
    for index in indices:
        width = len(index.shape) if index is not None and index.dtype == "bool" else 1
        axes += range(place, place + width) if index is not None else []
        place += width
    return axes


def _places(shape: Shape, indices: Sequence[Any]) -> tuple[int, int, torch.Tensor]:
    """Where the indexed axes end up, how long they are as one, and the places that are picked in it.

    Raises:
        CannotLowerError: they depend on more than the example inputs.
    """
    axes = _indexed_axes(indices)
    sizes = [shape[axis] for axis in axes]
    picked = [index for index in indices if index is not None]
    if not picked or not all(isinstance(i, Constant) for i in picked) or not all(isinstance(s, int) for s in sizes):
        raise CannotLowerError("an indexing by tensors that depend on the input")
    numbers: list[torch.Tensor] = []
    for index in picked:
        found = index.compute({})
        numbers += found.nonzero(as_tuple=True) if found.dtype == torch.bool else (found,)
    places = torch.zeros((), dtype=torch.int64)
    for number, size in zip(torch.broadcast_tensors(*numbers), sizes, strict=True):
        places = places * int(size) + number.long() % int(size)
    together = axes == list(range(axes[0], axes[0] + len(axes)))
    return (axes[0] if together else 0), math.prod(int(size) for size in sizes), places


def _index_put(em: Emitter, call: Call) -> Operand:
    """Entries at known places replaced or added to; with a mask and one number it is a choice."""
    x, indices, values = call["self"], list(call["indices"]), call["values"]
    masks = [index for index in indices if index is not None]
    one = math.prod(values.shape) == 1 if all(isinstance(size, int) for size in values.shape) else False
    if len(masks) == 1 and indices[0] is not None and masks[0].dtype == "bool" and one and not call["accumulate"]:
        mask = masks[0]
        mask = em.reshape(mask, (*mask.shape, *(1,) * (len(x.shape) - len(mask.shape))))
        return em.emit("where", [mask, em.reshape(values, ()), x], call.shape, call.dtype)
    axis, count, places = _places(x.shape, indices)
    axes = _indexed_axes(indices)
    rest = [other for other in range(len(x.shape)) if other not in axes]
    merged = _merged(em, x, indices, axis, count)
    lead = tuple(x.shape[a] for a in rest[:axis])
    tail = tuple(x.shape[a] for a in rest[axis:])
    if not lead and len(values.shape) == 1 + len(tail) and places.dim() == 1 and 1 < places.numel() < values.shape[0]:
        values = em.slice(em.flow(values), 0, 0, places.numel())  # a mask made up by shape marks fewer than are put in
    part = em.reshape(em.expand(values, (*lead, *places.shape, *tail)), (*lead, places.numel(), *tail))
    flat = places.reshape(-1)
    put = _added(em, merged, part, axis, flat) if call["accumulate"] else _written(em, merged, part, axis, flat)
    order = [*rest[:axis], *axes, *rest[axis:]]
    apart = em.reshape(put, tuple(x.shape[a] for a in order))
    return em.transpose(apart, [order.index(a) for a in range(len(order))])


def _added(em: Emitter, x: Operand, part: Operand, axis: int, places: torch.Tensor) -> Operand:
    """x with a part added to its entries at known places of an axis: the part times a matrix of zeros and ones."""
    size, rank = int(x.shape[axis]), len(x.shape)
    if size * len(places) > _MOST:
        raise CannotLowerError("a sum over too many places")
    matrix = torch.zeros(size, len(places))
    matrix[places % size, torch.arange(len(places))] = 1.0
    last = [a for a in range(rank) if a != axis] + [axis]
    moved = em.transpose(em.flow(part), last)
    weight = written(matrix, f"sums over {len(places)} places").parameter()
    summed = em.emit("linear", [moved], (*moved.shape[:-1], size), parameters={"weight": weight})
    return add(em, x, em.transpose(summed, [last.index(a) for a in range(rank)]), x.shape)


def _index_add(em: Emitter, call: Call) -> Operand:
    x, index, part = call["self"], call["index"], call["source"]
    if not isinstance(index, Constant):
        raise CannotLowerError("a sum over places that depend on the input")
    part = em.scale(em.flow(part), float(call["alpha"]))
    return _added(em, x, part, call["dim"] % len(x.shape), index.compute({}).long().reshape(-1))


def _scatter_add(em: Emitter, call: Call) -> Operand:
    """Sums over places along an axis, the same for all entries of the others, or of the flattened tensor."""
    x, index, part = call["self"], call["index"], call["src"]
    if not isinstance(index, Constant):
        raise CannotLowerError("a sum over places that depend on the input")
    axis = call["dim"] % len(x.shape)
    for a, size in enumerate(index.shape):
        if part.shape[a] != size:
            part = em.slice(part, a, 0, size)
    same = _along(index, axis)
    if same is not None and tuple(s for a, s in enumerate(part.shape) if a != axis) == tuple(
        s for a, s in enumerate(x.shape) if a != axis
    ):
        return _added(em, x, part, axis, same)
    flat = _flat_places(x.shape, index, axis)
    whole = em.reshape(x, (math.prod(x.shape),))
    return em.reshape(_added(em, whole, em.reshape(part, (flat.numel(),)), 0, flat.reshape(-1)), x.shape)


def _along(index: Constant, axis: int) -> torch.Tensor | None:
    """The places along an axis if they are the same for all entries of the others."""
    numbers = index.compute({}).long()
    line = numbers.movedim(axis, -1).reshape(-1, numbers.shape[axis])
    return line[0] if bool((line == line[:1]).all()) else None


def _flat_places(shape: Shape, index: Constant, axis: int) -> torch.Tensor:
    """Where entries that an index picks along an axis lie in the flattened tensor."""
    numbers = index.compute({}).long()
    strides = [math.prod(int(size) for size in shape[a + 1 :]) for a in range(len(shape))]
    grids = torch.meshgrid(*[torch.arange(size) for size in numbers.shape], indexing="ij") if numbers.dim() else ()
    places = torch.zeros_like(numbers)
    for a, grid in enumerate(grids):
        places = places + strides[a] * (numbers % int(shape[a]) if a == axis else grid)
    return places


def _gather(em: Emitter, call: Call) -> Operand:
    """Entries along an axis, for each entry of the others its own."""
    x, index = call["self"], call["index"]
    axis = call["dim"] % max(len(call.shape), 1)
    if not isinstance(index, Constant):
        return em.emit("gather", [x, index], call.shape, axis=axis, along=True)
    same = _along(index, axis)
    others = [a for a in range(len(x.shape)) if a != axis]
    if same is not None and all(index.shape[a] == x.shape[a] for a in others):
        return gather(em, x, written(same, "indices"), axis, call.shape)
    places = _flat_places(x.shape, index, axis)
    flat = em.reshape(x, (math.prod(int(size) for size in x.shape),))
    return em.reshape(gather(em, flat, written(places.reshape(-1), "indices"), 0, (places.numel(),)), call.shape)


def _unfold(em: Emitter, call: Call) -> Operand:
    """Windows along an axis, their entries on a new last one."""
    x = em.flow(call["self"])
    axis, size, step = call["dimension"] % max(len(x.shape), 1), call["size"], call["step"]
    if not isinstance(x.shape[axis], int):
        raise CannotLowerError("windows over a symbolic size")
    starts = torch.arange(0, int(x.shape[axis]) - size + 1, step)
    places = written(starts[:, None] + torch.arange(size), f"windows of {size}")
    found = gather(em, x, places, axis, (*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]))
    rank = len(x.shape) + 1
    return em.transpose(found, [a for a in range(rank) if a != axis + 1] + [axis + 1])


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


def _as_strided(em: Emitter, call: Call) -> Operand:
    """A view by steps in the memory of a whole tensor: axes that stay as they are, and places picked from the rest."""
    x, read = em.flow(call["self"]), call.node.args[0].meta["val"]
    sizes, steps = call["size"], call["stride"]
    shape = [size for size in x.shape if isinstance(size, int)]
    if len(shape) < len(x.shape) or not all(isinstance(number, int) for number in (*sizes, *steps)):
        raise CannotLowerError("a view of symbolic size")
    if (call["storage_offset"] or 0) != read.storage_offset():
        raise CannotLowerError("a view by steps in the memory of another view")
    own, wanted = list(zip(shape, read.stride(), strict=True)), list(zip(sizes, steps, strict=True))
    lead = _common(own, wanted)
    for tail in range(_common(own[lead:][::-1], wanted[lead:][::-1]), -1, -1):
        places = _places_in_memory(own[lead : len(own) - tail], wanted[lead : len(wanted) - tail])
        if places is not None:
            break
    else:
        raise CannotLowerError("a view by steps in memory that are no steps along axes")
    behind = shape[len(own) - tail :]
    count = math.prod(shape[lead : len(own) - tail])
    if torch.equal(places.reshape(-1), torch.arange(count)):
        return em.reshape(x, call.shape)
    merged = em.reshape(x, (*shape[:lead], count, *behind))
    found = (*shape[:lead], *places.shape, *behind)
    return gather(em, merged, written(places, "places in memory"), lead, found)


def _places_in_memory(own: Sequence[tuple[int, int]], wanted: Sequence[tuple[int, int]]) -> torch.Tensor | None:
    """Which entries of axes that lie in memory as one each step along other axes leads to; sizes and steps of both.

    None where the axes do not lie so, or where it leads between their entries or behind them.
    """
    real = [(size, step) for size, step in own if size > 1]
    row, count = (real[-1][1] if real else 1), 1
    for size, step in reversed(real):
        if step != row * count:
            return None
        count *= size
    places = torch.zeros((), dtype=torch.int64)
    for size, step in wanted:
        if size > 1 and step % row:
            return None
        places = places[..., None] + torch.arange(size) * (step // row)
    return None if places.numel() and int(places.max()) >= count else places


def _common(own: Sequence[tuple[Any, ...]], wanted: Sequence[tuple[Any, ...]]) -> int:
    """How many axes of two views, from the first on, are alike in size and in step."""
    alike = (first == second for first, second in zip(own, wanted, strict=False))
    return next((count for count, same in enumerate(alike) if not same), min(len(own), len(wanted)))


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
    "permute": each_part(_permute),
    "transpose": each_part(_swap("dim0", "dim1")),
    **dict.fromkeys(("t", "numpy_T"), _reverse),
    **dict.fromkeys(("mT", "mH", "adjoint"), each_part(_matrix_transpose)),
    **dict.fromkeys(("movedim", "moveaxis"), _movedim),
    "swapaxes": _swap("axis0", "axis1"),
    "swapdims": _swap("dim0", "dim1"),
    **dict.fromkeys(("expand", "broadcast_to", "expand_as"), each_part(_expand)),
    "copy": each_part(_copy),
    "repeat_interleave": _repeat_interleave,
    "slice": each_part(_slice),
    "narrow": each_part(_narrow),
    "select": each_part(_select),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split"), _split),
    "unbind": _unbind,
    **dict.fromkeys(("cat", "concat"), each_part(_cat)),
    "stack": each_part(_stack),
    **dict.fromkeys(("slice_scatter", "select_scatter"), each_part(_scatter)),
    **dict.fromkeys(("index", "_unsafe_index"), _index),
    "index_select": _index_select,
    **dict.fromkeys(("index_put", "_unsafe_index_put"), _index_put),
    "index_add": _index_add,
    "scatter_add": _scatter_add,
    "gather": _gather,
    "unfold": _unfold,
    "roll": each_part(_roll),
    "flip": each_part(_flip),
    **dict.fromkeys(("mean",), each_part(_reduce("reduce_mean"))),
    **dict.fromkeys(("sum",), each_part(_reduce("reduce_sum"))),
    **dict.fromkeys(("amax", "max"), _reduce("reduce_max")),
    **dict.fromkeys(("amin", "min"), _reduce("reduce_min")),
    **dict.fromkeys(("linalg_vector_norm", "norm"), _norm),
    "as_strided": _as_strided,
    "cumsum": _cumsum,
    **dict.fromkeys(("tril", "triu"), _diagonal_mask),
}  # fmt: skip
