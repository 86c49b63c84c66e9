"""Single operators for the tests of kernels: run on the interpreter, and on ONNX Runtime as the reference."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper
from torch import Tensor

from gnelint.measure.onnx_on_torch.call import Settings
from gnelint.measure.onnx_on_torch.interpreter import open_interpreter
from gnelint.measure.onnx_on_torch.tensors import onnx_code
from tests.measure.device import TORCH_DEVICE

DOUBLE = Settings(TORCH_DEVICE, torch.float64)
_IR_VERSION = 10  # ONNX Runtime refuses files newer than itself


def node_model(
    op_type: str, inputs: Sequence[Tensor | None], *, opset: int, outputs: int = 1, domain: str = "", **attributes: Any
) -> onnx.ModelProto:
    """A model of one node; its inputs are the graph's, named x0, x1, ...; outputs are y0, y1, ..."""
    names = ["" if tensor is None else f"x{index}" for index, tensor in enumerate(inputs)]
    node = helper.make_node(op_type, names, [f"y{index}" for index in range(outputs)], domain=domain, **attributes)
    infos = [
        helper.make_tensor_value_info(name, onnx_code(tensor.dtype), list(tensor.shape))
        for name, tensor in zip(names, inputs, strict=True)
        if tensor is not None
    ]
    results = [helper.make_empty_tensor_value_info(name) for name in node.output]
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    graph = helper.make_graph([node], "one", infos, results)
    return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)


def run_model(
    model: onnx.ModelProto, inputs: Sequence[Tensor | None], settings: Settings | None = None
) -> tuple[Any, ...]:
    """The outputs of a model on the interpreter; autograd records through `inputs`."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.onnx"
        onnx.save(model, path)
        interpreter = open_interpreter(path, settings or Settings(TORCH_DEVICE))
        given = [tensor for tensor in inputs if tensor is not None]
        feeds = {info.name: tensor for info, tensor in zip(model.graph.input, given, strict=True)}
        return tuple(_fetched(output) for output in interpreter.run(feeds).values())


def _fetched(output: Any) -> Any:
    """An output, or the parts of a sequence, on the CPU."""
    if isinstance(output, list):
        return [_fetched(part) for part in output]
    return output.cpu() if isinstance(output, Tensor) else output


def run_node(
    op_type: str,
    inputs: Sequence[Tensor | None],
    *,
    opset: int,
    outputs: int = 1,
    domain: str = "",
    settings: Settings | None = None,
    **attributes: Any,
) -> tuple[Any, ...]:
    """The outputs of one operator on the interpreter."""
    model = node_model(op_type, inputs, opset=opset, outputs=outputs, domain=domain, **attributes)
    return run_model(model, inputs, settings)


def run_reference(model: onnx.ModelProto, inputs: Sequence[Tensor | None]) -> tuple[np.ndarray, ...]:
    """The outputs of a model on ONNX Runtime, its optimiser off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = [tensor.detach().numpy() for tensor in inputs if tensor is not None]
    return tuple(session.run(None, dict(zip([info.name for info in session.get_inputs()], given, strict=True))))


def assert_like_reference(
    op_type: str,
    inputs: Sequence[Tensor | None],
    *,
    opset: int,
    outputs: int = 1,
    domain: str = "",
    tolerance: float = 1e-5,
    **attributes: Any,
) -> None:
    """The interpreter's outputs are ONNX Runtime's, to a relative tolerance."""
    model = node_model(op_type, inputs, opset=opset, outputs=outputs, domain=domain, **attributes)
    found, wanted = run_model(model, inputs), run_reference(model, inputs)
    for output, expected in zip(found, wanted, strict=True):
        assert tuple(output.shape) == expected.shape
        np.testing.assert_allclose(output.detach().numpy(), expected, rtol=tolerance, atol=tolerance)
