"""Pre-activations of gates that a program writes out: matrices times values, and what is added."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gnelint.fusion.rolling import index_range
from gnelint.ir.graph import Derivation, Node, Parameter, Stored
from gnelint.ir.rewriter import Rewriter
from gnelint.records import dataclass, replace

Span = tuple[int, int]


@dataclass(frozen=True)
class Term:
    """A part of a matrix, times a value: its rows and columns from each first to each end."""

    weight: Parameter
    rows: Span
    columns: Span
    source: str

    @property
    def key(self) -> tuple[str, Span, Span]:
        return self.weight.name, self.rows, self.columns


@dataclass(frozen=True)
class Shift:
    """Entries of a vector that are added; of a number they are all alike."""

    bias: Parameter
    entries: Span

    @property
    def key(self) -> tuple[str, Span]:
        return self.bias.name, self.entries


def is_zero(number: Parameter) -> bool:
    """Whether a tensor is a state of zeros, a row a sample, or what a matrix makes of it."""
    stored = number.trainable and number.transform is None and number.shape[:1] == (1,)
    return number.provenance != "initializer" and not stored and len(number.shape) == 2 and not np.any(number.array())


def is_row(added: Parameter) -> bool:
    """Whether a tensor is a number, a vector, or one for all samples: what a matrix and a bias make of zeros."""
    if added.provenance == "initializer":
        return False
    rows = np.asarray(added.array()).reshape(-1, added.shape[-1] if added.shape else 1)
    return added.size == 1 or (len(added.shape) <= 2 and bool((rows == rows[:1]).all()))


def summed(
    rewriter: Rewriter, value: str, others: list[str] | None = None
) -> tuple[tuple[Term, ...], tuple[Shift, ...]] | None:
    """The terms and shifts of a pre-activation, (batch, unit); None where it is anything else.

    Args:
        others: takes what else is added, whole; without it there may be nothing else.
    """
    shape = rewriter.value(value).concrete_shape
    if shape is None or len(shape) != 2:
        return None
    terms: list[Term] = []
    shifts: list[Shift] = []
    waiting = [(value, (0, shape[1]))]
    while waiting:
        name, rows = waiting.pop()
        node = rewriter.source(name)
        more = None if node is None else _opened(rewriter, node, rewriter.behind(name) or name, rows)
        if node is None or more is None:
            if others is None or rows != (0, shape[1]) or rewriter.value(name).concrete_shape != shape:
                return None
            others.append(name)
            continue
        waiting += more
        added = node.parameters.get("bias") if node.op in ("bias", "linear") else None
        if added is not None and not is_zero(added):
            if not is_row(added):
                return None
            shifts.append(Shift(added, rows))
        if node.op == "linear":
            terms += _columns(rewriter, node, rows)
    return tuple(terms), tuple(shifts)


def _opened(rewriter: Rewriter, node: Node, name: str, rows: Span) -> list[tuple[str, Span]] | None:
    """What a node that is a sum, or cuts one, reads, with the entries of it that are asked for."""
    if node.op == "linear":  # of draws that nobody has made there are no parts
        return None if node.parameters["weight"].provenance == "initializer" else []
    if node.op == "add":
        whole = rewriter.shape(name)
        return [(each, rows) for each in node.present_inputs] if _alike(rewriter, node, whole) else None
    if node.op == "bias" and node.attribute("factor") == 1:
        return [(node.present_inputs[0], rows)] if _alike(rewriter, node, rewriter.shape(name)) else None
    start = _cut(rewriter, node, name)
    return None if start is None else [(node.present_inputs[0], (start + rows[0], start + rows[1]))]


def _alike(rewriter: Rewriter, node: Node, shape: tuple[int | str, ...] | None) -> bool:
    return all(rewriter.shape(each) == shape for each in node.present_inputs)


def _cut(rewriter: Rewriter, node: Node, name: str) -> int | None:
    """Where the entries of the last axis begin that a node takes."""
    shape = rewriter.value(node.present_inputs[0]).concrete_shape if node.present_inputs else None
    if shape is None or len(shape) != 2:
        return None
    if node.op == "split" and node.attribute("axis") % 2 == 1:
        return int(sum(node.attribute("sizes")[: node.outputs.index(name)]))
    if node.op == "slice":
        cut = index_range(_without_whole_rows(node, shape[0]), 1, shape[1], 2)
        return None if cut is None else cut[0]
    return None


def _without_whole_rows(node: Node, size: int) -> Node:
    """A slice of a matrix that does not name its first axis where it takes all of that, as TensorFlow's do."""
    bounds = list(zip(*(node.attribute(name) for name in ("axes", "starts", "ends", "steps")), strict=True))
    kept = [
        (axis, start, end, step)
        for axis, start, end, step in bounds
        if axis % 2 == 1 or slice(start, end, step).indices(size) != (0, size, 1)
    ]
    if len(kept) == len(bounds) or not kept:
        return node
    axes, starts, ends, steps = zip(*kept, strict=True)
    return replace(node, attributes={"axes": axes, "starts": starts, "ends": ends, "steps": steps})


def _columns(rewriter: Rewriter, node: Node, rows: Span) -> Iterator[Term]:
    """The terms of a product: one for each part of what was joined in front of it."""
    weight, source = node.parameters["weight"], node.present_inputs[0]
    joined = rewriter.source(source, "concat")
    parts = [source] if joined is None or joined.attribute("axis") % 2 != 1 else list(joined.present_inputs)
    start = 0
    for part in parts:
        size = weight.shape[1] if len(parts) == 1 else (rewriter.value(part).concrete_shape or (0, 0))[-1]
        constant = rewriter.source(part, "constant")
        if constant is None or not is_zero(constant.parameters["value"]):
            yield Term(weight, rows, (start, start + size), rewriter.behind(part) or part)
        start += size


@dataclass(frozen=True, eq=False)
class Stacked(Derivation):
    """The `load` of parts of tensors, gate by gate.

    Attributes:
        gates: of each, what is added up: a tensor and the ranges of its axes; a number stands for all of its entries.
        size: rows of a gate.
        signs: of each gate, +1 where none are given.
    """

    gates: tuple[tuple[tuple[Parameter, tuple[Span, ...]], ...], ...]
    size: int
    signs: tuple[int, ...] = ()

    def leaves(self) -> tuple[Parameter, ...]:
        own = [leaf for gate in self.gates for parameter, _ in gate for leaf in parameter.leaves]
        return tuple({leaf.name: leaf for leaf in own}.values())

    def evaluate(self, changed: Stored) -> np.ndarray:
        rows = [
            [self._part(*part, changed) for part in gate] or [np.zeros(self.size, np.float32)] for gate in self.gates
        ]
        signs = self.signs or (1,) * len(rows)
        return np.concatenate([sign * np.sum(gate, axis=0) for sign, gate in zip(signs, rows, strict=True)])

    def _part(self, parameter: Parameter, ranges: tuple[Span, ...], changed: Stored) -> np.ndarray:
        array = parameter.with_stored(changed).array()
        if array.size == 1 and len(ranges) == 1:
            return np.full(self.size, array.reshape(-1)[0])
        array = array.reshape(-1, array.shape[-1])[0] if len(ranges) == 1 else array
        return array[tuple(slice(*each) for each in ranges)]


def matrix(terms: Sequence[Term], role: str, signs: tuple[int, ...] = ()) -> Parameter:
    """The parts of matrices below each other, gate by gate."""
    weight = terms[0].weight
    size = terms[0].rows[1] - terms[0].rows[0]
    width = terms[0].columns[1] - terms[0].columns[0]
    whole = [(weight.name, (k * size, (k + 1) * size), (0, weight.shape[1])) for k in range(len(terms))]
    if not signs and [term.key for term in terms] == whole and weight.shape[0] == len(terms) * size:
        return weight
    parts = tuple(((term.weight, (term.rows, term.columns)),) for term in terms)
    return _stacked(Stacked(parts, size, signs), (len(terms) * size, width), f"{weight.name} ({role})")


def vector(shifts: Sequence[Sequence[Shift]], size: int, role: str, signs: tuple[int, ...] = ()) -> Parameter:
    """The sums of what each gate adds, one behind the other."""
    parts = tuple(tuple((shift.bias, (shift.entries,)) for shift in gate) for gate in shifts)
    (one, *_), spans = [shift.bias for gate in shifts for shift in gate], [s.entries for gate in shifts for s in gate]
    whole = [(k * size, (k + 1) * size) for k in range(len(shifts))]
    alone = all(each == ((one, (span,)),) for each, span in zip(parts, whole, strict=True))
    if not signs and spans == whole and alone and one.shape == (len(shifts) * size,):
        return one
    return _stacked(Stacked(parts, size, signs), (len(shifts) * size,), f"{one.name} ({role})")


def _stacked(load: Stacked, shape: tuple[int, ...], name: str) -> Parameter:
    leaves = load.leaves()
    foremost = next((leaf for leaf in leaves if leaf.trainable), leaves[0])
    return Parameter(name, shape, foremost.dtype, load, kind=foremost.kind)


def alike(one: Sequence[Shift], other: Sequence[Shift], size: int) -> bool:
    """Whether two gates add the same numbers."""
    first, second = (Stacked((tuple((s.bias, (s.entries,)) for s in each),), size)() for each in (one, other))
    return bool(np.allclose(first, second, rtol=1e-5, atol=1e-7))
