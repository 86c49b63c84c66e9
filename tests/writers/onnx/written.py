"""What every written ONNX model is asked: is it valid, does it run, do both runtimes agree?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from gnelint.fixes.edits import Action, Edit
from gnelint.ir.graph import Graph
from gnelint.readers.onnx.reader import read
from gnelint.writers.base import Unmade
from gnelint.writers.onnx.writer import write_onnx
from tests.measure.onnx_on_torch.agreement import compared, drawn_inputs, reference

LIMIT = 1e-5


def because(action: Action) -> Edit:
    """The action as an edit of some rule."""
    return Edit(action, "GNE101", (), "gain", "init")


def write(source: Path, actions: Sequence[Action], output: Path, **options: Any) -> tuple[Unmade, ...]:
    training = options.pop("training", True)
    return write_onnx(source, [because(action) for action in actions], output, graph=read(source, training=training), **options)  # fmt: skip  # noqa: E501


def written(source: Path, actions: Sequence[Action], **options: Any) -> tuple[onnx.ModelProto, Graph]:
    """The model and its graph after all of the actions, checked."""
    output = source.with_name("fixed.onnx")
    unmade = write(source, actions, output, **options)
    assert unmade == ()
    assert_good(output)
    return onnx.load(str(output), load_external_data=False), read(output, training=options.get("training", True))


def assert_good(path: Path) -> None:
    """The full check passes; ONNX Runtime runs it; torch gives the same outputs."""
    onnx.checker.check_model(str(path), full_check=True)
    found = compared(path)
    assert found.result == "matches", f"{found.result} {found.error} {found.line}"
    assert found.error is not None
    assert found.error <= LIMIT


def outputs(path: Path, like: Path | None = None) -> Mapping[str, np.ndarray]:
    """What ONNX Runtime computes on fixed random inputs."""
    return reference(path, drawn_inputs(like or path))


def assert_same_function(first: Path, second: Path) -> None:
    """Both give the same outputs, under the same names."""
    wanted, found = outputs(first), outputs(second)
    assert wanted.keys() == found.keys()
    for name, array in wanted.items():
        assert found[name].shape == array.shape
        assert np.abs(found[name] - array).max() <= LIMIT * max(np.abs(array).max(), 1e-30), name
