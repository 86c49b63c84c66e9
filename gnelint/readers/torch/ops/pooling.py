"""Lowerings of pooling, resizing and sliding windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gnelint.readers.emitter import CannotLowerError, Shape
from gnelint.readers.torch.emitter import Call, Emitter
from gnelint.readers.torch.ops.linear import batched, per_axis

Lowering = Callable[[Emitter, Call], Any]


def _window(call: Call, space: Shape, out: Shape) -> dict[str, Any]:
    """Kernel, strides, pads and dilations; `ceil_mode` shows as more padding at the end."""
    axes = len(space)
    kernel = per_axis(call["kernel_size"], axes)
    strides = per_axis(call["stride"], axes) if call.get("stride") else kernel
    begins = per_axis(call.get("padding", 0), axes)
    dilations = per_axis(call.get("dilation", 1), axes)
    ends = tuple(
        pad if not (isinstance(size, int) and isinstance(count, int)) else
        max(pad, (count - 1) * stride + dilation * (taps - 1) + 1 - size - pad)
        for size, count, taps, stride, dilation, pad in zip(space, out, kernel, strides, dilations, begins, strict=True)
    )  # fmt: skip
    return {"kernel": kernel, "strides": strides, "pads": (*begins, *ends), "dilations": dilations}


def _max_pool(axes: int) -> Lowering:
    def lower(em: Emitter, call: Call) -> Any:
        x, shape = batched(em, em.flow(call["self"]), axes, call.shape)
        window = _window(call, x.shape[2:], shape[2:])
        if len(call.outputs) == 1 or not call.reads(1):
            found = em.reshape(em.emit("max_pool", [x], shape, **window), call.shape)
            return found if len(call.outputs) == 1 else (found, None)
        found, indices = em.emit_many("max_pool", [x], ((shape, call.dtype), (shape, "int64")), **window)
        return em.reshape(found, call.shape), em.reshape(indices, call.shape)

    return lower


def _avg_pool(axes: int) -> Lowering:
    def lower(em: Emitter, call: Call) -> Any:
        x, shape = batched(em, em.flow(call["self"]), axes, call.shape)
        window = _window(call, x.shape[2:], shape[2:])
        found = em.emit("avg_pool", [x], shape, **window, count_include_pad=bool(call["count_include_pad"]))
        divisor = call.get("divisor_override")
        if divisor:
            return em.reshape(em.scale(found, math.prod(window["kernel"]) / divisor), call.shape)
        return em.reshape(found, call.shape)

    return lower


def _adaptive_pool(kind: str, axes: int) -> Lowering:
    def lower(em: Emitter, call: Call) -> Any:
        x, shape = batched(em, em.flow(call["self"]), axes, call.shape)
        size = tuple(shape[2:])
        if size == x.shape[2:]:
            found = em.emit("identity", [x], shape)
        elif all(count == 1 for count in size):
            found = em.emit(f"global_{kind}_pool", [x], shape)
        else:
            found = em.emit(f"adaptive_{kind}_pool", [x], shape, output_size=size)
        pooled = em.reshape(found, call.shape)
        return pooled if len(call.outputs) == 1 else (pooled, None)

    return lower


def _upsample(mode: str, antialias: bool = False) -> Lowering:
    def lower(em: Emitter, call: Call) -> Any:
        x = call["input"] if "input" in call.arguments else call["self"]
        attributes: dict[str, Any] = {"mode": mode}
        if call.get("align_corners", False):
            attributes["coordinates"] = "align_corners"
        if antialias:
            attributes |= {"antialias": True, "cubic": -0.5}  # torch takes another cubic kernel here
        return em.emit("upsample", [x], call.shape, **attributes)

    return lower


def _windows(op: str, batched: int) -> Lowering:
    """Windows taken from an image or laid back on it; `batched` is the rank of the input with a batch."""

    def lower(em: Emitter, call: Call) -> Any:
        x, shape = em.flow(call["self"]), call.shape
        if len(x.shape) < batched:
            x, shape = em.reshape(x, (1, *x.shape)), (1, *shape)
        pads = per_axis(call["padding"], 2)
        found = em.emit(
            op, [x], shape,
            kernel=per_axis(call["kernel_size"], 2), strides=per_axis(call["stride"], 2), pads=(*pads, *pads),
            dilations=per_axis(call["dilation"], 2),
        )  # fmt: skip
        return em.reshape(found, call.shape)

    return lower


def _pad(em: Emitter, call: Call) -> Any:
    widths: Sequence[Any] = call["pad"] if "pad" in call.arguments else call["padding"]
    widths = [widths] if isinstance(widths, int) else list(widths)
    if not all(isinstance(width, int) for width in widths):
        raise CannotLowerError("a padding whose width is symbolic")
    mode = call.get("mode") or _PAD_MODES.get(str(call.node.target).split(".")[1].rstrip("123d"), "constant")
    rank = len(call.shape)
    begins, ends = [0] * rank, [0] * rank
    for index in range(len(widths) // 2):  # torch counts from the last axis
        begins[rank - 1 - index], ends[rank - 1 - index] = widths[2 * index], widths[2 * index + 1]
    return em.emit(
        "pad", [call["self"]], call.shape,
        pads=(*begins, *ends), mode=_ONNX_PAD_MODES[mode], value=float(call.get("value") or 0.0),
    )  # fmt: skip


_PAD_MODES = {"reflection_pad": "reflect", "replication_pad": "replicate", "constant_pad_n": "constant"}
_ONNX_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}

POOLING_OPS: Mapping[str, Lowering] = {
    **{f"max_pool{axes}d{suffix}": _max_pool(axes) for axes in (1, 2, 3) for suffix in ("", "_with_indices")},
    **{f"avg_pool{axes}d": _avg_pool(axes) for axes in (1, 2, 3)},
    **{f"{prefix}adaptive_{kind}_pool{axes}d": _adaptive_pool(kind, axes)
       for axes in (1, 2, 3) for kind in ("avg", "max") for prefix in ("", "_")},
    **{f"{prefix}upsample_nearest{suffix}{axes}d": _upsample("nearest")
       for axes in (1, 2, 3) for prefix, suffix in (("", ""), ("_", "_exact"))},
    **dict.fromkeys(("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"), _upsample("linear")),
    "upsample_bicubic2d": _upsample("cubic"),
    "_upsample_bilinear2d_aa": _upsample("linear", antialias=True),
    "_upsample_bicubic2d_aa": _upsample("cubic", antialias=True),
    "im2col": _windows("unfold", 4),
    "col2im": _windows("fold", 3),
    **dict.fromkeys(("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
                     "replication_pad1d", "replication_pad2d", "replication_pad3d"), _pad),
}  # fmt: skip
