"""Names, tied and folded parameters, modes, fallbacks; and that reading a module leaves no trace on it."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from gnelint.errors import ModelError
from gnelint.ir.graph import UNMODELLED, Graph
from gnelint.readers.inputs import InputSpec
from gnelint.readers.torch.found_inputs import find_inputs
from gnelint.readers.torch.reader import read_module, read_pt2, trace_exported
from tests.evaluator import outputs
from tests.models import CASES


class Block(nn.Module):
    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(x + self.conv2(y))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(Block(), Block())
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.layer1(x).mean((2, 3))))


IMAGE = (torch.zeros(2, 4, 6, 6),)


def ops(graph: Graph) -> dict[str, str]:
    return {node.name: node.op for node in graph.nodes}


def test_names_are_the_qualified_module_names() -> None:
    graph = read_module(Net(), IMAGE, name="net")
    assert list(ops(graph).items())[:6] == [
        ("layer1.0.conv1", "conv"),
        ("layer1.0.bn1", "batch_norm"),
        ("layer1.0.relu", "relu"),
        ("layer1.0.conv2", "conv"),
        ("layer1.0.add", "add"),
        ("layer1.0.relu_1", "relu"),
    ]
    assert list(ops(graph))[-3:] == ["reduce_mean", "drop", "head"]
    assert {node.scope for node in graph.nodes} == {"", "layer1.0", "layer1.1"}
    assert graph.node("layer1.0.conv1").parameters["weight"].name == "layer1.0.conv1.weight"


def test_a_number_of_the_program_does_not_stand_for_a_module() -> None:
    """The sum of a mean square and epsilon bore the name of the statistic: 41 bits from the gradient at its result."""

    class Statistic(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()

    graph = read_module(nn.Sequential(nn.Linear(4, 4), Statistic()), (torch.randn(2, 4),), name="statistic")
    assert "1" not in ops(graph)
    assert graph.node("0").op == "linear"


def test_locations_are_the_users_lines() -> None:
    graph = read_module(Net(), IMAGE, name="net")
    source = Path(__file__).read_text().splitlines()
    for name, text in (("layer1.0.conv2", "self.conv2(y)"), ("layer1.1.add", "x + self"), ("head", "self.head(")):
        location = graph.node(name).location
        assert location is not None
        assert location.line is not None
        assert Path(location.file) == Path(__file__)
        assert text in source[location.line - 1]


@pytest.mark.parametrize("name", ["mlp", "resnet18", "preact_resnet18", "vit", "convnext_tiny", "mobilenet_v3_small"])
def test_the_graph_computes_what_the_network_computes(name: str) -> None:
    case = {case.name: case for case in CASES.values()}[name]
    module, inputs = case.module(), case.example_inputs()
    graph = read_module(module, inputs, name=name)
    assert UNMODELLED not in ops(graph).values()
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.eval()
    with torch.no_grad():
        torch.testing.assert_close(outputs(graph, inputs)[0], module(*inputs), rtol=1e-4, atol=1e-5)


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4 + 2 * i, 2) for i in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x.relu())], dim=-1)
        return x


def test_dense_block() -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    module = Dense()
    graph = read_module(module, (x,), name="dense")
    assert [name for name, op in ops(graph).items() if op == "linear"] == ["layers.0", "layers.1", "layers.2"]
    assert [name for name, op in ops(graph).items() if op == "concat"] == ["concat", "concat_1", "concat_2"]
    torch.testing.assert_close(outputs(graph, (x,))[0], module(x).detach())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids))


def test_tied_weights_are_one_parameter_with_two_uses() -> None:
    graph = read_module(Tied(), (torch.zeros(2, 3, dtype=torch.int64),), name="tied")
    assert [node.parameters["weight"].name for node in graph.nodes] == ["embed.weight", "embed.weight"]
    assert [parameter.name for parameter in graph.parameters()] == ["embed.weight"]
    assert graph.gradient_nodes == graph.nodes


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("normalize", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
def test_weight_norm_is_one_parameter(normalize: object) -> None:
    assert callable(normalize)
    layer = normalize(nn.Conv2d(3, 5, 3))
    graph = read_module(nn.Sequential(layer, nn.ReLU()), (torch.zeros(1, 3, 5, 5),), name="wn")
    weight = graph.node("0").parameters["weight"]
    assert (weight.name, weight.transform, weight.shape) == ("0.weight", "weight_norm", (5, 3, 3, 3))
    np.testing.assert_allclose(weight.array(), layer.weight.detach().numpy(), rtol=1e-6)


def test_parameters_are_views_read_when_asked() -> None:
    module = nn.Linear(3, 2)
    weight = read_module(module, (torch.zeros(1, 3),), name="linear").nodes[0].parameters["weight"]
    assert np.shares_memory(weight.array(), module.weight.detach().numpy())
    with torch.no_grad():
        module.weight.fill_(7.0)
    assert (weight.array() == 7.0).all()


def test_bfloat16_parameters() -> None:
    module = nn.Linear(3, 2, dtype=torch.bfloat16)
    weight = read_module(module, (torch.zeros(1, 3, dtype=torch.bfloat16),), name="half").nodes[0].parameters["weight"]
    assert weight.dtype == "bfloat16"
    np.testing.assert_array_equal(weight.array().astype(np.float32), module.weight.detach().float().numpy())


def test_meta_parameters_are_placeholders() -> None:
    module = nn.Linear(300000, 400000, device="meta")
    graph = read_module(module, (torch.zeros(1, 300000, device="meta"),), name="huge")
    weight = graph.nodes[0].parameters["weight"]
    assert (weight.provenance, weight.shape) == ("placeholder", (400000, 300000))
    assert weight.array().shape == weight.shape
    assert "meta device" in graph.notes[0]


def batch_norm_modes(graph: Graph) -> list[bool]:
    return [node.attribute("training") for node in graph.nodes if node.op == "batch_norm"]


def test_modes_and_frozen_normalisation() -> None:
    net = Net()
    assert batch_norm_modes(read_module(net, IMAGE, name="net")) == [True, True]
    assert batch_norm_modes(read_module(net, IMAGE, name="net", training=False)) == [False, False]
    assert batch_norm_modes(read_module(net.eval(), IMAGE, name="net")) == [True, True]
    frozen = Net().train()
    frozen.layer1[0].bn1.eval()
    assert batch_norm_modes(read_module(frozen, IMAGE, name="net")) == [False, True]


class Careless(nn.Module):
    """Everything a forward pass may do to its module and to the world."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.lstm = nn.LSTM(4, 4)
        self.register_buffer("seen", torch.zeros(()))
        self.calls = 0
        self.last: object = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen += 1
        random.random()
        np.random.rand()
        y = self.drop(self.bn(x)) + torch.randn(4)
        self.last = y
        return self.lstm(y)[0]


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_reading_leaves_no_trace(mode: bool, training: bool) -> None:
    module = Careless().train(mode)
    module.drop.eval()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    flags = [part.training for part in module.modules()]
    weights = [id(value) for value in (*module.parameters(), *module.buffers())]
    flat = [id(weight) for weight in module.lstm._flat_weights]
    torch_state, python_state, numpy_state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    read_module(module, (torch.zeros(3, 4),), name="careless", training=training)
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert [part.training for part in module.modules()] == flags
    assert [id(value) for value in (*module.parameters(), *module.buffers())] == weights
    assert [id(weight) for weight in module.lstm._flat_weights] == flat
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    assert (np.random.get_state()[1] == numpy_state).all()
    assert (module.calls, module.last) == (0, None)
    assert all(parameter.grad is None for parameter in module.parameters())


class Notes(nn.Module):
    """Installs a hook when first called, and scales by how often its hooks were called so far."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Linear(4, 4)
        self.seen: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "hooked"):
            self.part.register_forward_hook(lambda *given: self.seen.append("call"))
            self.hooked = True
        for _ in range(1 + len(self.seen)):
            x = self.part(x)
        return x


def test_what_a_module_adds_to_its_own_collections_while_it_is_read_is_gone() -> None:
    module = Notes()
    for _ in range(2):
        assert len(read_module(module, (torch.zeros(3, 4),), name="notes").nodes) == 1
    assert (module.seen, len(module.part._forward_hooks)) == ([], 0)


class Inference(nn.Module):
    """A part whose gradient nobody wants, computed by `torch.inference_mode`."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.head = nn.Linear(4, 4), nn.Linear(4, 4)

    @torch.inference_mode()
    def features(self, x: Tensor) -> Tensor:
        found: Tensor = self.part(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.features(x)) + x
        return found


def test_inference_mode_stops_the_gradient() -> None:
    graph = read_module(Inference(), (torch.zeros(3, 4),), name="inference")
    assert "part.stop_gradient" in {node.name for node in graph.nodes}


class OfTheData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.part(x).data
        return found


def test_the_data_of_a_tensor_is_cut_off_from_it() -> None:
    graph = read_module(OfTheData(), (torch.zeros(3, 4),), name="data")
    assert [node.op for node in graph.nodes] == ["linear", "stop_gradient", "add"]
    assert "data" not in vars(torch.Tensor)


def test_what_is_compiled_is_read_as_it_was_written() -> None:
    ran: list[str] = []

    def backend(module: fx.GraphModule, given: list[Tensor]) -> fx.GraphModule:
        ran.append("compiled")
        return module

    compiled = torch.compile(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), backend=backend)
    found = find_inputs(compiled)
    assert found is not None
    assert [node.op for node in read_module(compiled, found.args, name="compiled").nodes] == ["linear", "relu"]
    assert not ran


class DataDependent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x.relu()
        return x.tanh()


class Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("the moon is full")


@pytest.mark.parametrize(("value", "op"), [(1.0, "relu"), (-1.0, "tanh")])
def test_a_branch_on_values_is_taken_as_the_example_has_it(value: float, op: str) -> None:
    graph = read_module(DataDependent(), (torch.full((3,), value),), name="flow")
    assert [node.op for node in graph.nodes] == [op]
    assert re.search(r"test_reader\.py:\d+: what depends on the values of tensors is taken as", graph.notes[0])


def test_what_cannot_be_traced_is_refused_with_the_cause() -> None:
    with pytest.raises(ModelError, match=r"data-dependent.*test_reader\.py:\d+.*values of tensors") as caught:
        read_module(DataDependent(), (torch.zeros(3, device="meta"),), name="flow")
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=r"ValueError: the moon is full \(.*test_reader\.py:\d+\)"):
        read_module(Fails(), (torch.zeros(3),), name="fails")
    with pytest.raises(ModelError, match=r"5\] X \[3.*--input"):
        read_module(nn.Linear(3, 2), (torch.zeros(4, 5),), name="misfit")
    with pytest.raises(ModelError, match="no output depends on"):
        read_module(Constant(), (torch.zeros(3),), name="constant")


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ones(3)


class Opaque(nn.Module):
    """torch.export refuses the odd argument type; symbolic tracing does not look at it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, fx.Proxy) and torch.compiler.is_exporting():
            raise TypeError("not like this")
        return self.linear(x).relu()


@pytest.mark.parametrize(("device", "how"), [("cpu", "running it on the example inputs"), ("meta", "with torch.fx")])
def test_what_torch_export_refuses_is_traced_by_other_means(device: str, how: str) -> None:
    graph = read_module(Opaque().to(device), (torch.zeros(4, 3, device=device),), name="opaque")
    assert ops(graph) == {"linear": "linear", "relu": "relu"}
    assert f"traced {'by ' * (device == 'cpu')}{how}" in graph.notes[0]


def test_graph_modules_are_read() -> None:
    graph = read_module(fx.symbolic_trace(Net()), IMAGE, name="gm")
    assert "layer1.0.conv1" in ops(graph)
    assert UNMODELLED not in ops(graph).values()


def test_pt2_files(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(Net().eval(), IMAGE), path)
    graph = read_pt2(path)
    assert batch_norm_modes(graph) == [True, True]
    assert any("exported in evaluation mode" in note for note in graph.notes)
    assert batch_norm_modes(read_pt2(path, training=False)) == [False, False]
    assert "layer1.0.conv1" in ops(graph)
    assert graph.node("layer1.0.conv1").location is not None


def test_symbolic_dimensions_of_a_program() -> None:
    batch = torch.export.Dim("batch", min=2, max=64)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    program = torch.export.export(net, (torch.zeros(5, 4),), dynamic_shapes=({0: batch},))
    graph = trace_exported(program, name="dynamic").graph
    assert graph.values[graph.outputs[0]].shape == (5, 2)
    assert graph.notes == ("size 0 of input input was left open: 5 as it was exported with; set it with --input",)
    fixed = trace_exported(program, name="dynamic", inputs=(InputSpec((7, 4)),)).graph
    assert fixed.values[fixed.outputs[0]].shape == (7, 2)
    assert not fixed.notes
    with pytest.raises(ModelError, match="fits no input"):
        trace_exported(program, name="dynamic", inputs=(InputSpec((7, 5)),))


@pytest.mark.parametrize("content", [b"", b"not a zip file", b"PK\x03\x04 truncated"])
def test_damaged_pt2_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.pt2"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="can load") as caught:
        read_pt2(path)
    assert "\n" not in str(caught.value)


def called(word: str) -> nn.Module:
    """A network whose input, and a parameter, have such names."""
    forward = f"def forward(self, {word}):\n    return self.head(self.words({word}) * self.view).relu()\n"
    defined: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {}
    exec(forward, defined)
    net = type("Words", (nn.Module,), {"forward": defined["forward"]})()
    net.words, net.view, net.head = nn.Embedding(7, 4), nn.Parameter(torch.ones(4)), nn.Linear(4, 3)
    return net


@pytest.mark.parametrize("word", ["t", "view", "dropout", "embedding", "relu_", "item", "bernoulli"])
def test_an_input_called_like_an_operation_is_no_operation(word: str) -> None:
    """What stands for an input or a parameter in a traced program has its name, "t" for tokens, as its target."""
    x = (torch.zeros(2, 5, dtype=torch.int64),)
    assert ops(read_module(called(word), x, name="net")) == ops(read_module(called("x"), x, name="net"))


def test_dynamic_weights_and_unused_parts() -> None:
    class Hyper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maker = nn.Linear(4, 12)
            self.unused = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.unused(x)
            weight = self.maker(x).mean(0).reshape(3, 4)
            return nn.functional.linear(x, weight)

    graph = read_module(Hyper(), (torch.zeros(2, 4),), name="hyper")
    assert list(ops(graph).values()) == ["linear", "reduce_mean", "reshape", "transpose", "matmul"]


LAYERS = {
    "conv": lambda c: nn.Conv2d(c, c, 3, padding=1),
    "wide": lambda c: nn.Conv2d(c, c, 5, padding=2, stride=1, groups=c, bias=False),
    "one": lambda c: nn.Conv2d(c, c, 1),
    "up": lambda c: nn.ConvTranspose2d(c, c, 3, padding=1),
    "bn": lambda c: nn.BatchNorm2d(c),
    "gn": lambda c: nn.GroupNorm(2, c),
    "in": lambda c: nn.InstanceNorm2d(c),
    "ln": lambda c: nn.LayerNorm((8, 8)),
    "relu": lambda c: nn.ReLU(inplace=True),
    "gelu": lambda c: nn.GELU("tanh"),
    "silu": lambda c: nn.SiLU(inplace=True),
    "elu": lambda c: nn.ELU(0.7),
    "softmax": lambda c: nn.Softmax(dim=1),
    "pool": lambda c: nn.MaxPool2d(3, 1, 1),
    "average": lambda c: nn.AvgPool2d(3, 1, 1),
    "dropout": lambda c: nn.Dropout(0.0),
    "pad": lambda c: nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(c, c, 3)),
    "resize": lambda c: nn.Sequential(nn.Upsample(scale_factor=2), nn.MaxPool2d(2)),
    "identity": lambda c: nn.Identity(),
}


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=8), st.booleans())
def test_random_stacks(names: list[str], training: bool) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 1), *(LAYERS[name](4) for name in names)).train(training)
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = module(x)
    graph = read_module(module, (x,), name="stack", training=training)
    assert UNMODELLED not in ops(graph).values()
    (found,) = outputs(graph, (x,))  # checks the shape of every value on its way
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_failed_trace_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    class Decides(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(ModelError, match="cannot be traced") as caught:
        read_module(Decides(), (torch.ones(2, 2, device="meta"),), name="decides")
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


def test_the_gradient_of_a_bag_is_taken_where_the_layer_hands_it_on() -> None:
    network = nn.Sequential(nn.EmbeddingBag(50, 8), nn.Linear(8, 4))
    graph = read_module(network, (torch.randint(0, 50, (4, 6)),), name="bag")
    assert graph.gradient_source is not None
    assert graph.values[graph.gradient_source].shape == (4, 8)


@pytest.mark.parametrize("inside", [True, False])
def test_an_embedding_that_scales_its_rows_is_named_and_taken_where_it_hands_them_on(inside: bool) -> None:
    class Scaled(nn.Embedding):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return super().forward(tokens) * 3.0

    class Scales(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = (Scaled if inside else nn.Embedding)(50, 8), nn.Linear(8, 4)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            rows = self.embedding(tokens)
            return self.head(rows if inside else rows * 3.0)

    graph = read_module(nn.Sequential(Scales()), (torch.randint(0, 50, (4, 6)),), name="scaled")
    (node,) = (node for node in graph.nodes if node.name == "0.embedding")
    assert graph.gradient_source == node.outputs[0]
    assert node.op == ("scale" if inside else "embedding")


class _Packed(nn.Module):
    """Rows of several images behind each other, cut apart where a tensor of sizes says, as towers for vision do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, rows: Tensor, grid: Tensor) -> Tensor:
        counts = torch.repeat_interleave(grid[:, 1] * grid[:, 2], grid[:, 0])
        ends = nn.functional.pad(counts.cumsum(0, dtype=torch.int32), (1, 0))
        parts = torch.split(self.layer(rows), (ends[1:] - ends[:-1]).tolist())
        return torch.cat([part - part.mean(0) for part in parts])


def test_sizes_that_a_tensor_of_the_input_says() -> None:
    graph = read_module(_Packed(), (torch.randn(20, 4), torch.tensor([[1, 2, 4], [3, 2, 2]])), name="packed")
    assert graph.values[graph.outputs[0]].shape == (20, 4)
    assert any("as the example inputs have it" in note for note in graph.notes)


class _Placed(nn.Module):
    """Sends its parts to the device that they are on, and asks each whether it takes a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)])

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            try:
                x = part.to(x.device).float()(x, mask=None)
            except TypeError:
                x = part(x)
        return x


def test_parts_that_are_sent_where_they_are_and_calls_that_fail_are_read_as_they_run() -> None:
    graph = read_module(_Placed(), (torch.randn(8, 4),), name="placed")
    assert [node.name for node in graph.nodes] == ["parts.0", "parts.1", "parts.2"]
    assert [node.parameters["weight"].name for node in graph.nodes if node.op == "linear"] == [
        "parts.0.weight",
        "parts.2.weight",
    ]
    assert not graph.notes


def test_a_module_that_gates_what_it_normalises_is_named_where_it_hands_that_on() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8))

        def forward(self, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
            x = self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
            return x * nn.functional.silu(gate)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.gate, self.norm = nn.Linear(8, 8), nn.Linear(8, 8), Gated()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.first(x), self.gate(x))

    graph = read_module(Network(), (torch.randn(4, 8),), name="gated")
    assert graph.producers[graph.outputs[0]].name == "norm"
    assert any(node.op == "rms_norm" for node in graph.nodes)
