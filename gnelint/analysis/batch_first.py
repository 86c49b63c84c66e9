"""The batch in front of all else, for networks that keep it elsewhere.

Axis 0 is taken to be the batch (theory 9.1): what entries of one sample have in common decides what an average over
positions keeps and what attention passes. Multi-head attention, the Transformer and recurrent layers of torch put the
positions first, [T, B, E], and merge both, [T B, E]. The network is analysed as if they did not: each value that has
the batch elsewhere takes it to the front, and what reads it works along the same axes, wherever these are then.

A part of the network in which anything else reads such a value stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gnelint.analysis.turns import Shape, StuckError, Turn, Turned
from gnelint.ir.graph import Graph, Mapped, Node, Parameter
from gnelint.ops import VOCABULARY
from gnelint.records import dataclass


def batch_first(graph: Graph) -> Turned:
    """The network with the batch of every value in front, as far as its operations allow.

    The inputs have it at axis 0, or at axis 1 where attention or a recurrent layer runs along axis 0 and never along
    axis 1. The result computes the same numbers, its values turned.
    """
    if graph.subgraphs or not graph.inputs:
        return Turned(graph, {})
    placing = _Placing(graph, 0)
    if placing.mixed:
        other = _Placing(graph, 1)
        placing = placing if other.mixed else other
    return placing.result()


@dataclass(frozen=True)
class _Draft:
    """A node as it is once its values are turned, and where its outputs have the batch."""

    node: Node
    turns: tuple[Turn, ...]


class _Placing:
    """Where every value has its batch, if the inputs have it at one axis.

    Attributes:
        turns: by the name of the value; those that come plainly first are among them.
        mixed: whether anything that goes along a sequence goes along the batch.
    """

    def __init__(self, graph: Graph, axis: int) -> None:
        self.graph = graph
        self.turns: dict[str, Turn] = {}
        self.mixed = False
        self._drafts: dict[str, _Draft] = {}
        self._stuck: set[str] = set()
        shapes = {name: graph.values[name].concrete_shape or () for name in graph.inputs}
        self._batch = next((shape[axis] for shape in shapes.values() if len(shape) > axis), 0)
        for name, shape in shapes.items():
            if self._batch and len(shape) > axis and shape[axis] == self._batch:
                self.turns[name] = Turn(shape, axis)
        for node in graph.nodes if self.turns else ():
            self._place(node)

    def _place(self, node: Node) -> None:
        turns = [None if name is None else self.turns.get(name) for name in node.inputs]
        turns = self._with_constants(node, turns) if node.op == "attention" else turns
        known = [turn for turn in turns if turn is not None]
        self.mixed |= any(turn.axis == _along(node, turn) for turn in known)
        lies_elsewhere = not all(turn.plain for turn in known)
        if lies_elsewhere or (known and node.op in _LAYOUT):
            draft = self._draft(node, turns)
            if draft is not None:
                self._drafts[node.name] = draft
                self.turns.update(zip(node.outputs, draft.turns, strict=True))
                return
        if lies_elsewhere:
            self._stuck.update(node.present_inputs)
        for name in node.outputs:
            shape = self.graph.values[name].concrete_shape
            if shape and shape[0] == self._batch:
                self.turns[name] = Turn(shape)

    def _with_constants(self, node: Node, turns: list[Turn | None]) -> list[Turn | None]:
        """Learnt queries that were computed for each sample and head lie as the keys do, if nothing else reads them."""
        place = next((turn for turn in turns if turn is not None and (turn.axis, turn.before) == (0, 1)), None)
        if place is None or place.plain:
            return turns
        for index, name in enumerate(node.inputs):
            source = None if name is None or turns[index] is not None else self.graph.producers.get(name)
            if name is None or source is None or source.op != "constant" or len(self.graph.consumers[name]) > 1:
                continue
            value = source.parameters["value"]
            if len(value.shape) == len(place.shape) and value.shape[0] == place.shape[0]:
                turn = self.turns[name] = turns[index] = replace(place, shape=value.shape)
                held = replace(
                    value, shape=turn.turned, load=Mapped(value, _reshaped_to(turn.turned)), permutation=None
                )
                self._drafts[source.name] = _Draft(replace(source, parameters={"value": held}), (turn,))
        return turns

    def _draft(self, node: Node, turns: Sequence[Turn | None]) -> _Draft | None:
        """What a node becomes; None where it cannot read what has its batch elsewhere."""
        form = _FORMS.get(node.op)
        if form is None and node.op in VOCABULARY and VOCABULARY[node.op].family in _ENTRY_BY_ENTRY:
            form = _entry_by_entry
        shapes = [self.graph.values[name].concrete_shape for name in node.outputs]
        if form is None or None in shapes:
            return None
        try:
            return form(_Reading(self.graph, node, turns, [shape or () for shape in shapes]))
        except StuckError:
            return None

    def result(self) -> Turned:
        """The network with the parts turned in which everything can be."""
        elsewhere = {name for name, turn in self.turns.items() if not turn.plain}
        kept = {name for part in self._parts(elsewhere) if self._pays(part) for name in part}
        if not kept:
            return Turned(self.graph, {})
        nodes = tuple(
            self._drafts[node.name].node if not kept.isdisjoint((*node.present_inputs, *node.outputs)) else node
            for node in self.graph.nodes
        )
        turns = {name: self.turns[name] for name in kept}
        values = {
            name: replace(value, shape=turns[name].turned) if name in turns else value
            for name, value in self.graph.values.items()
        }
        return Turned(replace(self.graph, nodes=nodes, values=values), turns)

    def _pays(self, part: frozenset[str]) -> bool:
        """Whether everything can read the values of a part, and a layer works on any that has its batch elsewhere: a
        stack of queries, keys and values, in front of which the batch stood first, is only taken apart."""
        return part.isdisjoint(self._stuck) and any(
            (self.turns[name].axis or self.turns[name].before > 1) and _is_layer(node)
            for name in part
            for node in self.graph.consumers.get(name, ())
        )

    def _parts(self, elsewhere: set[str]) -> list[frozenset[str]]:
        """The values of this set, those together that hang together by nodes."""
        part_of: dict[str, set[str]] = {name: {name} for name in elsewhere}
        for node in self.graph.nodes:
            touched = [name for name in dict.fromkeys((*node.present_inputs, *node.outputs)) if name in elsewhere]
            for name in touched[1:]:
                first, other = part_of[touched[0]], part_of[name]
                if first is not other:
                    small, large = sorted((first, other), key=len)
                    large |= small
                    part_of.update(dict.fromkeys(small, large))
        return [frozenset(part) for part in {id(part): part for part in part_of.values()}.values()]


def _reshaped_to(shape: Shape) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: array.reshape(shape)


def _is_layer(node: Node) -> bool:
    return node.op in VOCABULARY and VOCABULARY[node.op].family in ("linear", "normalization")


def _along(node: Node, turn: Turn) -> int | None:
    """The axis of an input that a node goes along as along a sequence; None for one that does not."""
    if node.op == "attention":
        return 1 if node.attribute("packed") else len(turn.shape) - 2
    return 1 if node.op in ("lstm", "gru", "rnn") and len(turn.shape) == 3 else None


# --- what each operation becomes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reading:
    """A node, and where the values that it reads have their batch.

    Attributes:
        turns: of its inputs; None for one that has none, or that is not there.
        shapes: of its outputs.
    """

    graph: Graph
    node: Node
    turns: Sequence[Turn | None]
    shapes: Sequence[Shape]

    @property
    def known(self) -> list[Turn]:
        """Of the inputs that have a batch."""
        return [turn for turn in self.turns if turn is not None]

    @property
    def first(self) -> Turn:
        """Of the first input that has a batch."""
        return self.known[0]

    def alike(self, turns: Sequence[Turn | None]) -> bool:
        """Whether all these inputs have a batch, and at one place."""
        first = self.first
        return all(turn is not None and turn.stands_as(first) for turn in turns)

    def axis(self) -> int:
        """The attribute `axis`, as it is then."""
        return self.first.axis_of(int(self.node.attribute("axis")))

    def axes(self) -> tuple[int, ...]:
        """The attribute `axes`."""
        axes = self.node.attribute("axes")
        if axes is None:
            raise StuckError
        return tuple(self.first.axis_of(int(axis)) for axis in axes)

    def with_attributes(self, **changed: Any) -> Node:
        """The node with other attributes."""
        return replace(self.node, attributes={**self.node.attributes, **changed})

    def same(self, node: Node | None = None) -> _Draft:
        """The node's outputs have their batch where its input has it."""
        turn = self.first
        return _Draft(self.node if node is None else node, tuple(self._alike(turn, shape) for shape in self.shapes))

    def _alike(self, turn: Turn, shape: Shape) -> Turn:
        if len(shape) != len(turn.shape) or shape[turn.axis] != turn.shape[turn.axis]:
            raise StuckError
        return replace(turn, shape=shape)

    def shaped(self, turn: Turn, op: str = "reshape", attributes: Mapping[str, Any] | None = None) -> _Draft:
        """A node that moves entries, and writes a value that has its batch here."""
        return _Draft(replace(self.node, op=op, attributes=dict(attributes or {})), (turn,))


def _entry_by_entry(reading: _Reading) -> _Draft:
    """Operands that broadcast: each has its batch where the others have it, or none and fewer axes than lie behind."""
    node, turn, rank = reading.node, reading.first, len(reading.shapes[0])
    if (node.op == "dropout" and node.attribute("alike")) or node.op == "prelu":  # which name axes
        raise StuckError
    if not reading.alike(reading.known):
        raise StuckError
    for name, other in zip(node.inputs, reading.turns, strict=True):
        shape = reading.graph.values[name].shape if name is not None and other is None else ()
        if shape is None or not _behind(shape, rank, turn):
            raise StuckError
    parameters = {role: _parameter(each, rank, turn) for role, each in node.parameters.items()}
    return reading.same(replace(node, parameters=parameters))


def _behind(shape: Sequence[int | str], rank: int, turn: Turn) -> bool:
    """Whether an operand without a batch meets no axis that moves."""
    return rank - len(shape) > turn.axis


def _parameter(parameter: Parameter, rank: int, turn: Turn) -> Parameter:
    if _behind(parameter.shape, rank, turn):
        return parameter
    if len(parameter.shape) == rank and turn.alone:
        return parameter.permuted(turn.order(range(rank)))
    raise StuckError


def _along_last(reading: _Reading) -> _Draft:
    if reading.first.axis == len(reading.first.shape) - 1:
        raise StuckError
    return reading.same()


def _over_axes(reading: _Reading) -> _Draft:
    """Normalisations over named axes, whose scales and biases have just these."""
    axes = reading.axes()
    if any(len(each.shape) > len(axes) for each in reading.node.parameters.values()):
        raise StuckError
    return reading.same(reading.with_attributes(axes=axes))


def _over_axis(reading: _Reading) -> _Draft:
    if reading.node.parameters:
        raise StuckError
    return reading.same(reading.with_attributes(axis=reading.axis()))


def _joined(reading: _Reading) -> _Draft:
    if not reading.alike(reading.turns):
        raise StuckError
    return _over_axis(reading)


def _reduced(reading: _Reading) -> _Draft:
    node = reading.with_attributes(axes=reading.axes())
    if node.attribute("keepdims"):
        return reading.same(node)
    turn = reading.first
    gone = sum(int(axis) % len(turn.shape) < turn.axis for axis in reading.node.attribute("axes"))
    return _Draft(node, (replace(turn, shape=reading.shapes[0], axis=turn.axis - gone),))


def _sliced(reading: _Reading) -> _Draft:
    return reading.same(reading.with_attributes(axes=reading.axes()))


def _picked(reading: _Reading) -> _Draft:
    """Constant indices along an axis that is not the batch's."""
    indices = reading.node.parameters.get("indices")
    if indices is None or len(indices.shape) > 1 or reading.node.attribute("along"):
        raise StuckError
    node, turn = reading.with_attributes(axis=reading.axis()), reading.first
    gone = not indices.shape and int(reading.node.attribute("axis")) % len(turn.shape) < turn.axis
    return _Draft(node, (replace(turn, shape=reading.shapes[0], axis=turn.axis - gone),))


def _looked_up(reading: _Reading) -> _Draft:
    return _Draft(reading.node, (replace(reading.first, shape=reading.shapes[0]),))


def _attended(reading: _Reading) -> _Draft:
    """Heads merged with the batch get an axis of their own."""
    node, turn = reading.node, reading.first
    mask = node.parameters.get("mask")
    hides = any(node.inputs[3:]) or (mask is not None and any(size != 1 for size in mask.shape[:-2]))
    if node.attribute("packed"):
        hides |= node.attribute("heads") != 1 or (node.attribute("kv_heads") or 1) != 1
        node = reading.with_attributes(packed=False, heads=None, kv_heads=None)
    if hides or turn.axis or turn.before > 1 or not reading.alike(reading.turns[:3]):
        raise StuckError
    return reading.same(node)


def _multiplied(reading: _Reading) -> _Draft:
    """Matrices along the last two axes, the batch in front of them."""
    if not reading.alike(reading.turns) or reading.first.axis >= min(len(each.shape) for each in reading.known) - 2:
        raise StuckError
    return reading.same()


def _reshaped(reading: _Reading) -> _Draft:
    return reading.shaped(reading.first.moved(reading.shapes[0]))


def _transposed(reading: _Reading) -> _Draft:
    turn, perm = reading.first, [int(axis) for axis in reading.node.attribute("perm")]
    found = replace(turn, shape=reading.shapes[0], axis=perm.index(turn.axis))
    before, after = turn.order(range(len(perm))), turn.order(perm)
    moved = [before.index(place) for place in after]
    return reading.shaped(found, "transpose", {"perm": tuple(moved)})


_LAYOUT = frozenset({"reshape", "transpose"})
"""Operations that take a batch away from the front."""
_FORMS: Mapping[str, Callable[[_Reading], _Draft]] = {
    "attention": _attended,
    "concat": _joined,
    "embedding": _looked_up,
    "gather": _picked,
    "layer_norm": _over_axes,
    "l1_norm": _over_axes,
    "l2_normalize": _over_axes,
    "linear": _along_last,
    "log_softmax": _over_axis,
    "matmul": _multiplied,
    "reshape": _reshaped,
    "rms_norm": _over_axes,
    "slice": _sliced,
    "softmax": _over_axis,
    "split": _over_axis,
    "transpose": _transposed,
    **dict.fromkeys(("bias", "scale", "identity", "dropout", "stop_gradient", "straight_through"), _entry_by_entry),
    **dict.fromkeys(("add", "sub", "mul", "div", "mean", "maximum", "minimum", "hypot", "where"), _entry_by_entry),
    **dict.fromkeys(("compare", "logical"), _entry_by_entry),
    **dict.fromkeys(("reduce_mean", "reduce_sum", "reduce_max", "reduce_min", "reduce_l2"), _reduced),
}
_ENTRY_BY_ENTRY = ("activation", "pointwise")
"""Families of operations that read each entry by itself."""
