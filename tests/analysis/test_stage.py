"""Fresh networks are called fresh, trained ones trained, with a reason that names what was seen."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from gnelint.analysis.stage import Evidence, Judgement, judge
from gnelint.ir.graph import Graph, Node, Parameter, Value

torch = pytest.importorskip("torch")

from gnelint.readers.torch.reader import read_module  # noqa: E402
from tests.benchmarks.harm_measure import Training  # noqa: E402
from tests.benchmarks.harm_measure import train as taught  # noqa: E402
from tests.benchmarks.harm_networks import networks  # noqa: E402
from tests.benchmarks.stage_networks import Design, built, changed, example, see, train  # noqa: E402

STARTS = ("default", "he_normal", "xavier_uniform", "truncated", "orthogonal", "scaled", "zero_last")
MLPS = (
    Design("mlp", steps=80),
    Design("mlp", init="he_normal", bias=False, steps=250),
    Design("mlp", init="orthogonal", activation="tanh", bias=False, steps=80),
    Design("mlp", init="scaled", width=16, steps=150),
    Design("mlp", "layer", width=8, depth=2, steps=100),
    Design("mlp", init="truncated", optimizer="sgd", rate=0.05, bias=False, steps=100),
    Design("mlp", variant="pruned", steps=80),
    Design("mlp", init="he_normal", variant="frozen", steps=80),
)
OTHERS = (
    Design("cnn", "batch", "he_normal", "sgd", 0.05, 60, width=16, depth=1),
    Design("transformer", "rms", "truncated", "adamw", steps=60, width=32, depth=1),
    Design("recurrent", steps=80, width=24, depth=1),
)


def of_layers(module: Any) -> Judgement:
    """The judgement of linear layers, layer normalisations and ReLUs in a row, put into a graph by hand: no tracing."""
    nodes, value = [], "x"
    for name, layer in module.named_children():
        stored = {"bias": layer.bias} if getattr(layer, "bias", None) is not None else {}
        linear = isinstance(layer, torch.nn.Linear)
        if getattr(layer, "weight", None) is not None:
            stored["weight" if linear else "scale"] = layer.weight
        op = "linear" if linear else "layer_norm" if stored else "relu"
        parameters = {
            role: Parameter(f"{name}.{role}", tuple(tensor.shape), "float32", partial(_numbers, tensor))
            for role, tensor in stored.items()
        }
        nodes.append(Node(name, op, (value,), (f"{name}:out",), parameters))
        value = f"{name}:out"
    values = {each: Value(each, (4, 8), "float32") for each in ("x", *(node.outputs[0] for node in nodes))}
    return judge(Graph("network", "torch", True, tuple(nodes), ("x",), (value,), values), {})


def _numbers(tensor: Any) -> Any:
    return tensor.detach().numpy()


def verdict(module: Any, x: Any) -> Judgement:
    from gnelint.readers.torch.reader import read_module

    return judge(read_module(module, (x,), name="network"), {})


@pytest.mark.parametrize("design", MLPS, ids=lambda d: f"{d.norm}-{d.init}-{d.bias}-{d.variant}")
def test_layers_before_and_after(design: Design) -> None:
    module = built(design)
    before = of_layers(module)
    assert before.verdict == "fresh", before
    train(module, design)
    changed(module, design)
    after = of_layers(module)
    assert after.verdict == "trained", after
    assert after.reason


@pytest.mark.parametrize("design", OTHERS, ids=lambda d: d.kind)
def test_networks_before_and_after(design: Design) -> None:
    module = built(design)
    assert verdict(module, example(design)).verdict == "fresh"
    train(module, design)
    assert verdict(module, example(design)).verdict == "trained"


def zeroed(module: Any) -> None:
    torch.nn.init.zeros_(module[-1].weight)


def halved(module: Any) -> None:
    module.half().float()


def forgetting(module: Any) -> None:
    for layer in module:
        if hasattr(layer, "bias"):
            torch.nn.init.zeros_(layer.bias)
            layer.bias.data[:8] = 1.0


def remembering(module: Any) -> None:
    """A forget bias in a cell written by hand: one number over a part of a uniform draw."""
    for layer in module:
        if hasattr(layer, "bias") and layer.bias.numel() >= 16:
            layer.reset_parameters()
            layer.bias.data[: layer.bias.numel() // 4] = 3.0


def small_biases(module: Any) -> None:
    for layer in module:
        if hasattr(layer, "bias"):
            torch.nn.init.normal_(layer.bias, std=1e-6)


def in_one_range(module: Any) -> None:
    """Weights and biases of one uniform draw, as wide as the number of units says."""
    for layer in module:
        if hasattr(layer, "bias"):
            bound = len(layer.weight) ** -0.5
            torch.nn.init.uniform_(layer.weight, -bound, bound)
            torch.nn.init.uniform_(layer.bias, -bound, bound)


def rescaled(module: Any) -> None:
    """Each layer's usual draw, weight and bias, brought to one size by a factor."""
    for layer in module:
        if hasattr(layer, "bias"):
            layer.reset_parameters()
            factor = (0.1 / layer.weight.std()) ** 0.5
            layer.weight.mul_(factor)
            layer.bias.mul_(factor)


def far_out(module: Any) -> None:
    """Offsets, drawn wider by far than the weights."""
    for layer in module:
        if hasattr(layer, "bias"):
            torch.nn.init.uniform_(layer.bias, -2.0, 2.0)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(
    "change", [zeroed, halved, forgetting, remembering, small_biases, in_one_range, rescaled, far_out]
)
def test_odd_starts_are_fresh(start: str, change: Callable[[Any], None]) -> None:
    module = built(Design("mlp", init=start))
    with torch.no_grad():
        change(module)
    found = of_layers(module)
    assert found.verdict == "fresh", found


@pytest.mark.parametrize("start", [rescaled, far_out])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_an_odd_start_is_trained_once_it_is_trained(optimizer: str, start: Callable[[Any], None]) -> None:
    design = Design("mlp", optimizer=optimizer, rate=0.05 if optimizer == "sgd" else 1e-3, steps=80)
    module = built(design)
    with torch.no_grad():
        start(module)
    assert train(module, design) > 0.8
    assert of_layers(module).verdict == "trained"


@pytest.mark.parametrize("deviation", [0.01, 0.0123])
def test_biases_that_scatter_alike_are_not_taken_for_drawn(deviation: float) -> None:
    module = built(Design("mlp", init="he_normal"))
    torch.manual_seed(0)
    for layer in module:
        if hasattr(layer, "bias"):
            torch.nn.init.normal_(layer.bias, std=deviation)
    assert of_layers(module).verdict == "unsure"


@pytest.mark.parametrize("seed", range(2))
def test_adam_moves_biases_alike(seed: int) -> None:
    network = networks()["mlp_elu_he_out_12"]
    batch = network.task.samples(seed, True)
    torch.manual_seed(seed)
    module, loss = taught(network.make(), network.task, batch, Training("adam", 1e-3, 200), seed)
    assert loss < 0.5
    assert of_layers(module).verdict != "fresh"


def test_layers_that_are_used_often_are_asked_once() -> None:
    nn = torch.nn
    torch.manual_seed(0)
    both = nn.Sequential(nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU())
    found = verdict(nn.Sequential(both, both, both, both), torch.randn(4, 24)).evidence
    assert len([each for each in found if "the layer behind it" in each.text]) == 2


@pytest.mark.parametrize(("odd", "expected"), [(1, "fresh"), (2, "trained")])
def test_one_bias_of_many_may_be_off_by_chance(odd: int, expected: str) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(*(torch.nn.Linear(48, 48) for _ in range(30)))
    even = torch.linspace(-1, 1, 48)
    with torch.no_grad():
        for layer in module[:odd]:  # mean square 3.5 standard deviations above that of a uniform draw, none beyond
            layer.bias.copy_(even.sign() * even.abs() ** 0.533 / 48**0.5)
    assert of_layers(module).verdict == expected


def test_batches_that_went_through_are_no_training() -> None:
    design = Design("cnn", "batch", width=16, depth=2)
    module = built(design)
    see(module, design, 60)
    assert verdict(module, example(design)).verdict == "fresh"


def test_weight_normalisation_is_judged_by_what_it_stores() -> None:
    nn = torch.nn
    torch.manual_seed(0)
    normed = nn.utils.parametrizations.weight_norm
    module = nn.Sequential(normed(nn.Linear(32, 32)), nn.ReLU(), normed(nn.Linear(32, 32)))
    x = torch.randn(4, 32)
    assert verdict(module, x).verdict == "fresh"
    moved = copy.deepcopy(module)
    with torch.no_grad():
        moved[0].parametrizations.weight.original0.mul_(1 + 0.1 * torch.randn(32, 1))
        moved[2].parametrizations.weight.original0.mul_(1 + 0.1 * torch.randn(32, 1))
    assert verdict(moved, x).verdict == "trained"


def test_buffers_are_no_evidence() -> None:
    class Mixing(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("adjacency", torch.rand(32, 32).cumsum(0))
            self.map = torch.nn.Linear(16, 16)

        def forward(self, x: Any) -> Any:
            return self.adjacency @ self.map(x)

    torch.manual_seed(0)
    found = verdict(Mixing(), torch.randn(32, 16))
    assert found.verdict == "fresh"
    assert "adjacency" not in {each.tensor for each in found.evidence}


def test_nothing_to_judge() -> None:
    assert verdict(torch.nn.ReLU(), torch.randn(4)).verdict == "none"


def test_the_reason_is_the_strongest_evidence_for_the_verdict() -> None:
    pieces = (Evidence("heavy", "w", 9.0), Evidence("at its start", None, -4.0))
    assert Judgement("trained", 5.0, pieces).reason == "heavy"
    assert Judgement("fresh", -1.0, pieces).reason == "at its start"
    assert Judgement("unsure", 5.0, pieces).trained is None


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
@pytest.mark.parametrize("how", ["set", "added"])
def test_the_bias_of_a_gate_is_no_training(cell: str, how: str) -> None:
    torch.manual_seed(0)
    layer = getattr(torch.nn, cell)(16, 32, batch_first=True)
    with torch.no_grad():
        gate = layer.bias_ih_l0[32:64]
        gate.fill_(3.0) if how == "set" else gate.add_(-3.0)
    graph = read_module(layer, (torch.randn(4, 8, 16),), name="cell")
    assert judge(graph, {}).verdict == "fresh"


def test_the_bias_that_a_converter_fills_in_is_no_evidence() -> None:
    """Small trained cells of frameworks with one bias were called fresh: the other half of ONNX's stood at zero."""
    torch.manual_seed(0)
    layer = torch.nn.RNN(1, 4, num_layers=3, batch_first=True)
    with torch.no_grad():
        for index in range(3):
            getattr(layer, f"bias_hh_l{index}").zero_()
            getattr(layer, f"bias_ih_l{index}").normal_(0.2, 0.8)
    found = judge(read_module(layer, (torch.randn(4, 8, 1),), name="cell"), {})
    assert found.verdict != "fresh"
    assert all(each.log_odds > 0 for each in found.evidence if "bias" in each.text)
