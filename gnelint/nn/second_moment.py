"""Second moment normalisation (arXiv 2001.00254): what batch normalisation is without the subtraction of the mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def second_moment_norm(
    x: Tensor,
    running: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """y = weight * x / (sqrt(m) + eps) + bias, with m the second moment of each channel (the second axis).

    Narrow types are computed in single precision. A channel of zeros gives zeros, and no gradient through m.

    Args:
        x: (N, C, ...), floating.
        running: (C,), taken as m; None for the mean of x^2 over all axes but the second.
        weight, bias: (C,), None for 1 and 0.
        eps: added to the root, not under it.

    Returns:
        y, of the shape and type of x, and m.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    channel = (1, -1, *(1,) * (x.dim() - 2))
    if running is None:
        second = wide.square().mean((0, *range(2, x.dim())), keepdim=True)
    else:
        second = running.to(wide.dtype).view(channel)
    # the derivative of the root at 0 is infinite, and infinite times the 0 behind it is nan
    y = wide / (second.clamp_min(torch.finfo(wide.dtype).tiny).sqrt() + eps)
    if weight is not None:
        y = y * weight.view(channel)
    if bias is not None:
        y = y + bias.view(channel)
    return y.to(x.dtype), second.flatten()


class _SecondMomentNorm(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """y = weight * x / (sqrt(E x^2) + eps) + bias for every channel, E over all axes but the second.

    Training takes E over the batch and moves `running_second_moment` towards it, evaluation takes the running one; all
    arguments mean what they mean in `torch.nn.BatchNorm2d`, except that eps is added to the root. The paper's gradient
    norm equality holds for it where the filters in front are centred (`gnelint.nn.CentredConv2d`).

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

    Raises (when called):
        ValueError: the input has another rank, or one value a channel in training.
        RuntimeError: the input has another number of channels.
        NotImplementedError: the input is not real floating.

    Source: theory 3.5 (arXiv 2001.00254).
    """

    __constants__ = ("affine", "eps", "momentum", "num_features", "track_running_stats")
    _ranks: tuple[int, ...] = ()
    running_second_moment: Tensor | None
    num_batches_tracked: Tensor | None

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
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats

        def learned(wanted: bool) -> nn.Parameter | None:
            return nn.Parameter(torch.empty(num_features, device=device, dtype=dtype)) if wanted else None

        self.register_parameter("weight", learned(affine))
        self.register_parameter("bias", learned(affine and bias))
        tracked = track_running_stats
        self.register_buffer(
            "running_second_moment", torch.ones(num_features, device=device, dtype=dtype) if tracked else None
        )
        self.register_buffer(
            "num_batches_tracked", torch.tensor(0, dtype=torch.long, device=device) if tracked else None
        )
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """As if no batch had been seen."""
        if self.running_second_moment is not None and self.num_batches_tracked is not None:
            self.running_second_moment.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Weight 1, bias 0, and as if no batch had been seen."""
        self.reset_running_stats()
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """The normalised input, of its shape and type."""
        self._check(input)
        running = None if self.training else self.running_second_moment
        y, second = second_moment_norm(input, running, self.weight, self.bias, eps=self.eps)
        if self.training and self.track_running_stats:
            self._track(second.detach(), input.numel() == 0)
        return y

    def _track(self, second: Tensor, empty: bool) -> None:
        if self.num_batches_tracked is None or self.running_second_moment is None:
            return
        self.num_batches_tracked.add_(1)
        if empty:
            return
        running = self.running_second_moment
        share = self.momentum
        if share is None:
            count = self.num_batches_tracked.to(torch.promote_types(running.dtype, torch.float32))
            share = (1.0 / count).to(running.dtype)
        running.lerp_(second.to(running.dtype), share)

    def _check(self, input: Tensor) -> None:
        if input.dim() not in self._ranks:
            wanted = " or ".join(f"{rank}D" for rank in self._ranks)
            raise ValueError(f"expected {wanted} input (got {input.dim()}D input)")
        if input.size(1) != self.num_features:
            raise RuntimeError(f"expected {self.num_features} channels (got {input.size(1)})")
        if not input.is_floating_point():
            raise NotImplementedError(f"second moment normalisation is not implemented for {input.dtype}")
        if self.training and input.size(0) == 1 and all(size == 1 for size in input.shape[2:]):
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {input.shape}")

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )

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
    _ranks = (2, 3)


class SecondMomentNorm2d(_SecondMomentNorm):
    __doc__ = _SecondMomentNorm.__doc__
    _ranks = (4,)


class SecondMomentNorm3d(_SecondMomentNorm):
    __doc__ = _SecondMomentNorm.__doc__
    _ranks = (5,)
