"""Second moment normalisation over the batches of all processes, as `torch.nn.SyncBatchNorm` is batch normalisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from gnelint.nn.channel_norm import check, track
from gnelint.nn.kernels import native
from gnelint.nn.second_moment import _SecondMomentNorm


class _AcrossProcesses(torch.autograd.Function):  # type: ignore[misc]
    """y and m, with the sums of all processes: one reduction of C + 1 numbers forward, of C backward.

    A process may have any share of the batch, nothing as well. What a process keeps for weight and bias is its own
    share of their gradient, which DistributedDataParallel adds up.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: Any
    ) -> tuple[Tensor, Tensor]:
        sums = native.squares(x)
        local = sums.new_full((1,), float(x.numel() // max(x.size(1), 1)))
        packed = torch.cat((sums, local))
        distributed.all_reduce(packed, group=group)
        count = packed[-1].clamp_min(1.0)
        second = packed[:-1] / count
        factor = native.gain(native.root(second) + eps, weight)
        ctx.save_for_backward(x, weight, second, count)
        ctx.eps, ctx.group, ctx.bias = eps, group, None if bias is None else bias.dtype
        ctx.mark_non_differentiable(second)
        return native.affine(x, factor, bias), second

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, dy: Tensor, dm: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, second, count = ctx.saved_tensors
        r = native.root(second)
        q = r + ctx.eps
        factor = native.gain(q, weight)
        total, product, scaled = native.dots(dy, x, factor)
        dweight = None if weight is None else (product / q).to(weight.dtype)
        distributed.all_reduce(product, group=ctx.group)
        dx = native.combined(dy, x, factor, product * factor / (q * r * count), scaled)
        return dx, dweight, None if ctx.bias is None else total.to(ctx.bias), None, None


class SyncSecondMomentNorm(_SecondMomentNorm):
    """Second moment normalisation with the moment of the batches of all processes in a group, in training.

    Alone, or in evaluation, it is `gnelint.nn.SecondMomentNorm2d` (1d, 3d: it takes any rank), whose arguments, state
    dict and errors it has. `gnelint.nn.convert(module, "smn->syncsmn")` puts it into a network. It is differentiable
    once.

    Args:
        process_group: of torch.distributed; None for the whole world.
    """

    ranks = (2, 3, 4, 5)

    def __init__(self, *args: Any, process_group: Any = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.process_group = process_group

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """The normalised input, of its shape and type."""
        if not self.training or not _several(self.process_group):
            return super().forward(input, residual)
        check(input, self.ranks, self.num_features, False, "second moment normalisation")
        y, second = _AcrossProcesses.apply(input, self.weight, self.bias, self.eps, self.process_group)
        track([(self.running_second_moment, second)], self.num_batches_tracked, self.momentum, False)
        if residual is not None:
            y = y + residual
        return torch.relu(y) if self.relu else y


def _several(group: Any) -> bool:
    """Whether there is anybody to be synchronised with."""
    ready = distributed.is_available() and distributed.is_initialized()
    return bool(ready and distributed.get_world_size(group) > 1)
