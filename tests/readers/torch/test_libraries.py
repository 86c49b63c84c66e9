"""Designs that libraries build by their names; the libraries are stand-ins here, but for the slow test."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from gnelint.errors import ModelError
from gnelint.readers.reading import read_target
from gnelint.readers.target import resolve

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_attention_heads": 4, "num_hidden_layers": 3, "num_key_value_heads": 2, "vocab_size": 128,
}  # fmt: skip


class Net(nn.Module):
    default_cfg: ClassVar[dict[str, Any]] = {"input_size": (3, 8, 8)}

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    def module(name: str, **content: Any) -> None:
        made = ModuleType(name)
        vars(made).update(content)
        made.__spec__ = importlib.util.spec_from_loader(name, None)
        monkeypatch.setitem(sys.modules, name, made)

    def create_model(name: str, pretrained: bool) -> nn.Module:
        assert not pretrained
        return Net()

    def get_model(name: str, weights: object) -> nn.Module:
        assert weights is None
        return Net()

    module("timm", list_models=lambda: ["net18", "net50"], create_model=create_model)
    module("torchvision")
    module("torchvision.models", list_models=lambda: ["net18"], get_model=get_model)


@pytest.mark.parametrize("text", ["timm:net50", "torchvision:net18"])
def test_a_design_is_built_without_weights(libraries: None, text: str) -> None:
    graph = read_target(resolve(text)[0])
    assert [node.op for node in graph.nodes] == ["conv"]
    assert graph.values[graph.inputs[0]].shape == (2, 3, 8, 8)
    assert graph.notes == ("inputs are the input_size of its default_cfg: 2,3,8,8; --input sets others",)


def test_a_name_that_no_library_has(libraries: None) -> None:
    with pytest.raises(ModelError, match=r"timm has no design net51\. Did you mean net50"):
        read_target(resolve("timm:net51")[0])


@pytest.mark.parametrize(("text", "package"), [("hf:x", "transformers"), ("timm:x", "timm")])
def test_what_is_not_installed_is_named(text: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == package else found(name, *more))
    extra = text.partition(":")[0]
    message = rf'needs {package}, which is not installed\. Install it: pip install "gnelint\[{extra}\]"'
    with pytest.raises(ModelError, match=message):
        read_target(resolve(text)[0])


@pytest.mark.slow
def test_a_design_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (target,) = resolve(f"hf:{tmp_path}?num_hidden_layers=2")
    graph = read_target(target)
    assert sum(node.op == "attention" for node in graph.nodes) == 2
    assert "inputs are from its configuration: input_ids=2,16; --input sets others" in graph.notes
    with pytest.raises(ModelError, match=r'has no "layers"'):
        read_target(resolve(f"hf:{tmp_path}?layers=2")[0])
    with pytest.raises(ModelError, match=r"is neither a directory nor in the local cache\. Download it first"):
        read_target(resolve("hf:nobody/nothing")[0])
