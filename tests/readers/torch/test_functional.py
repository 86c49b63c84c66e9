"""Programs in functional form compute what their modules compute, without a second trace."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gnelint.readers.torch import functional as made_functional
from gnelint.readers.torch.functional import functional
from gnelint.readers.torch.reader import read_module


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _slices(x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    y[..., 0::2], y[..., 1::2] = x[..., 4:], x[..., :4]
    return y


def _through_a_view(x: Tensor) -> Tensor:
    y = x * 1.0
    part = y.view(2, 4, 4)[0].transpose(0, 1)
    part.mul_(3.0)
    part += 1.0
    return y + part.sum()


def _two_views(x: Tensor) -> Tensor:
    y = x.clone()
    first, second = y.chunk(2, -1)
    first.copy_(second)
    second.zero_()
    return y * first.repeat(1, 2)


def _view_read_later(x: Tensor) -> Tensor:
    y = x.clone()
    row = y[1]
    y.add_(1.0)
    y[0] = row
    return y * row


def _row(x: Tensor) -> Tensor:
    y = x.clone()
    y.unbind(0)[2].fill_(5.0)
    return y.relu_()


def _indexed(x: Tensor) -> Tensor:
    y = x.clone()
    y[torch.tensor([0, 2])] = 7.0
    y[x > 1.0] = 0.0
    y.index_add_(0, torch.tensor([1, 1]), x[:2])
    return y.masked_fill_(x < -1.0, 0.5)


def _other_overload(x: Tensor) -> Tensor:
    """What is written in place has another name out of place: pow_.Scalar is pow.Tensor_Scalar."""
    y = x.abs() + 0.5
    y.pow_(-0.5)
    return y.pow_(x)


def _copied(x: Tensor) -> Tensor:
    y = x.t().contiguous()  # a copy: what is written to it x does not see
    y += 1.0
    z = x.contiguous()  # x itself
    return y.t() * z


def _without_gradient(x: Tensor) -> Tensor:
    with torch.no_grad():
        scale = x.abs().mean().clamp_(min=0.1)
    return x / scale


def _composites(x: Tensor) -> Tensor:
    return torch.trace(x @ x.T) + torch.diff(x).sum() + torch.cdist(x, x.flip(0)).mean() * x.kron(x).sum()


FORMS = [
    _slices,
    _through_a_view,
    _two_views,
    _view_read_later,
    _row,
    _indexed,
    _copied,
    _other_overload,
    _without_gradient,
    _composites,
]


@pytest.mark.parametrize("form", FORMS)
def test_it_computes_the_same(form: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_functional, "decomposed", lambda program: pytest.fail("traced a second time"))
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    program = functional(torch.export.export(Function(form), (x.clone(),), strict=False))
    assert not any(
        node.target._schema.is_mutable for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)
    )
    (found,) = program.graph_module(*program.constants.values(), x.clone())
    torch.testing.assert_close(found, form(x.clone()))


def test_what_a_block_without_gradients_computes_is_detached() -> None:
    graph = read_module(Function(_without_gradient), (torch.randn(4, 8),), name="detached")
    assert "stop_gradient" in {node.op for node in graph.nodes}


def test_names_and_lines_stay() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.act = nn.Linear(4, 4), nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            y = self.act(self.first(x))
            y[:, :2] *= 2.0
            return y

    graph = read_module(Net(), (torch.randn(3, 4),), name="net")
    assert [node.name for node in graph.nodes][:2] == ["first", "act"]
    assert all(node.location is not None and node.location.file == __file__ for node in graph.nodes)
