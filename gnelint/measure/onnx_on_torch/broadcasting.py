"""How the second operand of an elementwise operator meets the first."""

from __future__ import annotations

from torch import Tensor

from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.table import CannotRunError

NUMPY_SINCE = 7
"""The opset from which on operands broadcast as in numpy."""


def aligned(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """B shaped so that torch combines it with A as the opset says: before 7 by the attributes `broadcast` and `axis`.

    Raises:
        CannotRunError: the shapes do not fit under the rules of the early opsets.
    """
    if call.version >= NUMPY_SINCE or a.shape == b.shape:
        return b
    if not call.get("broadcast"):
        raise CannotRunError(f"shapes {list(a.shape)} and {list(b.shape)} without the attribute broadcast")
    if b.numel() == 1:
        return b.reshape(()).expand(a.shape)
    axis = call.get("axis")
    first = a.dim() - b.dim() if axis is None else axis + (a.dim() if axis < 0 else 0)
    behind = a.dim() - first - b.dim()
    if first < 0 or behind < 0:
        raise CannotRunError(f"shape {list(b.shape)} beside {list(a.shape)} from axis {axis}")
    return b.reshape(b.shape + (1,) * behind).expand(a.shape)
