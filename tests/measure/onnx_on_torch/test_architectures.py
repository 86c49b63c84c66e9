"""Whole networks: exports of every architecture run as on ONNX Runtime, and have the gradients of the module itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from gnelint.measure.onnx_on_torch.call import Settings
from gnelint.measure.onnx_on_torch.interpreter import open_interpreter
from tests.benchmarks.onnx_agreement import LIGHT
from tests.measure.device import TORCH_DEVICE
from tests.measure.onnx_on_torch.agreement import compared
from tests.models import CASES, Case
from tests.models.export import OPSETS, export_onnx

QUICK = (
    ("resnet18", 17, False),
    ("mobilenet_v3_small", 13, False),
    ("shufflenet_v2", 18, True),
    ("vit_spelled", 20, True),
    ("gpt2", 23, False),
    ("llama", 25, True),
    ("bert", 24, True),
    ("swin", 17, False),
    ("unet", 18, True),
    ("dcgan_generator", 19, False),
)
HEAVY = {"shufflenet_v2", "vit_spelled", "llama", "bert"}
"""Exports whose gradients alone are looked at in the quick run: these need the outputs, too."""
GRADIENT_LIMIT = 1e-5


def exports() -> list[tuple[str, int, bool]]:
    """Every architecture at every opset from 17 that an exporter writes."""
    written = [(opset, dynamo) for dynamo, opsets in OPSETS.items() for opset in opsets if opset >= 17]
    return [(name, *way) for name in CASES for way in written]


def assert_matches(tmp_path: Path, name: str, opset: int, dynamo: bool) -> None:
    """The export, in evaluation mode, gives ONNX Runtime's outputs."""
    case, path = CASES[name], tmp_path / "model.onnx"
    export_onnx(case, path, opset=opset, training=False, dynamo=dynamo)
    names = [info.name for info in onnx.load(str(path), load_external_data=False).graph.input]
    found = compared(path, dict(zip(names, (tensor.numpy() for tensor in case.example_inputs()), strict=True)))
    assert found.result == "matches", f"{found.result} {found.error} {found.line}"


@pytest.mark.parametrize(
    ("name", "opset", "dynamo"),
    [pytest.param(*case, marks=[pytest.mark.slow] if case[0] in HEAVY else []) for case in QUICK],
)
def test_some_exports_run_as_in_onnx_runtime(tmp_path: Path, name: str, opset: int, dynamo: bool) -> None:
    assert_matches(tmp_path, name, opset, dynamo)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "opset", "dynamo"), exports())
def test_every_export_runs_as_in_onnx_runtime(tmp_path: Path, name: str, opset: int, dynamo: bool) -> None:
    assert_matches(tmp_path, name, opset, dynamo)


def assert_gradients(tmp_path: Path, name: str, opset: int, dynamo: bool) -> None:
    """The export's gradients, in training mode and double precision, are those of the module."""
    case, path = CASES[name], tmp_path / "model.onnx"
    export_onnx(case, path, opset=opset, training=True, dynamo=dynamo)
    output, probe, wanted = native_gradients(case)
    interpreter = open_interpreter(path, Settings(TORCH_DEVICE, torch.float64, normalization="batch"))
    interpreter.ask_gradients(frozenset(wanted))
    inputs = doubled(case)
    names = [info.name for info in onnx.load(str(path), load_external_data=False).graph.input]
    (result,) = interpreter.run(dict(zip(names, inputs, strict=True))).values()
    result = result.cpu()
    assert relative(result, output) < GRADIENT_LIMIT
    leaves = {name: leaf for name, leaf in interpreter.leaves.items() if leaf.requires_grad}
    of_inputs = {f"input {index}": tensor for index, tensor in enumerate(inputs) if tensor.requires_grad}
    ends = {**of_inputs, **leaves}
    found = dict(zip(ends, torch.autograd.grad(result, list(ends.values()), probe, allow_unused=True), strict=True))
    assert of_inputs or leaves
    least = 1e-6 * max(float(gradient.norm()) for gradient in wanted.values())  # a bias before a normalisation has 0
    for key, gradient in found.items():
        assert relative(gradient, wanted[key], least) < GRADIENT_LIMIT, key


def native_gradients(case: Case) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The module's own output, a probe, and what autograd makes of the probe: for inputs and parameters by name."""
    module = case.module().double()
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    inputs = doubled(case)
    output = module(*inputs)
    probe = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype)
    ends = {f"input {index}": tensor for index, tensor in enumerate(inputs) if tensor.requires_grad}
    ends |= dict(module.named_parameters())
    gradients = torch.autograd.grad(output, list(ends.values()), probe, allow_unused=True)
    pairs = zip(ends.items(), gradients, strict=True)
    return output.detach(), probe, {key: torch.zeros_like(end) if g is None else g for (key, end), g in pairs}


def doubled(case: Case) -> list[Tensor]:
    """The example inputs in double precision, gradients recorded; tokens as they are."""
    inputs = case.example_inputs()
    return [tensor.double().requires_grad_() if tensor.is_floating_point() else tensor for tensor in inputs]


def relative(found: Tensor | None, wanted: Tensor, least: float = 0.0) -> float:
    """The norm of the difference over the norm, or over `least` for what is zero up to rounding."""
    difference = wanted if found is None else found.detach().cpu() - wanted
    return float(difference.norm()) / max(float(wanted.norm()), least, 1e-300)


@pytest.mark.parametrize(("name", "opset", "dynamo"), QUICK)
def test_some_exports_have_the_modules_gradients(tmp_path: Path, name: str, opset: int, dynamo: bool) -> None:
    assert_gradients(tmp_path, name, opset, dynamo)


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_every_architecture_has_the_modules_gradients(tmp_path: Path, name: str, dynamo: bool) -> None:
    assert_gradients(tmp_path, name, 18, dynamo)


def with_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with random weights where it only has placeholders, up to the logits."""
    generator = np.random.default_rng(0)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    variances = {node.input[4] for node in model.graph.node if node.op_type == "BatchNormalization"}
    kept = []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in shapes:
            kept.append(node)
            continue
        shape = shapes[node.input[0]].tolist()
        fan_in = max(int(np.prod(shape[1:])), 1)
        drawn = generator.standard_normal(shape) * (2 / fan_in) ** 0.5
        drawn = np.abs(drawn) + 0.5 if node.output[0] in variances else drawn
        model.graph.initializer.append(numpy_helper.from_array(drawn.astype(np.float32), node.output[0]))
    if kept[-1].op_type == "Softmax":  # it would say 0 or 1, and hide everything
        model.graph.output[0].CopyFrom(helper.make_empty_tensor_value_info(kept.pop().input[0]))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_some_light_models_run_as_in_onnx_runtime(tmp_path: Path, name: str) -> None:
    assert_light_matches(tmp_path, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem.removeprefix("light_") for path in LIGHT.glob("*.onnx")))
def test_every_light_model_runs_as_in_onnx_runtime(tmp_path: Path, name: str) -> None:
    assert_light_matches(tmp_path, name)


def assert_light_matches(tmp_path: Path, name: str) -> None:
    """A network of the onnx package (1 x 3 x 224 x 224, opset 9 and older), its placeholders filled at random."""
    model = with_weights(onnx.load(str(LIGHT / f"light_{name}.onnx")))
    model.ir_version = min(model.ir_version, 10)
    path = tmp_path / "light.onnx"
    onnx.save(model, str(path), save_as_external_data=model.ByteSize() > 2**30)
    found = compared(path)
    assert found.result == "matches", f"{found.result} {found.error} {found.line}"
    assert found.error > 0.0  # the outputs are no constants
