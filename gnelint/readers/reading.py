"""Reading a target with the reader of its world; only what it needs is loaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gnelint.errors import ModelError
from gnelint.readers.inputs import InputSpec
from gnelint.readers.target import Target
from gnelint.records import dataclass

if TYPE_CHECKING:
    from gnelint.ir.graph import Graph
    from gnelint.readers.torch.reader import Traced


@dataclass(frozen=True)
class Read:
    """A graph, and what can be run of it.

    Attributes:
        graph: what is analysed.
        target: where it was read from; None for a module in hand.
        traced: the PyTorch program that it was read from; None for an ONNX file.
    """

    graph: Graph
    target: Target | None = None
    traced: Traced | None = None


def read_target(target: Target, *, training: bool = True, inputs: Sequence[InputSpec] = ()) -> Graph:
    """Read a target as `open_target` does, for the graph alone."""
    return open_target(target, training=training, inputs=inputs).graph


def open_target(target: Target, *, training: bool = True, inputs: Sequence[InputSpec] = ()) -> Read:
    """Read a target with the reader of its world.

    Raises:
        ModelError: it cannot be read, or it needs PyTorch and that is not installed.
    """
    if target.kind == "onnx":
        from gnelint.readers.onnx.reader import read

        assert target.path is not None
        return Read(read(target.path, training=training, inputs=tuple(inputs)), target)
    require_torch(target)
    if target.kind == "pt2":
        from gnelint.readers.torch.reader import trace_pt2

        assert target.path is not None
        traced = trace_pt2(target.path, training=training, inputs=inputs)
    else:
        from gnelint.readers.torch.target import trace_python

        traced = trace_python(target, training=training, inputs=inputs)
    return Read(traced.graph, target, traced)


def require_torch(target: Target) -> None:
    """See that PyTorch is there, for a target that needs it.

    Raises:
        ModelError: it is not.
    """
    if target.kind != "onnx" and importlib.util.find_spec("torch") is None:
        advice = 'Install it: pip install "gnelint[torch]"'
        raise ModelError(target.text, "needs PyTorch, which is not installed", advice)
