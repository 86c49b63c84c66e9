"""Regions of ONNX files: run by the interpreter, from values in the middle of the model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional

from gnelint import check, verify
from gnelint.app import sampling
from gnelint.measure.onnx_on_torch.call import Settings
from gnelint.measure.onnx_on_torch.interpreter import open_interpreter
from gnelint.measure.regions.onnx_network import OnnxNetwork
from gnelint.readers.onnx.reader import read
from tests.command import gnelint
from tests.models.export import write_onnx

WARP = """<ir_version: 8, opset_import: ["" : 18]>
warp (float[8,3,8,8] x) => (float[8,10] y) {
  h = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, kernel)
  sizes = Shape(h)
  f = GlobalAveragePool(h)
  v = Flatten(f)
  t = MatMul(v, flow)
  first = Constant<value = int64[1] {0}>()
  batch = Gather(sizes, first)
  rest = Constant<value = int64[3] {8, 8, 2}>()
  shape = Concat<axis = 0>(batch, rest)
  g = Reshape(t, shape)
  q = GridSample<align_corners=1>(h, g)
  r = Relu(q)
  u = Flatten(r)
  y = MatMul(u, head)
}"""


@pytest.fixture
def warp(tmp_path: Path) -> Path:
    model = onnx.parser.parse_model(WARP)
    rng = np.random.default_rng(0)
    for name, shape, scale in (("kernel", (16, 3, 3, 3), 0.3), ("flow", (16, 128), 1.0), ("head", (1024, 10), 0.05)):
        numbers = (scale * rng.standard_normal(shape)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(numbers, name))
    path = tmp_path / "warp.onnx"
    onnx.save(model, path)
    return path


def measured(path: Path) -> float:
    """log2 of the squared gradient norm at the input over the cotangent's."""
    interpreter = open_interpreter(path, Settings(torch.device("cpu"), torch.float32))
    generator = torch.Generator().manual_seed(0)
    top = bottom = 0.0
    for _ in range(16):
        x = torch.randn(8, 3, 8, 8, generator=generator).requires_grad_()
        y = interpreter.run({"x": x})["y"]
        assert isinstance(y, torch.Tensor)
        cotangent = torch.randn(y.shape, generator=generator)
        (gradient,) = torch.autograd.grad(y, x, cotangent)
        top, bottom = top + float(gradient.square().sum()), bottom + float(cotangent.square().sum())
    return float(np.log2(top / bottom))


def test_an_operator_without_a_formula_is_run_from_the_middle_of_the_file(warp: Path) -> None:
    found = check(warp)
    assert found.prediction.coverage == 1.0
    assert found.prediction.gradient_log2 == pytest.approx(measured(warp), abs=0.4)
    assert "sampled" in {node.basis for node in found.profile}
    assert check(warp).to_dict() == found.to_dict(), "the same file, the same report"
    assert not [finding for finding in found.findings if finding.rule == "GNE901"]


def test_formulas_alone_on_demand(warp: Path) -> None:
    found = check(warp, sampling=False)
    assert found.prediction.coverage < 1.0
    assert found.prediction.gradient_log2 is None
    assert [finding.rule for finding in found.findings] == ["GNE901"]


def test_the_command_line_keeps_to_formulas_if_asked(warp: Path) -> None:
    def coverage(*options: str) -> float:
        result = gnelint("check", warp, "--format", "json", "--fail-on", "never", *options, cwd=warp.parent)
        return float(json.loads(result.stdout)["targets"][0]["summary"]["coverage"])

    assert coverage("--no-sampling") < 1.0
    assert coverage() == 1.0, "the cache keeps the two apart"
    assert coverage("--no-sampling") < 1.0


def test_without_torch_the_operation_is_named_with_the_reason(warp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling.importlib.util, "find_spec", lambda name: None)
    found = check(warp)
    assert [finding.rule for finding in found.findings] == ["GNE901"]
    (said,) = [node.assumptions for node in found.profile if node.basis == "unmodelled"]
    assert "PyTorch is not installed" in said[0]


def test_a_part_needs_the_shape_of_what_it_does_not_read(warp: Path) -> None:
    interpreter = open_interpreter(warp, Settings(torch.device("cpu"), torch.float32))
    part = interpreter.part(["t"], ["g"])
    assert part.shapes == {"h"}
    assert not part.reads
    seen: dict[str, torch.Tensor] = {}
    t = torch.randn(8, 128)
    part.run({"t": t, "h": torch.zeros(8, 16, 8, 8)}, lambda name, tensor: seen.setdefault(name, tensor))
    assert torch.equal(seen["g"], t.reshape(8, 8, 8, 2))


def test_values_of_the_main_graph_are_seen_and_no_others(warp: Path) -> None:
    network = OnnxNetwork(warp, read(warp))
    assert network.shows("h")
    assert not network.shows("h_of_another")


def test_a_loop_without_an_end_is_not_run_to_it(tmp_path: Path) -> None:
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 18]>
endless (float[4, 8] x) => (float[4, 8] y) {
  trips = Constant<value = int64 {1000000000}>()
  go = Constant<value = bool {1}>()
  y = Loop (trips, go, x) <body = step (int64 i, bool more, float[4, 8] state) => (bool again, float[4, 8] next) {
    again = Identity(more)
    next = Tanh(state)
  }>
}""")
    path = tmp_path / "endless.onnx"
    onnx.save(model, path)
    found = check(path)
    assert [finding.rule for finding in found.findings if finding.rule == "GNE901"] == ["GNE901"]
    (said,) = [node.assumptions[0] for node in found.profile if node.basis == "unmodelled"]
    assert "one draw computes more than" in said


class Quantised(nn.Module):
    """Rounded by a scale of its own to each row, straight through."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.layer_norm(x, x.shape[-1:])
        scale = 7 / x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
        return x + ((x * scale).round().clamp(-8, 7) / scale - x).detach()


def test_estimators_in_a_file_are_run_as_such(tmp_path: Path) -> None:
    """The scale is run on draws: without the detached difference that ONNX does not keep, the gradient there is that of
    a step, as what `verify` measures would be."""
    torch.manual_seed(0)
    layers = [layer for _ in range(3) for layer in (Quantised(), nn.Linear(32, 32, bias=False))]
    module, x = nn.Sequential(nn.Linear(16, 32), *layers), torch.randn(64, 16)
    path = tmp_path / "quantised.onnx"
    write_onnx(module, (x,), path, opset=17, dynamo=False, fold=False)
    said = check(module, example_inputs=(x,)).prediction.gradient_log2
    assert said is not None
    assert check(path).prediction.gradient_log2 == pytest.approx(said, abs=0.1)
    assert verify(path, probes=4, device="cpu").holds
