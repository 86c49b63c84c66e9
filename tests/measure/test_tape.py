"""The passes over a tape: every block's own Jacobian, and the whole chain, against Jacobians written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gnelint.analysis.prediction import Block
from gnelint.analysis.propagation import analyse
from gnelint.measure.estimate import estimate, spectrum_variance
from gnelint.measure.program import Program, RunSettings
from gnelint.measure.tape import Tape, rademacher
from tests.measure.networks import program, residual_net


def tape_of(network: Program, feeds: dict[str, Tensor]) -> tuple[Tape, tuple[Block, ...]]:
    blocks = analyse(network.graph).blocks
    return Tape(network, feeds, blocks, None), blocks


def probes(tape: Tape, count: int, *, squares: bool = True) -> list:
    return [tape.block_samples(torch.Generator().manual_seed(seed), squares=squares) for seed in range(count)]


def whole_jacobian(function: nn.Module, x: Tensor) -> np.ndarray:
    found = torch.autograd.functional.jacobian(function, x)
    return found.reshape(function(x).numel(), x.numel()).detach().numpy()


def test_every_block_is_measured_by_itself() -> None:
    module = residual_net().double()
    x = torch.randn(2, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    network = program(module, x)
    tape, blocks = tape_of(network, {"input": x})
    found = probes(tape, 300)
    assert len(tape.blocks) == len(blocks) == 5
    value = x
    for layer, block in zip(module, blocks, strict=True):
        gram = (j := whole_jacobian(layer, value)) @ j.T
        m = gram.shape[0]
        phi, square = np.trace(gram) / m, np.trace(gram @ gram) / m
        phis, squares = [f[block.name].phi for f in found], [f[block.name].square for f in found]
        assert np.mean(phis) == pytest.approx(phi, rel=0.06)
        variance = spectrum_variance(phis, squares)
        assert variance.low <= square - phi**2 <= variance.high
        value = layer(value)


@pytest.mark.slow
def test_intervals_of_a_small_networks_blocks_cover_the_truth() -> None:
    """400 runs of 12 probes on a network whose blocks' spectra are known from their Jacobians."""
    module = residual_net(width=12, depth=1).double()
    x = torch.randn(3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    tape, blocks = tape_of(program(module, x), {"input": x})
    generator = torch.Generator().manual_seed(0)
    runs = [[tape.block_samples(generator, squares=True) for _ in range(12)] for _ in range(400)]
    value = x
    for layer, block in zip(module, blocks, strict=True):
        gram = (j := whole_jacobian(layer, value)) @ j.T
        phi = np.trace(gram) / len(gram)
        variance = np.trace(gram @ gram) / len(gram) - phi**2
        found = [[sample[block.name] for sample in run] for run in runs]
        phis = [estimate([sample.phi for sample in run]) for run in found]
        variances = [spectrum_variance([s.phi for s in run], [s.square for s in run]) for run in found]
        assert 372 <= sum(one.low <= phi <= one.high for one in phis) <= 388
        assert 368 <= sum(one.low <= variance <= one.high for one in variances) <= 392
        value = layer(value)


def test_the_chain_is_the_whole_networks_jacobian() -> None:
    module = residual_net().double()
    x = torch.randn(2, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    tape, _ = tape_of(program(module, x), {"input": x})
    samples = [tape.chain_sample(torch.Generator().manual_seed(seed)).gradients["input"] for seed in range(400)]
    found = estimate(np.exp2(samples))
    j = whole_jacobian(module, x)
    truth = np.trace(j @ j.T) / j.shape[0]
    assert found.value == pytest.approx(truth, rel=0.1)
    assert found.low <= truth <= found.high


def test_gradients_are_autograds() -> None:
    module = residual_net().double()
    x = torch.randn(2, 16, dtype=torch.float64).requires_grad_()
    tape, _ = tape_of(program(module, x.detach()), {"input": x.detach()})
    sample = tape.chain_sample(torch.Generator().manual_seed(5))
    y = module(x)
    probe = rademacher(y, torch.Generator().manual_seed(5))
    gradients = torch.autograd.grad(y, [x, *module.parameters()], probe)
    wanted = [math.log2(float(g.square().sum() / probe.square().sum())) for g in gradients]
    assert sample.gradients["input"] == pytest.approx(wanted[0], abs=1e-10)
    for (name, _), expected in zip(module.named_parameters(), wanted[1:], strict=True):
        assert sample.parameters[name] == pytest.approx(expected, abs=1e-10)


def orthogonal_chain(gain: float, depth: int) -> nn.Sequential:
    layers = [nn.Linear(8, 8, bias=False) for _ in range(depth)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, gain)
    return nn.Sequential(*layers)


@pytest.mark.parametrize("gain", [1e-3, 1e3])
def test_deep_chains_neither_underflow_nor_overflow(gain: float) -> None:
    x = torch.randn(4, 8)
    tape, _ = tape_of(program(orthogonal_chain(gain, 60), x, settings=RunSettings()), {"input": x})
    sample = tape.chain_sample(torch.Generator().manual_seed(0))
    assert sample.gradients["input"] == pytest.approx(60 * 2 * math.log2(gain), rel=1e-4)


@pytest.mark.parametrize("gain", [1e-3, 1e3])
def test_weight_gradients_are_scaled_back(gain: float) -> None:
    """In a linear chain every weight's gradient has the same norm up to the gain, whatever the layers do."""
    x = torch.randn(4, 8, dtype=torch.float64)
    module = orthogonal_chain(gain, 12).double()
    tape, _ = tape_of(program(module, x), {"input": x})
    sample = tape.chain_sample(torch.Generator().manual_seed(0))
    y = module(x)
    probe = rademacher(y, torch.Generator().manual_seed(0))
    gradients = torch.autograd.grad(y, list(module.parameters()), probe)
    for (name, _), gradient in zip(module.named_parameters(), gradients, strict=True):
        wanted = math.log2(float(gradient.square().sum() / probe.square().sum()))
        assert sample.parameters[name] == pytest.approx(wanted, abs=1e-9)


def test_an_identity_of_a_value_that_others_read_has_its_own_gradient() -> None:
    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 8)
            self.drop = nn.Dropout(0.5)
            self.outer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            h = self.inner(x)
            return h + self.outer(self.drop(h))

    torch.manual_seed(0)
    module, x = Dropped().double(), torch.randn(3, 8, dtype=torch.float64)
    tape, _ = tape_of(program(module, x), {"x": x})
    sample = tape.chain_sample(torch.Generator().manual_seed(1)).gradients
    probe = rademacher(x, torch.Generator().manual_seed(1))
    branch = probe @ module.outer.weight.detach()
    size = float(probe.square().sum())
    assert sample["drop"] == pytest.approx(math.log2(float(branch.square().sum()) / size), abs=1e-10)
    assert sample["inner"] == pytest.approx(math.log2(float((probe + branch).square().sum()) / size), abs=1e-10)


def test_a_zero_block_is_zero_and_hides_nothing_before_it() -> None:
    head = nn.Linear(8, 4)
    nn.init.zeros_(head.weight)
    module, x = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), head).double(), torch.randn(2, 8, dtype=torch.float64)
    tape, blocks = tape_of(program(module, x), {"input": x})
    (sample,) = probes(tape, 1)
    assert sample[blocks[-1].name].phi == 0.0
    assert sample[blocks[0].name].phi > 0.01


def test_the_same_seed_gives_the_same_numbers_bit_for_bit() -> None:
    x = torch.randn(4, 16)
    network = program(residual_net(), x, settings=RunSettings())
    first, second = (tape_of(network, {"input": x})[0] for _ in range(2))
    assert probes(first, 3) == probes(second, 3)
    one, other = (tape.chain_sample(torch.Generator().manual_seed(9)) for tape in (first, second))
    assert one == other
