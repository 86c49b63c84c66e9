"""Lowerings of ONNX Runtime's own operators (com.microsoft) that its optimiser writes into transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gnelint.ir.graph import Value
from gnelint.readers.emitter import CannotLowerError, concrete, rank
from gnelint.readers.lowering import add, linear
from gnelint.readers.onnx.call import Call
from gnelint.readers.onnx.emitter import Emitter, Lowering, Results


def _fused_matmul(call: Call, em: Emitter) -> Results:
    a, b = em.flow(call.need(0)), em.flow(call.need(1))
    if call.get("transBatchA", 0) or call.get("transBatchB", 0):
        raise CannotLowerError("batch axes are transposed")
    flip_a, flip_b = bool(call.get("transA", 0)), bool(call.get("transB", 0))
    left, right = concrete(a), concrete(b)
    if len(left) < 2 or len(left) != len(right):
        raise CannotLowerError("operands of different rank")
    batch = tuple(max(n, m) for n, m in zip(left[:-2], right[:-2], strict=True))
    shape = (*batch, left[-1] if flip_a else left[-2], right[-2] if flip_b else right[-1])
    attributes = {"transpose_a": flip_a, "transpose_b": flip_b, "factor": call.get("alpha", 1.0)}
    return [em.emit("matmul", [a, b], shape, **attributes)]


def _skip_norm(op: str, roles: tuple[str, ...]) -> Lowering:
    """norm(x + skip + bias): the sum is the fourth output."""

    def lower(call: Call, em: Emitter) -> Results:
        x, skip = em.flow(call.need(0)), call.need(1)
        parameters = {role: call.optional_parameter(index + 2, role) for index, role in enumerate(roles)}
        y = em.flow(add(em, x, skip, x.shape))
        added = call.optional_parameter(2 + len(roles), "the bias")
        if added is not None:
            y = em.plus(y, added, y.shape)
        found = em.emit(
            op, [y], y.shape, parameters=parameters, axes=(rank(y) - 1,), epsilon=call.get("epsilon", 1e-12)
        )
        return [found, None, None, y]

    return lower


def _multi_head_attention(call: Call, em: Emitter) -> Results:
    """Packed (B, T, H*d) operands without cache, mask or relative positions."""
    heads = call.get("num_heads", 0)
    if not heads or any(call.input(index) is not None for index in range(4, len(call.inputs))):
        raise CannotLowerError("masks, relative positions or a cache")
    query, key, value = (em.flow(call.need(index)) for index in range(3))
    if any(rank(operand) != 3 for operand in (query, key, value)) or call.input(3) is not None:
        raise CannotLowerError("a packed projection or a bias")
    return [_attend(em, (query, key, value), heads, call.get("scale"), False)]


def _packed_attention(call: Call, em: Emitter) -> Results:
    """Attention of com.microsoft: the projection of queries, keys and values, and attention."""
    weight, added = call.parameter(1, "the weight"), call.optional_parameter(2, "the bias")
    heads = call.get("num_heads", 0)
    if not heads or any(call.input(index) is not None for index in range(3, len(call.inputs))):
        raise CannotLowerError("masks, relative positions or a cache")
    if call.get("qkv_hidden_sizes") or call.get("do_rotary", 0) or len(weight.shape) != 2 or weight.shape[1] % 3:
        raise CannotLowerError("projections of different sizes or rotary positions")
    packed = linear(em, em.flow(call.need(0)), weight.permuted((1, 0)), added)
    width = weight.shape[1] // 3
    shape = (*(packed.shape or ())[:-1], width)
    query, key, value = em.emit_many(
        "split", [packed], [(shape, packed.dtype)] * 3, axis=len(shape) - 1, sizes=(width,) * 3
    )
    return [_attend(em, (query, key, value), heads, call.get("scale"), bool(call.get("unidirectional", 0)))]


def _attend(em: Emitter, operands: tuple[Value, Value, Value], heads: int, scale: float | None, causal: bool) -> Value:
    query, _, value = operands
    shape = (*(query.shape or ())[:-1], (value.shape or ())[-1])
    attributes: dict[str, Any] = {"scale": scale or None, "causal": causal, "packed": True}
    return em.emit("attention", operands, shape, **attributes, heads=heads, kv_heads=heads)


CONTRIB_OPS: Mapping[str, Lowering] = {
    "com.microsoft.FusedMatMul": _fused_matmul,
    "com.microsoft.SkipLayerNormalization": _skip_norm("layer_norm", ("scale", "bias")),
    "com.microsoft.SkipSimplifiedLayerNormalization": _skip_norm("rms_norm", ("scale",)),
    "com.microsoft.MultiHeadAttention": _multi_head_attention,
    "com.microsoft.Attention": _packed_attention,
}
