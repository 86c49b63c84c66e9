"""Numbers that a network adds for each position: codes that are equal, drawn anew, or louder than all else."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gnelint.analysis.axes.layout import label
from gnelint.ir.graph import Derivation, Node, Parameter
from gnelint.lint.facts import LAYERS, Facts
from gnelint.lint.functions.signature import function

_LEAST = 4
"""Positions and features from which on a table is one of codes."""
_MOST = 1 << 22
_FAINT = 1e-6
"""Mean square of a scale that may drown what it scales: what a layer of zeros makes small will grow."""
_NONE = "none"
_HIDES = -1e3
"""Masks hold numbers below this one."""


def _tables(facts: Facts, node: Node) -> Iterator[Parameter]:
    """What a node adds, or puts beside the features."""
    if node.op == "bias":
        yield from (each for each in (node.parameters.get("bias"),) if each is not None)
    elif node.op == "concat" and node.attribute("axis") in (-1, len(facts.shape(node) or ()) - 1):
        for name in node.present_inputs:
            source = facts.source_beyond(facts.graph.producers.get(name), ("expand", "reshape", "identity"))
            if source is not None and source.op == "constant":
                yield source.parameters["value"]


def _of_positions(facts: Facts, node: Node, table: Parameter) -> bool:
    """Whether a table has a row for each entry of an axis of the main input that is not the samples'."""
    layout = facts.axes.layouts.get(node.outputs[0])
    if layout is None or len(layout) < 2 or len(table.shape) < 2 or any(size > 1 for size in table.shape[:-2]):
        return False
    rows, width = table.shape[-2:]
    if node.op == "bias" and _has_one_feature(facts, node):
        return False
    return min(rows, width) >= _LEAST and rows != width and label(layout[-2]) not in (None, 0)


def _has_one_feature(facts: Facts, node: Node) -> bool:
    """Whether one number is held against several, as against the knots of a spline: those are no codes."""
    source = facts.source_beyond(facts.producer(node), ("expand",))
    shape = facts.shape(source) if source is not None else None
    return shape is not None and shape[-1:] == (1,)


def _repeated_codes(facts: Facts, node: Node) -> float:
    """The share of positions whose code is that of the one before: all of them, or some as rounding makes them equal.

    Codes of rows beside those of columns repeat, too, in runs of one length. A stored table that is trained moves its
    rows apart; one that is looked up at equal places does not, nor does one that is too short and whose last row serves
    all positions behind it.
    """
    found = [_repeated(table) for table in _tables(facts, node) if _of_positions(facts, node, table)]
    return max(found, default=0.0)


def _repeated(table: Parameter) -> float:
    computed = isinstance(table.load, Derivation)
    if table.provenance != "data" or table.size > _MOST or (table.trainable and not computed):
        return 0.0
    rows = np.asarray(table.array(), np.float64).reshape(table.shape[-2:])
    if not rows.any() or rows.min() < _HIDES:
        return 0.0
    equal = (rows[1:] == rows[:-1]).all(axis=1)
    runs = np.diff(np.flatnonzero(np.append(np.insert(~equal, 0, True), True)))
    if _is_too_short(rows, runs):
        return float(equal.mean())
    if table.trainable and not any(leaf.shape and leaf.shape[0] >= len(rows) for leaf in table.leaves):
        return 0.0  # a kind of token, of which there are few
    if equal.all():
        return 1.0
    return float(equal.mean()) if np.unique(runs[:-1]).size > 1 else 0.0


def _is_too_short(rows: np.ndarray, runs: np.ndarray) -> bool:
    """Whether each position has a row of its own up to one whose row all behind it have, too, and which says something.

    Kinds of tokens come in runs from the first on, and rows of zeros are padding.
    """
    return len(runs) >= _LEAST and bool((runs[:-1] == 1).all()) and runs[-1] > 1 and bool(rows[-1].any())


def _is_drawn(table: Parameter | None) -> bool:
    return table is not None and table.transform == "random" and not any(leaf.trainable for leaf in table.leaves)


def _drawn_codes(facts: Facts, node: Node) -> bool:
    """Whether numbers drawn anew in every pass are added for each position, the same for all samples."""
    return any(_is_drawn(table) and _of_positions(facts, node, table) for table in _tables(facts, node))


def _input_share(facts: Facts, node: Node) -> float | None:
    """The share that what fixed numbers scale has in the second moment behind noise or constants that are added."""
    source, table = facts.producer(node), node.parameters.get("bias")
    if node.op != "bias" or source is None or source.op != "scale" or table is None:
        return None
    own, scaled = facts.input_moments(node), _fixed_scale(facts, source)
    if scaled is None or scaled > _FAINT or own is None or not own[1] or (table.trainable and not _is_drawn(table)):
        return None
    if _divides_its_source(facts, node):
        return None  # local response normalisation: what is drowned there is a statistic, not what it divides
    added = facts.statistics(table)
    if added is None or not 0.0 < added.second_moment < _HIDES**2:
        return None  # numbers that hide entries
    return own[1] / (own[1] + added.second_moment)


_LOST_SHARE = 0.25
"""Share of a position's features that are zero from which on something of it is lost."""
_SMALL = 0.05
"""Mean square of codes below which words that they multiply are nearly gone."""


def _multiplied_words(facts: Facts, node: Node) -> str:
    """What is lost of the words of a table that codes of their positions multiply, a clause."""
    table = node.parameters.get("scale") if node.op == "scale" else None
    words = facts.source_beyond(facts.producer(node), ("scale", "dropout", "identity"), alone=True)
    if table is None or table.provenance != "data" or words is None:
        return _NONE
    if words.op != "embedding" and not (words.op == "linear" and table.trainable):
        return _NONE  # queries and keys are turned by fixed numbers of their places
    if not _of_positions(facts, node, table):
        return _NONE
    rows = np.asarray(table.array(), np.float64).reshape(table.shape[-2:])
    zeros, size = (rows == 0.0).mean(axis=1), float((rows**2).mean())
    if not rows.any() or set(np.unique(rows)) <= {0.0, 1.0}:
        return _NONE  # a mask
    if words.op == "embedding" and zeros.max() >= _LOST_SHARE:
        return f"{zeros.max():.0%} of the features at position {int(zeros.argmax())} are multiplied by 0"
    return f"the codes have the mean square {size:.2g}, and so much is left of the words" if size < _SMALL else _NONE


_OF_STATISTIC = frozenset({"pow", "sqrt", "reciprocal", "reshape", "identity", "expand", "scale"})


def _divides_its_source(facts: Facts, node: Node) -> bool:
    """Whether all that reads a node divides (or multiplies) by it what it was computed of."""
    made_of: set[str] = set()
    source: Node | None = node
    while source is not None and len(source.present_inputs) == 1 and source.op not in LAYERS:
        made_of.add(source.present_inputs[0])
        source = facts.producer(source)
    readers = list(facts.consumers_beyond(node, _OF_STATISTIC))
    return bool(readers) and all(
        reader.op in ("div", "mul") and not made_of.isdisjoint(reader.present_inputs) for reader in readers
    )


def _fixed_scale(facts: Facts, node: Node) -> float | None:
    """Mean square of the fixed numbers that a node scales with; None where they are trained or divided by."""
    scale, factor = node.parameters.get("scale"), float(node.attribute("factor")) ** 2
    if scale is None:
        return factor
    found = None if scale.trainable or node.attribute("reciprocal") else facts.statistics(scale)
    return None if found is None else found.second_moment * factor


CODES = (
    function(
        "repeated_codes(n)",
        "number",
        _repeated_codes,
        "share of the positions to which n gives the very code of the one before, by a table that is not trained apart",
    ),
    function(
        "drawn_codes(n)",
        "truth",
        _drawn_codes,
        "n adds numbers for each position that are drawn anew in every pass and the same for all samples",
    ),
    function(
        "multiplied_words(n)",
        "text",
        _multiplied_words,
        "what is lost of a table's words that n multiplies by codes of their positions, a clause; or none",
    ),
    function(
        "input_share(n)",
        "number",
        _input_share,
        "share of the second moment behind n that what it reads has, where fixed numbers scale that and n adds noise "
        "or constants; unknown elsewhere",
    ),
)
