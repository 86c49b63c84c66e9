"""ONNX's own operators for the kernels of those that contain them and share their attributes."""

from __future__ import annotations

from dataclasses import replace

from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.table import CannotRunError, Datum, find_kernel

_OPSET = 19


def run_standard(call: Call, name: str, *inputs: Datum) -> Datum:
    """What ONNX's operator of this name makes of the inputs, under the call's attributes.

    Raises:
        CannotRunError: it has no kernel, or does not cover this use.
    """
    kernel = find_kernel("", name, _OPSET)
    if kernel is None:
        raise CannotRunError(f"no kernel for {name}")
    return kernel(replace(call, op_type=name, domain="", version=_OPSET), *inputs)
