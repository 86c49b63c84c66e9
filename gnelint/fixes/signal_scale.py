"""How large the signal inside a chain may be, so that its samples stay of like scale.

An activation with chi > 1 drives samples of unlike scale apart (theory.sensitivity): behind fifty GELUs with unit
pre-activations most have shrunk to nothing and a few carry all of the gradient, whatever the gains are. Where signals
are small such an activation is nearly linear. So the first layer of the chain makes them small, the biases behind it
are scaled along, and the last layer makes up for it: f(alpha x) / alpha in place of f, the gradient's norm from end to
end unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from itertools import pairwise

import numpy as np

from gnelint.analysis.prediction import Prediction
from gnelint.components import component_class
from gnelint.components.activation import Pointwise
from gnelint.fixes.base import scalable
from gnelint.lint.chains import Layer
from gnelint.lint.pattern import TRANSPARENT
from gnelint.ops import families
from gnelint.records import dataclass
from gnelint.theory.gaussian.sensitivity import amplification, scaled_averages

TOLERATED = math.log(4)
"""Log of what may become of the deviations of log q from sample to sample over a whole chain at the usual signals:
twelve GELUs then still measure within a factor of 1.6 of the prediction."""
BOUND = math.log(1.1)
"""The same once signals are made small. A few large samples matter most, and those deviate by more than most."""
SETTLED = 1.1
"""Times the second moment wanted that the first pre-activations may have, for biases to be in proportion to it."""
SMALLEST = 1e-6
"""Second moment below which no chain's signal is put."""
LARGEST = 1e6
"""Second moment of pre-activations beyond which none is looked for."""


@dataclass(frozen=True)
class SignalScales:
    """What layers are to do instead of keeping the gradient's norm.

    Attributes:
        bits: log2 of what a layer is to multiply the squared gradient norm by, by its name; 0 if it is not named.
        biases: log2 of the factor on a stored bias, by its name.
        notes: why, a sentence for each chain.
    """

    bits: Mapping[str, float] = field(default_factory=dict)
    biases: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def signal_scales(prediction: Prediction, runs: Sequence[Sequence[Layer]]) -> SignalScales:
    """The scale of the signal in each run of layers that needs another than the usual one."""
    bits: dict[str, float] = {}
    biases: dict[str, float] = {}
    notes: list[str] = []
    for run in runs:
        functions = _functions(prediction, run)
        arriving = _arriving(prediction, run[0])
        now = _second_moment(prediction, run[0].node.outputs[0])
        if functions is None or not arriving or not now:
            continue
        usual = _start(functions[0], arriving)
        small = _smaller(functions, usual)
        if small is None:
            continue
        phi = _phi(functions[0], small)
        bits[run[0].node.name] = math.log2(small * phi / arriving)
        bits[run[-1].node.name] = -bits[run[0].node.name]
        if now > SETTLED * small:
            for layer in run[:-1]:
                bias = layer.node.parameters.get("bias")
                stored = None if bias is None else scalable(bias)
                if stored is not None:
                    biases[stored.name] = math.log2(small / now) / 2
        notes.append(_note(run, functions, usual, math.sqrt(small / usual)))
    return SignalScales(bits, biases, tuple(notes))


def _note(run: Sequence[Layer], functions: Sequence[Pointwise], usual: float, factor: float) -> str:
    name, growth = functions[0].node.op, amplification(functions, usual) / math.log(2)
    first, last = run[0].node.name, run[-1].node.name
    return (
        f"{len(functions)} times {name} would drive samples of unlike scale apart by 2^{growth:.1f}, at any gain. So "
        f"layer {first} makes the signals {factor:.2g} times as large, where {name} is nearly linear, biases are "
        f"scaled along, and {last} makes up for it. Train it with small steps: the weights of {first} are small."
    )


def _functions(prediction: Prediction, run: Sequence[Layer]) -> list[Pointwise] | None:
    """The activations of a run, None where it is not a chain of layers with one known function behind each."""
    activation, found = families()["activation"], []
    for layer in run:
        if any(node.op not in TRANSPARENT | activation for node in layer.nodes[1:]):
            return None
        nodes = [node for node in layer.nodes if node.op in activation]
        if not nodes and layer is run[-1]:
            continue
        cls = component_class(nodes[0].op) if len(nodes) == 1 and not nodes[0].parameters else None
        if cls is None or not issubclass(cls, Pointwise):
            return None
        found.append(cls(nodes[0], ((1, 1),), ((1, 1),)))
    together = all(_leads_to(prediction, before, behind) for before, behind in pairwise(run))
    return found if len(run) > 1 and together else None


def _leads_to(prediction: Prediction, before: Layer, behind: Layer) -> bool:
    """Whether between two layers there is nothing, or only what scales with its input."""
    graph, value = prediction.graph, behind.entry
    while value != before.exit:
        node = graph.producers.get(value)
        if node is None or node.op not in families()["pooling"] | TRANSPARENT or node.inputs[0] is None:
            return False
        value = node.inputs[0]
    return True


def _arriving(prediction: Prediction, layer: Layer) -> float | None:
    """E x^2 of what a run reads."""
    if layer.entry in prediction.graph.inputs:
        return 1.0
    return _second_moment(prediction, layer.entry)


def _second_moment(prediction: Prediction, value: str) -> float | None:
    producer = prediction.graph.producers.get(value)
    found = None if producer is None else prediction.by_node.get(producer.name)
    return None if found is None else found.second_moment


def _start(function: Pointwise, arriving: float) -> float:
    """E z^2 behind a weight with which the layer keeps the gradient: E z^2 phi(act) = E x^2."""
    return _halved(lambda second: second * _phi(function, second) > arriving, 1.0 / LARGEST, LARGEST)


def _smaller(functions: Sequence[Pointwise], usual: float) -> float | None:
    """The largest E z^2 at the start with which deviations stay bounded; None if the usual will do, or none does."""
    if amplification(functions, usual) <= TOLERATED or amplification(functions, SMALLEST) > BOUND:
        return None
    return _halved(lambda second: amplification(functions, second) > BOUND, SMALLEST, usual)


def _halved(above: Callable[[float], bool], low: float, high: float) -> float:
    """Where something begins to be true, between two positive numbers, to a percent."""
    while high > 1.01 * low:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if above(middle) else (middle, high)
    return low


def _phi(function: Pointwise, second: float) -> float:
    """E f'^2 of Gaussian pre-activations."""
    return scaled_averages(function, np.zeros(1), np.array([second]), 1.0)[1]
