"""A few networks of the harm benchmark, and that the benchmark sees harm where it is done."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

import gnelint
from tests.benchmarks import harm
from tests.benchmarks.harm_networks import networks

NETWORKS = networks()


@pytest.mark.parametrize("name", ["rezero_16", "res_halved_12", "gin_4"])
def test_fresh_networks_are_not_made_worse(name: str) -> None:
    row = harm.fresh(name, NETWORKS[name], onnx=False, draws=1)
    assert not row.violations


def test_a_trained_network_computes_the_same() -> None:
    row = harm.trained("cnn_bn_after_relu_8", NETWORKS["cnn_bn_after_relu_8"], onnx=False, draws=1)
    assert row.learned[0] < harm.LEARNED
    assert not row.violations


def _scaled(factor: float) -> Callable[..., nn.Module]:
    def fix(module: nn.Module, *_: object, **__: object) -> nn.Module:
        copied = copy.deepcopy(module)
        with torch.no_grad():
            for parameter in copied.parameters():
                parameter.mul_(factor)
        return copied

    return fix


@pytest.mark.parametrize(
    ("factor", "kinds"), [(0.0, {"lost", "scale", "loss"}), (0.25, {"spread", "again"}), (1e20, {"infinite"})]
)
def test_harm_is_seen(monkeypatch: pytest.MonkeyPatch, factor: float, kinds: set[str]) -> None:
    monkeypatch.setattr(gnelint, "fix", _scaled(factor))
    row = harm.fresh("mlp_relu_he_3", NETWORKS["mlp_relu_he_3"], onnx=False, draws=2)
    assert kinds <= {each.kind for each in row.violations}


def test_a_frozen_tensor_that_changed_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gnelint, "fix", _scaled(0.9))
    row = harm.fresh("frozen_backbone", NETWORKS["frozen_backbone"], onnx=False, draws=1)
    assert "frozen" in {each.kind for each in row.violations}


def test_a_changed_function_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gnelint, "fix", _scaled(1.0001))
    row = harm.trained("mlp_relu_he_3", NETWORKS["mlp_relu_he_3"], onnx=False, draws=1)
    assert {each.kind for each in row.violations} == {"function", "again"}
