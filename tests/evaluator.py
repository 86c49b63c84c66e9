"""Runs a graph with numbers, so that a test can hold what a reader understood, or a rewriting left, against what the
network computes. Operations with a formula in their record are computed by it, the others by the table below."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gnelint.ir.graph import Graph, Node, Parameter
from gnelint.nn.arrays import TORCH
from gnelint.ops import VOCABULARY


def run(graph: Graph, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The graph's outputs on these inputs, whose precision parameters take; dropout is neutral.

    Raises:
        KeyError: an operation is not known here, or a value was never written, as a bad rewriting leaves it.
    """
    values: dict[str, Any] = dict(inputs)
    dtype = next((x.dtype for x in inputs.values() if x.is_floating_point()), torch.float32)
    for node in graph.nodes:
        operands = [None if name is None else values[name] for name in node.inputs]
        shapes = [graph.values[name].concrete_shape for name in node.outputs]
        weights = {role: _tensor(parameter, dtype) for role, parameter in node.parameters.items()}
        found = _applied(node, operands, weights, shapes[0])
        results = found if isinstance(found, (tuple, list)) else (found,)
        for name, shape, result in zip(node.outputs, shapes, results, strict=False):
            assert shape in (None, tuple(result.shape)), f"{node.name} ({node.op}): {tuple(result.shape)}, {shape}"
            values[name] = result
    return {name: values[name] for name in graph.outputs}


def outputs(graph: Graph, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """`run`, inputs and outputs in the graph's order."""
    return tuple(run(graph, dict(zip(graph.inputs, inputs, strict=True))).values())


def _tensor(parameter: Parameter, dtype: torch.dtype) -> Tensor:
    array = np.array(parameter.array(), copy=True)
    if array.dtype.kind not in "biuf":  # bfloat16, which torch does not take from numpy
        array = array.astype(np.float64)
    found = torch.from_numpy(array)
    return found.to(dtype) if found.is_floating_point() else found


def known(op: str) -> bool:
    """Whether an operation can be run."""
    return op in OPERATIONS or VOCABULARY[op].function is not None


def _applied(node: Node, operands: list[Any], weights: dict[str, Tensor], shape: Any) -> Any:
    if node.op in OPERATIONS:
        return OPERATIONS[node.op](node, operands, weights, shape)
    record = VOCABULARY[node.op]
    if record.function is None:
        raise KeyError(node.op)
    attributes = {name: node.attribute(name) for name in record.attributes}
    return record.function.value(TORCH, *operands, **attributes, **weights)


def _linear(node: Node, x: list[Any], w: dict[str, Tensor], shape: Any) -> Tensor:
    return F.linear(x[0], w["weight"], w.get("bias"))


def _conv(node: Node, x: list[Any], w: dict[str, Tensor], shape: Any) -> Tensor:
    rank = w["weight"].dim() - 2
    pads, strides, dilations = (node.attribute(name) for name in ("pads", "strides", "dilations"))
    widths = [width for axis in reversed(range(rank)) for width in (pads[axis], pads[rank + axis])]
    function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    groups = node.attribute("groups")
    padded = F.pad(x[0], widths)
    return function(padded, w["weight"], w.get("bias"), strides, 0, dilations, groups)


def _conv_transpose(node: Node, x: list[Any], w: dict[str, Tensor], shape: Any) -> Tensor:
    rank = w["weight"].dim() - 2
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    attributes = [node.attribute(name) for name in ("strides", "pads", "output_padding", "groups", "dilations")]
    strides, pads, extra, groups, dilations = attributes
    return function(x[0], w["weight"], w.get("bias"), strides, pads[:rank], extra, groups, dilations)


def _pool(kind: str) -> Callable[..., Tensor]:
    def pool(node: Node, x: list[Any], w: dict[str, Tensor], shape: Any) -> Tensor:
        kernel, strides, pads = (node.attribute(name) for name in ("kernel", "strides", "pads"))
        rank = len(kernel)
        if kind == "max":
            function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
            widths = [pads[side * rank + axis] for axis in reversed(range(rank)) for side in (0, 1)]
            return function(F.pad(x[0], widths, value=-math.inf), kernel, strides, 0, node.attribute("dilations"))
        assert pads[:rank] == pads[rank:], "only even padding here"
        average = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
        return average(x[0], kernel, strides, pads[:rank], False, node.attribute("count_include_pad"))

    return pool


def _lp_pool(node: Node, x: list[Any], w: dict[str, Tensor], shape: Any) -> Tensor:
    kernel, p = node.attribute("kernel"), node.attribute("p")
    means = _pool("avg")(replace(node, op="avg_pool", attributes={**node.attributes, "count_include_pad": True}),
                         [x[0].abs() ** p], w, shape)  # fmt: skip
    return (means * math.prod(kernel)) ** (1 / p)


def _adaptive(node: Node, x: list[Any], w: dict[str, Tensor], shape: Any) -> Tensor:
    functions = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)
    if node.op == "adaptive_max_pool":
        functions = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)
    size = node.attributes.get("output_size", (1,) * (x[0].dim() - 2))
    return functions[len(size) - 1](x[0], size)


def _normalized(node: Node, x: list[Any], w: dict[str, Tensor], shape: Any) -> Tensor:
    y, epsilon, rank = x[0], node.attribute("epsilon"), x[0].dim()
    over_channels = {"instance_norm": tuple(range(2, rank)), **dict.fromkeys(
        ("batch_norm", "second_moment_norm"), tuple(axis for axis in range(rank) if axis != 1)
    )}  # fmt: skip
    axes = over_channels.get(node.op) or tuple(node.attribute("axes"))
    if node.op in ("batch_norm", "instance_norm", "layer_norm", "l1_norm"):
        y = y - y.mean(axes, keepdim=True)
    if node.op == "l1_norm":
        y = y / (y.abs().mean(axes, keepdim=True) + epsilon)
    elif node.op == "l2_normalize":
        y = y / y.square().sum(axes, keepdim=True).sqrt().clamp(min=epsilon)
    elif node.op == "second_moment_norm":
        y = y / (y.square().mean(axes, keepdim=True).sqrt() + epsilon)
    else:
        y = y / (y.square().mean(axes, keepdim=True) + epsilon).sqrt()
    if node.op in over_channels:
        w = {role: number.reshape(-1, *(1,) * (rank - 2)) for role, number in w.items()}
    return y * w.get("scale", 1.0) + w.get("bias", 0.0)


def _batch_norm(node: Node, x: list[Any], w: dict[str, Tensor], shape: Any) -> Tensor:
    if node.attribute("training"):
        return _normalized(node, x, w, shape)
    running = (w["running_mean"], w["running_var"])
    return F.batch_norm(x[0], *running, w.get("scale"), w.get("bias"), False, 0.0, node.attribute("epsilon"))


def _attention(node: Node, x: list[Any], w: dict[str, Tensor], shape: Any) -> Tensor:
    """The first query sees the first key alone where it is causal."""
    query, key, value = x[:3]
    if node.attribute("packed"):
        heads, kv_heads = node.attribute("heads"), node.attribute("kv_heads")
        query, key, value = (
            part.unflatten(-1, (count, -1)).transpose(1, 2)
            for part, count in ((query, heads), (key, kv_heads), (value, kv_heads))
        )
    if key.dim() > 3 and query.shape[1] != key.shape[1]:
        key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], 1) for part in (key, value))
    scale = node.attribute("scale")
    logits = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    cap = node.attribute("softcap")
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    seen = torch.ones(logits.shape[-2:], dtype=torch.bool)
    if node.attribute("causal"):
        logits = logits.masked_fill(~seen.tril(), -math.inf)
    for mask in (mask for mask in (*x[3:], w.get("mask")) if mask is not None):
        logits = logits + mask if mask.is_floating_point() else logits.masked_fill(~mask.bool(), -math.inf)
    found = logits.softmax(-1).nan_to_num() @ value  # a query that sees nothing gives 0
    return found.transpose(1, 2).flatten(2) if node.attribute("packed") else found


def _matmul(node: Node, x: list[Any], w: dict[str, Tensor], shape: Any) -> Tensor:
    a = x[0].mT if node.attribute("transpose_a") else x[0]
    b = x[1].mT if node.attribute("transpose_b") else x[1]
    return node.attribute("factor") * (a @ b)


def _slice(node: Node, x: list[Any], w: dict[str, Tensor], shape: Any) -> Tensor:
    found = x[0]
    for axis, start, end, step in zip(*(node.attribute(n) for n in ("axes", "starts", "ends", "steps")), strict=True):
        found = found[(slice(None),) * axis + (slice(start, end, step),)]
    return found


def _pad(node: Node, x: list[Any], w: dict[str, Tensor], shape: Any) -> Tensor:
    array = x[0].numpy()
    pads, mode = node.attribute("pads"), node.attribute("mode")
    widths = list(zip(pads[: array.ndim], pads[array.ndim :], strict=True))
    extra = {"constant_values": node.attribute("value")} if mode == "constant" else {}
    return torch.from_numpy(np.pad(array, widths, mode=mode, **extra))


def _gather(node: Node, x: list[Any], w: dict[str, Tensor], shape: Any) -> Tensor:
    index = w["indices"] if "indices" in w else x[1]
    return torch.from_numpy(np.take(x[0].numpy(), index.numpy(), axis=node.attribute("axis")))


def _reduce(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduced(node: Node, x: list[Any], w: dict[str, Tensor], shape: Any) -> Tensor:
        return function(x[0], dim=node.attribute("axes"), keepdim=node.attribute("keepdims"))

    return reduced


def _upsample(node: Node, x: list[Any], w: dict[str, Tensor], shape: Any) -> Tensor:
    linear = ("linear", "bilinear", "trilinear")[x[0].dim() - 3]
    mode = {"nearest": "nearest", "linear": linear, "cubic": "bicubic"}[node.attribute("mode")]
    corners = {"half_pixel": False, "align_corners": True}[node.attribute("coordinates")] if mode != "nearest" else None
    return F.interpolate(x[0], shape[2:], mode=mode, align_corners=corners, antialias=node.attribute("antialias"))


def _tile(node: Node, x: list[Any], w: dict[str, Tensor], shape: Any) -> Tensor:
    sizes = (1,) * (len(shape) - x[0].dim()) + tuple(x[0].shape)
    return x[0].repeat([whole // size for whole, size in zip(shape, sizes, strict=True)])


def _depth_to_space(node: Node, x: list[Any], w: dict[str, Tensor], shape: Any) -> Tensor:
    block = node.attribute("block")
    if node.attribute("mode") == "DCR":  # the block comes before the channels
        x = [x[0].unflatten(1, (block**2, -1)).transpose(1, 2).flatten(1, 2)]
    return F.pixel_shuffle(x[0], block)


def _cumsum(node: Node, x: list[Any], w: dict[str, Tensor], shape: Any) -> Tensor:
    axis = node.attribute("axis")
    y = x[0].flip(axis) if node.attribute("reverse") else x[0]
    y = y.cumsum(axis) - (y if node.attribute("exclusive") else 0)
    return y.flip(axis) if node.attribute("reverse") else y


def _fold(node: Node, x: list[Any], w: dict[str, Tensor], shape: Any) -> Tensor:
    kernel, dilations, pads, strides = (node.attribute(n) for n in ("kernel", "dilations", "pads", "strides"))
    assert pads[:2] == pads[2:], "only even padding here"
    return F.fold(x[0], shape[2:], kernel, dilations, pads[:2], strides)


def _unfold(node: Node, x: list[Any], w: dict[str, Tensor], shape: Any) -> Tensor:
    kernel, dilations, pads, strides = (node.attribute(n) for n in ("kernel", "dilations", "pads", "strides"))
    return F.unfold(x[0], kernel, dilations, pads[:2], strides)


def _softmax(node: Node, x: list[Any], w: dict[str, Tensor], shape: Any) -> Tensor:
    top, axis = node.attribute("top"), node.attribute("axis")
    if "mask" in w:
        return x[0].masked_fill(~w["mask"], float("-inf")).softmax(axis)
    if top is not None and not node.attribute("renormalised"):
        p = x[0].softmax(axis)
        return p.masked_fill(p < p.topk(top, axis).values.amin(axis, keepdim=True), 0.0)
    if top is not None:
        least = x[0].topk(top, axis).values.amin(axis, keepdim=True)
        return x[0].masked_fill(x[0] < least, float("-inf")).softmax(axis)
    return x[0].softmax(axis)


def _top_k(node: Node, x: list[Any], w: dict[str, Tensor], shape: Any) -> tuple[Tensor, Tensor]:
    found = x[0].topk(node.attribute("k"), node.attribute("axis"), node.attribute("largest"))
    return found.values, found.indices


def _top_mask(node: Node, x: list[Any], w: dict[str, Tensor], shape: Any) -> Tensor:
    k, axis = node.attribute("k"), node.attribute("axis")
    places = x[0].topk(k, axis, node.attribute("largest")).indices
    mask = torch.zeros(x[0].shape, dtype=torch.bool).scatter(axis, places, True)
    return ~mask if node.attribute("hidden") else mask


def _recurrent(node: Node, x: list[Any], w: dict[str, Tensor], shape: Any) -> Any:
    sequence, *states = x
    hidden = shape[2]
    nothing = sequence.new_zeros(shape[0], hidden)
    h, c = (state if state is not None else nothing for state in [*states, None][:2])
    ys = []
    for t in range(shape[1])[:: -1 if node.attribute("reverse") else 1]:
        z, u = (
            F.linear(sequence[:, t], w["weight"], w.get("bias")),
            F.linear(h, w["recurrent"], w.get("recurrent_bias")),
        )
        if node.op == "lstm":
            i, f, g, o = (z + u).chunk(4, 1)
            c = (1 - i.sigmoid() if node.attribute("coupled") else f.sigmoid()) * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        elif node.op == "gru":
            h = _gru_step(node, z, u, h, w)
        else:
            h = getattr(torch, node.attribute("activation"))(z + u)
        ys.append(h)
    y = torch.stack(ys[:: -1 if node.attribute("reverse") else 1], 1)
    return (y, c)[: len(node.outputs)]


def _gru_step(node: Node, z: Tensor, u: Tensor, h: Tensor, w: dict[str, Tensor]) -> Tensor:
    r, keep = ((a + b).sigmoid() for a, b in zip(z.chunk(3, 1)[:2], u.chunk(3, 1)[:2], strict=True))
    new = r * u.chunk(3, 1)[2]
    if not node.attribute("reset_after"):
        bias = w["recurrent_bias"].chunk(3)[2] if "recurrent_bias" in w else None
        new = F.linear(r * h, w["recurrent"].chunk(3)[2], bias)
    return (1 - keep) * (z.chunk(3, 1)[2] + new).tanh() + keep * h


def _plain(function: Callable[..., Any], *attributes: str) -> Callable[..., Any]:
    """An operation that is a torch function of its inputs and of some attributes, in this order."""

    def apply(node: Node, x: list[Any], w: dict[str, Tensor], shape: Any) -> Any:
        return function(*x, *(node.attribute(name) for name in attributes))

    return apply


OPERATIONS: dict[str, Callable[..., Any]] = {
    "linear": _linear,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "embedding": lambda node, x, w, shape: F.embedding(x[0], w["weight"]),
    "constant": lambda node, x, w, shape: w["value"],
    "where": lambda node, x, w, shape: torch.where(x[0].bool(), x[1], x[2]),
    "batch_norm": _batch_norm,
    "group_norm": lambda n, x, w, shape: F.group_norm(
        x[0], n.attribute("groups"), w.get("scale"), w.get("bias"), n.attribute("epsilon")
    ),
    **dict.fromkeys(("layer_norm", "instance_norm", "rms_norm", "second_moment_norm", "l1_norm", "l2_normalize"),
                    _normalized),
    "max_pool": _pool("max"),
    "avg_pool": _pool("avg"),
    "global_avg_pool": _adaptive,
    "adaptive_avg_pool": _adaptive,
    "adaptive_max_pool": _adaptive,
    "lp_pool": _lp_pool,
    "global_lp_pool": lambda node, x, w, shape: torch.linalg.vector_norm(
        x[0], node.attribute("p"), tuple(range(2, x[0].dim())), keepdim=True
    ),
    "global_max_pool": lambda node, x, w, shape: x[0].amax(tuple(range(2, x[0].dim())), keepdim=True),
    **dict.fromkeys(("lstm", "gru", "rnn"), _recurrent),
    "softmax": _softmax,
    "top_k": _top_k,
    "top_mask": _top_mask,
    "one_hot": lambda node, x, w, shape: F.one_hot(x[0], shape[node.attribute("axis")]),
    "compare": lambda node, x, w, shape: getattr(torch, node.attribute("kind"))(*x),
    "logical": _plain(lambda *x: getattr(torch, f"logical_{x[-1]}")(*x[:-1]), "kind"),
    "scatter": lambda node, x, w, shape: torch.scatter(x[0], node.attribute("axis"), x[1], x[2]),
    "log_softmax": _plain(torch.log_softmax, "axis"),
    "attention": _attention,
    "matmul": _matmul,
    "local_response_norm": _plain(F.local_response_norm, "size", "alpha", "beta", "bias"),
    "concat": lambda node, x, w, shape: torch.cat(x, node.attribute("axis")),
    "stop_gradient": lambda node, x, w, shape: x[0].detach(),
    "straight_through": lambda node, x, w, shape: x[1] + (x[0] - x[1]).detach(),
    "dropout": _plain(lambda x: x),
    "reshape": lambda node, x, w, shape: x[0].reshape(shape),
    "transpose": _plain(torch.permute, "perm"),
    "slice": _slice,
    "split": lambda node, x, w, shape: torch.split(x[0], list(node.attribute("sizes")), node.attribute("axis")),
    "gather": _gather,
    "pad": _pad,
    "upsample": _upsample,
    "expand": lambda node, x, w, shape: x[0].expand(shape),
    "tile": _tile,
    "roll": lambda node, x, w, shape: torch.roll(x[0], node.attribute("shifts"), node.attribute("axes")),
    "flip": _plain(torch.flip, "axes"),
    "depth_to_space": _depth_to_space,
    "space_to_depth": _plain(F.pixel_unshuffle, "block"),
    "unfold": _unfold,
    "reduce_mean": _reduce(torch.mean),
    "reduce_sum": _reduce(torch.sum),
    "reduce_max": _reduce(torch.amax),
    "reduce_min": _reduce(torch.amin),
    "reduce_l2": _reduce(torch.linalg.vector_norm),
    "cumsum": _cumsum,
    "fold": _fold,
}  # fmt: skip
