"""What normalisations of a channel over the batch have in common: parameters, running statistics, checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class ChannelNorm(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """The constructor, state and checks of `torch.nn.BatchNorm2d`, with statistics of its own in `statistics`.

    Args:
        num_features: C.
        eps: added to what is divided by.
        momentum: share of the batch in the running statistics; None for the average over all batches.
        affine: learn weight and bias.
        track_running_stats: False uses the batch in evaluation too.
        device, dtype: of the tensors.
        bias: False leaves the bias out.
    """

    __constants__: tuple[str, ...] = ("affine", "eps", "momentum", "num_features", "track_running_stats")
    ranks: tuple[int, ...] = ()
    statistics: tuple[tuple[str, float], ...] = ()
    """Names of the running statistics, and what they start as."""
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
        for name, _ in self.statistics:
            self.register_buffer(name, torch.empty(num_features, device=device, dtype=dtype) if tracked else None)
        self.register_buffer(
            "num_batches_tracked", torch.tensor(0, dtype=torch.long, device=device) if tracked else None
        )
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """As if no batch had been seen."""
        if self.num_batches_tracked is not None:
            for name, start in self.statistics:
                getattr(self, name).fill_(start)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Weight 1, bias 0, and as if no batch had been seen."""
        self.reset_running_stats()
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


def check(x: Tensor, ranks: Sequence[int], features: int, training: bool, name: str) -> None:
    """Whether a normalisation takes an input.

    Raises:
        ValueError: it has another rank, or one value a channel in training.
        RuntimeError: it has another number of channels.
        NotImplementedError: it is not real floating.
    """
    if x.dim() not in ranks:
        wanted = " or ".join(f"{rank}D" for rank in ranks)
        raise ValueError(f"expected {wanted} input (got {x.dim()}D input)")
    if x.size(1) != features:
        raise RuntimeError(f"expected {features} channels (got {x.size(1)})")
    if not x.is_floating_point():
        raise NotImplementedError(f"{name} is not implemented for {x.dtype}")
    if training and x.size(0) == 1 and all(size == 1 for size in x.shape[2:]):
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")


def track(
    running: Sequence[tuple[Tensor | None, Tensor]], count: Tensor | None, momentum: float | None, empty: bool
) -> None:
    """Count a batch, and move running statistics towards its own; an empty one has none."""
    if count is None:
        return
    count.add_(1)
    if empty:
        return
    for kept, seen in running:
        if kept is None:
            continue
        share: Any = momentum
        if share is None:
            share = (1.0 / count.to(torch.promote_types(kept.dtype, torch.float32))).to(kept.dtype)
        kept.lerp_(seen.detach().to(kept.dtype), share)
