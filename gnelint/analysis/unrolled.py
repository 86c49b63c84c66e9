"""Steps of a recurrence that a program writes out: a state that decays, and to which one layer adds at every step.

Where steps of one layer are added to a state, the gradients that come back to them are the state's own, step after step
m_t = b m_{t-1} + a(x_t): they go along, in full where the state is what is read at the end. The multiplication theorem
counts them as independent, at most log2 T bits too few for T steps. What a layer of recurrent units does with them is
known from formulas; of cells that nobody has a formula for (leaky integrators, spiking neurons, liquid time constants)
only this much is said: how many steps there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gnelint.ir.graph import Graph, Node
from gnelint.ops import families
from gnelint.records import dataclass

FEWEST = 3
"""Steps from which on they count as a recurrence: a layer that is used twice is a pair of branches."""
_MOST = 64
"""Layers remembered for a value: the newest, which keeps the search linear in deep residual networks."""

_FAMILIES = families()
_SUMS = frozenset({"add", "sub"})
_DECAYS = _FAMILIES["activation"] | _FAMILIES["pointwise"] | frozenset({"scale", "mul", "div", "where"})
"""What a state goes through from one step to the next; a residual stream goes through none."""
_KEPT = frozenset({"bias", "identity", "reshape", "slice", "split", "transpose", "dropout", "straight_through"})
_HANDS_ON = _SUMS | _DECAYS | _KEPT


@dataclass(frozen=True)
class _Part:
    """What a value holds of a layer.

    Attributes:
        steps: of the layer that were added up.
        use: the latest of its uses.
        decayed: whether it went through anything since it was last added to.
    """

    steps: int
    use: str
    decayed: bool = False


def unrolled_steps(graph: Graph) -> Mapping[str, int]:
    """By what a layer writes, how many of its steps one decaying state adds up; only those of `FEWEST` and more."""
    uses: dict[str, list[str]] = {}
    for node in graph.nodes:
        if node.op not in _HANDS_ON:
            uses.setdefault(_layer(node), []).extend(node.outputs)
    again = [layer for layer, names in uses.items() if _reads(graph, names) >= FEWEST]
    places = {layer: place for place, layer in enumerate(again)}
    held: dict[str, dict[str, _Part]] = {}
    most: dict[str, int] = {}
    for node in graph.nodes if places else ():
        if node.op in _HANDS_ON:
            parts = _parts(node, held, places)
        else:
            parts = {_layer(node): _Part(1, node.name)} if _layer(node) in places else {}
        for layer, part in parts.items():
            most[layer] = max(most.get(layer, 0), part.steps)
        held.update(dict.fromkeys(node.outputs, parts))
    for layer in most:
        if len(uses[layer]) > 1:  # one use, read again and again, may be any number of steps
            most[layer] = min(most[layer], len(uses[layer]))
    return {name: steps for layer, steps in most.items() if steps >= FEWEST for name in uses[layer]}


def _layer(node: Node) -> str:
    """What all uses of one layer have in common."""
    weight = node.parameters.get("weight")
    return node.name if weight is None else weight.name


def _reads(graph: Graph, names: Sequence[str]) -> int:
    """How often the results of a layer are read."""
    return sum(len(graph.consumers.get(name, ())) for name in names)


def _parts(node: Node, held: Mapping[str, Mapping[str, _Part]], places: Mapping[str, int]) -> dict[str, _Part]:
    """What a node hands on of the layers in front of it."""
    read = [held.get(name, {}) for name in node.present_inputs]
    met = dict.fromkeys(layer for parts in read for layer in parts)
    found: dict[str, _Part] = {}
    for layer in met if len(met) <= _MOST else sorted(met, key=places.__getitem__)[-_MOST:]:
        own = [parts[layer] for parts in read if layer in parts]
        state, *others = sorted(own, key=lambda part: (part.steps, part.decayed), reverse=True)
        added = next((part for part in others if node.op in _SUMS and _is_step(state, part)), None)
        if added is not None:
            found[layer] = _Part(state.steps + 1, added.use)
        else:
            found[layer] = replace(state, decayed=state.decayed or node.op in _DECAYS)
    return found


def _is_step(state: _Part, added: _Part) -> bool:
    """Whether a layer adds something to a state: another use of it, or the same as before."""
    return state.decayed and added.steps == 1 and (state.use != added.use or not added.decayed)
