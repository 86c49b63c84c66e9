"""The table of operators that run on torch: by domain, name and opset. Each family's file adds its own.

A kernel is a function `kernel(call, *inputs)`: inputs in the operator's order, None for one left out; it returns the
output, or a tuple of outputs. It is differentiable by autograd wherever the operator is, never writes into an input and
raises `CannotRunError` for a use that it does not cover.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

from gnelint.nn.arrays import TORCH
from gnelint.ops import VOCABULARY
from gnelint.ops.record import OnnxForm, Operation

Datum = Any
"""A tensor; a list of data for an ONNX sequence; a numpy array of objects for text; None for an empty optional.

Integers of fewer than eight bits are none of these; the interpreter gives them to no kernel as they are."""

Kernel = Callable[..., Datum | tuple[Datum, ...]]

FAMILIES = (
    "activation", "attention", "cast", "classical", "contrib", "contrib_attention", "contrib_quantized", "control",
    "convolution", "elementwise", "generators", "image", "indexing", "layout", "linear", "logic", "loss",
    "normalization", "pooling", "quantization", "recurrent", "reduction", "resize", "sequence", "shape", "signal",
)  # fmt: skip
"""The modules of this package that hold kernels."""

_TABLE: dict[tuple[str, str], dict[int, Kernel]] = {}


class CannotRunError(Exception):
    """A use of an operator that its kernel does not cover; the message says which."""


def operator(name: str, *, since: int = 1, domain: str = "") -> Callable[[Kernel], Kernel]:
    """Enter a kernel for an operator from this opset on, up to the next one entered. Decorators can be stacked."""

    def enter(kernel: Kernel) -> Kernel:
        versions = _TABLE.setdefault((domain, name), {})
        if since in versions:
            raise ValueError(f"{domain}.{name} has two kernels since opset {since}")
        versions[since] = kernel
        return kernel

    return enter


def find_kernel(domain: str, name: str, version: int) -> Kernel | None:
    """The kernel of an operator in an opset, None if there is none."""
    _load()
    versions = _TABLE.get((domain, name), {})
    fitting = [since for since in versions if since <= version]
    return versions[max(fitting)] if fitting else None


@cache
def _load() -> None:
    """Import the families, whose decorators fill the table; what has a formula in its record and no kernel gets one."""
    for family in FAMILIES:
        importlib.import_module(f"gnelint.measure.onnx_on_torch.{family}")
    for record in VOCABULARY.values():
        for form in record.onnx or ():
            domain, _, name = form.op_type.rpartition(".")
            if record.function is not None and (domain, name) not in _TABLE:
                operator(name, domain=domain)(_as_recorded(record, form))


def _as_recorded(record: Operation, form: OnnxForm) -> Kernel:
    """The record's formula on torch."""

    def kernel(call: Any, *inputs: Datum) -> Datum:
        defaults = {**record.attributes, **form.defaults}
        read = {ours: call.get(theirs, defaults[ours]) for ours, theirs in form.attributes.items()}
        assert record.function is not None
        return record.function.value(TORCH, *inputs, **{**record.attributes, **form.given, **read})

    return kernel
