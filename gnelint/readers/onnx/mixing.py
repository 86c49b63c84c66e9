"""Tensors of a file that are a part of the program and no layer: an adjacency, a mask, a basis, a bound.

A file of weights does not say what is trained. Three things tell: a matrix on the left of a product, A @ X, mixes
positions, numbers that no initialiser draws (a Fourier basis, a filter bank, an average, a symmetric matrix) are
made on purpose, and a single number that values are compared with gets no gradient. They count as constants, and
nothing judges or rescales them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from gnelint.ir.graph import Graph, Node, Parameter
from gnelint.ir.mapped import taken
from gnelint.ops import families
from gnelint.theory.sorting import distinct, median, scattered
from gnelint.theory.weights.contraction import as_float, is_nonnegative, is_symmetric, zeros

_POINTWISE = families()["activation"] | {"identity", "dropout", "bias", "scale", "add", "sub", "mul", "div"}
_ON_FEATURES = frozenset({"linear", "layer_norm", "rms_norm"})
"""Operations along the last axis, where features lie."""
_MAX_STEPS = 200
"""Nodes looked at on the way to an operation that tells the axes apart."""
_MIN_ENTRIES = 9
"""Of a matrix that can be told from a draw: nine numbers of one sign are a draw once in 256."""


_WEIGHTED = frozenset({"linear", "conv", "conv_transpose"})
_MIN_MATRIX = 64
"""Entries of a matrix that is told by its numbers alone."""
_MOST_ROWS = 64
"""Rows that are looked at."""
_MIN_WAVE = 24
"""Entries of a row that can be told to be a wave."""
_TELLING = 12
"""Rows that are looked at first: where half of all are waves, one of so many is, but once in 4096."""
_WAVE_SHARE = 0.8
"""Part of a row's energy in its three strongest frequencies, over most of a basis; white rows of 24 have 0.56."""


def with_program_constants(graph: Graph) -> Graph:
    """The graph with every tensor that is a part of the program marked as a constant, at all places that read it."""
    found = {
        parameter.name
        for node in graph.nodes
        if node.op == "constant" and _is_compared(graph, node)
        for parameter in node.parameters.values()
        if parameter.size == 1
    }
    found |= {
        node.parameters["weight"].name
        for node in graph.nodes
        if (_is_left(graph, node) and _mixes(graph, node)) or _is_made(node)
    }
    if not found:
        return graph
    return replace(graph, nodes=tuple(_marked(node, found) for node in graph.nodes))


def _marked(node: Node, names: set[str]) -> Node:
    if not any(parameter.name in names for parameter in node.parameters.values()):
        return node
    parameters = {
        role: replace(parameter, kind="constant") if parameter.name in names else parameter
        for role, parameter in node.parameters.items()
    }
    return replace(node, parameters=parameters)


def _is_compared(graph: Graph, node: Node) -> bool:
    """Whether values are compared with the node's, and nothing else reads it."""
    readers = [reader for name in node.outputs for reader in graph.consumers.get(name, ())]
    return bool(readers) and all(reader.op == "compare" for reader in readers)


def _is_left(graph: Graph, node: Node) -> bool:
    """Whether the node is a square matrix on the left: a linear map between two exchanges of the last axes."""
    weight = node.parameters.get("weight")
    if node.op != "linear" or weight is None or not weight.trainable or weight.shape[0] != weight.shape[1]:
        return False
    before = graph.producers.get(node.inputs[0] or "")
    behind = graph.consumers.get(node.outputs[0], ())
    return before is not None and _exchanges(before) and bool(behind) and all(map(_exchanges, behind))


def _exchanges(node: Node) -> bool:
    perm = tuple(node.attribute("perm") or ()) if node.op == "transpose" else ()
    last = len(perm) - 1
    return last >= 1 and perm == (*range(last - 1), last, last - 1)


def _mixes(graph: Graph, node: Node) -> bool:
    return _across(graph, node, back=True) or _across(graph, node, back=False) or _is_no_draw(node.parameters["weight"])


def _across(graph: Graph, start: Node, back: bool) -> bool:
    """Whether what is before (or behind) works along the other one of the last two axes."""
    seen: set[tuple[str, bool]] = set()
    waiting = [(node, False) for node in _next(graph, start, back)]
    while waiting and len(seen) < _MAX_STEPS:
        node, exchanged = waiting.pop()
        if (node.name, exchanged) in seen:
            continue
        seen.add((node.name, exchanged))
        if node.op in _ON_FEATURES and exchanged:
            return True
        exchanged ^= _exchanges(node)
        if node.op in _POINTWISE | _ON_FEATURES or _exchanges(node):
            waiting += [(other, exchanged) for other in _next(graph, node, back)]
    return False


def _next(graph: Graph, node: Node, back: bool) -> Iterator[Node]:
    if not back:
        yield from (reader for name in node.outputs for reader in graph.consumers.get(name, ()))
        return
    yield from (graph.producers[name] for name in node.present_inputs if name in graph.producers)


def _is_no_draw(weight: Parameter) -> bool:
    """Whether the numbers show a structure that no initialiser gives: one sign, symmetry, zeros for the most part."""
    if weight.size < _MIN_ENTRIES or weight.provenance != "data":
        return False
    numbers = weight.array()
    return is_nonnegative(numbers) or is_symmetric(numbers) or zeros(numbers) > 0.5 * numbers.size


def _is_made(node: Node) -> bool:
    """Whether a layer's numbers are made on purpose, wherever they stand."""
    weight = node.parameters.get("weight")
    if node.op not in _WEIGHTED or weight is None or not weight.trainable or weight.transform is not None:
        return False
    if weight.size < _MIN_MATRIX or weight.provenance != "data" or len(weight.shape) < 2:
        return False
    numbers = weight.array()
    rows = as_float(np.ascontiguousarray(taken(numbers[:_MOST_ROWS]))).reshape(min(len(numbers), _MOST_ROWS), -1)
    if not np.all(np.isfinite(rows)) or (rows[0] == rows[0, 0]).all() & np.all(rows == rows[0, 0]):
        return False
    if _is_selection(rows):
        return False
    flat = len(weight.shape) == 2
    if flat and is_symmetric(numbers):
        return True
    return _is_average(rows, numbers) or _is_basis(rows) or (flat and _is_basis(rows.T))


def _is_selection(rows: np.ndarray) -> bool:
    """An identity or a part of one (torch.nn.init.eye_, dirac_): one entry a row, a start that is drawn by no law."""
    return bool(np.count_nonzero(rows[0]) <= 1 and np.all(np.count_nonzero(rows, axis=1) <= 1))


def _is_average(rows: np.ndarray, numbers: np.ndarray) -> bool:
    """Entries of one sign that make averages, a mask or a filter bank: equal sums, two values, or mostly zeros."""
    if np.any(rows[0] < 0) or np.any(rows < 0) or not is_nonnegative(numbers):
        return False
    sums = rows.sum(axis=1, dtype=np.float64)
    alike = float(np.ptp(sums)) <= 1e-4 * float(np.max(sums))
    return alike or len(distinct(rows)) == 2 or float(np.mean(rows == 0)) > 0.5


def _is_basis(rows: np.ndarray) -> bool:
    """Whether most rows are waves, under a window or not: a Fourier or cosine basis, a table of positions."""
    if rows.shape[1] < _MIN_WAVE or len(rows) < 4:
        return False
    if _no_waves(rows[scattered(_TELLING, len(rows))]) or _no_waves(rows[: len(rows) // 2 + 1]):
        return False  # whatever the others are: they are too few
    power, total, live = _spectra(rows.astype(np.float64))
    strongest = np.partition(power, -3, axis=1)[:, -3:].sum(axis=1)
    return bool(np.any(live)) and median(strongest[live] / total[live]) > _WAVE_SHARE


def _spectra(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The energy of each row at each frequency but 0, its sum, and which rows have any: a constant one is no wave."""
    found = np.fft.rfft(rows - rows.mean(axis=1, keepdims=True), axis=1)
    with np.errstate(over="ignore"):  # of numbers that leave float32 when squared: no wave either
        power = found.real**2 + found.imag**2
        total = power.sum(axis=1)
        return power, total, total > 1e-12 * np.sum(rows**2, axis=1)


def _no_waves(rows: np.ndarray) -> bool:
    """Whether no row can be a wave: three times its strongest frequency is less than the share of one."""
    power, total, live = _spectra(rows)
    return bool(np.all(live & (3.0 * power.max(axis=1) < _WAVE_SHARE * total)))
