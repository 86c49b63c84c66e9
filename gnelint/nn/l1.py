"""L1 normalisation: what batch normalisation is with the mean absolute deviation in the place of the standard one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from gnelint.nn.channel_norm import ChannelNorm, check, track


def l1_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running: tuple[Tensor | None, Tensor | None],
    count: Tensor | None,
    ranks: Sequence[int],
    features: int,
    training: bool,
    momentum: float | None,
    eps: float,
) -> Tensor:
    """What `torch.nn.functional.batch_norm` is to its layers: one call that fx keeps whole.

    Narrow types are computed in single precision. Training takes mean and deviation of the batch and moves `running`
    towards them; so does evaluation without `running`, which then moves nothing.
    """
    check(x, ranks, features, training, "L1 normalisation")
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    axes, channel = (0, *range(2, x.dim())), (1, -1, *(1,) * (x.dim() - 2))
    mean, deviation = running
    if training or mean is None or deviation is None:
        middle = wide.mean(axes, keepdim=True)
        centred = wide - middle
        spread = centred.abs().mean(axes, keepdim=True)
        if training:
            track([(mean, middle.flatten()), (deviation, spread.flatten())], count, momentum, x.numel() == 0)
    else:
        centred, spread = wide - mean.to(wide.dtype).view(channel), deviation.to(wide.dtype).view(channel)
    y = centred / (spread + eps)
    if weight is not None:
        y = y * weight.view(channel)
    if bias is not None:
        y = y + bias.view(channel)
    return y.to(x.dtype)


fx.wrap("l1_norm")


class _L1Norm(ChannelNorm):
    """y = weight * (x - E x) / (E |x - E x| + eps) + bias for every channel, E over all axes but the second.

    The constructor and the checks are those of `torch.nn.BatchNorm2d`, except that eps is added to the deviation. Its
    state dict has `running_mean` and `running_deviation`; that of a batch normalisation loads as well, with the
    deviation that a Gaussian of its variance has, sqrt(2 running_var / pi).

    Source: theory 3.5 (arXiv 2001.00254).
    """

    statistics = (("running_mean", 0.0), ("running_deviation", 1.0))
    running_mean: Tensor | None
    running_deviation: Tensor | None

    def forward(self, input: Tensor) -> Tensor:
        """The normalised input, of its shape and type."""
        return l1_norm(
            input,
            self.weight,
            self.bias,
            (self.running_mean, self.running_deviation),
            self.num_batches_tracked,
            self.ranks,
            self.num_features,
            self.training,
            self.momentum,
            self.eps,
        )

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Mapping[str, Any], *rest: Any
    ) -> None:
        variance = state_dict.pop(prefix + "running_var", None)
        if variance is not None and self.running_deviation is not None:
            state_dict[prefix + "running_deviation"] = (variance * (2.0 / math.pi)).sqrt()
        if variance is not None and self.running_deviation is None:
            state_dict.pop(prefix + "running_mean", None)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


class L1Norm1d(_L1Norm):
    __doc__ = _L1Norm.__doc__
    ranks = (2, 3)


class L1Norm2d(_L1Norm):
    __doc__ = _L1Norm.__doc__
    ranks = (4,)


class L1Norm3d(_L1Norm):
    __doc__ = _L1Norm.__doc__
    ranks = (5,)
