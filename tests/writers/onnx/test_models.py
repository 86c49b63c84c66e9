"""Whole models: what no edit touches stays as it is, and a fix finds nothing to do in what it wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from gnelint.fixes.edits import (
    Action,
    CentreFilters,
    DropBias,
    EditTensor,
    InsertScale,
    InsertSecondMoment,
    Scale,
    SecondMoment,
    Substitute,
    applied,
)
from gnelint.fixes.planning import FixRequest, plan_fixes
from gnelint.lint.rulefile import load_rules
from gnelint.lint.selection import Settings
from gnelint.onnxfile.bytes import Message
from gnelint.onnxfile.file import open_model
from gnelint.readers.onnx.reader import read
from gnelint.writers.onnx.draft import Draft
from gnelint.writers.onnx.writer import write_onnx
from tests.benchmarks.onnx_agreement import LIGHT
from tests.measure.onnx_on_torch.agreement import compared, drawn_inputs, reference
from tests.models import CASES, SEVEN, network
from tests.models.export import export_onnx
from tests.models.export import write_onnx as export
from tests.readers.onnx.build import model, node
from tests.writers.onnx.written import assert_good, assert_same_function, write, written


def rewritten(path: Path) -> onnx.ModelProto:
    """The model as it is after the writer took it apart and put it together again without an edit."""
    draft = Draft(open_model(path))
    message = Message(draft.model, draft.finished())
    copy = path.with_name("rewritten.onnx")
    with copy.open("wb") as file:
        message.write(file)
    assert copy.stat().st_size == message.size
    found = onnx.load(str(copy), load_external_data=False)
    copy.unlink()
    return found


def assert_untouched(path: Path) -> None:
    """No edit gives the same bytes; taking the message apart and joining it again gives an equal one."""
    output = path.with_name("same.onnx")
    assert write(path, [], output) == ()
    assert output.read_bytes() == path.read_bytes()
    assert rewritten(path) == onnx.load(str(path), load_external_data=False)


@pytest.mark.parametrize("path", sorted(LIGHT.glob("*.onnx")), ids=lambda path: path.stem)
def test_light_models_are_untouched(tmp_path: Path, path: Path) -> None:
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    assert_untouched(copy)


def assert_export_is_kept(folder: Path, name: str, dynamo: bool) -> None:
    path = folder / "model.onnx"
    export_onnx(CASES[name], path, opset=18, training=True, dynamo=dynamo)
    assert_untouched(path)
    graph = read(path)
    weight = next(
        leaf
        for one in graph.nodes
        if one.op in ("linear", "conv")
        for leaf in one.parameters["weight"].leaves
        if leaf.dtype == "float32"
    )
    output = folder / "fixed.onnx"
    assert write(path, [EditTensor(weight.name, Scale(2.0))], output) == ()
    before, after = (onnx.load(str(p), load_external_data=False) for p in (path, output))
    changed = [
        (one, two) for one, two in zip(before.graph.initializer, after.graph.initializer, strict=True) if one != two
    ]
    assert [one.name for one, _ in changed] == [weight.name]
    for node_ in after.graph.node:
        kept = [entry for entry in node_.metadata_props if not entry.key.startswith("gnelint.")]
        del node_.metadata_props[:]
        node_.metadata_props.extend(kept)
    del after.metadata_props[:]
    after.metadata_props.extend(before.metadata_props)
    del after.graph.initializer[:]
    after.graph.initializer.extend(before.graph.initializer)
    assert after == before


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("name", ["mlp", "resnet18"])
def test_exports_are_kept_but_for_the_edit(tmp_path: Path, name: str, dynamo: bool) -> None:
    assert_export_is_kept(tmp_path, name, dynamo)


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("name", SEVEN)
def test_all_architectures_are_kept_but_for_the_edit(tmp_path: Path, name: str, dynamo: bool) -> None:
    assert_export_is_kept(tmp_path, name, dynamo)


def test_a_quantised_model_is_untouched(tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            draw = np.random.default_rng(0)
            self.batches = iter([{"x": draw.standard_normal((2, 3, 8, 8)).astype(np.float32)} for _ in range(4)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    source = small_network(tmp_path, ["Relu", "Relu"], 13)
    quantised = tmp_path / "quantised.onnx"
    quantize_static(str(source), str(quantised), Reader(), quant_format=QuantFormat.QDQ)
    assert_untouched(quantised)
    proto = onnx.load(str(quantised))
    scale = next(n.input[1] for n in proto.graph.node if n.op_type == "DequantizeLinear" and "w0" in n.input[0])
    output = tmp_path / "fixed.onnx"
    assert write(quantised, [EditTensor(scale, Scale(2.0))], output) == ()
    onnx.checker.check_model(str(output), full_check=True)
    (one, two) = (read(path).node("conv0").parameters["weight"].array() for path in (quantised, output))
    np.testing.assert_allclose(two, 2 * one, rtol=1e-6)


def test_everything_a_file_can_say_is_kept(tmp_path: Path) -> None:
    source = small_network(tmp_path, ["Relu"], 17)
    proto = onnx.load(str(source))
    proto.doc_string, proto.producer_name, proto.domain, proto.model_version = "doc", "somebody", "org.example", 7
    proto.metadata_props.add(key="author", value="me")
    proto.graph.doc_string = "a graph"
    proto.graph.metadata_props.add(key="graph", value="g")
    proto.graph.node[0].doc_string = "a node"
    proto.graph.node[0].metadata_props.add(key="gnelint.ignore", value="GNE101")
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    proto.graph.value_info.append(helper.make_tensor_value_info("c0", TensorProto.FLOAT, ("batch", 4, 8, 8)))
    note = proto.graph.quantization_annotation.add(tensor_name="c0")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w0")
    body = [node("Relu", ["a"], ["b"])]
    proto.functions.append(helper.make_function("own", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    proto.functions[0].metadata_props.add(key="function", value="f")
    proto.opset_import.append(helper.make_opsetid("own", 1))
    unknown = b"\xfa\x3f\x03abc"  # field 1023: what a newer onnx may add
    source.write_bytes(proto.SerializeToString() + unknown)
    assert_untouched(source)
    found, _ = written(source, [EditTensor("w0", Scale(2.0))])
    assert unknown in (tmp_path / "fixed.onnx").read_bytes()
    for entry in list(found.graph.node[0].metadata_props):
        if entry.key in ("gnelint.rule", "gnelint.version", "gnelint.factor"):
            found.graph.node[0].metadata_props.remove(entry)
    del found.graph.initializer[:]
    found.graph.initializer.extend(proto.graph.initializer)
    assert found == onnx.ModelProto.FromString(source.read_bytes())


def small_network(folder: Path, activations: list[str], opset: int, norm: bool = False, seed: int = 0) -> Path:
    """Convolutions conv0, ... with biases, a BatchNormalization bn0, ... behind each, and activations act0, ..."""
    draw = np.random.default_rng(seed)
    nodes, weights, value, channels = [], {}, "x", 3
    for index, activation in enumerate(activations):
        weights[f"w{index}"] = (draw.standard_normal((4, channels, 3, 3)) / 5).astype(np.float32)
        weights[f"b{index}"] = draw.standard_normal(4).astype(np.float32)
        inputs, last = [value, f"w{index}", f"b{index}"], f"c{index}"
        nodes.append(node("Conv", inputs, [last], name=f"conv{index}", pads=[1] * 4))
        if norm:
            names = [f"{role}{index}" for role in ("s", "t", "m", "v")]
            for role in names:
                weights[role] = np.abs(draw.standard_normal(4)).astype(np.float32) + 0.1
            nodes.append(node("BatchNormalization", [last, *names], [f"n{index}"], name=f"bn{index}"))
            last = f"n{index}"
        value = "y" if index == len(activations) - 1 else f"a{index}"
        nodes.append(node(activation, [last], [value], name=f"act{index}"))
        channels = 4
    proto = model(nodes, {"x": (2, 3, 8, 8)}, weights=weights, opset=opset)
    proto.ir_version = 10
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 4, 8, 8)))
    path = folder / "model.onnx"
    onnx.save(proto, str(path))
    return path


def actions_on(depth: int, norm: bool) -> st.SearchStrategy[Action]:
    """Any action that such a network has a place for."""
    index = st.integers(0, depth - 1)
    values = st.sampled_from(["x", "y", *(f"c{i}" for i in range(depth)), *(f"a{i}" for i in range(depth - 1))])
    factors = st.floats(0.5, 2.0)
    new = [("leaky_relu", {"alpha": 0.2}), ("tanh", {}), ("gelu", {}), ("identity", {})]
    found = [
        st.builds(lambda i, f: EditTensor(f"w{i}", Scale(f)), index, factors),
        st.builds(lambda i: DropBias(f"conv{i}"), index),
        st.builds(lambda i, n: Substitute(f"act{i}", *n), index, st.sampled_from(new)),
        st.builds(InsertScale, values, factors),
        st.builds(lambda i: InsertSecondMoment(f"c{i}", 4), index),
        st.builds(lambda i: CentreFilters(f"conv{i}"), index),
    ]
    if norm:
        found.append(st.builds(lambda i: SecondMoment(f"bn{i}"), index))
    return st.one_of(found)


def once(actions: list[Action]) -> list[Action]:
    """A bias goes once, a normalisation or an activation is replaced once, as a plan does."""
    found: dict[object, Action] = {}
    for action in actions:
        again = isinstance(action, EditTensor)
        found.setdefault(len(found) if again else (type(action), action.subject), action)
    return list(found.values())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_combination_of_edits_is_made_as_planned(tmp_path: Path, data: st.DataObject) -> None:
    depth, norm = data.draw(st.integers(1, 3)), data.draw(st.booleans())
    opset, inline = data.draw(st.sampled_from([9, 13, 18, 21])), data.draw(st.booleans())
    kinds = data.draw(st.lists(st.sampled_from(["Relu", "Sigmoid", "Tanh"]), min_size=depth, max_size=depth))
    source = small_network(tmp_path, kinds, opset, norm)
    actions = once(data.draw(st.lists(actions_on(depth, norm), min_size=1, max_size=6)))
    before = source.read_bytes()
    _, graph = written(source, actions, inline=inline)
    assert source.read_bytes() == before
    planned = [n.op for n in applied(read(source), actions).nodes if n.op != "identity"]
    assert [n.op for n in graph.nodes if n.op != "identity"] == planned


def export_repeatable(name: str, path: Path, *, dynamo: bool) -> None:
    """Export in training mode, without dropout: no two runs would give the same outputs. Biases hold numbers."""
    module, inputs = network(name)
    for inner in module.modules():
        if isinstance(inner, torch.nn.Dropout):
            inner.p = 0.0
        if isinstance(inner, torch.nn.Conv2d) and inner.bias is not None:
            inner.bias.data.copy_(torch.linspace(-0.1, 0.1, inner.bias.numel()))
    export(module.train(), inputs, path, opset=18, dynamo=dynamo, fold=False)


CHOICES = ("GNE310", "GNE311", "GNE402")
"""Rules whose findings are infos, edited where they are asked for."""
NETWORKS = ["plain_conv(depth=50, gain=0.5)", "plain_mlp(depth=20, gain=0.5)", "a_bad", "vgg11_bn"]


@pytest.mark.parametrize("dynamo", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("a_bad", "plain_mlp(depth=20, gain=0.5)") else pytest.mark.slow)
        for name in NETWORKS
    ],
)
def test_a_fix_finds_nothing_to_do_in_what_it_wrote(tmp_path: Path, name: str, dynamo: bool) -> None:
    source, output = tmp_path / "model.onnx", tmp_path / "fixed.onnx"
    export_repeatable(name, source, dynamo=dynamo)
    request = FixRequest(load_rules().rules, Settings(extend_select=CHOICES, stage="init"), unsafe=True)
    graph = read(source)
    plan = plan_fixes(graph, request)
    assert plan.edits
    assert write_onnx(source, plan.edits, output, graph=graph) == ()
    assert_good(output)
    again = plan_fixes(read(output), request)
    assert again.edits == ()
    assert [(f.rule, f.nodes) for f in again.found] == [(f.rule, f.nodes) for f in plan.remaining]


@pytest.mark.parametrize("inline", [False, True])
def test_a_preserving_fix_keeps_the_outputs(tmp_path: Path, inline: bool) -> None:
    source, output = tmp_path / "model.onnx", tmp_path / "fixed.onnx"
    export_repeatable("vgg11_bn", source, dynamo=False)
    request = FixRequest(load_rules().rules, Settings(extend_select=CHOICES, stage="trained"))
    graph = read(source)
    plan = plan_fixes(graph, request)
    assert {edit.safety for edit in plan.edits} == {"preserving"}
    assert write_onnx(source, plan.edits, output, graph=graph, inline=inline) == ()
    assert_good(output)
    assert_same_function(source, output)


def all_normalisations(path: Path, training: bool) -> list[Action]:
    graph = read(path, training=training)
    return [SecondMoment(one.name) for one in graph.nodes if one.op == "batch_norm"]


def assert_normalisations_replaced(folder: Path, name: str, training: bool, dynamo: bool) -> None:
    path = folder / "model.onnx"
    module, inputs = network(name)
    export(module.train(training), inputs, path, opset=18, dynamo=dynamo, fold=False)
    actions = all_normalisations(path, training)
    assert len(actions) > 15
    proto, graph = written(path, actions, training=training)
    ops = [one.op for one in graph.nodes]
    assert "batch_norm" not in ops
    assert ops.count("second_moment_norm") == (len(actions) if training else 0)
    assert "BatchNormalization" not in {one.op_type for one in proto.graph.node}


@pytest.mark.parametrize(("training", "dynamo"), [(True, False), (False, True)])
def test_a_residual_networks_normalisations_are_replaced(tmp_path: Path, training: bool, dynamo: bool) -> None:
    assert_normalisations_replaced(tmp_path, "resnet18", training, dynamo)


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_dense_networks_normalisations_are_replaced(tmp_path: Path, training: bool, dynamo: bool) -> None:
    assert_normalisations_replaced(tmp_path, "densenet121", training, dynamo)


def examples() -> list[tuple[str, str]]:
    """The networks that gnelint's own rules have a fix for: (rule, network)."""
    return [
        (rule.id, test["model"])
        for rule in load_rules().rules
        for test in rule.tests
        if rule.program.fix is not None and test.get("findings") and test.get("mode") != "eval"
    ]


def rounding(path: Path) -> float:
    """How far rounding alone may take two runtimes apart: what changes of the inputs by 1e-6 come to."""
    feeds = drawn_inputs(path)
    draw = np.random.default_rng(0)
    moved = {
        name: (array * (1 + 1e-6 * draw.standard_normal(array.shape))).astype(array.dtype)
        if array.dtype.kind == "f"
        else array
        for name, array in feeds.items()
    }
    one, two = reference(path, feeds), reference(path, moved)
    return max(float(np.abs(one[name] - two[name]).max() / max(np.abs(one[name]).max(), 1e-30)) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize(("rule", "name"), examples())
def test_every_example_of_a_rule_is_written_as_planned(tmp_path: Path, rule: str, name: str, dynamo: bool) -> None:
    source, output = tmp_path / "model.onnx", tmp_path / "fixed.onnx"
    export_repeatable(name, source, dynamo=dynamo)
    own = load_rules().get(rule)
    assert own is not None
    request = FixRequest([own], Settings(select=(rule,), preview=True, stage="init"), unsafe=True)
    graph = read(source)
    plan = plan_fixes(graph, request)
    assert write_onnx(source, plan.edits, output, graph=graph) == ()
    if not plan.edits:  # advice only: how far two runtimes differ on the user's own file is not ours
        assert output.read_bytes() == source.read_bytes()
        return
    again = plan_fixes(read(output), request)
    assert again.edits == ()
    assert len(again.found) == len(plan.remaining)
    onnx.checker.check_model(str(output), full_check=True)
    found = compared(output)
    assert found.error is not None
    assert found.error <= max(1e-5, rounding(output)), found.line
