"""Operators that act on each entry: arithmetic, activations, comparisons, logic, casts."""

from __future__ import annotations

from torch import Tensor

from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.table import operator


@operator("Relu")
def relu(call: Call, x: Tensor) -> Tensor:
    """max(x, 0)."""
    return x.relu()
