"""What layers that were trained together do to the gradient beyond what each does by itself.

Units that feed the same outputs come to read the same inputs. A gradient that comes back through the second of two
such layers, (B s)^T g with the slopes s between them, is no white one to the first: with the units' Gram matrices
S = A A^T and M = B B^T (rows of A and of B, a unit's), slopes independent of the gradient and of each other,

    E |A^T s B^T g|^2 / (sum of M_ii S_ii E s_i^2) = 1 + q sum_{i != j} M_ij S_ij / sum_i M_ii S_ii

for a white g, with q = (E s)^2 / E s^2. Of independent draws the second term is 0 on average. Convolutions count the
entries of one position. What is further apart than the next layer, or joined to others, is left out, and stated.

Source: theory 11 has the same product as evidence of training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from gnelint.analysis.rows import Behind, layer_behind
from gnelint.ir.graph import Graph, Node
from gnelint.ops import VOCABULARY
from gnelint.theory.fields.cells import total_average
from gnelint.theory.fields.moments import Moments
from gnelint.theory.gaussian.special import normal_cdf

MOST_UNITS, MOST_ENTRIES = 128, 1024
"""Units and entries of each that are looked at, evenly over the layers."""
LEAST = 1.0 / 16.0
"""The smallest factor: what is left where trained units cancel, slopes that are no draws let through."""
UNKNOWN_BITS, KNOWN_BITS, KNOWN_SHARE = 0.35, 0.2, 0.1
"""Errors of one sign: of a trained layer whose next one is not known, of one whose is, and as a share of its bits; from
eleven trained files of six packages."""
_SMOOTH = 0.8
"""q of activations whose slope is no step."""
_LAYERS = frozenset({"linear", "conv", "conv_transpose", "lstm", "gru", "rnn"})
_STEPS = frozenset({"relu", "leaky_relu", "prelu", "clip"})


def aligned(graph: Graph, moments: Mapping[str, Moments]) -> dict[str, float]:
    """The factor of the gradient's squared norm at each layer that another one follows, by the first one's name."""
    found: dict[str, float] = {}
    for node in graph.nodes:
        behind = layer_behind(graph, node)
        if behind is not None:
            factor = _factor(node, behind, moments)
            if factor is not None and math.isfinite(factor):
                found[node.name] = factor
    return found


def error_bits(graph: Graph, factors: Mapping[str, float]) -> dict[str, float]:
    """What is left out at each layer of a trained network, by its name."""
    layers = (node.name for node in graph.nodes if node.op in _LAYERS and "weight" in node.parameters)
    return {
        name: KNOWN_BITS + KNOWN_SHARE * abs(math.log2(factors[name])) if name in factors else UNKNOWN_BITS
        for name in layers
    }


def _factor(first: Node, behind: Behind, moments: Mapping[str, Moments]) -> float | None:
    units = first.parameters["weight"].shape[0]
    step = -(-units // MOST_UNITS)
    ours = _rows(np.asarray(first.parameters["weight"].array())[::step])
    theirs = _rows(np.moveaxis(np.asarray(behind.node.parameters["weight"].array())[:, ::step], 1, 0))
    theirs = theirs * _scales(behind.between, units)[::step, None]
    products = (ours @ ours.T) * (theirs @ theirs.T)
    count, alone = len(products), float(np.trace(products))
    if count < 2 or not alone > 0:
        return None
    together = (float(products.sum()) - alone) / (count - 1) * (units - 1)
    return max(LEAST, 1.0 + _kept(behind.between, moments) * together / alone)


def _rows(weight: np.ndarray) -> np.ndarray:
    rows = weight.reshape(len(weight), -1)
    return rows[:, :: -(-rows.shape[1] // MOST_ENTRIES)].astype(np.float64)


def _scales(between: Sequence[Node], units: int) -> np.ndarray:
    """What normalisations and scales between the layers multiply each unit by."""
    found = np.ones(units)
    for node in between:
        scale, variance = (node.parameters.get(role) for role in ("scale", "running_var"))
        for parameter, power in ((scale, 1.0), (variance, -0.5)):
            if parameter is not None and parameter.size == units:
                numbers = np.abs(np.asarray(parameter.array(), np.float64).reshape(-1))
                found = found * np.maximum(numbers, 1e-12) ** power
    return found


def _kept(between: Sequence[Node], moments: Mapping[str, Moments]) -> float:
    """q: of all that stands between two layers."""
    found = 1.0
    for node in between:
        if node.op == "max_pool":
            found /= math.prod(node.attributes.get("kernel") or (1,))
        elif node.op in _STEPS:
            found *= _passes(moments.get(node.present_inputs[0]))
        elif VOCABULARY[node.op].family in ("activation", "pointwise"):
            found *= _SMOOTH
    return found


def _passes(x: Moments | None) -> float:
    """The share of Gaussian entries above 0."""
    if x is None:
        return 0.5
    deviation = np.sqrt(np.maximum(x.variance, 1e-300))
    return total_average(np.asarray(normal_cdf(x.mean / deviation)), x.axes)
