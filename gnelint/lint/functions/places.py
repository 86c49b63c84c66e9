"""Where entries are taken from: orders that are taken twice, grids whose coordinates change places."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gnelint.ir.graph import Node, Parameter
from gnelint.lint.facts import Facts
from gnelint.lint.functions.signature import function

_VIEWS = frozenset({"reshape", "expand", "identity", "transpose"})
_SORTS = ("aten.sort", "aten.argsort", "TopK")
_SAMPLERS = ("aten.grid_sampler_2d", "aten.grid_sampler.", "GridSample")
_TO_GRID = frozenset({"scale", "identity", "clip"})
_MOST = 1 << 20


def _order(facts: Facts, node: Node) -> tuple[str, bytes] | None:
    """By which order of all entries a node takes them: the result of a sort, or places that the inputs decide.

    None where it takes some of them, where nothing says that places are an order, and of an order that is its own
    inverse; one that the program holds may be meant to be taken again, as in flows.
    """
    if node.op != "gather" or not node.present_inputs:
        return None
    if len(node.present_inputs) > 1:
        name, source = node.present_inputs[1], facts.graph.producers.get(node.present_inputs[1])
        while source is not None and source.op in _VIEWS:
            name = source.present_inputs[0]
            source = facts.graph.producers.get(name)
        return (
            (name, b"") if source is not None and source.source_op.startswith(_SORTS) and _keeps(facts, node) else None
        )
    places = node.parameters.get("indices")
    if places is None or places.name.partition(":")[0] not in facts.graph.deciding or not _keeps(facts, node):
        return None
    return _permutation(places)


def _keeps(facts: Facts, node: Node) -> bool:
    """Whether as many entries are taken as there are."""
    return facts.shape(node) == facts.graph.values[node.present_inputs[0]].concrete_shape is not None


def _permutation(places: Parameter) -> tuple[str, bytes] | None:
    numbers = places.array() if len(places.shape) == 1 and 2 < places.size <= _MOST else None
    if numbers is None or not np.array_equal(np.sort(numbers), np.arange(len(numbers))):
        return None
    numbers = numbers.astype(np.int64)
    return None if np.array_equal(numbers[numbers], np.arange(len(numbers))) else ("", numbers.tobytes())


def _taken_again(facts: Facts, node: Node) -> str:
    """The node in front that takes all entries in an order which this one takes again."""
    order = _order(facts, node)
    if order is None:
        return ""
    before = facts.once(("orders", ""), lambda: {each.name: _order(facts, each) for each in facts.graph.nodes})
    return next(
        (
            name
            for name, other in before.items()
            if other == order
            and facts.graph.positions[name] < facts.graph.positions[node.name]
            and _is_made_of(facts, node, facts.graph.node(name))
        ),
        "",
    )


def _is_made_of(facts: Facts, node: Node, earlier: Node) -> bool:
    source = facts.producer(node)
    if source is None:
        return False
    return source is earlier or any(
        facts.producer(each, place) is earlier
        for each in (source, *facts.nodes_between(earlier, source))
        for place in range(len(each.present_inputs))
    )


def _grids(facts: Facts, node: Node) -> Iterator[np.ndarray]:
    """The constants that are added to the places at which a picture is read, (height, width, 2)."""
    source, turned = facts.producer(node, 1), []
    while source is not None and source.op in (_TO_GRID | {"bias", "transpose"}):
        if source.op == "transpose":
            turned.append(source.attribute("perm"))
        added = source.parameters.get("bias") if source.op == "bias" else None
        shape = facts.shape(source)
        if added is not None and shape is not None and len(shape) == 4 and added.size <= _MOST:
            numbers = added.array()
            numbers = numbers.reshape(*(1 for _ in range(4 - numbers.ndim)), *numbers.shape)
            for perm in reversed(turned):
                numbers = numbers.transpose(perm)
            if numbers.shape[0] == 1 and numbers.shape[-1] == 2:
                yield numbers[0].astype(np.float64)
        source = facts.producer(source)


def _transposed_grid(facts: Facts, node: Node) -> bool:
    """Whether the first coordinate of a regular grid runs down the rows of the result, the second along its columns."""
    return node.source_op.startswith(_SAMPLERS) and any(map(_is_transposed, _grids(facts, node)))


def _is_transposed(grid: np.ndarray) -> bool:
    if min(grid.shape[:2]) < 2:
        return False
    x, y = grid[..., 0], grid[..., 1]
    down, right = np.diff(x, axis=0) > 0.0, np.diff(y, axis=1) > 0.0
    return bool(down.all() and right.all() and (x == x[:, :1]).all() and (y == y[:1]).all())


PLACES = (
    function(
        "taken_again(n)",
        "text",
        _taken_again,
        "the node in front of the gather n that takes all entries in the same order, which inputs decide; or empty",
    ),
    function(
        "transposed_grid(n)",
        "truth",
        _transposed_grid,
        "n reads a picture at a regular grid that gives the row first and the column second: it takes the column first",
    ),
)
