"""Second moment normalisation (arXiv 2001.00254): what batch normalisation is without the subtraction of the mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from gnelint.nn.channel_norm import ChannelNorm, check, track
from gnelint.nn.operators import evaluated, normalised


def second_moment_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Tensor | None,
    count: Tensor | None,
    ranks: Sequence[int],
    features: int,
    training: bool,
    momentum: float | None,
    eps: float,
    relu: bool,
) -> Tensor:
    """What `torch.nn.functional.batch_norm` is to its layers: one call that fx keeps whole.

    Training takes the second moment of the batch and moves `running` towards it; so does evaluation without `running`,
    which then moves nothing.
    """
    check(x, ranks, features, training, "second moment normalisation")
    if residual is not None and residual.shape != x.shape:
        raise RuntimeError(f"expected a residual of shape {tuple(x.shape)} (got {tuple(residual.shape)})")
    if not training and running is not None:
        return evaluated(x, running, weight, bias, residual, eps, relu)
    y, second = normalised(x, weight, bias, residual, eps, relu)
    if training:
        track([(running, second)], count, momentum, x.numel() == 0)
    return y


fx.wrap("second_moment_norm")


class _SecondMomentNorm(ChannelNorm):
    """y = weight * x / (sqrt(E x^2) + eps) + bias for every channel, E over all axes but the second.

    Training takes E over the batch and moves `running_second_moment` towards it, evaluation takes the running one; all
    arguments mean what they mean in `torch.nn.BatchNorm2d`, except that eps is added to the root. The paper's gradient
    norm equality holds for it where the filters in front are centred (`gnelint.nn.CentredConv2d`).

    With relu=True the layer is rectified in the same pass, and `forward(input, residual)` adds a residual in front of
    that: what stands behind a normalisation in most networks, without a tensor written and read in between.

    Its state dict has `weight`, `bias`, `running_second_moment` and `num_batches_tracked`. That of a batch
    normalisation loads as well: the second moment is running_var + running_mean^2.

    Args:
        num_features: C.
        eps: added to the root. What batch normalisation adds under its root is the square of it.
        momentum: share of the batch in the running second moment; None for the average over all batches.
        affine: learn weight and bias.
        track_running_stats: False uses the batch in evaluation too.
        device, dtype: of the tensors.
        bias: False leaves the bias out.
        relu: rectify.

    Raises (when called):
        ValueError: the input has another rank, or one value a channel in training.
        RuntimeError: the input has another number of channels, or the residual another shape.
        NotImplementedError: the input is not real floating.

    Source: theory 3.5 (arXiv 2001.00254).
    """

    __constants__ = (*ChannelNorm.__constants__, "relu")
    statistics = (("running_second_moment", 1.0),)
    running_second_moment: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        relu: bool = False,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        self.relu = relu

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """The normalised input, of its shape and type."""
        return second_moment_norm(
            input,
            self.weight,
            self.bias,
            residual,
            self.running_second_moment,
            self.num_batches_tracked,
            self.ranks,
            self.num_features,
            self.training,
            self.momentum,
            self.eps,
            self.relu,
        )

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return super().extra_repr() + (", relu=True" if self.relu else "")

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Mapping[str, Any], *rest: Any
    ) -> None:
        mean, variance = (state_dict.pop(prefix + name, None) for name in ("running_mean", "running_var"))
        if self.running_second_moment is not None and mean is not None and variance is not None:
            state_dict[prefix + "running_second_moment"] = variance + mean.square()
            if self.num_batches_tracked is not None:  # state dicts of torch before 0.4.1 have none
                state_dict.setdefault(prefix + "num_batches_tracked", self.num_batches_tracked)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


class SecondMomentNorm1d(_SecondMomentNorm):
    __doc__ = _SecondMomentNorm.__doc__
    ranks = (2, 3)


class SecondMomentNorm2d(_SecondMomentNorm):
    __doc__ = _SecondMomentNorm.__doc__
    ranks = (4,)


class SecondMomentNorm3d(_SecondMomentNorm):
    __doc__ = _SecondMomentNorm.__doc__
    ranks = (5,)
