"""The table of operators that run on torch: by domain, name and opset. Each family's file adds its own.

A kernel is a function `kernel(call, *inputs)`: inputs in the operator's order, None for one left out; it returns the
output, or a tuple of outputs. It is differentiable by autograd wherever the operator is, never writes into an input and
raises `CannotRunError` for a use that it does not cover.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

Datum = Any
"""A tensor; a list of data for an ONNX sequence; a numpy array of objects for text; None for an empty optional.

Integers of fewer than eight bits are none of these; the interpreter gives them to no kernel as they are."""

Kernel = Callable[..., Datum | tuple[Datum, ...]]

FAMILIES = (
    "activation", "attention", "cast", "contrib", "contrib_attention", "contrib_quantized", "control",
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


def _load() -> None:
    """Import the families, whose decorators fill the table."""
    for family in FAMILIES:
        importlib.import_module(f"gnelint.measure.onnx_on_torch.{family}")
