"""Regions that are alike are drawn once; those that are not, each for itself, as long as the network's work lasts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from gnelint.analysis.prediction import Prediction
from gnelint.analysis.propagation import analyse
from gnelint.measure.regions import fitting
from gnelint.measure.regions import sampler as sampling
from gnelint.measure.regions.fitting import Tally, inside, moments_of
from gnelint.measure.regions.sampler import Budget, TorchSampler
from gnelint.measure.regions.torch_network import TorchNetwork
from gnelint.readers.torch.reader import trace_module

WIDTH, MANY = 24, 800
"""So many that two draws of a table of weights have the same statistics."""

TWICE = 0.15
"""What two samples of one number may differ by: either is known to 0.05 bit, which is 3.5 %."""


class Sorting(nn.Module):
    """A layer whose outputs are all alike, what no formula describes, with weights of its own, and a layer behind."""

    def __init__(self, scale: float, descending: bool = False) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
        nn.init.orthogonal_(self.layer.weight)
        self.mixing = nn.Parameter(scale * torch.randn(WIDTH, MANY))
        self.descending = descending

    def forward(self, x: Tensor) -> Tensor:
        values, places = torch.sort(self.layer(x), -1, descending=self.descending)
        return self.last(values * torch.sigmoid(self.mixing[places].abs().mean(-1)))


class Heads(nn.Module):
    """The sum of some of them that read the same."""

    def __init__(self, *heads: nn.Module) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([head(x) for head in self.heads]).sum(0)


def predicted(
    module: nn.Module, monkeypatch: pytest.MonkeyPatch, budget: Budget | None = None
) -> tuple[Prediction, int]:
    """What is said of a network, and how many of its regions were drawn."""
    made: list[object] = []
    init = sampling._Drawn.__init__

    def counted(self: sampling._Drawn, *given: object) -> None:
        made.append(self)
        init(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(sampling._Drawn, "__init__", counted)
    traced = trace_module(module, (torch.randn(32, WIDTH),), name="network")
    network = TorchNetwork(traced)
    found = analyse(traced.graph, lambda: TorchSampler(network, budget or Budget()))
    return found, len(made)


def network(*scales: float, **options: bool) -> nn.Module:
    torch.manual_seed(0)
    return Heads(*(Sorting(scale, **options) for scale in scales))


def test_heads_that_are_alike_are_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found, drawn = predicted(network(0.3, 0.3, 0.3), monkeypatch)
    assert found.coverage == 1.0
    assert drawn == 1
    assert found.gradient_log2 is not None


def test_what_was_found_of_another_is_what_would_have_been_found(monkeypatch: pytest.MonkeyPatch) -> None:
    shared, _ = predicted(network(0.3, 0.3, 0.3), monkeypatch)
    monkeypatch.setattr(sampling.Shared, "stands_for", lambda *_: False)
    own, drawn = predicted(network(0.3, 0.3, 0.3), monkeypatch)
    assert drawn == 3
    assert shared.gradient_log2 == pytest.approx(own.gradient_log2, abs=0.15)
    for one, other in zip(shared.nodes, own.nodes, strict=True):
        assert one.second_moment == pytest.approx(other.second_moment, rel=TWICE), one.node.name
        assert one.gradient_log2 == pytest.approx(other.gradient_log2, abs=TWICE), one.node.name


@pytest.mark.parametrize("other", [Sorting(3.0), Sorting(0.3, descending=True)], ids=["weights", "arguments"])
def test_what_differs_in_its_weights_or_arguments_is_drawn_by_itself(
    other: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    _, drawn = predicted(Heads(Sorting(0.3), other), monkeypatch)
    assert drawn == 2


def test_what_is_left_when_the_work_is_spent_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    different = network(0.1, 1.0, 10.0)
    whole, _ = predicted(different, monkeypatch)
    assert whole.coverage == 1.0
    found, _ = predicted(different, monkeypatch, Budget(4e6))
    said = [node.assumptions[0] for node in found.nodes if node.basis == "unmodelled"]
    assert said
    assert all("spent on parts before it" in each for each in said)
    assert found.by_node["heads.0.layer"].gradient_log2 is None


def test_what_agrees_roughly_stands_in_when_the_work_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack of layers, each of other numbers: behind the first few nothing had a number."""
    alike = network(0.3, 0.31, 0.29)
    own, drawn = predicted(alike, monkeypatch)
    assert drawn == 3
    monkeypatch.setattr(sampling, "TOTAL", 1e6)  # the first may always be run
    found, _ = predicted(alike, monkeypatch, Budget(1e6))
    assert found.coverage == 1.0
    assert found.gradient_log2 == pytest.approx(own.gradient_log2, abs=0.3)
    last = "heads.2.layer"
    assert found.by_node[last].error_bits > own.by_node[last].error_bits


def test_each_region_leaves_something_for_those_to_come() -> None:
    budget = Budget(1e9)
    for _ in range(4):
        most = budget.most(1e6)
        assert most >= sampling.LEAST_LARGE
        budget.left -= most * 1e6
    assert budget.left > 0


def test_large_values_inside_are_told_by_averages() -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (8, 32, 32, 16)
    scale = torch.linspace(0.5, 2.0, 16)
    fine, coarse = Tally(shape), inside(shape)
    assert coarse.pooled
    for _ in range(8):
        draw = 0.3 + scale * torch.randn(shape, generator=generator)
        one, other = fine.add(draw), coarse.add(draw)
        assert one == pytest.approx(other, rel=1e-5)
    one, other = moments_of(fine), moments_of(coarse)
    assert one.shape == other.shape == shape
    assert other.total_mean == pytest.approx(one.total_mean, rel=1e-4)
    assert other.total_second == pytest.approx(one.total_second, rel=1e-4)
    assert math.prod(axis.count for axis in other.axes) == 16, "channels differ in their variance"


def test_of_a_region_of_many_values_each_is_told_by_fewer_averages() -> None:
    shape = (8, 8, 16, 16)
    assert not inside(shape, values=100).pooled
    assert inside(shape, values=4000).pooled
    assert inside((4, 4), values=10**6).pooled == ()


def test_what_is_inside_is_fitted_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[int] = []
    monkeypatch.setattr(fitting, "moments_of", lambda tally: (fitted.append(1), moments_of(tally))[1])
    before: list[int] = []
    init = sampling._Drawn.__init__

    def counted(self: sampling._Drawn, *given: object) -> None:
        init(self, *given)  # type: ignore[arg-type]
        before.append(len(fitted))

    monkeypatch.setattr(sampling._Drawn, "__init__", counted)
    torch.manual_seed(0)
    traced = trace_module(Sorting(0.3), (torch.randn(32, WIDTH),), name="network")
    analyse(traced.graph, lambda: TorchSampler(TorchNetwork(traced)))
    assert before == [0], "draws alone fit nothing"
    assert fitted


def test_a_value_inside_that_cannot_be_fitted_costs_its_own_numbers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def only_the_first(tally: Tally) -> object:
        asked.append(1)
        if len(asked) > 1:
            raise ZeroDivisionError
        return moments_of(tally)

    monkeypatch.setattr(fitting, "moments_of", only_the_first)
    found, _ = predicted(network(0.3), monkeypatch)
    assert len(asked) > 1
    assert found.coverage == 1.0
    assert found.gradient_log2 is not None


def test_the_gradient_inside_is_as_large_as_it_was_on_the_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = predicted(network(0.3), monkeypatch)
    sorted_values = next(node for node in found.nodes if node.node.source_op == "aten.sort.default")
    layer = found.by_node["heads.0.layer"]
    assert sorted_values.gradient_log2 == pytest.approx(layer.gradient_log2, abs=TWICE), "sorting keeps the norm"


def test_what_is_written_in_place_has_a_gradient_when_it_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.sort(self.layer(x), -1)[0]
            x[:, 1:] = torch.cummax(x, -1)[0][:, 1:] * x[:, :-1].clone()
            return self.last(x)

    torch.manual_seed(0)
    found, _ = predicted(Writing(), monkeypatch)
    assert found.coverage == 1.0
    assert found.by_node["layer"].gradient_log2 is not None
