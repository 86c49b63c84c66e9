"""Parts of a network that keep channels apart, in which kernels of one channel follow each other and are normalised.

A kernel of one channel filters what another one has filtered: how much its taps see of the same is a matter of that
channel's own weights, and a normalisation divides by it. Energies, which are averages over channels, do not know; what
does is the run itself, which costs little (theory 9.10).
"""

from __future__ import annotations

import math

from gnelint.ir.graph import Graph, Node
from gnelint.ops import families

_JOINS = frozenset({"add", "sub", "mean"})
_APART = (
    families()["activation"] | _JOINS | {"batch_norm", "bias", "scale", "identity", "dropout", "avg_pool", "max_pool"}
)
_FEW = 2
"""Kernels from which on a normalisation divides by what their taps have in common."""


def unmixed_runs(graph: Graph) -> tuple[frozenset[str], ...]:
    """Names of each run's nodes: from the first kernel of one channel to the last normalisation behind a second."""
    kernels: dict[str, int] = {}
    before: dict[str, frozenset[str]] = {}
    runs: list[frozenset[str]] = []
    for node in graph.gradient_nodes:
        filters = _is_filter(node)
        if not (filters or node.op in _APART):
            continue
        known = [name for name in node.present_inputs if name in before]
        if not (filters or known):
            continue
        own = frozenset({node.name}).union(*(before[name] for name in known))
        count = max((kernels[name] for name in known), default=0) + max(len(known) - 1, 0)
        if filters and math.prod(node.parameters["weight"].shape[2:]) > 1:
            count += 1
        for name in node.outputs:
            before[name], kernels[name] = own, count
        if node.op == "batch_norm" and node.attribute("training") and count >= _FEW:
            runs = [*(run for run in runs if not run & own), own.union(*(run for run in runs if run & own))]
    return tuple(runs)


def _is_filter(node: Node) -> bool:
    """Whether a node is a convolution of each channel by itself."""
    weight = node.parameters.get("weight")
    if node.op != "conv" or weight is None:
        return False
    return 1 < int(node.attribute("groups")) == weight.shape[0] and weight.shape[1] == 1
