"""Numbers that a lowering has worked out."""

from __future__ import annotations

import torch

from gnelint.readers.torch.constants import Constant, dtype_name


def written(numbers: torch.Tensor, name: str) -> Constant:
    """Numbers that the reader has worked out, as a constant."""
    return Constant(name, tuple(numbers.shape), dtype_name(numbers.dtype), lambda changed: numbers)
