"""Operations written out as people and exporters write them, each a function of its inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGE, TOKENS, HEADS = (2, 6, 5, 4), (2, 5, 8), (2, 3, 5, 4)


@dataclass(frozen=True)
class Idiom:
    """A written-out operation.

    Attributes:
        function: what it computes.
        op: the canonical operations expected after fusion, in order.
        attributes: some of the first one's attributes.
        shapes: of the inputs.
        parameters: roles that the first one's parameters must have.
    """

    function: Callable[..., Tensor]
    op: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    shapes: tuple[tuple[int, ...], ...] = (TOKENS,)
    parameters: tuple[str, ...] = ()


class Written(nn.Module):
    """A function with the parameters `weight` and `bias` of a shape, drawn at random."""

    def __init__(self, function: Callable[..., Tensor], shape: tuple[int, ...] = ()) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.function = function
        self.weight = nn.Parameter(torch.randn(shape, generator=generator))
        self.bias = nn.Parameter(torch.randn(shape, generator=generator))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


ACTIVATIONS = {
    "gelu, x half first": Idiom(lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))), ("gelu",)),
    "gelu, half last": Idiom(lambda x: x * (1 + torch.erf(x * 0.7071067811865475)) * 0.5, ("gelu",)),
    "gelu, half inside": Idiom(lambda x: x * ((1.0 + torch.erf(x / 1.4142135)) / 2), ("gelu",)),
    "gelu, shared argument": Idiom(lambda x: (x / 2**0.5) * (1 + torch.erf(x / 2**0.5)) * 2**-0.5, ("gelu",)),
    "gelu, tanh of a power": Idiom(
        lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3)))),
        ("gelu",),
        {"approximate": "tanh"},
    ),
    "gelu, tanh of products": Idiom(
        lambda x: 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x))),
        ("gelu",),
        {"approximate": "tanh"},
    ),
    "quick gelu": Idiom(lambda x: x * torch.sigmoid(1.702 * x), ("silu",), {"beta": 1.702}),
    "silu": Idiom(lambda x: torch.sigmoid(x) * x, ("silu",), {"beta": 1.0}),
    "silu, quotient": Idiom(lambda x: x / (1 + torch.exp(-x)), ("silu",), {"beta": 1.0}),
    "hardswish, clip": Idiom(lambda x: x * torch.clamp(x + 3, 0, 6) / 6, ("hardswish",)),
    "hardswish, relu6": Idiom(lambda x: x * (functional.relu6(x + 3) / 6), ("hardswish",)),
    "hardswish, hardsigmoid": Idiom(lambda x: x * functional.hardsigmoid(x), ("hardswish",)),
    "hardsigmoid": Idiom(lambda x: functional.relu6(x + 3) * (1 / 6), ("hardsigmoid",)),
    "hardsigmoid, Keras": Idiom(
        lambda x: torch.clamp(0.2 * x + 0.5, 0, 1), ("hardsigmoid",), {"alpha": 0.2, "beta": 0.5}
    ),
    "mish": Idiom(lambda x: x * torch.tanh(functional.softplus(x)), ("mish",)),
    "mish, log and exp": Idiom(lambda x: x * torch.tanh(torch.log(1 + torch.exp(x))), ("mish",)),
    "softplus": Idiom(lambda x: torch.log1p(torch.exp(x)), ("softplus",), {"beta": 1.0}),
    "softsign": Idiom(lambda x: x / (1 + torch.abs(x)), ("softsign",)),
    "sigmoid": Idiom(lambda x: 1 / (1 + torch.exp(-x)), ("sigmoid",)),
    "leaky relu, maximum": Idiom(lambda x: torch.maximum(x, 0.1 * x), ("leaky_relu",), {"alpha": 0.1}),
    "leaky relu, two relus": Idiom(lambda x: torch.relu(x) - 0.2 * torch.relu(-x), ("leaky_relu",), {"alpha": 0.2}),
    "relu, absolute value": Idiom(lambda x: (x + torch.abs(x)) / 2, ("relu",)),
    "relu, clip": Idiom(lambda x: torch.clamp(x, min=0), ("relu",)),
    "relu6": Idiom(lambda x: torch.clamp(torch.relu(x), max=6), ("clip",), {"min": 0.0, "max": 6.0}),
    "elu": Idiom(
        lambda x: torch.relu(x) + torch.clamp(torch.exp(x) - 1, max=0) * 0.5, ("elu",), {"alpha": 0.5}
    ),
    "square": Idiom(lambda x: x * x, ("pow",), {"exponent": 2.0}),
    "cube": Idiom(lambda x: x * x * x, ("pow",), {"exponent": 3.0}),
    "twice": Idiom(lambda x: x + x, ("scale",), {"factor": 2.0}),
    "thrice": Idiom(lambda x: x + 2 * x, ("scale",), {"factor": 3.0}),
    "two in a row": Idiom(lambda x: torch.tanh(x * torch.sigmoid(x)), ("silu", "tanh")),
}  # fmt: skip
"""Written-out activations by a name for the test's report."""


def _layer_norm(m: Written, x: Tensor, axes: tuple[int, ...] = (-1,)) -> Tensor:
    centre = x - x.mean(axes, keepdim=True)
    return centre / torch.sqrt(centre.pow(2).mean(axes, keepdim=True) + 1e-5) * m.weight + m.bias


def _layer_norm_moments(m: Written, x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = (x * x).mean(-1, keepdim=True) - mean * mean
    return (x - mean) * torch.rsqrt(variance + 1e-5) * m.weight + m.bias


def _layer_norm_twice(m: Written, x: Tensor) -> Tensor:
    variance = (x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True)
    return m.weight * ((x - x.mean(-1, keepdim=True)) / (variance + 1e-12) ** 0.5) + m.bias


def _rms_norm(m: Written, x: Tensor) -> Tensor:
    return m.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def _rms_norm_by_norm(m: Written, x: Tensor) -> Tensor:
    return x / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) * x.shape[-1] ** -0.5).clamp(min=1e-8) * m.weight


def _group_norm(m: Written, x: Tensor) -> Tensor:
    grouped = x.reshape(x.shape[0], 3, -1)
    centre = grouped - grouped.mean(2, keepdim=True)
    y = centre / torch.sqrt(centre.pow(2).mean(2, keepdim=True) + 1e-5)
    return y.reshape(x.shape) * m.weight + m.bias


def _second_moment_norm(m: Written, x: Tensor) -> Tensor:
    return x / (x.pow(2).mean((0, 2, 3), keepdim=True).sqrt() + 1e-3) * m.weight + m.bias


def _l1_norm(m: Written, x: Tensor) -> Tensor:
    centre = x - x.mean(-1, keepdim=True)
    return centre / (centre.abs().mean(-1, keepdim=True) + 1e-4) * m.weight + m.bias


def _unbiased(m: Written, x: Tensor) -> Tensor:
    centre = x - x.mean(-1, keepdim=True)
    return m.weight * (centre / (torch.sqrt(centre.pow(2).sum(-1, keepdim=True) / (x.shape[-1] - 1)))) + m.bias


CHANNELS = (6, 1, 1)
NORMALIZATIONS = {
    "layer norm": (Idiom(_layer_norm, ("layer_norm",), {"axes": (2,)}, parameters=("scale", "bias")), (8,)),
    "layer norm, moments": (Idiom(_layer_norm_moments, ("layer_norm",), parameters=("scale", "bias")), (8,)),
    "layer norm, centred twice": (Idiom(_layer_norm_twice, ("layer_norm",), parameters=("scale", "bias")), (8,)),
    "layer norm, unbiased": (Idiom(_unbiased, ("layer_norm", "scale", "scale", "bias")), (8,)),
    "layer norm of channels": (
        Idiom(lambda m, x: _layer_norm(m, x, (1,)), ("layer_norm",), {"axes": (1,)}, (IMAGE,), ("scale", "bias")),
        CHANNELS,
    ),
    "batch norm": (
        Idiom(lambda m, x: _layer_norm(m, x, (0, 2, 3)), ("batch_norm",), {"training": True}, (IMAGE,),
              ("scale", "bias")),
        CHANNELS,
    ),
    "instance norm": (
        Idiom(lambda m, x: _layer_norm(m, x, (2, 3)), ("instance_norm",), {}, (IMAGE,), ("scale", "bias")), CHANNELS
    ),
    "group norm": (Idiom(_group_norm, ("group_norm",), {"groups": 3}, (IMAGE,), ("scale", "bias")), CHANNELS),
    "rms norm": (Idiom(_rms_norm, ("rms_norm",), {"axes": (2,)}, parameters=("scale",)), (8,)),
    "rms norm, by the norm": (Idiom(_rms_norm_by_norm, ("rms_norm",), {"axes": (2,)}, parameters=("scale",)), (8,)),
    "second moment norm": (
        Idiom(_second_moment_norm, ("second_moment_norm",), {"epsilon": 1e-3}, (IMAGE,), ("scale", "bias")), CHANNELS
    ),
    "l1 norm": (Idiom(_l1_norm, ("l1_norm",), {"axes": (2,)}, parameters=("scale", "bias")), (8,)),
    "l2 normalize": (
        Idiom(lambda m, x: x / x.norm(dim=-1, keepdim=True).clamp(min=1e-6), ("l2_normalize",), {"axes": (2,)}), ()
    ),
    "l2 normalize, torch's": (Idiom(lambda m, x: functional.normalize(x, dim=1), ("l2_normalize",), {"axes": (1,)}),
                              ()),
    "l2 normalize, sum": (
        Idiom(lambda m, x: x / torch.sqrt((x * x).sum(-1, keepdim=True) + 1e-12), ("l2_normalize",)), ()
    ),
}  # fmt: skip
"""Written-out normalisations and the shape of their parameters."""


def _later(tokens: int) -> Tensor:
    return torch.ones(tokens, tokens, dtype=torch.bool).triu(1)


def _outside(tokens: int) -> Tensor:
    return _later(tokens) | torch.ones(tokens, tokens, dtype=torch.bool).tril(-3)


STRAIGHT_THROUGH = {
    "sum first": Idiom(lambda x: x + (torch.tanh(x) - x).detach(), ("tanh", "straight_through")),
    "difference first": Idiom(lambda x: (torch.relu(x) - x).detach() + x, ("relu", "straight_through")),
    "of two layers": Idiom(
        lambda x, z: (y := torch.tanh(x)) + (z - y).detach(), ("tanh", "straight_through"), shapes=(TOKENS, TOKENS)
    ),
}

ATTENTION = {
    "scaled product": Idiom(
        lambda q, k, v: torch.softmax(q @ k.transpose(-2, -1) / 2.0, -1) @ v, ("attention",), {"scale": 0.5}
    ),
    "scaled query": Idiom(
        lambda q, k, v: torch.softmax((q * 0.3) @ k.transpose(-2, -1), -1) @ v, ("attention",), {"scale": 0.3}
    ),
    "root of the scale on both": Idiom(
        lambda q, k, v: torch.softmax((q * 0.5) @ (k.transpose(-2, -1) * 0.5), -1) @ v, ("attention",), {"scale": 0.25}
    ),
    "unscaled": Idiom(lambda q, k, v: torch.softmax(q @ k.transpose(2, 3), 3) @ v, ("attention",), {"scale": 1.0}),
    "mask from outside": Idiom(
        lambda q, k, v, mask: torch.softmax(q @ k.transpose(-2, -1) * 0.5 + mask, -1) @ v,
        ("attention",),
        {"scale": 0.5, "causal": False},
        (*(HEADS,) * 3, (1, 1, 5, 5)),
    ),
    "causal, filled": Idiom(
        lambda q, k, v: torch.softmax((q @ k.transpose(-2, -1) * 0.5).masked_fill(_later(5), -math.inf), -1) @ v,
        ("attention",),
        {"scale": 0.5, "causal": True},
    ),
    "window, filled": Idiom(
        lambda q, k, v: torch.softmax((q @ k.transpose(-2, -1) * 0.5).masked_fill(_outside(5), -math.inf), -1) @ v,
        ("attention",),
        {"scale": 0.5, "causal": False},
        parameters=("mask",),
    ),
    "window, chosen": Idiom(
        lambda q, k, v: torch.softmax(torch.where(_outside(5), -1e9, q @ k.transpose(-2, -1)), -1) @ v,
        ("attention",),
        {"causal": False},
        parameters=("mask",),
    ),
    "causal, added": Idiom(
        lambda q, k, v: torch.softmax(q @ k.transpose(-2, -1) * 0.5 + torch.full((5, 5), -1e9).triu(1), -1) @ v,
        ("attention",),
        {"causal": True},
    ),
    "constant bias": Idiom(
        lambda q, k, v: torch.softmax(q @ k.transpose(-2, -1) + torch.linspace(-1, 1, 25).reshape(5, 5), -1) @ v,
        ("attention",),
    ),
    "soft cap": Idiom(
        lambda q, k, v: (
            torch.softmax(
                (30 * torch.tanh(q @ k.transpose(-2, -1) * 0.5 / 30)).masked_fill(_later(5), -math.inf), -1
            )
            @ v
        ),
        ("attention",),
        {"scale": 0.5, "softcap": 30.0, "causal": True},
    ),
    "sink": Idiom(
        lambda q, k, v: torch.cat(
            [
                (q @ k.transpose(-2, -1) * 0.5).masked_fill(_later(5), -1e9),
                torch.linspace(0, 1, 3).view(3, 1, 1).expand(2, -1, 5, 1),
            ],
            -1,
        ).softmax(-1)[..., :-1] @ v,
        ("constant", "concat", "constant", "concat", "attention"),
        parameters=("mask",),
    ),
    "constant bias, causal": Idiom(
        lambda q, k, v: torch.softmax(
            (q @ k.transpose(-2, -1) + torch.linspace(-1, 1, 75).reshape(3, 5, 5)).masked_fill(_later(5), -1e9), -1
        ) @ v,
        ("attention",),
        {"causal": True},
        parameters=("mask",),
    ),
    "two constants": Idiom(
        lambda q, k, v: torch.softmax(
            (q @ k.transpose(-2, -1)).masked_fill(_outside(5), -1e9) + torch.linspace(-1, 1, 75).reshape(3, 5, 5), -1
        ) @ v,
        ("attention",),
        {"causal": False},
        parameters=("mask",),
    ),
    "constant and from outside": Idiom(
        lambda q, k, v, mask: torch.softmax(
            q @ k.transpose(-2, -1) * 0.5 + mask + torch.linspace(-1, 1, 25).reshape(5, 5), -1
        ) @ v,
        ("attention",),
        {"scale": 0.5},
        (*(HEADS,) * 3, (1, 1, 5, 5)),
        parameters=("mask",),
    ),
    "windows": Idiom(
        lambda q, k, v: (
            ((q @ k.transpose(-2, -1)).unflatten(0, (-1, 2)) + torch.where(_outside(5), -100.0, 0.0).expand(2, 5, 5))
            .flatten(0, 1).softmax(-1) @ v
        ),
        ("attention",),
        {"packed": True},
        ((4, 5, 8),) * 3,
        parameters=("mask",),
    ),
    "heads apart and together again": Idiom(  # what returns its weights shapes them twice
        lambda q, k, v: (
            (q @ k.transpose(-2, -1)).softmax(-1).unflatten(0, (-1, 2)).flatten(0, 1) @ v
        ),
        ("attention",),
        {"packed": True},
        ((4, 5, 8),) * 3,
    ),
    "tokens before heads": Idiom(
        lambda q, k, v: torch.softmax(q.permute(0, 2, 1, 3) @ k.permute(0, 2, 3, 1), -1) @ v.permute(0, 2, 1, 3),
        ("transpose", "transpose", "transpose", "attention"),
    ),
    "dropout": Idiom(
        lambda q, k, v: functional.dropout(torch.softmax(q @ k.transpose(2, 3), -1), 0.1) @ v,
        ("attention",),
        {"scale": 1.0},
    ),
    "one head": Idiom(
        lambda q, k, v: torch.bmm(torch.softmax(torch.bmm(q, k.transpose(1, 2)), -1), v),
        ("attention",),
        {"packed": True, "heads": 1},
        (TOKENS,) * 3,
    ),
    "softmax written out": Idiom(
        lambda q, k, v: (lambda e: e / e.sum(-1, keepdim=True))(torch.exp(q @ k.transpose(-2, -1))) @ v, ("attention",)
    ),
    "channels in front": Idiom(
        lambda q, k, v: v @ torch.softmax(q.transpose(-2, -1) @ k * 0.5, -1).transpose(-2, -1),
        ("transpose", "transpose", "transpose", "attention", "transpose"),
        {"scale": 0.5},
    ),
}  # fmt: skip
"""Written-out attention; the inputs are (B, H, T, d) where no shapes are given."""

SOFTMAX = {
    "softmax": Idiom(lambda x: torch.exp(x) / torch.exp(x).sum(-1, keepdim=True), ("softmax",), {"axis": 2}),
    "softmax, shifted": Idiom(
        lambda x: (lambda e: e / e.sum(1, keepdim=True))(torch.exp(x - x.amax(1, keepdim=True))),
        ("softmax",),
        {"axis": 1},
    ),
    "log softmax": Idiom(
        lambda x: x - torch.log(torch.exp(x).sum(-1, keepdim=True)), ("log_softmax",), {"axis": 2}
    ),
    "logarithm of softmax": Idiom(lambda x: torch.log(torch.softmax(x, -1)), ("log_softmax",), {"axis": 2}),
}  # fmt: skip
"""Written-out softmax."""

DIFFERENT = {
    "gate of another tensor": Idiom(lambda x, z: x * torch.sigmoid(z), ("sigmoid", "mul"), {}, (TOKENS, TOKENS)),
    "gelu with another root": Idiom(lambda x: x * 0.5 * (1 + torch.erf(x / 1.3)), ()),
    "tanh gelu with another cubic": Idiom(
        lambda x: 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.03 * torch.pow(x, 3)))), ()
    ),
    "tolerance of a solver": Idiom(lambda x: 1e-9 + 1e-7 * x.abs(), ("abs", "scale", "bias")),
    "hardswish with another bound": Idiom(lambda x: x * torch.clamp(x + 3, 0, 5) / 6, ()),
    "mish of another tensor": Idiom(lambda x, z: x * torch.tanh(functional.softplus(z)), (), {}, (TOKENS, TOKENS)),
    "centred over one axis, variance over another": Idiom(
        lambda x: (x - x.mean(-1, keepdim=True))
        / torch.sqrt((x - x.mean(1, keepdim=True)).square().mean(1, keepdim=True) + 1e-5),
        (),
    ),
    "rms of another tensor": Idiom(
        lambda x, z: x * torch.rsqrt(z.square().mean(-1, keepdim=True) + 1e-5), (), {}, (TOKENS, TOKENS)
    ),
    "exponentials of another tensor": Idiom(
        lambda x, z: torch.exp(x) / torch.exp(z).sum(-1, keepdim=True), (), {}, (TOKENS, TOKENS)
    ),
    "softmax over queries": Idiom(lambda q, k, v: torch.softmax(q @ k.transpose(-2, -1), -2) @ v, (), {}, (HEADS,) * 3),
    "sine of the logits": Idiom(
        lambda q, k, v: torch.softmax(torch.sin(q @ k.transpose(-2, -1)), -1) @ v, (), {}, (HEADS,) * 3
    ),
    "soft cap on masked logits": Idiom(
        lambda q, k, v: torch.softmax(torch.tanh(q @ k.transpose(-2, -1) + torch.linspace(-1, 1, 5)), -1) @ v,
        (),
        {},
        (HEADS,) * 3,
    ),
    "difference of a tensor and itself": Idiom(lambda x: x - torch.tanh(x), ("tanh", "sub")),
    "two activations in a row": Idiom(lambda x: functional.leaky_relu(functional.leaky_relu(x)), ("leaky_relu",) * 2),
}  # fmt: skip
"""What looks like an idiom and is another function; () stands for anything but a composite."""
