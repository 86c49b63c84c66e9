"""From installing to the first verdict on one's own module: one command, and no option."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.command import gnelint

LAYERS = """
import torch
from torch import nn


def layers(depth=12, width=32):
    torch.manual_seed(0)
    return nn.Sequential(*[part for _ in range(depth) for part in (nn.Linear(width, width), nn.Tanh())])
"""
FACTORIES = (
    LAYERS
    + """
def with_inputs():
    return layers(), (torch.randn(4, 32),)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = layers()

    def forward(self, x):
        return self.layers(x)


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.loss = nn.MSELoss()
        self.net = layers()

    def training_step(self, batch, index):
        return self.loss(self.net(batch[0]), batch[1])


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator, self.discriminator = layers(2), layers(2)


net = layers()
"""
)
LIGHTNING = (
    LAYERS
    + """
import lightning.pytorch as lightning


class Lit(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = layers()
        self.loss = nn.MSELoss()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, index):
        return self.loss(self(batch[0]), batch[1])


class Straight(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = layers()
        self.loss = nn.MSELoss()

    def training_step(self, batch, index):
        return self.loss(self.net(batch[0]), batch[1])


class Shown(Lit):
    def __init__(self):
        super().__init__()
        self.example_input_array = torch.randn(4, 32)
"""
)
CONFIGS = {
    "llama": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 64,
        "num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 50,
    },
    "bert": {
        "architectures": ["BertForSequenceClassification"], "model_type": "bert", "hidden_size": 32,
        "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": 50,
    },
}  # fmt: skip


def verdict(target: str, folder: Path) -> str:
    """What the report says of the gradient."""
    result = gnelint("check", target, cwd=folder)
    assert result.returncode in (0, 1), result.stderr
    lines = result.stdout.split("\n\n")
    assert "gradient" in lines[1], result.stdout
    return " ".join(result.stdout.split())


@pytest.mark.parametrize("name", ["layers(depth=8)", "with_inputs", "Net", "net"])
def test_a_factory_a_class_or_a_module(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.py").write_text(FACTORIES)
    assert "squared norm at the input is 2^" in verdict(f"mine.py:{name}", tmp_path)


def test_a_module_of_a_package(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "models.py").write_text(FACTORIES)
    assert "squared norm at the input is 2^" in verdict("project.models:Net", tmp_path)


def test_a_module_without_a_forward_is_read_for_the_network_in_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FACTORIES)
    assert "Note: Holder has no forward of its own: the network in it, net, was read" in verdict(
        "mine.py:Holder", tmp_path
    )
    several = gnelint("check", "mine.py:Two", cwd=tmp_path)
    assert several.returncode == 2
    assert "mine.py:Two: has no forward of its own (modules in it: generator, discriminator)." in several.stderr


@pytest.mark.skipif(find_spec("lightning") is None, reason="lightning is not installed")
@pytest.mark.parametrize("name", ["Lit", "Straight", "Shown"])
def test_a_lightning_module(tmp_path: Path, name: str) -> None:
    (tmp_path / "lit.py").write_text(LIGHTNING)
    said = verdict(f"lit.py:{name}", tmp_path)
    assert "squared norm at the input is 2^" in said
    assert ("Straight has no forward of its own" in said) == (name == "Straight")


@pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.parametrize("name", CONFIGS)
def test_a_directory_of_transformers(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text(json.dumps(CONFIGS[name]))
    assert "squared norm" in verdict(f"hf:./{name}", tmp_path)


@pytest.mark.skipif(None in map(find_spec, ("timm", "torchvision")), reason="timm or torchvision is not installed")
def test_a_name_of_timm(tmp_path: Path) -> None:
    assert "squared norm at the input is 2^" in verdict("timm:resnet18", tmp_path)
