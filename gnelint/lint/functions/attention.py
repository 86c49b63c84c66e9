"""How attention that is written out goes wrong: a softmax along the wrong axis, a mask that hides nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from gnelint.analysis.axes.layout import labels, sizes
from gnelint.analysis.ranges import cosine_bound, vector_length
from gnelint.ir.graph import Node
from gnelint.lint.facts import Facts
from gnelint.lint.functions.signature import function

_NONE = "none"
_TO_LOGITS = frozenset({"scale", "bias", "where", "add", "identity", "dropout", "clip", "sub"})
_TO_VALUES = frozenset({"identity", "dropout", "scale", "where"})
_CHOICES = frozenset({"compare", "logical"})
_POSITIONS = 4
_SEEN = -1e3
"""What hides is below this."""
_HIDES = -20.0
"""A logit below this is as good as hidden: its weight is 2e-9 of that of a logit of 0."""


def _over_queries(facts: Facts, node: Node) -> bool:
    """Whether shares of products are taken along one axis and summed with along another one, and nowhere else."""
    if not _reads_products(facts, node):
        return False
    rank = len(facts.shape(node) or ())
    if rank < 2:
        return False
    contracted = list(_contractions(facts, node, node.attribute("axis") % rank))
    return bool(contracted) and not any(contracted)


def _reads_products(facts: Facts, node: Node) -> bool:
    source, pending = None, list(node.present_inputs)
    while pending:
        source = facts.graph.producers.get(pending.pop())
        if source is not None and source.op == "matmul" and len(source.present_inputs) == 2:
            return True
        if source is not None and source.op in _TO_LOGITS:
            pending += source.present_inputs
    return False


def _contractions(facts: Facts, node: Node, axis: int) -> Iterator[bool]:
    """Of each product that reads the shares: whether it sums along their axis; true for any other reader."""
    for value in node.outputs:
        if value in facts.graph.outputs:
            yield True
        for reader in facts.graph.consumers.get(value, ()):
            shape = facts.graph.values[value].concrete_shape
            if shape is None:
                yield True
            elif reader.op in _TO_VALUES:
                yield from _contractions(facts, reader, axis)
            elif reader.op == "transpose":
                yield from _contractions(facts, reader, list(reader.attribute("perm")).index(axis))
            elif reader.op == "matmul":
                first = reader.inputs[0] == value
                turned = bool(reader.attribute("transpose_a" if first else "transpose_b"))
                yield axis == len(shape) - (1 if first != turned else 2)
            else:
                yield True


def _highest_share(facts: Facts, node: Node) -> float | None:
    """The most that one key can get where logits are bounded: the best of n at c and all others at -c."""
    keys, bound = _bounded_logits(facts, node)
    return None if bound is None or keys < 2 else 1.0 / (1.0 + (keys - 1) * math.exp(-2.0 * bound))


def _bounded_logits(facts: Facts, node: Node) -> tuple[int, float | None]:
    """How many keys there are, and the bound of the cosines between them and queries, with what scales them."""
    if node.op == "attention" and not node.attribute("packed") and len(node.present_inputs) == 3:
        shape = facts.graph.values[node.present_inputs[1]].concrete_shape
        lengths = [vector_length(facts.graph, name, -1) for name in node.present_inputs[:2]]
        known = [length for length in lengths if length is not None]
        if not shape or len(known) < 2 or "bias" in node.parameters:
            return 0, None
        scale = node.attribute("scale")
        return shape[-2], math.prod(known) * abs(shape[-1] ** -0.5 if scale is None else float(scale))
    readers = [reader for name in node.outputs for reader in facts.graph.consumers.get(name, ())]
    shape = facts.shape(node)
    if node.op != "softmax" or not shape or not any(reader.op == "matmul" for reader in readers):
        return 0, None
    product = facts.producer(node)
    bound = None if product is None or product.op != "matmul" else cosine_bound(facts.graph, product)
    return shape[node.attribute("axis") % len(shape)], bound


def _farthest_first(facts: Facts, node: Node) -> bool:
    """Whether what is added to logits for the distance of two positions rises with it, in every row and head."""
    added = _distances(facts, node)
    if added is None or added.ndim < 2 or added.shape[-1] != added.shape[-2] or added.shape[-1] < _POSITIONS:
        return False
    table = np.asarray(added, np.float64).reshape(-1, *added.shape[-2:])
    places = np.arange(table.shape[-1])
    for row in places[_POSITIONS - 1 :]:
        order = np.argsort(np.abs(places - row), kind="stable")
        steps = _steps(table[:, row, order], np.abs(places - row)[order])
        if steps is None or not (steps > 0).all():
            return False
    return True


def _steps(row: np.ndarray, distances: np.ndarray) -> np.ndarray | None:
    """How much more the next farther position gets, of those that are not hidden; None where too few are left."""
    shown = (row > _SEEN).all(axis=0)
    kept, at = row[:, shown], distances[shown]
    farther = np.diff(at) > 0
    return np.diff(kept, axis=1)[:, farther] if np.count_nonzero(farther) >= 2 else None


def _distances(facts: Facts, node: Node) -> np.ndarray | None:
    """A constant table that is added to the logits of a softmax or attention, as it is added."""
    mask = node.parameters.get("mask")
    if mask is not None:
        return None if mask.provenance != "data" or mask.dtype == "bool" else mask.array()
    source = facts.producer(node) if node.op == "softmax" else None
    while source is not None and source.op in _TO_LOGITS:
        bias = source.parameters.get("bias") if source.op == "bias" else None
        if bias is not None and bias.provenance == "data" and len(bias.shape) > 1:
            return np.asarray(bias.array() * source.attribute("factor"))
        source = facts.producer(source, 2 if source.op == "where" and len(source.present_inputs) > 2 else 0)
    return None


def _mask_fault(facts: Facts, node: Node) -> str:
    """Why the entries that a mask is to hide still count."""
    idle = _idle_mask(facts, node)
    if idle != _NONE:
        return f"{idle}, and a logit of that size still gets its share"
    if _is_of_queries(facts, node):
        return (
            "it has an entry for each query and one for all keys, and what is the same for all keys of a row the "
            "softmax takes out"
        )
    late = _late_mask(facts, node) if node.op == "softmax" else _NONE
    return (
        _NONE
        if late == _NONE
        else f"{late} hides them behind the softmax, and the shares that are left do not add up to 1"
    )


def _idle_mask(facts: Facts, node: Node) -> str:
    """What is done to logits in the place of hiding them."""
    mask = node.parameters.get("mask")
    if mask is not None and mask.dtype == "bool":
        return _NONE  # it hides: what multiplies the same logits by 0 in front of it does no harm
    if mask is not None and not mask.trainable and mask.provenance == "data":
        return _added(node, mask.array(), 1.0)
    before = _before(facts, node) if node.op == "softmax" else None
    if before is None:
        return _NONE
    if before.op == "where":
        filled = [_constant(facts, name) for name in before.inputs[1:]]
        known = [value for value in filled if value is not None]
        if len(known) == 1 and _HIDES < known[0] < -_HIDES:
            return f"{before.name} sets hidden logits to {known[0]:.3g}"
    if before.op == "bias" and not _is_trained(before):
        return _added(before, before.parameters["bias"].array(), before.attribute("factor"))
    if before.op == "add" and any(_is_choice(facts, name) for name in before.present_inputs):
        return f"{before.name} adds 0 or 1 to the logits"
    if before.op == "mul" and any(_is_choice(facts, name) for name in before.present_inputs):
        return f"{before.name} multiplies hidden logits by 0"
    if before.op == "scale" and "scale" in before.parameters and not _is_trained(before):
        scale = before.parameters["scale"].array()
        if scale.size > 1 and _is_binary(scale):
            return f"{before.name} multiplies hidden logits by 0"
    return _NONE


def _is_of_queries(facts: Facts, node: Node) -> bool:
    """Whether the one mask of a softmax of products lies along its queries, where the keys have none."""
    mask, before = node.parameters.get("mask"), _before(facts, node) if node.op == "softmax" else None
    given = node.present_inputs[3:4] if node.op == "attention" else ()
    if mask is not None:
        shape: tuple[int, ...] | None = mask.shape
        if mask.trainable or len(np.unique(mask.array())) < 2:
            return False  # a mask of a layer that hides nothing
    elif before is not None and before.op == "where" and any(_hides(facts, name) for name in before.inputs[1:]):
        shape = facts.graph.values[before.inputs[0] or ""].concrete_shape
        if _is_masked(facts, before):
            return False
    else:
        shape = facts.graph.values[given[0]].concrete_shape if given else None
    return bool(shape) and shape is not None and len(shape) > 1 and shape[-1] == 1 < min(_keys(facts, node), shape[-2])


def _keys(facts: Facts, node: Node) -> int:
    """How many keys a softmax of products or an attention shares out between along the last axis, 0 for any other.

    A pooling has one row for each sample, and what its mask hides is another matter.
    """
    if node.op == "attention":
        shape = facts.graph.values[node.present_inputs[1]].concrete_shape
        return shape[-2] if shape and len(shape) > 1 else 0
    shape = facts.shape(node)
    last = bool(shape) and int(node.attribute("axis")) in (-1, len(shape or ()) - 1)
    return shape[-1] if shape and last and len(shape) > 2 and _reads_products(facts, node) else 0


def _hides(facts: Facts, name: str | None) -> bool:
    value = _constant(facts, name)
    return value is not None and value <= _HIDES


def _is_masked(facts: Facts, node: Node) -> bool:
    """Whether another mask comes before this one on the way to the softmax."""
    pending = list(node.present_inputs[1:])
    while pending:
        source = facts.graph.producers.get(pending.pop())
        if source is not None and source.op in ("where", "add", "bias"):
            return True
        if source is not None and source.op in _TO_LOGITS:
            pending += source.present_inputs
    return False


def _added(node: Node, array: np.ndarray, factor: float) -> str:
    """What a table of two numbers, one of them 0, adds where that does not hide."""
    found = np.unique(np.asarray(array, np.float64)) * factor
    other = found[found != 0]
    if found.size != 2 or other.size != 1 or not _HIDES < other[0] < -_HIDES:
        return _NONE
    return f"{node.name} adds 0 or {other[0]:.3g} to the logits"


def _late_mask(facts: Facts, node: Node) -> str:
    """What sets shares to zero behind the softmax and before they are summed with; where nothing hides logits."""
    rank = len(facts.shape(node) or ())
    if rank < 2 or not _reads_products(facts, node) or "mask" in node.parameters or len(node.present_inputs) > 1:
        return _NONE
    before, axis = _before(facts, node), node.attribute("axis") % rank
    if before is not None and before.op in ("where", "bias", "add", "sub"):
        return _NONE
    readers = [reader for name in node.outputs for reader in facts.graph.consumers.get(name, ())]
    if len(readers) != 1 or not _leads_to_product(facts, readers[0]):
        return _NONE
    reader = readers[0]
    if reader.op == "scale" and "scale" in reader.parameters and not _is_trained(reader):
        scale = reader.parameters["scale"].array()
        hides = scale.size > 1 and _is_binary(scale) and _varies(scale.shape, rank, axis)
    elif reader.op == "where":
        zero = any(_constant(facts, name) == 0 for name in reader.inputs[1:])
        hides = zero and _varies(facts.graph.values[reader.inputs[0] or ""].concrete_shape, rank, axis)
    else:
        hides = reader.op == "mul" and any(
            _is_choice(facts, name) and _varies(facts.graph.values[name].concrete_shape, rank, axis)
            for name in reader.present_inputs
        )
    return reader.name if hides else _NONE


def _leads_to_product(facts: Facts, node: Node) -> bool:
    """Whether a product reads it, dropout and moves passed over: then nothing makes the shares add up to 1 again."""
    readers = [reader for name in node.outputs for reader in facts.graph.consumers.get(name, ())]
    if len(readers) != 1:
        return False
    return readers[0].op == "matmul" or (readers[0].op in _TO_VALUES and _leads_to_product(facts, readers[0]))


def _varies(shape: tuple[int, ...] | None, rank: int, axis: int) -> bool:
    """Whether a mask has an entry of its own for each key: what hides whole rows is another matter."""
    place = None if shape is None else axis - (rank - len(shape))
    return shape is not None and place is not None and place >= 0 and shape[place] > 1


def _before(facts: Facts, node: Node) -> Node | None:
    source = facts.producer(node)
    while source is not None and (
        source.op == "identity" or (source.op == "scale" and "scale" not in source.parameters)
    ):
        source = facts.producer(source)
    return source


def _constant(facts: Facts, name: str | None) -> float | None:
    """The one number that a value is, if it is a constant of the program."""
    node = facts.source_beyond(facts.graph.producers.get(name or ""), ("identity", "expand", "reshape"))
    value = node.parameters.get("value") if node is not None and node.op == "constant" else None
    return float(value.array().reshape(-1)[0]) if value is not None and value.size == 1 else None


def _is_choice(facts: Facts, name: str) -> bool:
    """Whether a value is the 0 or 1 of a comparison, however it came to the logits' type and shape."""
    node = facts.source_beyond(facts.graph.producers.get(name), ("identity", "expand", "reshape", "transpose"))
    return node is not None and node.op in _CHOICES


def _is_binary(array: np.ndarray) -> bool:
    found = np.unique(array)
    return found.size == 2 and found[0] == 0 and found[1] == 1


def _is_trained(node: Node) -> bool:
    return any(parameter.trainable for parameter in node.parameters.values())


_SPLITS = frozenset({"identity", "scale", "dropout", "reshape", "slice", "split"})
"""What cuts a layer's features into heads, and moves nothing."""
_MEETS = frozenset({"attention", "recurrent", "softmax", "product"})


def _heads_of_token(facts: Facts, node: Node) -> float:
    """How many heads of one position an attention runs over, where positions meet nowhere in the network."""
    layout = facts.axes.layouts.get(node.present_inputs[0]) if node.op == "attention" else None
    if layout is None or len(layout) < 4 or any(label is not None for axis in layout[-2:] for label, _ in axis):
        return 0.0
    positions = {label for label in labels(layout[:-2]) if label > 0}
    if not positions or any(each.kind in _MEETS and each.axis in positions for each in facts.axes.mixings):
        return 0.0
    layers = [facts.source_beyond(facts.producer(node, place), _SPLITS) for place in (0, 1)]
    return float(sizes(layout)[-2]) if all(each is not None and each.op == "linear" for each in layers) else 0.0


ATTENTION = (
    function(
        "heads_of_token(n)",
        "number",
        _heads_of_token,
        "how many heads of one position the attention n runs over, where positions meet nowhere in the network; or 0",
    ),
    function(
        "farthest_first(n)",
        "truth",
        _farthest_first,
        "what is added to the logits of n for the distance of two positions rises with it: each looks at the farthest",
    ),
    function(
        "highest_share(n)",
        "number",
        _highest_share,
        "the most that one key of an attention or softmax can get, where queries and keys have known lengths",
    ),
    function(
        "over_queries(n)",
        "truth",
        _over_queries,
        "the softmax n of products takes shares along one axis, and all that reads them sums along another one",
    ),
    function(
        "mask_fault(n)",
        "text",
        _mask_fault,
        "why the mask of the softmax or attention n hides nothing, or hides shares behind it, a clause; or none",
    ),
)
