"""Lowerings of the linear maps: dense layers, convolutions, embeddings and products of matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gnelint.ir.graph import Parameter
from gnelint.readers import lowering
from gnelint.readers.emitter import CannotLowerError, Shape, concrete
from gnelint.readers.lowering import add, last_two_exchanged, matmul
from gnelint.readers.torch.constants import Constant, derived
from gnelint.readers.torch.emitter import Call, Emitter, Flow, Operand, parameter
from gnelint.readers.torch.ops.complex import product_of_parts

Lowering = Callable[[Emitter, Call], Any]


def per_axis(sizes: Any, count: int) -> tuple[int, ...]:
    """One entry a spatial axis from ATen's "an int, one entry for all, or one each"."""
    listed = [sizes] if isinstance(sizes, int) else list(sizes)
    if not all(isinstance(size, int) for size in listed):
        raise CannotLowerError("a window whose size is symbolic")
    return tuple(listed * count if len(listed) == 1 else listed)


def batched(em: Emitter, x: Flow, axes: int, shape: Shape) -> tuple[Flow, Shape]:
    """The input with a batch axis and the shape of the output with one; `axes` counts the spatial ones."""
    if len(x.shape) == axes + 2:
        return x, shape
    return em.reshape(x, (1, *x.shape)), (1, *shape)


def _linear(em: Emitter, call: Call) -> Operand:
    x, weight, bias = call["input"], call["weight"], call["bias"]
    if isinstance(weight, Flow):
        product = matmul(em, x, em.transpose(weight, last_two_exchanged(len(weight.shape))), call.shape)
        return product if bias is None else add(em, product, bias, call.shape)
    if isinstance(bias, Flow):
        product = em.emit("linear", [x], call.shape, parameters={"weight": parameter(weight)})
        return em.emit("add", [product, bias], call.shape)
    return em.emit("linear", [x], call.shape, parameters={"weight": parameter(weight), "bias": parameter(bias)})


def _matmul(em: Emitter, call: Call) -> Operand:
    other = next(call[name] for name in ("other", "mat2", "vec", "tensor", "vec2") if name in call.arguments)
    return matmul(em, call["self"], other, call.shape)


def _addmm(em: Emitter, call: Call) -> Operand:
    bias, beta, alpha = call["self"], float(call.get("beta", 1)), float(call.get("alpha", 1))
    a, b = (
        (call[first], call[second])
        for first, second in (("mat1", "mat2"), ("batch1", "batch2"), ("mat", "vec"))
        if first in call.arguments
    ).__next__()
    if isinstance(bias, Constant) and isinstance(b, Constant) and len(b.shape) == 2 and alpha == beta == 1:
        vector = bias.compact
        if vector.shape == (b.shape[1],):
            weights = {"weight": b.parameter((1, 0)), "bias": vector.parameter()}
            return em.emit("linear", [a], call.shape, parameters=weights)
    product = matmul(em, a, b, call.shape, alpha)
    return product if beta == 0 else add(em, product, bias, call.shape, beta)


def _grouped(em: Emitter, call: Call) -> Operand:
    """Rows sorted by the expert that they are sent to, each times the matrix of its own (experts, in, out).

    How many rows each gets depends on the values: experts are taken to be chosen alike often, and of many a few,
    spread evenly, stand for all.
    """
    x = em.flow(call["input"] if "input" in call.arguments else call["self"])
    weight = call["weight"] if "weight" in call.arguments else call["mat2"]
    if not isinstance(weight, Constant) or len(weight.shape) != 3 or len(x.shape) != 2:
        raise CannotLowerError("groups of another form")
    rows, experts = int(concrete(x)[0]), weight.shape[0]
    count = min(rows, experts, _MOST_EXPERTS)
    sizes = tuple(rows * (at + 1) // count - rows * at // count for at in range(count))
    shapes = [((size, x.shape[1]), x.dtype) for size in sizes]
    parts = em.emit_many("split", [x], shapes, axis=0, sizes=sizes) if count > 1 else (x,)
    em.notes[_EXPERTS] = None
    return em.concat(
        [
            em.emit(
                "linear", [part], (size, call.shape[1]), parameters={"weight": _matrix(weight, at * experts // count)}
            )
            for at, (part, size) in enumerate(zip(parts, sizes, strict=True))
        ],
        0,
    )


_MOST_EXPERTS = 16
_EXPERTS = "experts are taken to be chosen alike often"


def _matrix(stack: Constant, index: int) -> Parameter:
    """One of a stack of (in, out) matrices, as a linear map has it."""
    return replace(
        derived(lambda whole: whole[index].mT, stack),
        name=f"{stack.name}[{index}]",
        transform=stack.transform,
        law=stack.law,
    ).parameter()


def _conv(em: Emitter, call: Call) -> Operand:
    weight = call["weight"]
    if not isinstance(weight, Constant):
        return _conv_by_input(em, call, weight)
    kernel = weight.shape[2:]
    strides, dilations = per_axis(call["stride"], len(kernel)), per_axis(call["dilation"], len(kernel))
    attributes: dict[str, Any] = {
        "strides": strides,
        "dilations": dilations,
        "pads": _pads(call["padding"], kernel, dilations),
        "groups": int(call["groups"]),
    }
    op = "conv"
    if call.get("transposed", "output_padding" in call.arguments):
        op = "conv_transpose"
        attributes["output_padding"] = per_axis(call["output_padding"], len(kernel))
    bias = call["bias"]
    weights = {"weight": parameter(weight), "bias": None if isinstance(bias, Flow) else parameter(bias)}
    x, shape = batched(em, em.flow(call["input"]), len(kernel), call.shape)
    found: Operand = em.emit(op, [x], shape, parameters=weights, **attributes)
    found = em.reshape(found, call.shape)
    if isinstance(bias, Flow):
        along = (bias.shape[0], *(1,) * len(kernel))
        found = em.emit("add", [found, em.reshape(bias, along)], call.shape)
    return found


def _conv_by_input(em: Emitter, call: Call, weight: Flow) -> Operand:
    """A convolution whose kernels depend on the input: its windows side by side, times the kernels as matrices.

    Raises:
        CannotLowerError: it is a transposed one, or of three axes.
    """
    x, kernel = em.flow(call["input"]), concrete(weight)[2:]
    if call.get("transposed", "output_padding" in call.arguments) or len(kernel) > 2 or len(x.shape) != len(kernel) + 2:
        raise CannotLowerError("kernels that depend on the network's input, of another form")
    strides, dilations = (per_axis(call[name], len(kernel)) for name in ("stride", "dilation"))
    pads = _pads(call["padding"], kernel, dilations)
    batch, channels, *space = concrete(x)
    count, groups, out = len(kernel), int(call["groups"]), concrete(weight)[0]
    if count == 1:  # an image of one row
        kernel, strides, dilations, pads = (1, *kernel), (1, *strides), (1, *dilations), (0, pads[0], 0, pads[1])
    places = math.prod(int(size) for size in call.shape[2:])
    image = em.reshape(x, (batch, channels, *(1,) * (2 - count), *space))
    window = channels * math.prod(kernel)
    rows = em.emit(
        "unfold", [image], (batch, window, places), kernel=kernel, strides=strides, pads=pads, dilations=dilations
    )
    parts = em.reshape(rows, (batch, groups, window // groups, places))
    matrices = em.reshape(weight, (groups, out // groups, window // groups))
    found = em.reshape(em.emit("matmul", [matrices, parts], (batch, groups, out // groups, places)), call.shape)
    bias = call["bias"]
    return found if bias is None else add(em, found, em.reshape(bias, (out, *(1,) * count)), call.shape)


def _pads(padding: Any, kernel: Sequence[int], dilations: Sequence[int]) -> tuple[int, ...]:
    """All begins, then all ends; an odd total of "same" has its larger half at the end."""
    if padding == "valid":
        return (0,) * (2 * len(kernel))
    if padding == "same":
        totals = [dilation * (size - 1) for size, dilation in zip(kernel, dilations, strict=True)]
        return (*(total // 2 for total in totals), *(total - total // 2 for total in totals))
    sides = per_axis(padding, len(kernel))
    return (*sides, *sides)


def _embedding(em: Emitter, call: Call) -> Operand:
    table, indices = call["weight"], call["indices"]
    return lowering.gather(em, table, indices, 0, call.shape)


def _embedding_bag(em: Emitter, call: Call) -> Any:
    """Rows of a table, added up or averaged over bags of one size."""
    indices, offsets, table = em.flow(call["indices"]), call["offsets"], call["weight"]
    mode = ("reduce_sum", "reduce_mean", "reduce_max")[int(call["mode"])]
    if call.get("per_sample_weights") is not None or not isinstance(offsets, Constant):
        raise CannotLowerError("bags with weights, or of sizes that depend on the input")
    starts = [int(start) for start in offsets.compute({})]
    if call.get("include_last_offset"):
        starts = starts[:-1]
    total = int(concrete(indices)[0])
    size = total // max(len(starts), 1)
    if starts != list(range(0, total, max(size, 1))) or size * len(starts) != total:
        raise CannotLowerError("bags of different sizes")
    rows = lowering.gather(em, table, em.reshape(indices, (len(starts), size)), 0, (len(starts), size, table.shape[1]))
    return (em.emit(mode, [rows], call.shape, call.dtype, axes=(1,), keepdims=False), None, None, None)


def _einsum(em: Emitter, call: Call) -> Operand:
    return lowering.einsum(em, call["equation"], call["tensors"])


LINEAR_OPS: Mapping[str, Lowering] = {
    "linear": product_of_parts(_linear),
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot"), product_of_parts(_matmul)),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), _addmm),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution", "_convolution", "conv_transpose1d",
                     "conv_transpose2d", "conv_transpose3d"), _conv),
    "embedding": _embedding,
    **dict.fromkeys(("grouped_mm_fallback", "_grouped_mm"), _grouped),
    **dict.fromkeys(("embedding_bag", "_embedding_bag"), _embedding_bag),
    "einsum": product_of_parts(_einsum),
}  # fmt: skip
