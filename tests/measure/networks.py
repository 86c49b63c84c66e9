"""Programs for the tests of measuring: modules traced with their inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gnelint.measure.program import RunSettings
from gnelint.measure.torch_program import TorchProgram
from gnelint.readers.torch.reader import trace_module

DOUBLE = RunSettings(float32=torch.float64)


def program(module: nn.Module, *inputs: Tensor, settings: RunSettings = DOUBLE, training: bool = True) -> TorchProgram:
    """The module as a program, in double precision unless said otherwise."""
    return TorchProgram(trace_module(module, inputs, name="net", training=training), settings)


class Residual(nn.Module):
    """x + scale * W relu(V x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x).relu())


def residual_net(width: int = 16, depth: int = 3) -> nn.Module:
    """A linear layer, residual blocks and a head."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, width), *(Residual(width) for _ in range(depth)), nn.Linear(width, 4))
