"""Modules that take gradients or map functions in forward: graphs compute the same and end gradients where they do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gnelint.errors import ModelError
from gnelint.readers.torch.reader import read_module
from tests.evaluator import outputs


class Net(nn.Module):
    """What a function makes of two layers and the input."""

    def __init__(self, function: Callable[[Net, Tensor], Tensor], first: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.first, self.last, self.function = first, last, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def slope(net: Net, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(net.last(net.first(x)).tanh().sum(), x, create_graph=True)
    return found


def weighed(net: Net, x: Tensor) -> Tensor:
    z = net.first(x).tanh()
    (found,) = torch.autograd.grad(net.last(z).square().sum(), z, retain_graph=True)
    with torch.no_grad():
        share = net.last(z).sigmoid()
    return net.last(z * found) * share


def mapped(net: Net, x: Tensor) -> Tensor:
    return torch.vmap(lambda row: net.last(row.tanh() * row.sum()))(net.first(x))


def differentiated(net: Net, x: Tensor) -> Tensor:
    return torch.vmap(torch.func.grad(lambda row: net.last(net.first(row)).tanh().sum()))(x)


IMAGE, ROWS = (2, 4, 6, 6), (3, 4)
NETS: dict[str, tuple[Net, tuple[int, ...], int]] = {
    "slope": (Net(slope, nn.Linear(4, 6), nn.Linear(6, 1)), ROWS, 0),
    "slope of a convolution": (
        Net(slope, nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.GroupNorm(3, 6)), IMAGE, 0
    ),
    "slope of a transposed one": (Net(slope, nn.ConvTranspose2d(4, 2, 3, stride=2), nn.Softplus()), IMAGE, 0),
    "numbers of a slope": (Net(weighed, nn.Linear(4, 6), nn.Linear(6, 4)), ROWS, 3),
    "mapped": (Net(mapped, nn.Linear(4, 6), nn.Linear(6, 4)), ROWS, 0),
    "differentiated": (Net(differentiated, nn.Linear(4, 6), nn.Linear(6, 4)), ROWS, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_the_graph_computes_what_the_module_does_and_ends_gradients_where_it_does(name: str) -> None:
    net, shape, ends = NETS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    graph = read_module(net, (x,), name=name)
    assert sum(node.op == "stop_gradient" for node in graph.nodes) == ends
    torch.testing.assert_close(outputs(graph, (x,))[0], net(x), rtol=1e-4, atol=1e-5)


def test_a_module_without_numbers_cannot_take_gradients() -> None:
    with torch.device("meta"):
        net = Net(slope, nn.Linear(4, 6), nn.Linear(6, 1))
    with pytest.raises(ModelError, match="takes gradients of its own in forward"):
        read_module(net, (torch.empty(3, 4, device="meta"),), name="net")
