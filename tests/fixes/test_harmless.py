"""Edits that would do harm: of what several places share, of what is zero on purpose, of what is not trained."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import gnelint
from gnelint.api import FixPlan
from gnelint.fixes.edits import InsertScale
from gnelint.lint.facts import Facts
from tests.fixes.test_functions import gradient_log2

WIDTH = 24


def layers(count: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(count))


def he(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_normal_(part.weight)


def fixed(net: nn.Module, *inputs: Tensor, **options: object) -> tuple[FixPlan, nn.Module]:
    """The plan and the fixed module; a second fix of that must have nothing to do."""
    plan = gnelint.plan_fixes(net, inputs, **options)  # type: ignore[arg-type]
    after, unmade = plan.apply()
    assert not unmade
    assert not gnelint.plan_fixes(after, inputs, **options).edits  # type: ignore[arg-type]
    return plan, after


def silent(net: nn.Module, *inputs: Tensor) -> int:
    """How many trained numbers get no gradient."""
    net = copy.deepcopy(net)
    net(*inputs).square().sum().backward()
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    return sum(int((p.grad == 0).sum()) if p.grad is not None else p.numel() for p in trained)


class Shared(nn.Module):
    """One block or layer, applied many times between a stem and a head."""

    def __init__(self, part: nn.Module, times: int, residual: bool) -> None:
        super().__init__()
        self.stem, self.part, self.head = nn.Linear(WIDTH, WIDTH), part, nn.Linear(WIDTH, WIDTH)
        self.times, self.residual = times, residual

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(self.times):
            x = x + self.part(x) if self.residual else self.part(x)
        return self.head(x)


def test_a_shared_block_is_scaled_once() -> None:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
    net, x = Shared(block, 12, residual=True), torch.randn(16, WIDTH)
    he(net.part)
    plan, after = fixed(net, x)
    assert {edit.rule for edit in plan.edits} == {"GNE401"}
    factor = float(after.part[0].weight.detach().std() / net.part[0].weight.detach().std())  # type: ignore[union-attr, index]
    assert factor == pytest.approx((12**-2 / 2) ** 0.25, rel=0.2)
    assert abs(gradient_log2(after, (x,))) < 2 < gradient_log2(net, (x,))
    assert silent(after, x) <= silent(net, x)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU])
def test_a_shared_layer_is_solved_for_all_its_uses(activation: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    part = nn.Sequential(nn.Linear(WIDTH, WIDTH), activation(), nn.Linear(WIDTH, WIDTH), activation())
    net, x = Shared(part, 6, residual=False), torch.randn(64, WIDTH)
    plan, after = fixed(net, x)
    assert Facts(plan.plan.after).body_log2 == pytest.approx(0.0, abs=0.1)
    assert gradient_log2(net, (x,)) < -30
    after.head = nn.Identity()
    assert abs(gradient_log2(after, (x,))) < 5


class Tied(nn.Module):
    """An embedding whose table is the head's weight as well."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, WIDTH)
        self.between = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        return nn.functional.linear(torch.relu(self.between(self.table(tokens))) * 8, self.table.weight)


def test_a_table_that_is_tied_to_the_logits_stays() -> None:
    torch.manual_seed(0)
    plan = gnelint.plan_fixes(Tied(), torch.randint(0, 50, (8, 6)), select=["GNE111"])
    (edit,) = plan.edits
    assert isinstance(edit.action, InsertScale)
    assert not plan.plan.remaining


class ReZero(nn.Module):
    """x + alpha F(x) with alpha at zero."""

    def __init__(self, norm: bool, alpha: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(*(part for _ in range(8) for part in (nn.Linear(WIDTH, WIDTH), nn.ReLU())))
        parts = [nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), *[nn.LayerNorm(WIDTH)] * norm]
        self.blocks = nn.ModuleList(nn.Sequential(*copy.deepcopy(parts)) for _ in range(6))
        self.alpha = nn.Parameter(torch.full((6,), alpha))
        self.head = nn.Linear(WIDTH, WIDTH)
        he(self.blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for alpha, block in zip(self.alpha, self.blocks, strict=True):
            x = x + alpha * block(x)
        return self.head(x)


@pytest.mark.parametrize("norm", [False, True])
def test_what_is_zero_on_purpose_is_left_alone(norm: bool) -> None:
    torch.manual_seed(0)
    net, x = ReZero(norm), torch.randn(64, WIDTH)
    plan, after = fixed(net, x, extend_select=["GNE402"])
    assert plan.edits  # of the stem
    assert not any(edit.action.subject.startswith(("blocks", "alpha")) for edit in plan.edits)
    assert abs(gradient_log2(after, (x,))) < 3 < abs(gradient_log2(net, (x,)))
    assert silent(after, x) <= silent(net, x)


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = layers(12)
        self.register_buffer("basis", torch.linalg.qr(torch.randn(WIDTH, WIDTH))[0])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x)) @ self.basis
        return x


def test_frozen_layers_and_buffers_are_left_alone_and_said() -> None:
    torch.manual_seed(0)
    net, x = Chain(), torch.randn(64, WIDTH)
    net.layers[:4].requires_grad_(False)
    plan, after = fixed(net, x)
    subjects = {edit.action.subject for edit in plan.edits}
    assert subjects == {f"layers.{index}.weight" for index in range(4, 12)}
    assert "basis is a buffer: not trained, left as it is." in plan.plan.notes
    assert gradient_log2(after, (x,)) > gradient_log2(net, (x,)) + 15


@pytest.mark.parametrize(("share", "edited"), [(0.05, True), (0.2, False)])
def test_a_chain_whose_dropout_would_drown_it_is_left_alone(share: float, edited: bool) -> None:
    parts = [part for _ in range(6) for part in (nn.Linear(48, 48), nn.ReLU(), nn.Dropout(share))]
    torch.manual_seed(0)
    plan, _ = fixed(nn.Sequential(*parts, nn.Linear(48, 10)), torch.randn(8, 48))
    assert bool(plan.edits) == edited
    assert edited or all("dropout adds noise" in refusal.reason for refusal in plan.plan.left)


@pytest.mark.parametrize("before", [True, False])
def test_an_adjacency_is_no_layer(before: bool) -> None:
    torch.manual_seed(0)

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mixing", (torch.rand(9, 9) < 0.4).float())
            self.layers = layers(10)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = torch.relu(layer(self.mixing @ x) if before else self.mixing @ layer(x))
            return x

    net, x = Graph(), torch.randn(8, 9, WIDTH)
    _, after = fixed(net, x)
    assert torch.equal(after.mixing, net.mixing)
    assert abs(gradient_log2(after, (x,))) <= abs(gradient_log2(net, (x,)))


def test_a_sum_over_a_set_counts() -> None:
    torch.manual_seed(0)

    class DeepSets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each, self.whole = layers(5), layers(5)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.each:
                x = torch.relu(layer(x))
            x = x.sum(1)
            for layer in self.whole:
                x = torch.relu(layer(x))
            return x

    net, x = DeepSets(), torch.randn(32, 40, WIDTH)
    plan, after = fixed(net, x)
    assert plan.plan.after.gradient_log2 == pytest.approx(0.0, abs=0.1)
    assert abs(gradient_log2(after, (x,))) < 2.5  # the sum alone is 5.3


CHAINS = [("SiLU", 12, False), ("SiLU", 14, True), ("Softplus", 6, False)]
MORE = [(name, depth, conv) for name in ("GELU", "SiLU", "Mish", "Hardswish", "ELU", "Tanh", "Softplus")
        for depth in (5, 17, 40) for conv in (False, True)]  # fmt: skip


def chain(activation: str, depth: int, conv: bool) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(depth)
    act = getattr(nn, activation)
    if not conv:
        return nn.Sequential(*(part for _ in range(depth) for part in (nn.Linear(16, 16), act())), nn.Linear(16, 16)), (
            torch.randn(16, 16)
        )
    sizes = [3, *[8] * depth]
    convs = [part for pair in pairwise(sizes) for part in (nn.Conv2d(*pair, 3, padding=1), act())]
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8)), torch.randn(8, 3, 8, 8)


@pytest.mark.parametrize(
    ("activation", "depth", "conv"), [*CHAINS, *(pytest.param(*one, marks=pytest.mark.slow) for one in MORE)]
)
def test_a_fixed_chain_is_right_by_the_rules_that_fixed_it(activation: str, depth: int, conv: bool) -> None:
    net, x = chain(activation, depth, conv)
    plan, after = fixed(net, x)
    rules = {edit.rule for edit in plan.edits}
    assert not rules & {finding.rule for finding in gnelint.check(after, (x,)).findings}
    done = [(edit.kind, edit.action.subject) for edit in plan.edits]
    assert len(done) == len(set(done))
    before, then = (plan.plan.before.gradient_log2 or 0.0), (plan.plan.after.gradient_log2 or 0.0)
    assert abs(then) <= abs(before) or math.isclose(then, before)
