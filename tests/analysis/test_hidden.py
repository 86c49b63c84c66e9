"""Entries that are minus infinity for every input, against what a run of the module gives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gnelint.analysis.hidden import hidden_entries
from gnelint.readers.torch.reader import read_module

MASK = torch.full((4, 6), -torch.inf).triu(2)

WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "added": lambda x: x + MASK,
    "added twice": lambda x: (x + MASK) + MASK.flip(1),
    "joined": lambda x: torch.cat([x, torch.full((3, 4, 2), -torch.inf)], -1),
    "joined and cut": lambda x: torch.cat([torch.full((3, 4, 2), -torch.inf), x], -1)[..., 1:5],
    "moved": lambda x: (x + MASK).transpose(1, 2).reshape(3, 24),
    "greatest": lambda x: torch.stack([x + MASK, x + MASK.flip(0)]).amax(0),
    "scaled": lambda x: 0.5 * (x + MASK),
    "turned": lambda x: -(x + MASK),
    "none": lambda x: x + 1.0,
}


class Way(nn.Module):
    """A layer and one way of hiding behind it."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.layer, self.way = nn.Linear(6, 6), way

    def forward(self, x: Tensor) -> Tensor:
        return WAYS[self.way](self.layer(x))


@pytest.mark.parametrize("way", WAYS)
def test_entries_that_are_said_to_be_hidden_are_those_that_are(way: str) -> None:
    module, x = Way(way), torch.randn(3, 4, 6)
    graph = read_module(module, (x,), name="way")
    given = np.isneginf(module(x).detach().numpy())
    said = hidden_entries(graph).get(graph.outputs[0], np.zeros_like(given))
    assert (said == given).all()
