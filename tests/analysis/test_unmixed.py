"""Kernels of one channel that follow each other: where they are found, and that running them finds their gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gnelint.analysis.propagation import analyse
from gnelint.analysis.unmixed import unmixed_runs
from gnelint.measure.regions.sampler import TorchSampler
from gnelint.measure.regions.torch_network import TorchNetwork
from gnelint.readers.torch.reader import Traced, trace_module
from tests.benchmarks.accuracy import measure

CHANNELS = 32


def kernel(size: int = 3, norm: bool = True) -> nn.Sequential:
    conv = nn.Conv2d(CHANNELS, CHANNELS, size, padding=size // 2, groups=CHANNELS, bias=False)
    return nn.Sequential(conv, *([nn.BatchNorm2d(CHANNELS)] if norm else []))


class Mixer(nn.Module):
    """Branches of one channel each, and the channel itself."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow, self.norm = kernel(), kernel(1, norm=False), nn.BatchNorm2d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.norm(self.wide(x) + self.narrow(x) + x)
        return found


def traced(*layers: nn.Module) -> Traced:
    torch.manual_seed(0)
    stem = nn.Conv2d(16, CHANNELS, 1)
    return trace_module(nn.Sequential(stem, *layers), (torch.randn(4, 16, 10, 10),), name="run")


def mixing() -> nn.Module:
    return nn.Conv2d(CHANNELS, CHANNELS, 1)


@pytest.mark.parametrize(
    ("layers", "runs"),
    [
        (lambda: [kernel()], 0),
        (lambda: [kernel(), nn.ReLU(), mixing(), nn.BatchNorm2d(CHANNELS), nn.ReLU(), kernel()], 0),
        (lambda: [kernel(norm=False), nn.ReLU(), kernel(norm=False)], 0),
        (lambda: [kernel(), nn.ReLU(), kernel()], 1),
        (lambda: [kernel(norm=False), kernel(1)], 0),
        (lambda: [Mixer()], 1),
        (lambda: [kernel(), kernel(), mixing(), Mixer()], 2),
    ],
    ids=["one", "mixed", "no norm", "two", "1x1", "branches", "two runs"],
)
def test_where_they_are(layers: Callable[[], list[nn.Module]], runs: int) -> None:
    assert len(unmixed_runs(traced(*layers()).graph)) == runs


@pytest.mark.parametrize(
    "layers",
    [lambda: [kernel() for _ in range(6)], lambda: [Mixer() for _ in range(4)]],
    ids=["chain", "branches"],
)
def test_their_gradients(layers: Callable[[], list[nn.Module]]) -> None:
    network = traced(*layers())
    found = analyse(network.graph, lambda: TorchSampler(TorchNetwork(network)))
    formulas = analyse(network.graph)
    measured = measure(network, found, probes=8, seed=0)
    errors: dict[bool, list[float]] = {True: [], False: []}
    for nodes, sampled in ((found.nodes, True), (formulas.nodes, False)):
        for node in nodes:
            truth = measured[node.output].gradient_log2
            assert node.gradient_log2 is not None
            assert truth is not None
            errors[sampled].append(abs(node.gradient_log2 - truth))
    assert max(errors[True]) < 0.4
    assert max(errors[False]) > 0.8, "the formulas would do"
