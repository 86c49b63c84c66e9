"""Axes are followed as autograd sees them: which samples and positions an output depends on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gnelint.analysis.axes.following import axes
from gnelint.analysis.axes.layout import regrouped, tears
from gnelint.analysis.axes.meeting import coded_samples, leaks, samples_that_meet
from gnelint.analysis.axes.reach import reach
from gnelint.ir.graph import Graph
from gnelint.lint.functions.axes import torn_axis
from gnelint.readers.torch.reader import read_module
from tests.models import network

SAMPLES = ("batch_axis_encoder", "pooled_over_batch", "frames_classifier", "pooled_over_one", "pooled_moments", "angle")


def read(module: nn.Module, inputs: tuple[Tensor, ...]) -> Graph:
    return read_module(module, inputs, name="network")


def depends(module: nn.Module, x: Tensor, entry: tuple[object, ...], other: tuple[object, ...]) -> bool:
    """Whether an entry of the output has a gradient at another entry of the input."""
    x = x.clone().requires_grad_()
    module(x)[entry].sum().backward()
    return bool(x.grad is not None and x.grad[other].abs().sum() > 0)


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("wrong", [True, False])
def test_samples_meet_where_autograd_says_so(name: str, wrong: bool) -> None:
    module, (x,) = network(f"{name}(wrong={wrong})")
    graph = read(module, (x,))
    assert bool(list(samples_that_meet(graph, axes(graph)))) == depends(module, x, (1,), (0,))


@pytest.mark.parametrize("wrong", [True, False])
def test_positions_see_later_ones_where_autograd_says_so(wrong: bool) -> None:
    module, (x,) = network(f"leaking_decoder(wrong={wrong})")
    graph = read(module, (x,))
    later = depends(module, x, (slice(None), 3), (slice(None), slice(4, None)))
    assert bool(list(leaks(graph, axes(graph)))) == later == wrong


class Moved(nn.Module):
    """Whatever a function does to x, a layer in front."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.function = nn.Linear(8, 8), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.first(x))


@pytest.mark.parametrize(
    ("function", "labels"),
    [
        (lambda y: y.transpose(0, 1), [{1}, {0}, set()]),
        (lambda y: y.reshape(4, 6, 2, 4).permute(2, 0, 1, 3).reshape(8, 6, 4), [{0}, {1}, set()]),
        (lambda y: y.mean(1), [{0}, set()]),
        (lambda y: y[:, -1], [{0}, set()]),
        (lambda y: torch.cat([y, y], 2), [{0}, {1}, set()]),
        (lambda y: y + torch.ones(6, 8), [{0}, {1}, set()]),
        (lambda y: y.unfold(1, 2, 2).flatten(2), None),
    ],
)
def test_where_the_axes_are(function: Callable[[Tensor], Tensor], labels: list[set[int]] | None) -> None:
    graph = read(Moved(function), (torch.randn(4, 6, 8),))
    layout = axes(graph).layouts.get(graph.outputs[0])
    if labels is None or layout is None:
        assert layout is None or labels is None
        return
    assert [{label for label, size in axis if label is not None and size > 1} for axis in layout] == labels


def test_a_reshape_joins_and_splits_factors() -> None:
    layout = (((0, 4),), ((1, 6),), ((None, 8),))
    assert regrouped(layout, (24, 8)) == (((0, 4), (1, 6)), ((None, 8),))
    assert regrouped(layout, (4, 6, 2, 4)) == (((0, 4),), ((1, 6),), ((None, 2),), ((None, 4),))
    assert regrouped(layout, (4, 3, 2, 8)) == (((0, 4),), ((1, 3),), ((1, 2),), ((None, 8),))
    assert regrouped(layout, (5, 7)) is None


def test_a_reshape_tears_what_it_cuts_and_joins_with_something_else() -> None:
    heads = (((0, 4),), ((None, 4),), ((1, 12),), ((None, 8),))
    assert tears(heads, (4, 12, 32))
    assert not tears(heads, (16, 12, 8))
    assert not tears((((0, 4),), ((1, 12),), ((None, 32),)), (4, 3, 4, 32))
    maps = (((0, 4),), ((None, 24),), ((2, 4),), ((3, 4),))
    assert tears(maps, (4, 16, 24))
    assert not tears(maps, (4, 24, 16))
    assert not tears((((1, 12),), ((0, 8),), ((None, 32),)), (12, 32, 8))  # heads go beside samples


@pytest.mark.parametrize(
    ("before", "after", "size"),
    [
        ((4, 4, 12, 8), (4, 12, 32), 12),
        ((8, 12, 32), (12, 8, 32), 12),
        ((4, 12, 32), (4, 4, 12, 8), 12),
        ((4, 16, 8, 8), (4, 64, 16), 16),
        ((4, 12, 4, 8), (4, 12, 32), 0),
        ((12, 4, 32), (12, 16, 8), 0),
        ((4, 12, 32), (4, 6, 64), 0),
        ((8, 56, 56, 96), (8, 8, 7, 8, 7, 96), 0),
        ((8, 8, 7, 8, 7, 96), (512, 49, 96), 0),
    ],
)
def test_the_axis_that_is_torn(before: tuple[int, ...], after: tuple[int, ...], size: int) -> None:
    assert torn_axis(before, after) == size


@pytest.mark.parametrize(
    ("name", "count"), [("coded_tokens(wrong=True)", 1), ("coded_tokens", 0), ("token_decoder", 0)]
)
def test_codes_along_the_batch_are_told_from_those_of_positions(name: str, count: int) -> None:
    graph = read(*network(name))
    assert len(list(coded_samples(graph, axes(graph)))) == count


def test_a_memory_outside_the_causal_stack_may_be_seen_as_a_whole() -> None:
    graph = read(*network("t5"))
    assert list(leaks(graph, axes(graph))) == []


@pytest.mark.parametrize(
    ("layers", "steps"),
    [
        ((nn.Conv1d(4, 4, 3, padding=1), nn.Conv1d(4, 4, 3, padding=1)), (29, 31)),
        ((nn.Conv1d(4, 4, 3, dilation=4, padding=4),), (27, 31)),
        ((nn.Conv1d(4, 4, 2, stride=2), nn.MaxPool1d(2)), (28, 31)),
        ((nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4), nn.ReLU()), (31, 31)),
        ((nn.Conv1d(4, 4, 1), nn.GroupNorm(1, 4)), (0, 31)),
    ],
)
def test_reach_of_the_last_step_is_what_autograd_finds(layers: tuple[nn.Module, ...], steps: tuple[int, int]) -> None:
    class Last(nn.Sequential):
        """The last step of what the layers give."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[:, :, -1]

    module = Last(*layers).eval()  # statistics of a batch are of all its positions
    graph = read_module(module, (torch.randn(3, 4, 32),), name="last")
    assert reach(graph, axes(graph), graph.inputs[0])[2] == steps
    x = torch.randn(3, 4, 32, requires_grad=True)
    module(x).sin().sum().backward()
    assert x.grad is not None
    moved = x.grad.abs().sum((0, 1)).nonzero().flatten().tolist()
    assert steps[0] <= moved[0]
    assert moved[-1] <= steps[1]
