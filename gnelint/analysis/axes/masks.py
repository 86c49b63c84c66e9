"""Which keys a constant mask shows."""

from __future__ import annotations

import numpy as np

from gnelint.ir.graph import Node, Parameter


def is_causal(node: Node) -> bool | None:
    if node.attribute("causal"):
        return True
    mask = node.parameters.get("mask")
    if mask is None:
        return False if len(node.present_inputs) == 3 else None
    seen = shown(mask)
    return None if seen is None else not bool(np.triu(seen, 1).any())


def shown(mask: Parameter) -> np.ndarray | None:
    """Which keys a query sees by a constant mask, over all heads and samples; None if it is no square."""
    if mask.provenance != "data" or len(mask.shape) < 2 or mask.shape[-1] != mask.shape[-2]:
        return None
    array = mask.array()
    seen = array if array.dtype == bool else np.asarray(array, np.float64) > -1e3
    return np.asarray(seen.reshape(-1, *mask.shape[-2:]).any(axis=0))
