"""Every fixable rule's bad networks, run before and after `gnelint fix`: what the rule is about measures better."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gnelint
from gnelint.lint.rulefile import Rule
from tests.fixes.test_fixable_rules import BAD, named
from tests.models import network

Inputs = tuple[Tensor, ...]


def run(net: nn.Module, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The value at which the gradient is measured, the input or what an embedding makes of it, and the output."""
    torch.manual_seed(1)
    net.double().train()
    first = inputs[0]
    found: list[Tensor] = []
    if first.is_floating_point():
        found.append(torch.randn(first.shape, dtype=torch.float64, requires_grad=True))
        return found[0], net(found[0])
    embedding = next(module for module in net.modules() if isinstance(module, nn.Embedding))
    handle = embedding.register_forward_hook(lambda module, args, output: found.append(output))
    y = net(first)
    handle.remove()
    return found[0], y


def gradient(net: nn.Module, inputs: Inputs) -> float:
    """How far the squared norm of the gradient is from what it is at the output, in bits."""
    x, y = run(net, inputs)
    ratios = []
    for seed in range(3):
        sent = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        (pulled,) = torch.autograd.grad(y, x, sent, retain_graph=True, allow_unused=True)
        ratios.append(0.0 if pulled is None else float(pulled.square().sum() / sent.square().sum()))
    mean = sum(ratios) / len(ratios)
    return abs(math.log2(mean)) if mean else math.inf


def signal(net: nn.Module, inputs: Inputs) -> float:
    """How far the second moment of the output is from that of the input, in bits."""
    x, y = run(net, inputs)
    return abs(math.log2(float(y.square().mean() / x.square().mean())))


def standing(net: nn.Module, inputs: Inputs) -> float:
    """The share that the channels' means, the same for all inputs, have in the output's second moment."""
    _, y = run(net, inputs)
    means = y.mean(dim=[axis for axis in range(y.ndim) if axis != 1])
    return float(means.square().mean() / y.square().mean())


def spectrum(net: nn.Module, inputs: Inputs) -> float:
    """Relative variance of the squared singular values of one sample's Jacobian."""
    torch.manual_seed(1)
    net.double().eval()
    x = torch.randn((1, *inputs[0].shape[1:]), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(net, x).reshape(-1, x.numel())
    squares = torch.linalg.svdvals(jacobian).square()
    return float(squares.var(correction=0) / squares.mean().square())


MEASURES: dict[str, Callable[[nn.Module, Inputs], float]] = {
    "GNE111-token_mlp(head_std=None)": signal,  # logits: the gradient behind a tied table is not what is wrong
    "GNE114-conditioned_mlp": spectrum,
    "GNE201-unit_gain_chain": spectrum,
    "GNE301-centred_layers": signal,
    "GNE304-normalized_sums(order='rectified')": standing,  # a branch of both signs is stronger, its gradient too
}
"""What a rule is about where that is not the gradient's norm."""
SAME = {"GNE310", "GNE311", "GNE508"}
"""Rules whose fix saves work or evens layers out; what passes from end to end stays to this many bits."""
STAYS = 0.3


DRAWS = 8
"""Of the spectrum, whose relative variance a few directions make: from 44 to 81 over six draws of one chain."""


def measured(rule: Rule, model: str, measure: Callable[[nn.Module, Inputs], float], draw: int) -> tuple[float, float]:
    """What one draw of a network measures before and after the fix."""
    torch.manual_seed(draw)
    net, inputs = network(model, draw)
    asked = {"extend_select": [rule.id], "stage": "init", "preview": rule.status == "preview", "unsafe": True}
    fixed = gnelint.fix(net, inputs, verify=False, **asked)
    return measure(net, inputs), measure(fixed, inputs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "model"), [pytest.param(rule, model, id=named(rule, model)) for rule, model, _ in BAD]
)
def test_better(rule: Rule, model: str) -> None:
    measure = MEASURES.get(f"{rule.id}-{model}", gradient)
    draws = range(DRAWS if measure is spectrum else 1)
    found = [measured(rule, model, measure, draw) for draw in draws]
    before, after = (sum(numbers) / len(draws) for numbers in zip(*found, strict=True))
    if rule.id in SAME:
        assert abs(after - before) <= STAYS
    else:
        assert after < before
