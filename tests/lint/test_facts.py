"""What rules see of weights, shapes, branches and gradients."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from gnelint.analysis.propagation import analyse
from gnelint.ir.graph import Graph, Node, Parameter, Value
from gnelint.lint.columns import Columns
from gnelint.lint.facts import Facts
from gnelint.lint.functions import FUNCTIONS
from gnelint.lint.kinds import literal
from gnelint.readers.torch.reader import read_module
from tests.builders import graph, node, prediction
from tests.models import network


def call(name: str, facts: Facts, *arguments: Any) -> Any:
    return FUNCTIONS[name].call(facts, *arguments)


def with_parameters(made: Node, **arrays: np.ndarray) -> Node:
    """The node with real numbers for its parameters, under names of its own."""
    parameters = {
        role: Parameter(f"{made.name}.{role}", array.shape, str(array.dtype), lambda array=array: array)  # type: ignore[misc]
        for role, array in arrays.items()
    }
    return dataclasses.replace(made, parameters=parameters)


def alone(made: Node) -> tuple[Facts, Node]:
    of = graph([made])
    return Facts(prediction(of, {})), of.nodes[0]


def shaped(of: Graph, **shapes: tuple[int, ...]) -> Graph:
    """The graph with other shapes for some of its nodes' outputs."""
    values = {**of.values, **{f"{name}:out": Value(f"{name}:out", shape, "float16") for name, shape in shapes.items()}}
    return dataclasses.replace(of, values=values)


# --- weights -----------------------------------------------------------------------------------------------


def test_rows_that_break_no_symmetry() -> None:
    rows = np.arange(32, dtype=np.float32).reshape(4, 8)
    rows[2] = rows[0]
    rows[3] = 7.0
    facts, layer = alone(with_parameters(node("w", "linear", ["x"]), weight=rows))
    assert call("duplicate_rows", facts, layer) == 0.25
    assert call("constant_rows", facts, layer) == 0.25
    assert call("zero_weights", facts, layer) == 2 / 32
    bias = np.array([0, 0, 1, 0], np.float32)
    facts, layer = alone(with_parameters(node("w", "linear", ["x"]), weight=rows, bias=bias))
    assert call("duplicate_rows", facts, layer) == 0.0


def test_a_transposed_convolution_has_its_units_on_the_second_axis() -> None:
    weight = np.random.default_rng(0).normal(size=(6, 4, 3, 3)).astype(np.float32)
    weight[:, 3] = weight[:, 1]
    facts, layer = alone(with_parameters(node("w", "conv_transpose", ["x"], strides=(1, 1)), weight=weight))
    assert call("duplicate_rows", facts, layer) == 0.25


def test_means_and_norms_of_rows() -> None:
    drawn = np.random.default_rng(0).normal(size=(400, 100))
    centred = drawn - drawn.mean(axis=1, keepdims=True)
    normalised = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    for weight, share, spread in (
        (drawn, 1 / 100, math.sqrt(2 / 100)),
        (centred, 0.0, math.sqrt(2 / 100)),
        (normalised, 0.0, 0.0),
        (np.ones((4, 8)), 1.0, 0.0),
    ):
        facts, layer = alone(with_parameters(node("w", "linear", ["x"]), weight=weight))
        assert call("row_mean_share", facts, layer) == pytest.approx(share, rel=0.1, abs=1e-12)
        assert call("row_norm_spread", facts, layer) == pytest.approx(spread, rel=0.1, abs=1e-12)


@pytest.mark.parametrize("shape", [(64, 192), (600, 300)], ids=["exact", "probed"])
def test_spread_of_singular_values(shape: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    drawn = [generator.normal(size=shape) for _ in range(8)]
    turned = [left @ right for left, _, right in (np.linalg.svd(each, full_matrices=False) for each in drawn)]
    for weights, expected in ((drawn, min(shape) / max(shape)), (turned, 0.0)):
        layers = [alone(with_parameters(node("w", "linear", ["x"]), weight=each)) for each in weights]
        spreads = [call("singular_spread", *layer) for layer in layers]
        # probes scatter by 4 % of the second moment for one matrix
        assert spreads == pytest.approx([expected] * 8, abs=0.15 * (1 + expected))
        assert np.mean(spreads) == pytest.approx(expected, abs=0.05)
        assert call("iid_spread", *layers[0]) == min(shape) / max(shape)


def test_the_mean_in_standard_errors() -> None:
    generator = np.random.default_rng(0)
    of = graph([with_parameters(node("w", "linear", ["x"]), weight=generator.normal(0.1, 1.0, (100, 100)))])
    assert 7 < call("weight_mean_sigmas", Facts(analyse(of)), of.nodes[0]) < 13


def test_other_parameters_are_asked_for_by_their_role() -> None:
    norm = with_parameters(
        node("n", "batch_norm", ["x"], training=False),
        scale=np.array([1.0, 3.0]),
        bias=np.array([-0.5, 0.25]),
        running_mean=np.zeros(2),
        running_var=np.ones(2),
    )
    facts, made = alone(norm)
    assert call("has", facts, made, "bias")
    assert not call("has", facts, made, "weight")
    assert call("parameter_mean", facts, made, "scale") == 2.0
    assert call("parameter_std", facts, made, "scale") == 1.0
    assert call("parameter_bound", facts, made, "bias") == 0.5
    assert call("parameter_bound", facts, made, "weight") is None
    assert call("is_fresh", facts, made)
    facts, made = alone(with_parameters(norm, running_mean=np.zeros(2), running_var=np.array([1.0, 2.0])))
    assert call("is_fresh", facts, made) is False
    facts, made = alone(node("r", "relu", ["x"]))
    assert call("is_fresh", facts, made) is None


def test_tied_weights() -> None:
    table = np.ones((8, 8), np.float32)
    first = with_parameters(node("e", "embedding", ["x"]), weight=table)
    last = dataclasses.replace(node("w", "linear", ["e"]), parameters=first.parameters)
    of = graph([first, last])
    facts = Facts(prediction(of, {}))
    assert call("tied_to", facts, of.node("w"), frozenset({"embedding"}))
    assert call("tied_to", facts, of.node("e"), frozenset({"linear"}))
    assert not call("tied_to", facts, of.node("w"), frozenset({"linear"}))


def test_fans_as_initialisers_count_them() -> None:
    facts, layer = alone(node("w", "conv", ["x"], weight=(16, 1, 3, 3), groups=16))
    assert (call("shape_fan_in", facts, layer), call("shape_fan_out", facts, layer)) == (9, 144)


# --- predictions -------------------------------------------------------------------------------------------


def test_units_that_are_silent() -> None:
    bias = np.array([-4.0, 0.0, 0.0, 4.0])
    norm = with_parameters(node("n", "batch_norm", ["x"], training=True), scale=np.ones(4), bias=bias)
    facts, made = alone(norm)
    assert call("positive", facts, made) == pytest.approx(0.5)
    assert call("silent_units", facts, made, made, 0.01) == 0.25
    facts, made = alone(with_parameters(norm, scale=np.zeros(4), bias=bias))
    assert call("positive", facts, made) is None  # what a zero scale and a zero bias leave is neither


def test_biases_of_a_layer_move_what_is_positive() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 512)
    torch.nn.init.normal_(layer.bias, 0.3, 0.5)
    inputs = torch.randn(4000, 64)
    of = read_module(layer, (inputs,), name="layer")
    facts = Facts(analyse(of))
    measured = float((layer(inputs) > 0).double().mean())
    assert call("positive", facts, of.nodes[0]) == pytest.approx(measured, abs=0.01)


def test_what_a_softmax_reads() -> None:
    of = graph([node("q", "linear", ["x"]), node("a", "attention", ["q", "q", "q"], scale=0.5)])
    facts = Facts(prediction(of, {}))
    assert call("logit_second_moment", facts, of.node("a")) == 8 * 0.25
    facts = Facts(prediction(graph([node("q", "linear", ["x"]), node("a", "attention", ["q", "q", "q"])]), {}))
    assert call("logit_second_moment", facts, facts.graph.node("a")) == 1.0
    of = graph([node("q", "linear", ["x"]), node("s", "softmax", ["q"])])
    assert call("logit_second_moment", Facts(prediction(of, {})), of.node("s")) == 1.0


def test_gradients_of_entries_and_where_none_arrives() -> None:
    of = graph([node("a", "linear", ["x"]), node("b", "linear", ["a"])])
    facts = Facts(prediction(of, {}, gradient_log2={"a": -math.inf, "b": -5.0}))
    assert call("receives_gradient", facts, of.node("b"))
    assert not call("receives_gradient", facts, of.node("a"))
    assert call("receives_gradient", facts, node("elsewhere", "linear", ["x"])) is False
    assert call("entry_gradient_log2", facts, of.node("b")) == -5.0  # 2^-5 over 32 entries


@pytest.mark.parametrize("text", ["plain_mlp(depth=6)", "plain_conv(depth=5, padding_mode='circular')"])
def test_gradients_of_weights_are_those_of_autograd(text: str) -> None:
    module, inputs = network(text)
    facts = Facts(analyse(read_module(module, inputs, name=text)))
    module, inputs = module.double(), tuple(x.double() for x in inputs)
    squared: dict[str, float] = {}
    draws = 4
    for seed in range(draws):
        torch.manual_seed(seed)
        module.zero_grad()
        output = module(*inputs)
        cotangent = torch.randn_like(output)
        output.backward(cotangent / cotangent.norm())
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None
            squared[name] = squared.get(name, 0.0) + float(parameter.grad.square().sum()) / draws
    layers = [made for made in facts.graph.nodes if made.op in ("linear", "conv")]
    assert len(layers) in (5, 6)
    measured = [math.log2(squared[layer.parameters["weight"].name]) for layer in layers]
    predicted = [call("weight_gradient_log2", facts, layer) for layer in layers]
    assert predicted == pytest.approx(measured, abs=0.4)
    assert call("weight_gradient_median", facts) == pytest.approx(np.median(measured), abs=0.4)
    assert call("weight_gradient_spread", facts) == pytest.approx(np.std(measured), abs=0.4)


# --- shapes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "attributes", "shape", "expected"),
    [
        ("batch_norm", {"training": True}, (4, 8, 5, 5), 100),
        ("second_moment_norm", {"training": True}, (4, 8), 4),
        ("instance_norm", {}, (4, 8, 5, 5), 25),
        ("group_norm", {"groups": 2}, (4, 8, 5, 5), 100),
        ("layer_norm", {"axes": (2,)}, (4, 16, 64), 64),
        ("rms_norm", {"axes": (1, 2)}, (4, 16, 64), 1024),
        ("local_response_norm", {"size": 5}, (4, 8, 5, 5), None),
        ("relu", {}, (4, 8), None),
    ],
)
def test_values_behind_a_statistic(op: str, attributes: dict[str, Any], shape: tuple[int, ...], expected: int) -> None:
    of = shaped(graph([node("n", op, ["x"], **attributes)]), n=shape)
    assert call("statistic_size", Facts(prediction(of, {})), of.nodes[0]) == expected


@pytest.mark.parametrize(
    ("op", "shape", "width", "positions"),
    [
        ("conv", (2, 16, 5, 5), 16, 25),
        ("conv", (2, 16, 5), 16, 5),
        ("linear", (2, 7, 7, 16), 16, 49),
        ("attention", (2, 4, 9, 8), 8, 36),
        ("linear", (2, 16), 16, 1),
    ],
)
def test_shapes(op: str, shape: tuple[int, ...], width: int, positions: int) -> None:
    of = shaped(graph([node("w", op, ["x"]), node("r", "relu", ["w"])]), w=shape, r=shape)
    facts = Facts(prediction(of, {}))
    for made in of.nodes:
        found = [call(name, facts, made) for name in ("width", "positions", "features", "batch", "size")]
        assert found == [width, positions, width * positions, 2, 2 * width * positions]
        assert call("dtype", facts, made) == "float16"
        assert call("has_shape", facts, made)


def test_attributes() -> None:
    facts, made = alone(node("w", "conv", ["x"], strides=(1, 2), pads=(0, 0, 1, 1), groups=4))
    assert [call("attribute", facts, made, key) for key in ("groups", "strides", "pads")] == [4, 2, 1]
    assert call("attribute", facts, made, "dilations") is None
    assert call("attribute", facts, made, "alpha") is None
    facts, made = alone(node("n", "batch_norm", ["x"], training=False))
    assert call("attribute", facts, made, "training") == 0
    facts, made = alone(node("g", "gelu", ["x"]))
    assert call("attribute_text", facts, made, "approximate") == "none"
    assert call("attribute", facts, made, "approximate") is None


# --- blocks ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet() -> Facts:
    module, inputs = network("resnet18_zero")
    return Facts(analyse(read_module(module, inputs, name="resnet18")))


NORMALIZATION = frozenset({"batch_norm"})


def test_places_in_a_residual_block(resnet: Facts) -> None:
    def where(name: str) -> tuple[bool, ...]:
        made = resnet.graph.node(name)
        return (
            call("in_branch", resnet, made),
            call("on_shortcut", resnet, made),
            call("first_in_branch", resnet, made, NORMALIZATION),
            call("last_in_branch", resnet, made, NORMALIZATION),
        )

    assert where("bn1") == (False, False, False, False)
    assert where("layer2.0.bn1") == (True, False, True, False)
    assert where("layer2.0.bn2") == (True, False, False, True)
    assert where("layer2.0.downsample.1") == (False, True, False, False)
    joins = [made for made in resnet.graph.nodes if call("is_join", resnet, made)]
    assert [made.op for made in joins] == ["add"] * 8


def test_blocks_and_their_neighbours(resnet: Facts) -> None:
    blocks = resnet.prediction.blocks
    second = call("block", resnet, resnet.graph.node("layer1.1.bn1"))
    assert blocks[second].name == "layer1.1"
    assert call("next", resnet, blocks[second]) == second + 1
    assert call("previous", resnet, blocks[0]) is None
    assert call("next", resnet, blocks[-1]) is None
    assert call("blocks", resnet, "residual") == 8
    assert call("block_number", resnet, blocks[second]) == 2
    assert call("branch_phi", resnet, blocks[second]) == 0.0
    assert call("shortcut_phi", resnet, blocks[second]) == 1.0
    assert call("branch_imbalance", resnet, blocks[second]) is None  # the shortcut holds no layer
    projected = blocks[call("block", resnet, resnet.graph.node("layer2.0.bn1"))]
    assert call("shortcut_phi", resnet, projected) == pytest.approx(projected.shortcut_phi)
    assert call("shortcut_phi", resnet, projected) > 2.0
    assert call("branch_imbalance", resnet, projected) is None  # the branch starts at zero: it comes in late


def test_stages(resnet: Facts) -> None:
    def stage(name: str) -> list[object]:
        made = resnet.graph.node(name)
        return [call(f, resnet, made) for f in ("stage", "stage_size", "first_in_stage", "last_in_stage")]

    assert stage("layer1.0.bn1") == [1, 2, True, False]
    assert stage("layer1.1.bn1") == [1, 2, False, True]
    assert stage("layer2.0.bn1") == [2, 2, True, False]
    assert stage("layer2.1.bn1") == [2, 2, False, True]


def test_the_narrowest_place(resnet: Facts) -> None:
    head = resnet.graph.node("fc")
    assert call("narrowest_before", resnet, head) == 64
    assert call("narrowest_behind", resnet, head) == call("width", resnet, head)
    assert call("narrowest_before", resnet, resnet.graph.node("conv1")) is None


def test_the_network(resnet: Facts) -> None:
    assert call("occurrences", resnet, NORMALIZATION) == 20
    assert call("coverage", resnet) == 1.0
    assert call("is_training", resnet)
    assert not call("cotangent_moved", resnet)
    assert not call("has_note", resnet, "folded")
    noted = dataclasses.replace(resnet.prediction, notes=("The exporter folded normalisation.",))
    assert call("has_note", Facts(noted), "Folded Normalisation")
    assert call("is_output", resnet, resnet.graph.node("fc"))
    assert not call("is_output", resnet, resnet.graph.node("conv1"))
    assert call("depth", resnet, resnet.graph.node("fc"), NORMALIZATION) == 17
    assert call("readers", resnet, resnet.graph.node("maxpool")) == 2


# --- every function, everywhere ----------------------------------------------------------------------------

LITERAL_ARGUMENTS = {
    "operations": ("any", "normalization", "relu|conv"),
    "attribute": ("groups", "alpha", "axes", "mode", "training"),
    "role": ("weight", "bias", "running_var"),
    "block_kind": ("residual", "serial"),
}


def bare() -> Facts:
    """Nodes about which nothing is known, some of them with as little as a node can have."""
    of = graph(
        [
            node("e", "embedding", ["x"]),
            node("n", "group_norm", ["e"], groups=2),
            node("l", "layer_norm", ["n"], axes=(1,)),
            node("u", "unmodelled", ["l"]),
            node("w", "linear", ["u"], weight=(8,)),
            node("t", "conv_transpose", ["w"], weight=(4, 4, 3, 3), strides=(2, 2), provenance="placeholder"),
            node("c", "constant", []),
            node("s", "softmax", ["t"]),
            node("j", "add", ["s", "c", "elsewhere"]),
        ]
    )
    unknown = {**of.values, "n:out": Value("n:out", None, None), "l:out": Value("l:out", ("batch", 8), "float32")}
    of = dataclasses.replace(of, values={**unknown, "w:out": Value("w:out", (), "int64")})
    made = prediction(of, {}, unmodelled=["u"])
    nodes = tuple(dataclasses.replace(each, mean=None, gradient_log2=None) for each in made.nodes[:4])
    block = dataclasses.replace(made.blocks[0], kind="residual", join="j", operand_phis=(None, 1.0, 0.0), shortcut=())
    return Facts(dataclasses.replace(made, nodes=nodes, blocks=(block,), gradient_log2=None))


@pytest.fixture(scope="module", params=["bare", "resnet18_zero", "gpt2", "lstm_lm"])
def anything(request: pytest.FixtureRequest) -> Facts:
    if request.param == "bare":
        return bare()
    module, inputs = network(request.param)
    return Facts(analyse(read_module(module, inputs, name=request.param)))


@pytest.mark.parametrize("name", [name for name, function in FUNCTIONS.items() if not function.numbers])
def test_no_function_fails_whatever_it_is_asked(name: str, anything: Facts) -> None:
    function, columns = FUNCTIONS[name], Columns(anything)
    nodes = np.arange(-1, len(anything.graph.nodes))
    places: dict[str, list[Any]] = {
        "node": [nodes, nodes[::-1]],
        "block": [np.arange(-1, len(anything.prediction.blocks))],
        "place": [nodes],
        "number": [np.full(len(nodes), 0.01)],
        "text": [np.array(["folded"] * len(nodes), object)],
    }
    choices = [
        LITERAL_ARGUMENTS.get(kind) or places[kind][function.parameters[:place].count(kind) :][:1]
        for place, kind in enumerate(function.parameters)
    ]
    kinds = ["node" if kind == "place" else kind for kind in function.parameters]
    for chosen in itertools.product(*choices):
        given = [literal(k, c) if isinstance(c, str) else c for k, c in zip(kinds, chosen, strict=True)]  # type: ignore[arg-type]
        size = next((len(entry) for entry in given if isinstance(entry, np.ndarray)), 3)
        found = columns.call(function, kinds, given, size)  # type: ignore[arg-type]
        assert len(found) == size
        if function.result == "truth":
            assert {entry for entry in found.tolist() if not math.isnan(entry)} <= {0.0, 1.0}
