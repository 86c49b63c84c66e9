"""What fixes do to the function and the gradient of a network, measured by running it."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from gnelint.fixes.edits import Edit, EditTensor
from gnelint.fixes.planning import FixRequest, plan_fixes
from gnelint.lint.rulefile import load_rules
from gnelint.lint.selection import Settings
from gnelint.readers.torch.reader import read_module
from tests.models import network
from tests.models.initialisation import uneven_mlp
from tests.models.plain import plain_mlp

RULES = load_rules()


def edited(module: nn.Module, edits: tuple[Edit, ...]) -> nn.Module:
    """The module with the edits' new numbers in its tensors."""
    changed = copy.deepcopy(module)
    state = changed.state_dict()
    for edit in edits:
        assert isinstance(edit.action, EditTensor)
        tensor = state[edit.action.tensor]
        tensor.copy_(torch.from_numpy(edit.action.numbers(tensor.numpy())))
    return changed


def gradient_log2(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> float:
    """log2 of the measured end-to-end ratio of squared norms, for one white cotangent."""
    x = inputs[0].clone().requires_grad_()
    y = module(x)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(5))
    (gradient,) = torch.autograd.grad(y, x, cotangent)
    return math.log2(float((gradient.double() ** 2).sum() / (cotangent.double() ** 2).sum()))


def test_preserving_rescale_keeps_the_function_and_evens_the_layers() -> None:
    torch.manual_seed(0)
    module, inputs = uneven_mlp(), (torch.randn(64, 128),)
    rule = RULES.get("GNE508")
    assert rule is not None
    fixed = plan_fixes(read_module(module, inputs, name="uneven"), FixRequest([rule], Settings(select=(rule.id,))))
    after = edited(module, fixed.edits)
    torch.testing.assert_close(after(*inputs), module(*inputs), rtol=1e-5, atol=1e-5)
    factors = [layer.weight.square().sum() / len(layer.weight) for layer in after if isinstance(layer, nn.Linear)]
    assert max(factors[:-1]) / min(factors[:-1]) < 1.2


def fixed_chain(activation: str, init: str, seed: int) -> tuple[nn.Module, float, tuple[torch.Tensor, ...]]:
    """A chain of 50 layers after the gain fix, log2 of its predicted end-to-end ratio, and its inputs."""
    torch.manual_seed(seed)
    module, inputs = plain_mlp(depth=50, width=128, activation=activation, init=init), (torch.randn(256, 128),)
    rules = [rule for rule in RULES.rules if rule.program.fix is not None and rule.program.fix.kind == "gain"]
    fixed = plan_fixes(read_module(module, inputs, name="chain"), FixRequest(rules, Settings(stage="init")))
    assert fixed.after.gradient_log2 is not None
    return edited(module, fixed.edits), fixed.after.gradient_log2, inputs


@pytest.mark.parametrize("activation", ["relu", "selu", pytest.param("hardswish", marks=pytest.mark.slow)])
def test_a_chain_is_predicted_to_keep_the_gradient_after_the_gain_fix(activation: str) -> None:
    _, predicted, _ = fixed_chain(activation, "default", 0)
    assert abs(predicted) <= math.log2(1.2)


@pytest.mark.slow
def test_a_chain_keeps_the_gradient_after_the_gain_fix() -> None:
    drawn = [fixed_chain("relu", "xavier", seed) for seed in range(5)]
    measured = [2.0 ** gradient_log2(module, inputs) for module, _, inputs in drawn]
    assert 0.5 <= sum(measured) / len(measured) <= 2.0


def test_a_residual_network_of_50_blocks() -> None:
    torch.manual_seed(0)
    module, inputs = network("residual_conv(depth=50, channels=16)")
    rule = RULES.get("GNE401")
    assert rule is not None
    fixed = plan_fixes(read_module(module, inputs, name="residual"), FixRequest([rule]))
    assert fixed.before.gradient_log2 is not None
    assert fixed.after.gradient_log2 is not None
    assert fixed.before.gradient_log2 > 10
    assert abs(fixed.after.gradient_log2) <= math.log2(1.2)
    assert abs(gradient_log2(edited(module, fixed.edits), inputs)) < 1.0
