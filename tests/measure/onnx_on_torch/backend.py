"""ONNX's own backend node tests on the interpreter.

    python -m tests.measure.onnx_on_torch.backend [SUBSTRING ...]

Prints what became of each case whose name or operator contains one of the substrings (all without any), and counts.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnx.backend.test.case import node as node_cases

from gnelint.errors import GnelintError
from gnelint.measure.onnx_on_torch.call import Settings
from gnelint.measure.onnx_on_torch.interpreter import open_interpreter
from gnelint.measure.onnx_on_torch.table import CannotRunError
from gnelint.measure.onnx_on_torch.tensors import to_torch
from gnelint.onnxfile.types import dtype_name
from tests.measure.device import TORCH_DEVICE

RANDOM = frozenset(
    {"Bernoulli", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial"}
)
"""Operators whose results no two implementations share."""


_ROUNDING = 1e-6
"""What rounding may leave, over an output's largest entry: numpy's transforms return 2e-7 for an exact 0."""
_UNITS = 2.0
"""The same in units in the last place, which in 16 bits is more: the cases' own results are rounded at every step."""


@dataclass(frozen=True)
class Outcome:
    """What became of a case: "passed", "failed", "unsupported" (an operator or a type) or "random"."""

    result: str
    line: str = ""


@lru_cache(maxsize=1)
def cases() -> dict[str, Any]:
    """Every node test that the onnx package generates, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: case for case in node_cases.collect_testcases() if case.model is not None}


def run_case(case: Any) -> Outcome:
    """Run one case on its data and compare with the results that come with it."""
    operators = {node.op_type for node in case.model.graph.node}
    if operators & RANDOM or "training_dropout" in case.name:
        return Outcome("random")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.onnx"
        onnx.save(case.model, path)
        try:
            interpreter = open_interpreter(path, Settings(TORCH_DEVICE))
            missing = interpreter.unsupported()
            if missing:
                return Outcome("unsupported", ", ".join(missing))
            for given, wanted in case.data_sets:
                names = [info.name for info in case.model.graph.input]
                feeds = {name: feed(value) for name, value in zip(names, given, strict=False)}
                found = interpreter.run(feeds).values()
                for index, (output, expected) in enumerate(zip(found, wanted, strict=False)):
                    problem = difference(output, expected, case.rtol, case.atol)
                    if problem:
                        return Outcome("failed", f"output {index}: {problem}")
        except CannotRunError as error:
            return Outcome("unsupported", str(error))
        except GnelintError as error:
            unsupported = "tensors of type" in str(error) or "no kernel" in str(error)
            return Outcome("unsupported" if unsupported else "failed", str(error).split("model.onnx: ")[-1])
    return Outcome("passed")


def feed(value: Any) -> Any:
    """A value of a case's data as the interpreter takes it."""
    if value is None:
        return None
    if isinstance(value, onnx.TensorProto):
        return to_torch(numpy_helper.to_array(value), dtype_name(value.data_type) or "")
    if isinstance(value, onnx.SequenceProto):
        return [feed(part) for part in numpy_helper.to_list(value)]
    if isinstance(value, onnx.OptionalProto):
        return feed(numpy_helper.to_optional(value))
    if isinstance(value, (list, tuple)):
        return [feed(part) for part in value]
    array = np.asarray(value)
    if array.dtype.kind in "OUS":
        return array.astype(object)
    return to_torch(array, str(array.dtype))


def difference(found: Any, expected: Any, rtol: float, atol: float) -> str:
    """What is wrong with an output, "" for nothing."""
    if isinstance(expected, (list, tuple)):
        if not isinstance(found, list) or len(found) != len(expected):
            return f"a sequence of {len(expected)} was expected, not {found!r:.80}"
        return next(filter(None, (difference(f, e, rtol, atol) for f, e in zip(found, expected, strict=True))), "")
    expected = feed(expected)
    if expected is None or found is None:
        return "" if expected is found else f"{expected!r:.80} was expected, not {found!r:.80}"
    if isinstance(expected, np.ndarray):
        same = np.asarray(found, dtype=object).tolist() == expected.tolist()
        return "" if same else f"{expected!r:.80} was expected, not {found!r:.80}"
    if not isinstance(found, torch.Tensor) or found.shape != expected.shape or found.dtype != expected.dtype:
        wanted = f"{tuple(expected.shape)} {expected.dtype}"
        return f"{wanted} was expected, not {getattr(found, 'shape', found)} {getattr(found, 'dtype', '')}"
    if expected.is_floating_point() and expected.numel():
        largest = float(_wide(expected).abs().nan_to_num(0, 0, 0).max())
        atol = max(atol, _ROUNDING * largest, _UNITS * torch.finfo(expected.dtype).eps * largest)
    close = torch.isclose(_wide(found), _wide(expected), rtol=rtol, atol=atol, equal_nan=True)
    return "" if bool(close.all()) else f"{int((~close).sum())} of {close.numel()} entries differ"


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.cpu()
    if tensor.dtype.is_complex:
        return tensor.to(torch.complex128)
    return tensor.double()


def selected(substrings: list[str]) -> Iterator[tuple[str, Any]]:
    """The cases whose name or operator contains one of the substrings, in order."""
    for name, case in sorted(cases().items()):
        text = f"{name} {' '.join(node.op_type for node in case.model.graph.node)}".lower()
        if not substrings or any(part.lower() in text for part in substrings):
            yield name, case


def main() -> int:
    counts: Counter[str] = Counter()
    for name, case in selected(sys.argv[1:]):
        outcome = run_case(case)
        counts[outcome.result] += 1
        if outcome.result in ("failed", "unsupported"):
            print(f"{outcome.result:12} {name}: {outcome.line}")
    print(", ".join(f"{count} {result}" for result, count in sorted(counts.items())))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
