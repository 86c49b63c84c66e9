"""Layers over a sequence in place of their steps, which read its slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gnelint.fusion.rolling import index_range
from gnelint.ir.graph import Node, Parameter, Value
from gnelint.ir.rewriter import Rewriter
from gnelint.records import dataclass


@dataclass(frozen=True)
class Slices:
    """The value whose slices the steps read, along which axis, and whether from the end."""

    x: str
    axis: int
    backwards: bool


@dataclass(frozen=True)
class Layer:
    """What the steps become: an operation, the states that it starts from, its parameters and attributes."""

    op: str
    states: tuple[str | None, ...]
    weights: Mapping[str, Parameter]
    attributes: Mapping[str, Any]


def viewed(rewriter: Rewriter, value: str) -> str:
    """What a value is a view of."""
    while (view := rewriter.source(value, "reshape")) is not None:
        value = view.present_inputs[0]
    return rewriter.behind(value) or value


def slices_of(rewriter: Rewriter, inputs: Sequence[str]) -> Slices | None:
    """The sequence that these values, one a step, are all slices of."""
    places: list[int] = []
    found: tuple[str, int] | None = None
    for value in inputs:
        part = viewed(rewriter, value)
        cut = rewriter.producer(part, "slice", "split")
        shape = None if cut is None else rewriter.value(cut.present_inputs[0]).concrete_shape
        if cut is None or shape is None or len(shape) != 3:
            return None
        axis, place = _place(rewriter, cut, part, shape)
        x = rewriter.behind(cut.present_inputs[0])
        batch, features = shape[:axis] + shape[axis + 1 :] if axis < 2 else (0, 0)
        if place is None or rewriter.value(value).concrete_shape not in ((batch, features), (batch, 1, features)):
            return None
        if x is None or (found is not None and found != (x, axis)) or shape[axis] != len(inputs):
            return None
        found = x, axis
        places.append(place)
    order = list(range(len(inputs)))
    if found is None or places not in (order, order[::-1]):
        return None
    return Slices(*found, backwards=places != order)


def _place(rewriter: Rewriter, cut: Node, part: str, shape: tuple[int, ...]) -> tuple[int, int | None]:
    """The axis along which a node cuts, and the one index that a part of it has; None for more."""
    if cut.op == "split":
        axis = cut.attribute("axis") % 3
        alone = set(cut.attribute("sizes")) == {1}
        return axis, cut.outputs.index(rewriter.behind(part) or part) if alone else None
    axis = cut.attribute("axes")[0] % 3
    bounds = index_range(cut, axis, shape[axis], 3)
    return axis, bounds[0] if bounds is not None and bounds[1] == bounds[0] + 1 else None


def put_layer(rewriter: Rewriter, steps: Sequence[Node], read: Slices, layer: Layer) -> None:
    """Put the layer in front of its first step, and let all that reads the steps' states read its own.

    Args:
        steps: the nodes that write a state each, (batch, unit) or (batch, 1, unit), in the order of time.
    """
    first = steps[0]
    shape = rewriter.value(first.outputs[0]).concrete_shape or ()
    whole = (shape[0], len(steps), shape[-1])
    y = _insert(rewriter, first, read, layer, whole)
    _replace_stacks(rewriter, steps, read, y, layer.op)
    for place, node in reversed(list(enumerate(steps))):  # what a step alone reads is no longer read then
        if rewriter.producer(node.outputs[0]) is None:  # nothing reads it any more
            continue
        step = rewriter.without_unread(node)
        at = len(steps) - 1 - place if read.backwards else place
        bounds = {"axes": (1,), "starts": (at,), "ends": (at + 1,), "steps": (1,)}
        if len(shape) == 3:
            rewriter.replace(step, "slice", (y,), layer.op, bounds)
            continue
        row = f"{y}/{at}"
        cut = Node(row, "slice", (y,), (row,), attributes=bounds, source_op=layer.op, scope=step.scope)
        value = rewriter.value(step.outputs[0])
        rewriter.insert(cut, Value(row, (shape[0], 1, shape[1]), value.dtype), step)
        rewriter.replace(step, "reshape", (row,), layer.op)


def _insert(rewriter: Rewriter, first: Node, read: Slices, layer: Layer, shape: tuple[int | str, ...]) -> str:
    """The layer, in front of its first step; the name of what it writes."""
    x, value = read.x, rewriter.value(read.x)
    if read.axis == 0:
        sizes = tuple(value.shape[axis] for axis in (1, 0, 2)) if value.shape is not None else None
        x = f"{first.name}/batch first"
        turn = Node(x, "transpose", (read.x,), (x,), attributes={"perm": (1, 0, 2)}, scope=first.scope)
        rewriter.insert(replace(turn, source_op=layer.op), Value(x, sizes, value.dtype), first)
    name = f"{first.scope}.{layer.op}" if first.scope else ""
    if not name or rewriter.producer(name) is not None:
        name = f"{first.name}/{layer.op}"
    attributes = {**layer.attributes, "reverse": read.backwards}
    node = Node(
        name, layer.op, (x, *layer.states), (name,), layer.weights, attributes, layer.op, first.scope, first.location
    )
    rewriter.insert(node, Value(name, shape, value.dtype), first)
    return name


def _replace_stacks(rewriter: Rewriter, steps: Sequence[Node], read: Slices, y: str, idiom: str) -> None:
    """Let joins of all states, in the order of the steps, be what the layer writes."""
    wanted = [step.outputs[0] for step in steps]
    own = rewriter.value(y).concrete_shape
    for node in rewriter:
        if node.op != "concat" or len(node.present_inputs) != len(wanted) or rewriter.rank(node.outputs[0]) != 3:
            continue
        states = [viewed(rewriter, name) for name in node.present_inputs]
        axis, sizes = node.attribute("axis") % 3, rewriter.value(node.outputs[0]).concrete_shape
        if states != wanted or axis > 1 or own is None or sizes != (own if axis == 1 else (own[1], own[0], own[2])):
            continue
        found = y
        if read.backwards:
            found = f"{node.name}/steps"
            turned = Node(found, "flip", (y,), (found,), attributes={"axes": (1,)}, source_op=idiom, scope=node.scope)
            rewriter.insert(turned, replace(rewriter.value(y), name=found), node)
        if axis == 1:
            rewriter.replace(node, "identity", (found,), idiom)
        else:
            rewriter.replace(node, "transpose", (found,), idiom, {"perm": (1, 0, 2)})
