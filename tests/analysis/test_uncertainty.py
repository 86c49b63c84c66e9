"""What is said about errors, held against errors: over draws of the weights, and from layer to layer."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gnelint.analysis.prediction import Prediction
from gnelint.analysis.propagation import analyse
from gnelint.analysis.uncertainty import NEAR_CRITICAL
from gnelint.readers.torch.reader import read_module


def stack(width: int, depth: int, act: Callable[[], nn.Module], gain: float = 2.0, norm: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(width, width, bias=False)
        nn.init.normal_(linear.weight, std=math.sqrt(gain / width))
        layers += [linear, *([nn.BatchNorm1d(width)] if norm else []), act()]
    return nn.Sequential(*layers)


def predicted(module: nn.Module, *inputs: Tensor) -> Prediction:
    return analyse(read_module(module, inputs, name="network", training=True))


def measured(module: nn.Module, x: Tensor, cotangents: int = 4) -> float:
    """log2 of the squared gradient norm at the input, relative to that at the output."""
    x = x.clone().requires_grad_()
    y = module(x)
    total = 0.0
    for _ in range(cotangents):
        g = torch.randn_like(y)
        (pulled,) = torch.autograd.grad(y, x, g / g.norm(), retain_graph=True)
        total += float(pulled.square().sum()) / cotangents
    return math.log2(total)


@pytest.mark.slow
@pytest.mark.parametrize(("samples", "act"), [(1, nn.ReLU), (16, nn.ReLU), (16, nn.Tanh)])
def test_nine_of_ten_draws_lie_within_the_bound(samples: int, act: Callable[[], nn.Module]) -> None:
    gain = 1.0 if act is nn.Tanh else 2.0
    scaled = []
    for seed in range(60):
        torch.manual_seed(seed)
        module, x = stack(64, 12, act, gain), torch.randn(samples, 64)
        found = predicted(module, x)
        assert found.gradient_log2 is not None
        assert found.error_bits is not None
        scaled.append((found.gradient_log2 - measured(module, x)) / found.error_bits)
    inside = float(np.mean(np.abs(scaled) <= 1.0))
    assert inside >= 0.85
    assert float(np.quantile(np.abs(scaled), 0.9)) >= 0.3  # not by being wide


class Last(nn.Module):
    """A recurrent layer whose last state a head reads."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.cells, self.head = nn.LSTM(inputs, 48, batch_first=True), nn.Linear(48, outputs)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.cells(x)[0][:, -1])
        return found


@pytest.mark.parametrize("inputs", [6])
def test_a_head_of_one_output_leaves_one_direction(inputs: int) -> None:
    """All samples' gradients lie in the direction of its weights, and scatter together from draw to draw."""
    errors, bounds = [], []
    for seed in range(12):
        torch.manual_seed(seed)
        module, x = Last(inputs, 1), torch.randn(8, 6, inputs)
        found = predicted(module, x)
        assert found.gradient_log2 is not None
        assert found.error_bits is not None
        errors.append(abs(found.gradient_log2 - measured(module, x)))
        bounds.append(found.error_bits)
    assert float(np.mean(np.array(errors) <= np.array(bounds))) >= 0.8
    assert float(np.quantile(errors, 0.9)) >= 0.3 * float(np.mean(bounds))
    wide = predicted(Last(inputs, 48), torch.randn(8, 6, inputs)).error_bits
    assert wide is not None
    assert wide < float(np.mean(bounds))


def test_one_sample_fluctuates_as_theory_says() -> None:
    torch.manual_seed(0)
    width, depth = 64, 12
    found = predicted(stack(width, depth, nn.ReLU), torch.randn(1, width))
    expected = math.sqrt(5.0 * depth / width) / math.log(2.0)
    assert found.fluctuation_bits == pytest.approx(expected, rel=0.35)


def test_wider_networks_fluctuate_less() -> None:
    torch.manual_seed(0)
    narrow = predicted(stack(32, 6, nn.ReLU), torch.randn(4, 32)).fluctuation_bits
    wide = predicted(stack(512, 6, nn.ReLU), torch.randn(4, 512)).fluctuation_bits
    assert narrow is not None
    assert wide is not None
    assert wide < 0.4 * narrow


def test_errors_grow_from_the_cotangent_to_the_input() -> None:
    torch.manual_seed(0)
    found = predicted(stack(64, 8, nn.ReLU), torch.randn(8, 64))
    errors = [node.error_bits for node in found.nodes]
    assert all(error is not None for error in errors)
    assert errors == sorted(errors, key=lambda error: -(error or 0.0))
    assert found.error_bits is not None
    assert errors[0] is not None
    assert found.error_bits >= errors[0]
    assert all(block.error_bits is not None for block in found.blocks)


def test_statistics_over_few_values_are_named() -> None:
    torch.manual_seed(0)
    few = predicted(stack(64, 3, nn.ReLU, norm=True), torch.randn(16, 64))
    many = predicted(stack(64, 3, nn.ReLU, norm=True), torch.randn(256, 64))
    assert any("statistics over 16 values only" in block.assumptions for block in few.blocks)
    assert not any("values only" in text for block in many.blocks for text in block.assumptions)
    assert few.error_bits is not None
    assert many.error_bits is not None
    assert few.error_bits > many.error_bits


def test_an_unstable_fixed_point_is_named_and_a_stable_one_is_not() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 128)
    unstable, stable = predicted(stack(128, 30, nn.GELU), x), predicted(stack(128, 30, nn.ReLU), x)
    assert any(NEAR_CRITICAL in node.assumptions for node in unstable.nodes)
    assert not any(NEAR_CRITICAL in node.assumptions for node in stable.nodes)
    assert unstable.error_bits is not None
    assert stable.error_bits is not None
    assert unstable.error_bits > 1.5 * stable.error_bits


class Unknown(nn.Module):
    """An operation without a component between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(torch.special.bessel_j0(self.first(x)))
        return out


class Odd(nn.Module):
    """An activation of a single number, of nothing, and a gate that is one for all samples."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.layer = kind, nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        if self.kind == "number":
            return torch.tanh(y.sum())
        return torch.tanh(y[:0]) if self.kind == "empty" else torch.sigmoid(y.mean()) * y


@pytest.mark.parametrize("kind", ["number", "empty", "gate"])
def test_odd_shapes_are_no_obstacle(kind: str) -> None:
    found = predicted(Odd(kind), torch.randn(4, 16))
    assert kind == "empty" or found.coverage == 1.0
    assert all(node.error_bits is None or math.isfinite(node.error_bits) for node in found.nodes)


def test_what_is_not_known_has_no_error() -> None:
    torch.manual_seed(0)
    found = predicted(Unknown(), torch.randn(4, 16))
    assert found.gradient_log2 is None
    assert found.error_bits is None
    assert found.fluctuation_bits is None
    assert found.by_node["first"].error_bits is None


def test_an_activation_with_a_slope_for_each_channel_reads_samples_of_two_kinds() -> None:
    class Kinds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.act, self.last = nn.Linear(16, 16), nn.PReLU(16), nn.Linear(16, 16)
            nn.init.uniform_(self.act.weight)

        def forward(self, x: Tensor) -> Tensor:
            z = self.first(x)
            return self.last(self.act(torch.cat([z, 3 * z])))

    torch.manual_seed(0)
    module, x = Kinds(), torch.randn(64, 16)
    found = predicted(module, x)
    assert found.gradient_log2 is not None
    assert found.error_bits is not None
    assert abs(found.gradient_log2 - measured(module, x)) <= found.error_bits < 1.0


class Stacked(nn.Module):
    """Queries, keys and values in one stack in front of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.qkv, self.out = nn.Linear(32, 32), nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        y = self.qkv(self.first(x)).reshape(*x.shape[:2], 3, 4, 8).permute(2, 0, 3, 1, 4)
        z = nn.functional.scaled_dot_product_attention(*y.unbind(0))
        return self.out(z.transpose(1, 2).reshape(x.shape))


def test_a_stack_of_queries_keys_and_values_is_no_batch() -> None:
    """Values get nearly all of the gradient, which was taken for one lucky sample of three: 3.7 bits were stated."""
    torch.manual_seed(0)
    found = analyse(read_module(Stacked(), (torch.randn(4, 32, 32),), name="stacked"))
    assert found.error_bits is not None
    assert found.error_bits < 2.0


class _Copied(nn.Module):
    """One channel's values in all eight, added to others or not, and a kernel over them with two outputs."""

    def __init__(self, *, added: bool) -> None:
        super().__init__()
        self.added, self.first, self.last = added, nn.Conv2d(1, 8, 1), nn.Conv2d(8, 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) + x if self.added else x.repeat(1, 8, 1, 1))


@pytest.mark.parametrize("added", [False, True])
def test_a_sum_over_features_is_a_draw(added: bool) -> None:
    """What one channel gets of all that copy it are the squares of two sums of weights: these scatter by 2 bits, of
    which 0.1 were stated."""
    inside = 0
    for seed in range(20):
        torch.manual_seed(seed)
        module = _Copied(added=added)
        prediction = predicted(module, torch.randn(4, 1, 6, 6))
        into = 1.0 + module.first.weight.flatten() if added else torch.ones(8)
        true = math.log2(float((module.last.weight[:, :, 0, 0] @ into).square().sum()) / 2.0)
        assert prediction.gradient_log2 is not None
        assert prediction.error_bits is not None
        assert prediction.error_bits < 3.0
        inside += abs(prediction.gradient_log2 - true) <= prediction.error_bits
    assert inside >= 16


class TwoStreams(nn.Module):
    """Few words and many patches, side by side and read apart: the words by deep layers, whose draws scatter."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.patches = nn.Linear(16, 16), nn.Linear(16, 16)
        self.deep = stack(16, 6, nn.ReLU)
        self.place = nn.Parameter(torch.randn(1, 68, 16))

    def forward(self, words: Tensor, patches: Tensor) -> Tensor:
        x = torch.cat([self.words(words), self.patches(patches)], dim=1) + self.place
        return torch.cat([self.deep(x[:, :4]), x[:, 4:]], dim=1)


def test_the_small_part_of_a_value_errs_as_what_reads_it() -> None:
    torch.manual_seed(0)
    found = predicted(TwoStreams(), torch.randn(1, 4, 16), torch.randn(1, 64, 16))
    errors = {node.node.name: node.error_bits or 0.0 for node in found.nodes}
    assert errors["deep.0"] > 0.8
    assert errors["words"] >= errors["deep.0"]
    assert errors["patches"] < 0.3
