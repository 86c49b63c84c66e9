"""Runs a canonical graph on numbers, so that a test can ask whether a rewriting computes the same function."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from gnelint.ir.graph import Graph, Node, Parameter

_SIMPLE: Mapping[str, Callable[..., Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "mish": functional.mish,
    "hardswish": functional.hardswish,
    "softsign": functional.softsign,
    "log_sigmoid": functional.logsigmoid,
    "erf": torch.erf,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "reciprocal": torch.reciprocal,
    "abs": torch.abs,
    "identity": lambda x: x,
    "dropout": lambda x: x,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "add": lambda *xs: sum(xs[1:], xs[0]),
    "mean": lambda *xs: sum(xs[1:], xs[0]) / len(xs),
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "where": lambda condition, a, b: torch.where(condition.bool(), a, b),
}


def run(graph: Graph, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The graph's outputs in float64; KeyError for a value that nothing wrote, as a bad rewriting leaves it."""
    known = dict(inputs)
    for node in graph.nodes:
        found = _apply(node, [known[name] for name in node.present_inputs], graph.values[node.outputs[0]].shape)
        known[node.outputs[0]] = found
    return {name: known[name] for name in graph.outputs}


def tensor(parameter: Parameter) -> Tensor:
    """A parameter's numbers in float64."""
    return torch.tensor(parameter.array().tolist(), dtype=torch.float64)


def _apply(node: Node, xs: list[Tensor], shape: object) -> Tensor:
    parameters = {role: tensor(parameter) for role, parameter in node.parameters.items()}
    if node.op in _SIMPLE:
        return _SIMPLE[node.op](*xs)
    return _WITH_ATTRIBUTES[node.op](node, xs, parameters, shape)


def _scale(node: Node, xs: list[Tensor], p: dict[str, Tensor], shape: object) -> Tensor:
    by = p.get("scale", torch.ones((), dtype=torch.float64))
    return node.attribute("factor") * (xs[0] / by if node.attribute("reciprocal") else xs[0] * by)


def _elu(node: Node, xs: list[Tensor], p: dict[str, Tensor], shape: object) -> Tensor:
    gamma = node.attribute("gamma") if node.op == "selu" else 1.0
    return gamma * torch.where(xs[0] > 0, xs[0], node.attribute("alpha") * torch.expm1(xs[0].clamp(max=0)))


def _normalize(node: Node, xs: list[Tensor], p: dict[str, Tensor], shape: object) -> Tensor:
    x, epsilon = xs[0], node.attribute("epsilon")
    rank = x.dim()
    if node.op == "group_norm":
        return functional.group_norm(x, node.attribute("groups"), p.get("scale"), p.get("bias"), epsilon)
    axes = {
        "batch_norm": tuple(i for i in range(rank) if i != 1),
        "second_moment_norm": tuple(i for i in range(rank) if i != 1),
        "instance_norm": tuple(range(2, rank)),
    }.get(node.op) or tuple(node.attribute("axes"))
    if node.op in ("layer_norm", "instance_norm", "batch_norm", "l1_norm"):
        x = x - x.mean(axes, keepdim=True)
    if node.op == "l1_norm":
        y = x / (x.abs().mean(axes, keepdim=True) + epsilon)
    elif node.op == "l2_normalize":
        y = x / x.pow(2).sum(axes, keepdim=True).sqrt().clamp(min=epsilon)
    elif node.op == "second_moment_norm":
        y = x / (x.pow(2).mean(axes, keepdim=True).sqrt() + epsilon)
    else:
        y = x / (x.pow(2).mean(axes, keepdim=True) + epsilon).sqrt()
    if node.op in ("batch_norm", "instance_norm", "second_moment_norm"):
        p = {role: number.reshape(-1, *(1,) * (rank - 2)) for role, number in p.items()}
    y = y * p["scale"] if "scale" in p else y
    return y + p["bias"] if "bias" in p else y


def _attention(node: Node, xs: list[Tensor], p: dict[str, Tensor], shape: object) -> Tensor:
    q, k, v = xs[:3]
    scale = node.attribute("scale")
    logits = q @ k.transpose(-1, -2) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if node.attribute("causal"):
        hidden = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1 + logits.shape[-1] - logits.shape[-2])
        logits = logits.masked_fill(hidden, -math.inf)
    if len(xs) > 3:
        assert xs[3].is_floating_point(), "a condition as mask: its sense is not in the graph"
        logits = logits + xs[3]
    if "mask" in p:
        assert node.parameters["mask"].dtype != "bool"
        logits = logits + p["mask"]
    return logits.softmax(-1) @ v


def _matmul(node: Node, xs: list[Tensor], p: dict[str, Tensor], shape: object) -> Tensor:
    a = xs[0].transpose(-1, -2) if node.attribute("transpose_a") else xs[0]
    b = xs[1].transpose(-1, -2) if node.attribute("transpose_b") else xs[1]
    return node.attribute("factor") * a @ b


def _conv(node: Node, xs: list[Tensor], p: dict[str, Tensor], shape: object) -> Tensor:
    rank = xs[0].dim() - 2
    function = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
    return function(
        xs[0],
        p["weight"],
        p.get("bias"),
        stride=tuple(node.attribute("strides")),
        padding=tuple(node.attribute("pads")[:rank]),
        dilation=tuple(node.attribute("dilations")),
        groups=node.attribute("groups"),
    )


def _slice(node: Node, xs: list[Tensor], p: dict[str, Tensor], shape: object) -> Tensor:
    index = [slice(None)] * xs[0].dim()
    for axis, *ends in zip(*(node.attribute(name) for name in ("axes", "starts", "ends", "steps")), strict=True):
        index[axis] = slice(*ends)
    return xs[0][tuple(index)]


def _reduce(node: Node, xs: list[Tensor], p: dict[str, Tensor], shape: object) -> Tensor:
    x, axes, keep = xs[0], tuple(node.attribute("axes")), node.attribute("keepdims")
    return {
        "reduce_mean": lambda: x.mean(axes, keepdim=keep),
        "reduce_sum": lambda: x.sum(axes, keepdim=keep),
        "reduce_max": lambda: x.amax(axes, keepdim=keep),
        "reduce_l2": lambda: x.pow(2).sum(axes, keepdim=keep).sqrt(),
    }[node.op]()


_WITH_ATTRIBUTES: Mapping[str, Callable[[Node, list[Tensor], dict[str, Tensor], object], Tensor]] = {
    "scale": _scale,
    "bias": lambda node, xs, p, shape: xs[0] + node.attribute("factor") * p["bias"],
    "linear": lambda node, xs, p, shape: functional.linear(xs[0], p["weight"], p.get("bias")),
    "conv": _conv,
    "constant": lambda node, xs, p, shape: p["value"],
    "leaky_relu": lambda node, xs, p, shape: functional.leaky_relu(xs[0], node.attribute("alpha")),
    "elu": _elu,
    "selu": _elu,
    "gelu": lambda node, xs, p, shape: functional.gelu(xs[0], approximate=node.attribute("approximate")),
    "silu": lambda node, xs, p, shape: xs[0] * torch.sigmoid(node.attribute("beta") * xs[0]),
    "hardsigmoid": lambda node, xs, p, shape: (node.attribute("alpha") * xs[0] + node.attribute("beta")).clamp(0, 1),
    "softplus": lambda node, xs, p, shape: functional.softplus(xs[0], node.attribute("beta")),
    "clip": lambda node, xs, p, shape: xs[0].clamp(node.attribute("min"), node.attribute("max")),
    "pow": lambda node, xs, p, shape: xs[0] ** node.attribute("exponent"),
    "softmax": lambda node, xs, p, shape: xs[0].softmax(node.attribute("axis")),
    "log_softmax": lambda node, xs, p, shape: xs[0].log_softmax(node.attribute("axis")),
    "matmul": _matmul,
    "attention": _attention,
    **dict.fromkeys(("reduce_mean", "reduce_sum", "reduce_max", "reduce_l2"), _reduce),
    **dict.fromkeys(
        ("layer_norm", "rms_norm", "group_norm", "instance_norm", "batch_norm", "second_moment_norm", "l1_norm",
         "l2_normalize"), _normalize
    ),
    "global_avg_pool": lambda node, xs, p, shape: xs[0].mean(tuple(range(2, xs[0].dim())), keepdim=True),
    "reshape": lambda node, xs, p, shape: xs[0].reshape(shape),
    "expand": lambda node, xs, p, shape: xs[0].expand(shape),
    "transpose": lambda node, xs, p, shape: xs[0].permute(node.attribute("perm")),
    "slice": _slice,
    "concat": lambda node, xs, p, shape: torch.cat(xs, node.attribute("axis")),
    "roll": lambda node, xs, p, shape: xs[0].roll(node.attribute("shifts"), node.attribute("axes")),
}  # fmt: skip
