"""Reading a target with the reader of its world; only what it needs is loaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from gnelint.errors import ModelError
from gnelint.ir.graph import Graph
from gnelint.readers.inputs import InputSpec
from gnelint.readers.target import Target


def read_target(target: Target, *, training: bool = True, inputs: Sequence[InputSpec] = ()) -> Graph:
    """Read a target with the reader of its world.

    Raises:
        ModelError: it cannot be read, or it needs PyTorch and that is not installed.
    """
    if target.kind == "onnx":
        from gnelint.readers.onnx.reader import read

        assert target.path is not None
        return read(target.path, training=training, inputs=tuple(inputs))
    require_torch(target)
    if target.kind == "pt2":
        from gnelint.readers.torch.reader import read_pt2

        assert target.path is not None
        return read_pt2(target.path, training=training, inputs=inputs)
    from gnelint.readers.torch.target import read_python

    return read_python(target, training=training, inputs=inputs)


def require_torch(target: Target) -> None:
    """See that PyTorch is there, for a target that needs it.

    Raises:
        ModelError: it is not.
    """
    if target.kind != "onnx" and importlib.util.find_spec("torch") is None:
        advice = 'Install it: pip install "gnelint[torch]"'
        raise ModelError(target.text, "needs PyTorch, which is not installed", advice)
