"""Writes numbers to the logger that a training loop has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gnelint.errors import UsageError

Writing = Callable[[Mapping[str, float], int], None]


def writing(logger: Any) -> Writing:
    """What writes a reading's metrics.

    Args:
        logger: None, a Lightning logger (`log_metrics`), a TensorBoard writer (`add_scalar`), a W&B run (`log`), or a
            function of a mapping and a step.

    Raises:
        UsageError: it is none of these.
    """
    if logger is None:
        return _nowhere
    if hasattr(logger, "log_metrics"):
        return lambda metrics, step: logger.log_metrics(dict(metrics), step=step)
    if hasattr(logger, "add_scalar"):
        return lambda metrics, step: _scalars(logger, metrics, step)
    if hasattr(logger, "log"):
        # a run counts its own steps, and drops what names an earlier one
        return lambda metrics, step: logger.log({**metrics, "gnelint/step": step})
    if callable(logger):
        return lambda metrics, step: logger(metrics, step)
    known = "Give a SummaryWriter, a W&B run, a Lightning logger, or a function of a mapping and a step."
    raise UsageError("logger", f"{type(logger).__name__} is not known", known)


def _nowhere(metrics: Mapping[str, float], step: int) -> None:
    """Nothing is written."""


def _scalars(writer: Any, metrics: Mapping[str, float], step: int) -> None:
    for name, value in metrics.items():
        writer.add_scalar(name, value, step)
