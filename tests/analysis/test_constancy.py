"""Axes along which values are said to be the same, against what modules give."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gnelint.analysis.constancy import equal_axes
from gnelint.readers.torch.reader import read_module

WAYS: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], set[int]]] = {
    "expanded": (lambda m, x: x[:, None].expand(-1, 5, -1), {-2}),
    "mapped": (lambda m, x: m.layer(x[:, None].expand(-1, 5, -1)).relu(), {-2}),
    "moved": (lambda m, x: x[:, None].expand(-1, 5, -1).transpose(1, 2), {-1}),
    "viewed": (lambda m, x: x[:, None].expand(-1, 5, -1)[:, :, None], {-3}),
    "shared": (lambda m, x: (x[:, None].expand(-1, 5, -1) @ m.layer.weight).softmax(1), {-2}),
    "alike": (lambda m, x: m.alike + x[:, None], {-2}),
    "told apart": (lambda m, x: x[:, None].expand(-1, 5, -1) + m.codes, set()),
    "normalised": (lambda m, x: nn.functional.layer_norm(x[:, None].expand(-1, 5, -1), (5, 6)), set()),
    "plain": (lambda m, x: m.layer(x), set()),
}


class Way(nn.Module):
    """One of the functions above."""

    def __init__(self, way: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.way, self.layer = way, nn.Linear(6, 6)
        self.alike = nn.Parameter(torch.ones(5, 6) * torch.arange(6.0))
        self.codes = nn.Parameter(torch.randn(5, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


@pytest.mark.parametrize("name", WAYS)
def test_axes_that_are_the_same_all_along(name: str) -> None:
    way, expected = WAYS[name]
    module, x = Way(way), torch.randn(3, 6)
    graph = read_module(module, (x,), name=name)
    assert equal_axes(graph).get(graph.outputs[0], frozenset()) == expected
    given = module(x)
    for axis in range(-given.ndim, 0):
        first = given.select(axis, 0).unsqueeze(axis).expand_as(given)
        same = torch.allclose(given, first, rtol=1e-5, atol=1e-6) and given.shape[axis] > 1  # sums may go in any order
        assert same or axis not in expected
