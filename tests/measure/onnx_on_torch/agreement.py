"""Whole ONNX models on the interpreter beside ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from gnelint.errors import ModelError
from gnelint.measure.onnx_on_torch.call import Settings
from gnelint.measure.onnx_on_torch.interpreter import Interpreter, open_interpreter
from gnelint.onnxfile.types import dtype_name
from tests.measure.device import TORCH_DEVICE

LIMIT = 1e-4
"""The largest difference that counts as equal, over the largest entry of the output."""
DEFAULT_SIZE = 2
"""What a dimension is taken as that the file leaves open."""

Result = Literal["matches", "differs", "not verifiable", "no reference"]


@dataclass(frozen=True)
class Agreement:
    """What became of a comparison.

    Attributes:
        result: "no reference" where ONNX Runtime itself refuses the model.
        error: the largest difference of any output over its largest entry; None where nothing was compared.
        line: why, where it does not match.
    """

    result: Result
    error: float | None = None
    line: str = ""


def compared(path: Path, given: Mapping[str, np.ndarray] | None = None) -> Agreement:
    """Run a model on both with the same inputs, drawn where none are given, as its file says (mode and all).

    Names in `given` that the model does not have are passed over.
    """
    try:
        interpreter = open_interpreter(path, Settings(TORCH_DEVICE))
        missing = interpreter.unsupported()
    except ModelError as error:
        return Agreement("not verifiable", line=str(error))
    if missing:
        return Agreement("not verifiable", line=f"operator {', '.join(missing)}")
    feeds = {name: (given or {}).get(name, drawn) for name, drawn in drawn_inputs(path).items()}
    try:
        wanted = reference(path, feeds)
    except Exception as error:  # onnxruntime's own errors
        return Agreement("no reference", line=" ".join(str(error).split())[:200])
    return _judged(interpreter, feeds, wanted)


def _judged(interpreter: Interpreter, feeds: Mapping[str, np.ndarray], wanted: Mapping[str, Any]) -> Agreement:
    try:
        with torch.no_grad():
            found = interpreter.run({name: torch.from_numpy(array) for name, array in feeds.items()})
    except ModelError as error:
        return Agreement("not verifiable", line=str(error))
    worst = max((difference(found[name], expected) for name, expected in wanted.items()), default=0.0)
    if worst <= LIMIT:
        return Agreement("matches", worst)
    return Agreement("differs", worst, "outputs differ")


def difference(found: Any, expected: Any) -> float:
    """The largest difference over the largest entry; inf for what cannot be compared."""
    if isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            return float("inf")
        return max((difference(one, other) for one, other in zip(found, expected, strict=True)), default=0.0)
    if not isinstance(found, Tensor) or tuple(found.shape) != expected.shape:
        return float("inf")
    one, other = found.detach().cpu().double().numpy(), expected.astype(np.float64)
    if not np.array_equal(np.isfinite(one), np.isfinite(other)):
        return float("inf")
    both = np.isfinite(other)
    if not both.any():
        return 0.0
    return float(np.abs(one[both] - other[both]).max() / max(np.abs(other[both]).max(), 1e-30))


def reference(path: Path, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The outputs on ONNX Runtime, its optimiser off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feeds)), strict=True))


def drawn_inputs(path: Path, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs of the types and sizes that the file declares: floats from N(0, 1), integers 0 and 1."""
    generator = np.random.default_rng(seed)
    graph = onnx.load(str(path), load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    found = {}
    for info in graph.input:
        if info.name in stored:
            continue
        of = info.type.tensor_type
        shape = [dim.dim_value if dim.dim_value > 0 else DEFAULT_SIZE for dim in of.shape.dim]
        dtype = np.dtype(dtype_name(of.elem_type) or "float32")
        drawn = generator.standard_normal(shape) if dtype.kind == "f" else generator.integers(0, 2, shape)
        found[info.name] = np.asarray(drawn).astype(dtype)
    return found
