"""The callbacks for Lightning and transformers, where these are installed, and what is said where they are not."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gnelint.callbacks import lightning_callback, trainer_callback
from gnelint.errors import UsageError
from gnelint.measure.monitor import GradientNormWarning
from tests.models import network


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@pytest.mark.skipif(is_installed("lightning"), reason="lightning is installed")
def test_without_lightning_it_says_what_to_install() -> None:
    with pytest.raises(UsageError, match="neither lightning nor pytorch_lightning is installed"):
        lightning_callback()


@pytest.mark.skipif(is_installed("transformers"), reason="transformers is installed")
def test_without_transformers_it_says_what_to_install() -> None:
    with pytest.raises(UsageError, match="transformers is not installed"):
        trainer_callback()


def test_a_fit_of_lightning_is_watched_past_the_module_that_holds_the_network(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    net, inputs = network("a_bad")

    class Lit(lightning.LightningModule):  # type: ignore[misc]
        """Calls its network without a `forward` of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: Any, index: int) -> Any:
            return self.net(batch[0]).square().sum()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1e-12)

    callback = lightning_callback(every=2)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs[0]), 1)
    trainer = lightning.Trainer(
        max_epochs=1, callbacks=[callback], logger=False, enable_checkpointing=False, accelerator="cpu",
        default_root_dir=tmp_path,
    )  # fmt: skip
    with pytest.warns(GradientNormWarning, match="the gradient vanishes"):
        trainer.fit(Lit(), data)
    assert len(callback.monitor.history) == (len(inputs[0]) + 1) // 2


def test_a_trainer_of_transformers_is_watched() -> None:
    pytest.importorskip("transformers")
    callback = trainer_callback(every=1)
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    callback.on_train_begin(None, None, None, model=net)
    net(torch.randn(8, 4)).square().sum().backward()
    callback.on_train_end(None, None, None)
    assert len(callback.monitor.history) == 1
