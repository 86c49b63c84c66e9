"""Edits in PyTorch modules: the copy is what the edited graph says, and what is not edited is as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from gnelint.analysis.propagation import analyse
from gnelint.fixes.edits import (
    Action,
    Centre,
    CentreFilters,
    DropBias,
    Edit,
    EditTensor,
    Fill,
    InsertScale,
    InsertSecondMoment,
    Redraw,
    Scale,
    SecondMoment,
    Substitute,
    applied,
)
from gnelint.ir.graph import Graph
from gnelint.nn import CentredConv2d, ScaledELU, SecondMomentNorm2d
from gnelint.readers.torch.reader import read_module
from gnelint.writers.base import Unmade
from gnelint.writers.torch.module import fixed_module

IMAGE = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def edits(*actions: Action) -> list[Edit]:
    return [Edit(action, "GNE000", (), "test", "retrain") for action in actions]


def fixed(
    module: nn.Module, make: Callable[[Graph], Sequence[Action]], x: Tensor = IMAGE
) -> tuple[nn.Module, tuple[Unmade, ...]]:
    return fixed_module(module, edits(*make(read_module(module, (x,), name="m"))), read_module(module, (x,), name="m"))


class Block(nn.Module):
    """A ReLU module called twice, a function, and a module that is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8, eps=1e-4, momentum=0.2)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU()
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.conv2(y)) + y
        return self.last(torch.tanh(y))


def block() -> Block:
    torch.manual_seed(1)
    return Block()


def values(graph: Graph, *names: str) -> list[str]:
    return [graph.node(name).outputs[0] for name in names]


CASES: dict[str, Callable[[Graph], Sequence[Action]]] = {
    "tensors": lambda g: [
        EditTensor("conv1.weight", Scale(1.5)),
        EditTensor("conv1.weight", Centre()),
        EditTensor("conv2.weight", Redraw("orthogonal", 0.02, 3)),
        EditTensor("conv2.bias", Fill(0.0)),
    ],
    "bias": lambda g: [DropBias("conv1"), DropBias("last")],
    "norm": lambda g: [SecondMoment("bn1"), CentreFilters("conv1"), CentreFilters("conv2"), DropBias("conv1")],
    "activation": lambda g: [Substitute(name, "leaky_relu", {"alpha": 0.3}) for name in ("relu", "relu_1")],
    "selu": lambda g: [Substitute(name, "selu", {"alpha": 1.2, "gamma": 1.1}) for name in ("relu", "relu_1")],
    "removal": lambda g: [Substitute(name, "identity") for name in ("relu", "relu_1")],
    "factor": lambda g: [InsertScale(value, 0.5) for value in values(g, "conv2", "last")],
    "insertion": lambda g: [
        InsertSecondMoment(*values(g, "conv2"), 8),
        CentreFilters("conv2"),
        EditTensor("conv2.weight", Scale(2.0)),
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_the_copy_reads_as_the_edited_graph(name: str) -> None:
    module = block()
    before = copy.deepcopy(module.state_dict())
    graph = read_module(module, (IMAGE,), name="m")
    actions = CASES[name](graph)
    found, unmade = fixed_module(module, edits(*actions), graph)
    assert unmade == ()
    planned, made = analyse(applied(graph, actions)), analyse(read_module(found, (IMAGE,), name="m"))
    assert made.gradient_log2 == pytest.approx(planned.gradient_log2, abs=1e-5)
    assert made.gradient_log2 != pytest.approx(analyse(graph).gradient_log2, abs=1e-5)
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items()), "left as it is"
    found(IMAGE).sum().backward()
    assert all(parameter.grad is not None for parameter in found.parameters())


def test_only_tensors_change_where_only_tensors_are_edited() -> None:
    module = block().half()
    module.conv2.weight.requires_grad_(False)
    module.eval()
    found, unmade = fixed_module(module, edits(EditTensor("conv1.weight", Scale(2.0))), _graph(block()))
    assert unmade == ()
    assert type(found) is Block
    assert not found.training
    state = module.state_dict()
    for name, tensor in found.state_dict().items():
        assert tensor.dtype == state[name].dtype
        assert torch.equal(tensor, state[name] * 2 if name == "conv1.weight" else state[name])
    assert [p.requires_grad for p in found.parameters()] == [p.requires_grad for p in module.parameters()]


def _graph(module: nn.Module, x: Tensor = IMAGE) -> Graph:
    return read_module(module, (x,), name="m")


def test_names_of_the_state_stay() -> None:
    module = block()
    graph = _graph(module)
    actions = [SecondMoment("bn1"), CentreFilters("conv1"), *CASES["activation"](graph)]
    found, _ = fixed_module(module, edits(*actions), graph)
    assert isinstance(found.bn1, SecondMomentNorm2d)
    assert (found.bn1.eps, found.bn1.momentum) == (pytest.approx(1e-2), 0.2)
    assert isinstance(found.conv1, CentredConv2d)
    assert isinstance(found.relu, nn.LeakyReLU)
    found.load_state_dict(module.state_dict())
    moments = {"bn1.running_mean", "bn1.running_var", "bn1.running_second_moment"}
    assert set(found.state_dict()) - moments == set(module.state_dict()) - moments


def test_an_activation_takes_the_inserted_layer_with_it() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    found, unmade = fixed(module, lambda g: [InsertSecondMoment(value, 8) for value in values(g, "0", "2")])
    assert unmade == ()
    assert [type(layer) for layer in found[1]] == [SecondMomentNorm2d, nn.ReLU]
    assert [type(layer) for layer in found[2]] == [nn.Conv2d, SecondMomentNorm2d]
    assert {"0.weight", "1.0.weight", "2.0.weight", "2.1.weight"} <= set(found.state_dict())


class Rectifying(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(super().forward(x))


def test_filters_are_not_centred_where_their_normalisation_stays() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), Rectifying(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    graph = _graph(module)
    pairs = {
        "first": [CentreFilters("0"), SecondMoment("1.batch_norm")],
        "last": [CentreFilters("2"), SecondMoment("3")],
    }
    wanted = [
        Edit(action, "GNE000", (), "test", "retrain", group) for group, actions in pairs.items() for action in actions
    ]
    found, unmade = fixed_module(module, wanted, graph)
    assert [each.edit.group for each in unmade] == ["first", "first"]
    assert [type(layer) for layer in found] == [nn.Conv2d, Rectifying, CentredConv2d, SecondMomentNorm2d]


class Within(nn.Conv2d):
    """A convolution that scales and activates what it makes: the module's name is that of the last of the three."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__(3, 3, 3, padding=1)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x) * 1.3)


def test_a_factor_inside_a_module_goes_behind_it_where_that_is_the_same() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 3, 1), Within(torch.relu), nn.Conv2d(3, 3, 1), Within(torch.sigmoid)).double()
    x = IMAGE.double()
    graph = _graph(module, x)
    wanted = edits(*(InsertScale(value, 0.5) for value in values(graph, "0", "1.conv", "2", "3.conv")))
    found, unmade = fixed_module(module, wanted, graph)
    assert [each.edit.action.subject for each in unmade] == values(graph, "3.conv")
    assert "it is not a submodule of its own: change the line that computes it (" in unmade[0].reason
    for own, made in zip(module[:3], found[:3], strict=True):
        torch.testing.assert_close(made(x), own(x) / 2)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda g: [SecondMoment("tanh")], "test_module.py:"),
        (lambda g: [Substitute("bn1", "unheard_of")], "no module for unheard_of"),
        (lambda g: [InsertScale(g.inputs[0], 2.0)], "is no output of a submodule"),
        (lambda g: [EditTensor("nothing", Scale(2.0))], "neither a parameter nor a buffer"),
        (lambda g: [EditTensor("conv1.weight", Scale(1e42))], "does not fit float32"),
        (lambda g: [CentreFilters("bn1")], "of which there is no centred layer"),
        (lambda g: [SecondMoment("conv1")], "only BatchNorm1d, 2d and 3d"),
        (lambda g: [DropBias("relu"), DropBias("relu_1")], "relu has no parameter of its own that is called bias"),
    ],
)
def test_what_cannot_be_made_is_said(make: Callable[[Graph], Sequence[Action]], reason: str) -> None:
    module = block()
    found, unmade = fixed(module, make)
    assert unmade
    assert all(reason in each.reason for each in unmade), [each.reason for each in unmade]
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), module.parameters(), strict=True))


CALLS: dict[str, Callable[[Graph], Sequence[Action]]] = {
    "one of two calls": lambda g: [Substitute("relu_1", "tanh")],
    "two calls, unlike": lambda g: [Substitute("relu", "leaky_relu", {"alpha": 0.3}), Substitute("relu_1", "elu")],
    "a function": lambda g: [Substitute("tanh", "relu")],
    "with the rest": lambda g: [Substitute("tanh", "identity"), SecondMoment("bn1"), EditTensor("last.bias", Fill(0))],
}


def _computing(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes if node.op != "identity"]


@pytest.mark.parametrize("name", CALLS)
def test_calls_are_exchanged_in_a_traced_module(name: str) -> None:
    module = block()
    graph = _graph(module)
    actions = CALLS[name](graph)
    found, unmade = fixed_module(module, edits(*actions), graph)
    assert unmade == ()
    assert isinstance(found, torch.fx.GraphModule)
    planned, made = analyse(applied(graph, actions)), analyse(_graph(found))
    assert made.gradient_log2 == pytest.approx(planned.gradient_log2, abs=1e-5)
    assert _computing(made.graph) == _computing(planned.graph)
    moments = {"bn1.running_mean", "bn1.running_var", "bn1.running_second_moment"}
    assert set(found.state_dict()) - moments == set(module.state_dict()) - moments
    # without the exchange it computes what the module computes
    kept, _ = fixed_module(module, edits(Substitute("tanh", "tanh")), graph)
    torch.testing.assert_close(kept(IMAGE), module(IMAGE))


class _Unlike(nn.Module):
    """What it computes depends on the mode, or on the data."""

    def __init__(self, data: bool) -> None:
        super().__init__()
        self.layer, self.data = nn.Linear(4, 4), data

    def forward(self, x: Tensor) -> Tensor:
        if self.data:
            return torch.tanh(self.layer(x)) if len(x) < 5 else x
        return nn.functional.dropout(torch.tanh(self.layer(x)), 0.5, self.training)


@pytest.mark.parametrize(("data", "reason"), [(True, "torch.fx cannot trace the module"), (False, "in evaluation")])
def test_what_a_trace_would_lose_is_refused(data: bool, reason: str) -> None:
    module = _Unlike(data)
    module.layer.eval()
    x = torch.randn(2, 4)
    found, (unmade,) = fixed(module, lambda g: [Substitute("tanh", "relu")], x)
    assert reason in unmade.reason
    assert "test_module.py:" in unmade.reason
    assert type(found) is _Unlike
    assert (module.training, module.layer.training) == (True, False)


def test_tied_parameters_stay_tied() -> None:
    module = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    module[2].weight = module[0].weight
    found, _ = fixed(module, lambda g: [EditTensor("0.weight", Scale(3.0))], torch.randn(4, 6))
    assert found[2].weight is found[0].weight
    torch.testing.assert_close(found[0].weight, module[0].weight * 3)
    assert found[0].weight is not module[0].weight


def test_a_module_under_two_names_is_exchanged_under_both() -> None:
    relu = nn.ReLU()
    module = nn.Sequential(nn.Linear(6, 6), relu, nn.Linear(6, 6), relu)
    names = [node.name for node in _graph(module, torch.randn(4, 6)).nodes if node.op == "relu"]
    found, unmade = fixed(module, lambda g: [Substitute(name, "tanh") for name in names], torch.randn(4, 6))
    assert unmade == ()
    assert isinstance(found[1], nn.Tanh)
    assert found[1] is found[3]


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, parametrizations.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_gains_of_weight_normalisation(norm: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(norm(nn.Linear(6, 6)), nn.ReLU())
    x = torch.randn(4, 6)
    gain = next(name for name, parameter in module.named_parameters() if parameter.shape == (6, 1))
    found, unmade = fixed(module, lambda g: [EditTensor(gain, Scale(2.0)), EditTensor("0.bias", Fill(0.0))], x)
    assert unmade == ()
    assert list(found.state_dict()) == list(module.state_dict())
    expected = (module[0](x) - module[0].bias) * 2
    torch.testing.assert_close(found[0](x), expected)


def test_a_meta_device_module_is_told_about_the_emitted_code() -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    found, unmade = fixed(
        module, lambda g: [EditTensor("0.weight", Scale(2.0)), DropBias("0")], torch.randn(4, 6, device="meta")
    )
    assert [each.reason for each in unmade] == ["0.weight is on the meta device and holds no numbers: use --emit-init"]
    assert found[0].bias is None


def test_a_narrow_type_is_rounded_once() -> None:
    module = nn.Sequential(nn.Linear(64, 64)).bfloat16()
    found, _ = fixed(module, lambda g: [EditTensor("0.weight", Scale(1 / 3))], torch.randn(4, 64).bfloat16())
    expected = (module[0].weight.double() / 3).to(torch.bfloat16)
    assert torch.equal(found[0].weight, expected)


def test_coefficients_of_selu() -> None:
    found, _ = fixed(block(), CASES["selu"])
    assert isinstance(found.relu, ScaledELU)
    x = torch.linspace(-2, 2, 9)
    expected = 1.1 * np.where(x.numpy() > 0, x.numpy(), 1.2 * np.expm1(x.numpy()))
    np.testing.assert_allclose(found.relu(x).numpy(), expected, rtol=1e-6)
