"""Bounds of the theory that nothing in the package needs."""

from __future__ import annotations

import math


def shallow_network_tail(blocks: int, deviation: float, order: int) -> float:
    """Shallow-network bound: how far L blocks with |phi_i - 1| <= deviation can be from an expansion in `order`
    factors.

        sum_{k >= order} C(L, k) deviation^k

    Conservative: it ignores signs (theory 2.5).
    """
    return math.fsum(math.comb(blocks, k) * deviation**k for k in range(order, blocks + 1))
