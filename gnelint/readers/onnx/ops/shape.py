"""Lowerings of data movement, reductions and joins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gnelint.errors import UnreadableError
from gnelint.ir.graph import Dim, Value
from gnelint.onnxfile.file import MisfitError
from gnelint.readers.emitter import CannotLowerError, Shape, axis_of, concrete, entries, rank, with_entries
from gnelint.readers.lowering import gather
from gnelint.readers.onnx.call import Call
from gnelint.readers.onnx.emitter import Emitter, Lowering, Results
from gnelint.readers.onnx.gaps import gap


def _reshape(call: Call, em: Emitter) -> Results:
    x = em.flow(call.need(0))
    before, after = entries(x.shape or ("?",)), entries(call.shape or ("?",))
    if x.shape is not None and call.shape is not None and before is not None and after is not None and before != after:
        raise MisfitError(
            f'node "{call.origin.name}" ({call.op_type}) turns shape {x.shape} into {call.shape}, which has another '
            "number of entries",
            "If a size was exported as fixed, give the shape it was exported with by --input.",
            gap(call),
        )
    return [em.emit("reshape", [x], call.shape, call.dtype)]


def _transpose(call: Call, em: Emitter) -> Results:
    x = em.flow(call.need(0))
    perm = tuple(call.get("perm") or reversed(range(rank(x))))
    if sorted(perm) != list(range(rank(x))):
        raise UnreadableError(
            f'node "{call.origin.name}" has perm {perm} for {rank(x)} axes', "Export the model again."
        )
    return [em.emit("transpose", [x], call.shape, call.dtype, perm=perm)]


def _slice(call: Call, em: Emitter) -> Results:
    x = em.flow(call.need(0))
    starts, ends, axes, steps = _slice_arguments(call, rank(x))
    shape = list(concrete(x))
    positive: list[tuple[int, int, int, int]] = []
    flipped: list[int] = []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        kept = range(*slice(start, None if step < 0 and end < -shape[axis] else end, step).indices(shape[axis]))
        if step < 0:
            flipped.append(axis)
            first = shape[axis] - 1 - kept.start if len(kept) else 0
            positive.append(
                (axis, first, min(first + (len(kept) - 1) * -step + 1, shape[axis]) if len(kept) else 0, -step)
            )
        else:
            positive.append((axis, kept.start, max(kept.stop, kept.start), step))
    if flipped:
        x = em.emit("flip", [x], x.shape, axes=tuple(flipped))
    if flipped and all(x.shape is not None and (s, e, k) == (0, shape[a], 1) for a, s, e, k in positive):
        return [x]
    return [cut(em, x, positive, call.shape)]


def _reverse_sequence(call: Call, em: Emitter) -> Results:
    """Along one axis the first entries turned around, for as many of them as each sample says: all say one number."""
    x = em.flow(call.need(0))
    axis = axis_of(call.get("time_axis", 0), rank(x))
    size = concrete(x)[axis]
    lengths = set(call.integers(1, "the lengths") or ())
    if len(lengths) != 1:
        raise CannotLowerError("samples of different lengths")
    length = lengths.pop()
    if length >= size:
        return [em.emit("flip", [x], x.shape, axes=(axis,))]
    turned, rest = em.slice(x, axis, 0, length), em.slice(x, axis, length, size)
    return [em.concat([em.emit("flip", [turned], turned.shape, axes=(axis,)), rest], axis)]


def _slice_arguments(call: Call, axes: int) -> tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int]]:
    if call.version < 10:
        starts, ends, given, steps = call.get("starts") or (), call.get("ends") or (), call.get("axes"), None
    else:
        starts = call.integers(1, "the start") or ()
        ends = call.integers(2, "the end") or ()
        given, steps = call.integers(3, "the axes"), call.integers(4, "the step")
    chosen = [axis_of(axis, axes) for axis in (range(len(starts)) if given is None else given)]
    steps = (1,) * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(chosen) == len(steps) or 0 in steps:
        raise CannotLowerError("starts, ends, axes and steps do not match")
    return starts, ends, chosen, steps


def cut(em: Emitter, x: Value, ranges: Sequence[tuple[int, int, int, int]], shape: Shape | None) -> Value:
    """x[start:end:step] along axes: (axis, start, end, step), within the bounds."""
    axes, starts, ends, steps = (tuple(entry[i] for entry in ranges) for i in range(4))
    return em.emit("slice", [x], shape, axes=axes, starts=starts, ends=ends, steps=steps)


def _split(call: Call, em: Emitter) -> Results:
    x = em.flow(call.need(0))
    axis = axis_of(call.get("axis", 0), rank(x))
    outputs = [(output.shape, output.dtype) for output in call.outputs]
    sizes: list[Dim] = [(shape or ("?",) * rank(x))[axis] for shape, _ in outputs]
    if any(not isinstance(size, int) for size in sizes):
        raise CannotLowerError("the sizes are not known")
    return em.emit_many("split", [x], outputs, axis=axis, sizes=tuple(int(size) for size in sizes))


def _split_to_sequence(call: Call, em: Emitter) -> Results:
    """A split whose parts a sequence holds: dynamo writes `chunk` and `split` so."""
    x = em.flow(call.need(0))
    shape = concrete(x)
    axis = axis_of(call.get("axis", 0), len(shape))
    given = call.integers(1, "the sizes")
    sizes: Sequence[int] = given or (1,)
    if given is None or not call.parameter(1, "the sizes").shape:  # one size for all parts, the last with what is left
        each = sizes[0]
        sizes = [min(each, shape[axis] - start) for start in range(0, shape[axis], each)]
    if sum(sizes) != shape[axis] or not sizes:
        raise CannotLowerError("the sizes do not add up to the axis")
    outputs = [((*shape[:axis], size, *shape[axis + 1 :]), x.dtype) for size in sizes]
    parts = em.emit_many("split", [x], outputs, axis=axis, sizes=tuple(sizes))
    if given is None and not call.get("keepdims", 1):
        parts = tuple(em.reshape(part, (*shape[:axis], *shape[axis + 1 :])) for part in parts)
    return [em.sequence(call, x, parts)]


def _sequence_at(call: Call, em: Emitter) -> Results:
    sequence, position = call.need(0), call.integers(1, "the position")
    parts = em.sequences.get(sequence.name)
    if parts is None or position is None or not -len(parts) <= position[0] < len(parts):
        raise CannotLowerError("what the sequence holds there is not known")
    return [parts[position[0]]]


def _concat(call: Call, em: Emitter) -> Results:
    operands = [call.need(index) for index in range(len(call.inputs))]
    axis = axis_of(call.get("axis", 1), rank(operands[0]))
    operands = with_entries(operands, axis)
    if len(operands) == 1:
        return [em.emit("identity", operands, call.shape, call.dtype)]
    return [em.emit("concat", operands, call.shape, call.dtype, axis=axis)]


def _gather(call: Call, em: Emitter) -> Results:
    """One constant index is a slice."""
    data, indices = call.need(0), call.need(1)
    axis = axis_of(call.get("axis", 0), rank(data))
    size = (data.shape or ())[axis] if rank(data) else None
    if isinstance(indices, Value) or indices.shape != () or not isinstance(size, int) or call.shape is None:
        return [gather(em, data, indices, axis, call.shape)]
    position = int(indices.array())
    if not -size <= position < size:
        raise UnreadableError(f'node "{call.origin.name}" reads entry {position} of {size}', "Export the model again.")
    start = position % size
    return [em.reshape(em.slice(data, axis, start, start + 1), call.shape)]


def _pad(call: Call, em: Emitter) -> Results:
    x = em.flow(call.need(0))
    axes = rank(x)
    given: Sequence[int] | None
    if call.version < 11:
        given, fill, chosen = call.get("pads") or call.get("paddings"), call.get("value", 0.0), None
    else:
        given, fill = call.integers(1, "the padding"), call.scalar(2, "the value")
        chosen = call.integers(3, "the axes")
    if given is None:
        raise CannotLowerError("no padding is given")
    order = range(axes) if chosen is None else [axis_of(axis, axes) for axis in chosen]
    if len(given) != 2 * len(order):
        raise CannotLowerError(f"{len(given)} pads for {len(order)} axes")
    begins, ends = [0] * axes, [0] * axes
    for i, axis in enumerate(order):
        begins[axis], ends[axis] = given[i], given[len(order) + i]
    x = _cropped(em, x, begins, ends)
    begins, ends = [max(n, 0) for n in begins], [max(n, 0) for n in ends]
    mode = call.get("mode", "constant")
    attributes = {"pads": (*begins, *ends), "mode": mode, "value": float(fill or 0.0)}
    return [em.emit("pad", [x], call.shape, call.dtype, **attributes)]


def _cropped(em: Emitter, x: Value, begins: Sequence[int], ends: Sequence[int]) -> Value:
    """Negative padding takes entries away."""
    if all(n >= 0 for n in (*begins, *ends)):
        return x
    shape = concrete(x)
    ranges = [(i, max(-b, 0), n - max(-e, 0), 1) for i, (n, b, e) in enumerate(zip(shape, begins, ends, strict=True))]
    return cut(em, x, ranges, tuple(max(end - start, 0) for _, start, end, _ in ranges))


def _resize(call: Call, em: Emitter) -> Results:
    mode = call.get("mode", "nearest")
    found = {"nearest": "nearest", "linear": "linear", "bilinear": "linear", "cubic": "cubic"}.get(mode)
    if found is None:
        raise CannotLowerError(f"mode {mode}")
    newer = call.op_type == "Resize" and call.version >= 11
    coordinates = call.get("coordinate_transformation_mode", "half_pixel") if newer else "asymmetric"
    if coordinates in ("pytorch_half_pixel", "half_pixel_symmetric"):  # they differ in where the border lies
        coordinates = "half_pixel"
    if coordinates == "tf_half_pixel_for_nn" and found == "nearest":
        coordinates = "half_pixel"
    if coordinates not in ("half_pixel", "align_corners", "asymmetric"):
        raise CannotLowerError(f"coordinates {coordinates}")
    if call.get("exclude_outside", 0):
        raise CannotLowerError("a kernel that is cut at the border")
    attributes: dict[str, Any] = {"mode": found, "antialias": bool(call.get("antialias", 0))}
    if found != "nearest":
        attributes["coordinates"] = coordinates
    if found == "cubic":
        attributes["cubic"] = call.get("cubic_coeff_a", -0.75)
    return [em.emit("upsample", [call.need(0)], call.shape, call.dtype, **attributes)]


def _col2im(call: Call, em: Emitter) -> Results:
    x = em.flow(call.need(0))
    image, kernel = call.integers(1, "the size of the image"), call.integers(2, "the size of the windows")
    if image is None or kernel is None or len(concrete(x)) != 3:
        raise CannotLowerError("the size of the image or of its windows is not known")
    ones, (batch, columns, _) = (1,) * len(image), concrete(x)
    shape = (batch, columns // math.prod(kernel), *image)
    return [
        em.emit(
            "fold", [x], shape, call.dtype,
            kernel=tuple(kernel), strides=tuple(call.get("strides") or ones),
            pads=tuple(call.get("pads") or (0,) * (2 * len(image))),
            dilations=tuple(call.get("dilations") or ones),
        )
    ]  # fmt: skip


def _reduce(op: str, before: str = "", after: str = "") -> Lowering:
    """A reduction; its axes are an attribute, or an input from opset 13 (ReduceSum) or 18 on."""

    def lower(call: Call, em: Emitter) -> Results:
        x = em.flow(call.need(0))
        given = call.integers(1, "the axes") if len(call.inputs) > 1 else call.get("axes")
        if before:
            exponent: dict[str, Any] = {"exponent": 2.0} if before == "pow" else {}
            x = em.emit(before, [x], x.shape, **exponent)
        if not given and call.get("noop_with_empty_axes", 0):
            y = em.emit("identity", [x], x.shape)
        else:
            axes = tuple(sorted(axis_of(axis, rank(x)) for axis in given)) if given else tuple(range(rank(x)))
            y = em.emit(op, [x], call.shape, call.dtype, axes=axes, keepdims=bool(call.get("keepdims", 1)))
        return [em.emit(after, [y], y.shape) if after else y]

    return lower


def _cumsum(call: Call, em: Emitter) -> Results:
    x = em.flow(call.need(0))
    axis = call.scalar(1, "the axis") or 0.0
    flags: dict[str, Any] = {"reverse": bool(call.get("reverse", 0)), "exclusive": bool(call.get("exclusive", 0))}
    return [em.emit("cumsum", [x], call.shape, call.dtype, axis=axis_of(int(axis), rank(x)), **flags)]


SHAPE_OPS: Mapping[str, Lowering] = {
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    "Transpose": _transpose,
    "Slice": _slice,
    "ReverseSequence": _reverse_sequence,
    "Split": _split,
    "SplitToSequence": _split_to_sequence,
    "SequenceAt": _sequence_at,
    "Concat": _concat,
    "Gather": _gather,
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
    "ReduceMean": _reduce("reduce_mean"),
    "ReduceSum": _reduce("reduce_sum"),
    "ReduceMax": _reduce("reduce_max"),
    "ReduceMin": _reduce("reduce_min"),
    "ReduceL2": _reduce("reduce_l2"),
    "ReduceL1": _reduce("reduce_sum", before="abs"),
    "ReduceSumSquare": _reduce("reduce_sum", before="pow"),
    "ReduceLogSum": _reduce("reduce_sum", after="log"),
    "ReduceLogSumExp": _reduce("reduce_sum", before="exp", after="log"),
    "CumSum": _cumsum,
    "Col2Im": _col2im,
}
