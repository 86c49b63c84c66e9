"""Lowerings of the linear maps: dense layers, convolutions, embeddings and products of matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gnelint.readers.torch import arithmetic as arithmetic
from gnelint.readers.torch.constants import Constant
from gnelint.readers.torch.emitter import Call, CannotLowerError, Emitter, Flow, Operand, Shape, parameter

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
    return em.flow(em.reshape(x, (1, *x.shape))), (1, *shape)


def _linear(em: Emitter, call: Call) -> Operand:
    x, weight, bias = call["input"], call["weight"], call["bias"]
    if isinstance(weight, Flow):
        perm = (*range(len(weight.shape) - 2), len(weight.shape) - 1, len(weight.shape) - 2)
        product = matmul(em, x, em.transpose(weight, perm), call.shape)
        return product if bias is None else arithmetic.add(em, product, bias, call.shape)
    if isinstance(bias, Flow):
        product = em.emit("linear", [x], call.shape, parameters={"weight": parameter(weight)})
        return em.emit("add", [product, bias], call.shape)
    return em.emit("linear", [x], call.shape, parameters={"weight": parameter(weight), "bias": parameter(bias)})


def matmul(em: Emitter, a: Operand, b: Operand, shape: Shape, factor: float = 1.0) -> Operand:
    """factor * a @ b with numpy's rules for one-dimensional and stacked operands."""
    if len(a.shape) == 1 or len(b.shape) == 1:
        return _matmul_vector(em, a, b, shape, factor)
    if isinstance(b, Constant) and len(b.shape) == 2:
        product = em.emit("linear", [a], shape, parameters={"weight": b.parameter((1, 0))})
        return arithmetic.scale(em, product, factor)
    if isinstance(a, Constant) and len(a.shape) == 2:
        swap = (*range(len(b.shape) - 2), len(b.shape) - 1, len(b.shape) - 2)
        columns = em.transpose(b, swap)
        turned = (*columns.shape[:-1], a.shape[0])
        product = em.emit("linear", [columns], turned, parameters={"weight": a.parameter()})
        return arithmetic.scale(em, em.transpose(product, swap), factor)
    if factor == 1:
        return em.emit("matmul", [a, b], shape)
    return em.emit("matmul", [a, b], shape, factor=factor)


def _matmul_vector(em: Emitter, a: Operand, b: Operand, shape: Shape, factor: float) -> Operand:
    rows = em.reshape(a, (1, *a.shape)) if len(a.shape) == 1 else a
    columns = em.reshape(b, (*b.shape, 1)) if len(b.shape) == 1 else b
    whole = (*shape, 1) if len(b.shape) == 1 else shape
    if len(a.shape) == 1:
        whole = (*whole[:-1], 1, whole[-1])
    return em.reshape(matmul(em, rows, columns, whole, factor), shape)


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
    return product if beta == 0 else arithmetic.add(em, product, bias, call.shape, beta)


def _conv(em: Emitter, call: Call) -> Operand:
    weight = call["weight"]
    if not isinstance(weight, Constant):
        raise CannotLowerError("the kernel depends on the network's input")
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
    if isinstance(table, Constant):
        return em.emit("embedding", [indices], call.shape, table.dtype, parameters={"weight": parameter(table)})
    return em.emit("gather", [table, indices], call.shape, axis=0)


def _einsum(em: Emitter, call: Call) -> Operand:
    """Two operands: their axes in the order (batch, own, summed), a product of matrices, its axes as asked for."""
    equation, operands = call["equation"].replace(" ", ""), call["tensors"]
    if "->" not in equation or "." in equation or len(operands) != 2:
        raise CannotLowerError("an einsum that is no product of two matrices")
    left, result = equation.split("->")
    a, b = left.split(",")
    shared = [label for label in a if label in b]
    batch, summed = [x for x in shared if x in result], [x for x in shared if x not in result]
    own_a, own_b = [x for x in a if x not in b], [x for x in b if x not in a]
    simple = all(len(set(term)) == len(term) for term in (a, b, result))
    if not simple or set(result) != {*batch, *own_a, *own_b} or not summed:
        raise CannotLowerError("an einsum that is no product of two matrices")
    sizes = dict(zip(a + b, (*operands[0].shape, *operands[1].shape), strict=True))
    if not all(isinstance(size, int) for size in sizes.values()):
        raise CannotLowerError("an einsum over symbolic sizes")
    first = _as_matrix(em, operands[0], a, batch, own_a, summed, sizes)
    second = _as_matrix(em, operands[1], b, batch, summed, own_b, sizes)
    whole = (*(sizes[x] for x in batch), _product(own_a, sizes), _product(own_b, sizes))
    order = [*batch, *own_a, *own_b]
    product = em.reshape(matmul(em, first, second, whole), tuple(sizes[label] for label in order))
    perm = tuple(order.index(label) for label in result)
    return product if perm == tuple(range(len(perm))) else em.transpose(product, perm)


def _product(labels: Sequence[str], sizes: Mapping[str, Any]) -> int:
    found = 1
    for label in labels:
        found *= int(sizes[label])
    return found


def _as_matrix(
    em: Emitter, x: Operand, term: str, batch: Sequence[str], rows: Sequence[str], columns: Sequence[str],
    sizes: Mapping[str, Any],
) -> Operand:  # fmt: skip
    order = tuple(term.index(label) for label in (*batch, *rows, *columns))
    shape = (*(sizes[label] for label in batch), _product(rows, sizes), _product(columns, sizes))
    if isinstance(x, Constant):
        x = x.transposed(order)
    elif order != tuple(range(len(order))):
        x = em.transpose(x, order)
    return em.reshape(x, shape)


LINEAR_OPS: Mapping[str, Lowering] = {
    "linear": _linear,
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot"), _matmul),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), _addmm),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution", "_convolution", "conv_transpose1d",
                     "conv_transpose2d", "conv_transpose3d"), _conv),
    "embedding": _embedding,
    "einsum": _einsum,
}  # fmt: skip
