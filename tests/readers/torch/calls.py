"""A small network for every operation of `torch_ops.txt`, wide enough for its gradient to be what is predicted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE, TOKENS, SIGNAL = (8, 16, 12, 12), (8, 32, 64), (8, 16, 64)
PACKED, WINDOWS = (8, 32, 192), (8, 144, 144)

Call = tuple[Callable[..., Tensor] | nn.Module, tuple[int, ...]]


class Function(nn.Module):
    """A function of the input and of a few constants."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("index", torch.arange(32).roll(5))
        self.register_buffer("vector", torch.linspace(0.5, 1.5, 64))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self)


CALLS: dict[str, Call] = {
    "operator.getitem": (lambda x, m: x.chunk(2, -1)[0], TOKENS),
    "aten.add.Tensor": (lambda x, m: x.relu() + x.roll(1, 1), TOKENS),
    "aten.conv2d.default": (nn.Conv2d(16, 32, 3, padding=1), IMAGE),
    "aten._native_batch_norm_legit_functional.default": (nn.BatchNorm2d(16), IMAGE),
    "aten.view.default": (lambda x, m: x.view(8, -1), TOKENS),
    "aten.relu.default": (lambda x, m: x.relu(), TOKENS),
    "aten.clone.default": (lambda x, m: x.clone(), TOKENS),
    "aten.linear.default": (nn.Linear(64, 64), TOKENS),
    "aten.mul.Tensor": (lambda x, m: x * m.vector, TOKENS),
    "aten.permute.default": (lambda x, m: x.permute(2, 0, 1), TOKENS),
    "aten.layer_norm.default": (nn.LayerNorm(64), TOKENS),
    "aten.transpose.int": (lambda x, m: x.transpose(1, 2), TOKENS),
    "aten.gelu.default": (lambda x, m: F.gelu(x), TOKENS),
    "aten.cat.default": (lambda x, m: torch.cat([x, x.relu()], -1), TOKENS),
    "aten.slice.Tensor": (lambda x, m: x[:, 2:-3], TOKENS),
    "aten.mean.dim": (lambda x, m: x.mean(1), TOKENS),
    "aten.silu.default": (lambda x, m: F.silu(x), TOKENS),
    "aten.split.Tensor": (lambda x, m: x.split(16, -1)[1], TOKENS),
    "aten._native_batch_norm_legit.no_stats": (nn.InstanceNorm2d(16), IMAGE),
    "aten.sigmoid.default": (lambda x, m: x.sigmoid(), TOKENS),
    "aten.scaled_dot_product_attention.default": (
        lambda x, m: F.scaled_dot_product_attention(*x[:, None].chunk(3, -1)), PACKED
    ),
    "aten.unbind.int": (lambda x, m: x.unbind(1)[3], TOKENS),
    "aten.matmul.default": (lambda x, m: x @ x.tanh().mT, TOKENS),
    "aten.div.Tensor": (lambda x, m: x / m.vector, TOKENS),
    "aten._unsafe_view.default": (lambda x, m: torch.ops.aten._unsafe_view(x, (8, -1)), TOKENS),
    "aten.hardtanh.default": (lambda x, m: F.hardtanh(x), TOKENS),
    "aten.softmax.int": (lambda x, m: x.softmax(-1), TOKENS),
    "aten.hardswish.default": (lambda x, m: F.hardswish(x), TOKENS),
    "aten.unsqueeze.default": (lambda x, m: x.unsqueeze(1), TOKENS),
    "aten.group_norm.default": (nn.GroupNorm(4, 16), IMAGE),
    "aten.index.Tensor": (lambda x, m: x[:, m.index], TOKENS),
    "aten.alias.default": (lambda x, m: torch.ops.aten.alias(x), TOKENS),
    "aten.select.int": (lambda x, m: x[:, 2], TOKENS),
    "aten.expand.default": (lambda x, m: x[:, :1].expand(-1, 6, -1), TOKENS),
    "aten.avg_pool2d.default": (nn.AvgPool2d(3, 2, 1), IMAGE),
    "aten.max_pool2d.default": (nn.MaxPool2d(2), IMAGE),
    "aten.bernoulli.p": (lambda x, m: x * torch.bernoulli(torch.ones_like(x), 0.75).div(0.75), TOKENS),
    "aten.adaptive_avg_pool2d.default": (nn.AdaptiveAvgPool2d(3), IMAGE),
    "aten.linalg_vector_norm.default": (lambda x, m: x / torch.linalg.vector_norm(x, dim=-1, keepdim=True), TOKENS),
    "aten.new_empty.default": (lambda x, m: x * x.new_empty(8, 32, 64).bernoulli_(0.75).div_(0.75), TOKENS),
    "aten.clamp_min.default": (lambda x, m: x.clamp_min(0.3), TOKENS),
    "aten.leaky_relu.default": (lambda x, m: F.leaky_relu(x, 0.2), TOKENS),
    "aten._assert_tensor_metadata.default": (lambda x, m: x.to(torch.float64), TOKENS),
    "aten.split_with_sizes.default": (lambda x, m: x.split([16, 48], -1)[1], TOKENS),
    "aten.pad.default": (lambda x, m: F.pad(x, (2, 1, 3, 0)), TOKENS),
    "aten.addcmul.default": (lambda x, m: torch.addcmul(m.vector, x, m.vector), TOKENS),
    "aten.stack.default": (lambda x, m: torch.stack([x, x.relu()]), TOKENS),
    "aten.sub.Tensor": (lambda x, m: x - x.roll(1, 1), TOKENS),
    "aten.sum.dim_IntList": (lambda x, m: x.sum(1), TOKENS),
    "aten.hardsigmoid.default": (lambda x, m: F.hardsigmoid(x), TOKENS),
    "aten.pow.Tensor_Scalar": (lambda x, m: x.pow(3), TOKENS),
    "aten.neg.default": (lambda x, m: -x, TOKENS),
    "aten.type_as.default": (lambda x, m: x.type_as(m.vector), TOKENS),
    "aten.roll.default": (lambda x, m: x.roll(3, 1), TOKENS),
    "aten.native_dropout.default": (nn.Dropout(0.3), TOKENS),
    "aten.clamp.default": (lambda x, m: x.clamp(-0.5, 1.0), TOKENS),
    "aten.exp.default": (lambda x, m: (0.5 * x).exp(), TOKENS),
    "aten.upsample_nearest2d.vec": (lambda x, m: F.interpolate(x, scale_factor=2), IMAGE),
    "aten.conv1d.default": (nn.Conv1d(16, 32, 3, padding=2, dilation=2), SIGNAL),
    "aten.amax.default": (lambda x, m: x.amax(-1), TOKENS),
    "aten._to_copy.default": (lambda x, m: torch.ops.aten._to_copy(x, dtype=torch.float64), TOKENS),
    "aten.sin.default": (lambda x, m: x.sin(), TOKENS),
    "aten.cos.default": (lambda x, m: x.cos(), TOKENS),
    "aten.im2col.default": (nn.Unfold(3, padding=1), IMAGE),
    "aten.col2im.default": (nn.Fold((12, 12), 3, padding=1), WINDOWS),
    "aten.repeat.default": (lambda x, m: x.repeat(1, 2, 1), TOKENS),
    "aten.empty_like.default": (lambda x, m: x * torch.empty_like(x).bernoulli_(0.5).div_(0.5), TOKENS),
    "aten.div.Scalar": (lambda x, m: torch.ops.aten.div.Scalar(x, 3.0), TOKENS),
    "aten.cumsum.default": (lambda x, m: x.cumsum(1), TOKENS),
    "aten.arange.default": (lambda x, m: x * torch.arange(64), TOKENS),
    "aten.div.Tensor_mode": (lambda x, m: x * torch.div(m.index, 3, rounding_mode="floor")[:, None], TOKENS),
    "aten.pow.Scalar": (lambda x, m: torch.pow(2.0, x), TOKENS),
    "aten.arange.start": (lambda x, m: x * torch.arange(2, 66), TOKENS),
    "aten.zeros.default": (lambda x, m: torch.cat([x, torch.zeros(8, 32, 64)], 1), TOKENS),
    "aten.bitwise_not.default": (lambda x, m: x.roll(1, 0).where(~(x > 0.5), 0.0), TOKENS),
    "aten.square.default": (lambda x, m: x.square(), TOKENS),
    "aten.max.dim": (lambda x, m: x.max(-1).values, TOKENS),
}  # fmt: skip
"""Keyed as the list is; what a network computes beside the operation is there to give it a gradient or a width."""


def network(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network of an operation and inputs for it."""
    call, shape = CALLS[name]
    module = call if isinstance(call, nn.Module) else Function(call)
    generator = torch.Generator().manual_seed(0)
    return module.train(), (torch.randn(shape, generator=generator),)
