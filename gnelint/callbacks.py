"""Callbacks that monitor a network in the loops of Lightning and transformers, imported when one is asked for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from gnelint.api import monitor
from gnelint.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gnelint.measure.monitor import Monitor


def lightning_callback(*, every: int = 100, **options: Any) -> Any:
    """A Lightning callback that watches the gradient's norm while `Trainer.fit` runs, and writes to its loggers.

    Args:
        every: steps from one measurement to the next.
        options: of `gnelint.monitor`.

    Raises:
        UsageError: neither `lightning` nor `pytorch_lightning` is installed.
    """
    base = _lightning()

    class GradientNormMonitor(base):  # type: ignore[misc, valid-type]
        """Made by `gnelint.callbacks.lightning_callback`; `monitor` holds what was measured."""

        monitor: Monitor | None = None

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            def log(metrics: Mapping[str, float], step: int) -> None:
                for logger in trainer.loggers:
                    logger.log_metrics(dict(metrics), step=trainer.global_step)

            self.monitor = monitor(_trained(pl_module), every=every, logger=log, **options)

        def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
            if self.monitor is not None:
                self.monitor.close()

    return GradientNormMonitor()


def _trained(module: Any) -> Any:
    """The network in a LightningModule: `training_step` may call it past the module's own `forward`."""
    from gnelint.readers.torch.wrapped import sole_network

    network = sole_network(module)
    return module if network is None else network


def trainer_callback(*, every: int = 100, logger: Any = None, **options: Any) -> Any:
    """A callback for transformers' `Trainer` that watches the gradient's norm while it trains.

    Args:
        every: passes from one measurement to the next.
        logger: as of `gnelint.monitor`; None takes the W&B run that is active, if there is one.
        options: of `gnelint.monitor`.

    Raises:
        UsageError: `transformers` is not installed.
    """
    try:
        from transformers import TrainerCallback
    except ImportError:
        raise UsageError("trainer_callback", "transformers is not installed", "pip install transformers") from None

    class GradientNormCallback(TrainerCallback):  # type: ignore[misc]
        """Made by `gnelint.callbacks.trainer_callback`; `monitor` holds what was measured."""

        monitor: Monitor | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            wandb = sys.modules.get("wandb")
            found = logger if logger is not None else getattr(wandb, "run", None)
            self.monitor = monitor(more["model"], every=every, logger=found, **options)

        def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if self.monitor is not None:
                self.monitor.close()

    return GradientNormCallback()


def _lightning() -> Any:
    try:
        from lightning.pytorch import Callback
    except ImportError:
        try:
            from pytorch_lightning import Callback
        except ImportError:
            problem = "neither lightning nor pytorch_lightning is installed"
            raise UsageError("lightning_callback", problem, "pip install lightning") from None
    return Callback
