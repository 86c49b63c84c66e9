"""Long short-term memories that programs write step by step, as one layer.

Step by step, the gradients that come back to the inputs of a layer count as independent. They are not: all of them are
carried by one state, and two such layers on each other would lose 1.3 to 1.7 bits over 12 steps of 24 units.
The layer's own formulas follow them over time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from gnelint.fusion.rolling import index_range
from gnelint.ir.graph import Derivation, Node, Parameter, Stored, Value
from gnelint.ir.rewriter import Rewriter
from gnelint.records import dataclass

_GATES = ("input", "forget", "cell", "output")
Span = tuple[int, int]


@dataclass(frozen=True)
class _Term:
    """A part of a matrix, times a value: its rows and columns from each first to each end."""

    weight: Parameter
    rows: Span
    columns: Span
    source: str

    @property
    def key(self) -> tuple[str, Span, Span]:
        return self.weight.name, self.rows, self.columns


@dataclass(frozen=True)
class _Shift:
    """Entries of a vector that are added; of a number they are all alike."""

    bias: Parameter
    entries: Span

    @property
    def key(self) -> tuple[str, Span]:
        return self.bias.name, self.entries


@dataclass(frozen=True)
class _Step:
    """One step.

    Attributes:
        hidden, carry: the values that it writes.
        before: the carry that it reads, None where that is 0.
        terms, shifts: of each gate's pre-activation.
    """

    hidden: Node
    carry: Node
    before: str | None
    terms: tuple[tuple[_Term, ...], ...]
    shifts: tuple[tuple[_Shift, ...], ...]

    def of(self, source: str) -> tuple[_Term, ...] | None:
        """Each gate's term of one value; None where a gate has none, or several."""
        found = [[term for term in gate if term.source == source] for gate in self.terms]
        return tuple(terms[0] for terms in found) if all(len(terms) == 1 for terms in found) else None

    @property
    def sources(self) -> frozenset[str]:
        return frozenset(term.source for gate in self.terms for term in gate)


def fuse_recurrences(rewriter: Rewriter) -> None:
    """Replace the steps of a long short-term memory from zero states, over all slices of a sequence, by an `lstm`."""
    steps = {step.hidden.outputs[0]: step for node in rewriter if (step := _step(rewriter, node)) is not None}
    if len(steps) < 2:
        return
    after: dict[str, list[_Step]] = {}
    for step in steps.values():
        for source in step.sources & steps.keys():
            after.setdefault(source, []).append(step)
    for first in steps.values():
        if first.before is None and len(first.sources) == 1 and not first.sources & steps.keys():
            chain = [first]
            while len(following := _following(rewriter, chain[-1], after)) == 1:
                chain.append(following[0])
            if len(chain) > 1:
                _fuse(rewriter, chain)
    rewriter.drop_unread_copies()


def _following(rewriter: Rewriter, step: _Step, after: Mapping[str, Sequence[_Step]]) -> list[_Step]:
    """The steps that go on from the states of one; others read what it hands on."""
    found = after.get(step.hidden.outputs[0], ())
    return [each for each in found if each.before is not None and rewriter.same(each.before, step.carry.outputs[0])]


# --- a step -------------------------------------------------------------------------------------------------------


def _step(rewriter: Rewriter, node: Node) -> _Step | None:
    """o tanh(c), c = f c' + i tanh(g), where gates are logistic functions of sums of matrices times values."""
    found = _product(rewriter, node, "sigmoid", "tanh")
    if found is None:
        return None
    output, squashed = found
    carry = rewriter.source(squashed.inputs[0], "add", "mul")
    if carry is None:
        return None
    if carry.op == "mul":
        parts = _product(rewriter, carry, "sigmoid", "tanh")
        kept: tuple[Node, str | None] | None = None
    else:
        parts, kept = _sides(rewriter, carry)
    if parts is None or (carry.op == "add" and kept is None):
        return None
    gates = [parts[0], None if kept is None else kept[0], parts[1], output]
    sums = [None if gate is None else _sum(rewriter, gate.present_inputs[0]) for gate in gates]
    if any(each is None and gate is not None for each, gate in zip(sums, gates, strict=True)):
        return None
    known = [each or ((), ()) for each in sums]
    before = None if kept is None else kept[1]
    return _Step(node, carry, before, tuple(terms for terms, _ in known), tuple(shifts for _, shifts in known))


def _product(rewriter: Rewriter, node: Node, *ops: str) -> tuple[Node, Node] | None:
    if node.op != "mul" or len(node.present_inputs) != 2:
        return None
    for a, b in (node.present_inputs, node.present_inputs[::-1]):
        first, second = rewriter.source(a, ops[0]), rewriter.source(b, ops[1])
        if first is not None and second is not None:
            return first, second
    return None


def _sides(rewriter: Rewriter, carry: Node) -> tuple[tuple[Node, Node] | None, tuple[Node, str | None] | None]:
    """Of a sum: the input gate and what it lets in; the forget gate and what it keeps, None for 0."""
    for a, b in (carry.present_inputs, carry.present_inputs[::-1]):
        one, other = rewriter.source(a, "mul"), rewriter.source(b, "mul", "scale")
        parts = None if one is None else _product(rewriter, one, "sigmoid", "tanh")
        if parts is None or other is None:
            continue
        if other.op == "scale":
            gate = rewriter.source(other.inputs[0], "sigmoid")
            number = other.parameters.get("scale")
            if gate is not None and number is not None and _is_zero(number):
                return parts, (gate, None)
            continue
        for x, y in (other.present_inputs, other.present_inputs[::-1]):
            gate = rewriter.source(x, "sigmoid")
            if gate is not None:
                return parts, (gate, rewriter.behind(y))
    return None, None


def _is_zero(number: Parameter) -> bool:
    """Whether a tensor is a state of zeros, a row a sample, or what a matrix makes of it."""
    stored = number.trainable and number.transform is None and number.shape[:1] == (1,)
    return number.provenance != "initializer" and not stored and len(number.shape) == 2 and not np.any(number.array())


def _is_row(added: Parameter) -> bool:
    """Whether a tensor is a number, a vector, or one for all samples: what a matrix and a bias make of zeros."""
    if added.provenance == "initializer":
        return False
    rows = np.asarray(added.array()).reshape(-1, added.shape[-1] if added.shape else 1)
    return added.size == 1 or (len(added.shape) <= 2 and bool((rows == rows[:1]).all()))


def _sum(rewriter: Rewriter, value: str) -> tuple[tuple[_Term, ...], tuple[_Shift, ...]] | None:
    """The terms and shifts of a pre-activation, (batch, unit); None where it is anything else."""
    shape = rewriter.value(value).concrete_shape
    if shape is None or len(shape) != 2:
        return None
    terms: list[_Term] = []
    shifts: list[_Shift] = []
    waiting = [(value, (0, shape[1]))]
    while waiting:
        name, rows = waiting.pop()
        node = rewriter.source(name)
        more = None if node is None else _opened(rewriter, node, rewriter.behind(name) or name, rows)
        if node is None or more is None:
            return None
        waiting += more
        added = node.parameters.get("bias") if node.op in ("bias", "linear") else None
        if added is not None and not _is_zero(added):
            if not _is_row(added):
                return None
            shifts.append(_Shift(added, rows))
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
        cut = index_range(node, 1, shape[1], 2)
        return None if cut is None else cut[0]
    return None


def _columns(rewriter: Rewriter, node: Node, rows: Span) -> Iterator[_Term]:
    """The terms of a product: one for each part of what was joined in front of it."""
    weight, source = node.parameters["weight"], node.present_inputs[0]
    joined = rewriter.source(source, "concat")
    parts = [source] if joined is None or joined.attribute("axis") % 2 != 1 else list(joined.present_inputs)
    start = 0
    for part in parts:
        size = weight.shape[1] if len(parts) == 1 else (rewriter.value(part).concrete_shape or (0, 0))[-1]
        constant = rewriter.source(part, "constant")
        if constant is None or not _is_zero(constant.parameters["value"]):
            yield _Term(weight, rows, (start, start + size), rewriter.behind(part) or part)
        start += size


# --- the layer ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sequence:
    """The value whose slices the steps read, along which axis, and whether from the end."""

    x: str
    axis: int
    backwards: bool


def _fuse(rewriter: Rewriter, chain: Sequence[_Step]) -> None:
    inputs = [_own_input(chain, place) for place in range(len(chain))]
    if any(each is None for each in inputs):
        return
    read = _sequence(rewriter, [each for each in inputs if each is not None])
    weights = _weights(chain, inputs)
    if read is None or weights is None or not _only_hands_on(rewriter, chain):
        return
    batch, units = rewriter.value(chain[0].hidden.outputs[0]).concrete_shape or (0, 0)
    y = _insert(rewriter, chain, read, weights, (batch, len(chain), units))
    _replace_stacks(rewriter, chain, read, y)
    for place, step in enumerate(chain):
        if rewriter.producer(step.hidden.outputs[0]) is None:  # nothing reads it any more
            continue
        at = len(chain) - 1 - place if read.backwards else place
        row = f"{y}/{at}"
        bounds = {"axes": (1,), "starts": (at,), "ends": (at + 1,), "steps": (1,)}
        cut = Node(row, "slice", (y,), (row,), attributes=bounds, source_op="lstm", scope=step.hidden.scope)
        value = rewriter.value(step.hidden.outputs[0])
        rewriter.insert(cut, Value(row, (batch, 1, units), value.dtype), step.hidden)
        rewriter.replace(step.hidden, "reshape", (row,), "lstm")


def _own_input(chain: Sequence[_Step], place: int) -> str | None:
    """What a step reads beside the state before it."""
    step, own = chain[place], set(chain[place].sources)
    if place:
        own -= {chain[place - 1].hidden.outputs[0]}
    return own.pop() if len(own) == 1 and (step.before is None) == (place == 0) else None


def _sequence(rewriter: Rewriter, inputs: Sequence[str]) -> _Sequence | None:
    places: list[int] = []
    found: tuple[str, int] | None = None
    for value in inputs:
        view = rewriter.source(value, "reshape")
        cut = None if view is None else rewriter.source(view.inputs[0], "slice", "split")
        shape = None if cut is None else rewriter.value(cut.present_inputs[0]).concrete_shape
        if view is None or cut is None or shape is None or len(shape) != 3:
            return None
        axis, place = _place(rewriter, cut, view.present_inputs[0], shape)
        x = rewriter.behind(cut.present_inputs[0])
        whole = shape[:axis] + shape[axis + 1 :]
        if place is None or axis > 1 or whole != rewriter.value(value).concrete_shape:
            return None
        if x is None or (found is not None and found != (x, axis)) or shape[axis] != len(inputs):
            return None
        found = x, axis
        places.append(place)
    order = list(range(len(inputs)))
    if found is None or places not in (order, order[::-1]):
        return None
    return _Sequence(*found, backwards=places != order)


def _place(rewriter: Rewriter, cut: Node, part: str, shape: tuple[int, ...]) -> tuple[int, int | None]:
    """The axis along which a node cuts, and the one index that a part of it has; None for more."""
    if cut.op == "split":
        axis = cut.attribute("axis") % 3
        alone = set(cut.attribute("sizes")) == {1}
        return axis, cut.outputs.index(rewriter.behind(part) or part) if alone else None
    axis = cut.attribute("axes")[0] % 3
    bounds = index_range(cut, axis, shape[axis], 3)
    return axis, bounds[0] if bounds is not None and bounds[1] == bounds[0] + 1 else None


def _weights(chain: Sequence[_Step], inputs: Sequence[str | None]) -> dict[str, Parameter] | None:
    """The layer's parameters, where every step has the same."""
    own = [step.of(source or "") for step, source in zip(chain, inputs, strict=True)]
    back = [step.of(before.hidden.outputs[0]) for before, step in itertools.pairwise(chain)]
    first, second = own[1], back[0]
    if first is None or second is None:
        return None
    keys = [term.key for term in first]
    started = [[] if not gate else [term.key for term in gate] for gate in chain[0].terms]
    if any(gate and gate != [key] for gate, key in zip(started, keys, strict=True)):
        return None
    if any(terms is None or [term.key for term in terms] != keys for terms in own[1:]):
        return None
    if any(terms is None or [t.key for t in terms] != [t.key for t in second] for terms in back):
        return None
    shifts = [[sorted(shift.key for shift in gate) for gate in step.shifts] for step in chain[1:]]
    if any(each != shifts[0] for each in shifts[1:]) or not _begins_alike(chain[0], chain[1], first):
        return None
    found = {"weight": _matrix(first, "weight"), "recurrent": _matrix(second, "recurrent")}
    if any(chain[1].shifts):
        found["bias"] = _vector(chain[1].shifts, first)
    return found


def _begins_alike(start: _Step, step: _Step, terms: Sequence[_Term]) -> bool:
    """Whether the first step adds the same numbers as the others, in the gates that it has."""
    size = terms[0].rows[1] - terms[0].rows[0]
    for gate, own, other in zip(start.terms, start.shifts, step.shifts, strict=True):
        one, two = (_Stacked((tuple((s.bias, (s.entries,)) for s in each),), size)() for each in (own, other))
        if gate and not np.allclose(one, two, rtol=1e-5, atol=1e-7):
            return False
    return True


def _only_hands_on(rewriter: Rewriter, chain: Sequence[_Step]) -> bool:
    """Whether nothing but the next step reads a carry beside the step's own state."""
    return all(rewriter.uses(step.carry.outputs[0]) == (1 if step is chain[-1] else 2) for step in chain)


@dataclass(frozen=True, eq=False)
class _Stacked(Derivation):
    """The `load` of parts of tensors, gate by gate.

    Attributes:
        gates: of each, what is added up: a tensor and the ranges of its axes; a number stands for all of its entries.
        size: rows of a gate.
    """

    gates: tuple[tuple[tuple[Parameter, tuple[Span, ...]], ...], ...]
    size: int

    def leaves(self) -> tuple[Parameter, ...]:
        own = [leaf for gate in self.gates for parameter, _ in gate for leaf in parameter.leaves]
        return tuple({leaf.name: leaf for leaf in own}.values())

    def evaluate(self, changed: Stored) -> np.ndarray:
        rows = [
            [self._part(*part, changed) for part in gate] or [np.zeros(self.size, np.float32)] for gate in self.gates
        ]
        return np.concatenate([np.sum(gate, axis=0) for gate in rows])

    def _part(self, parameter: Parameter, ranges: tuple[Span, ...], changed: Stored) -> np.ndarray:
        array = parameter.with_stored(changed).array()
        if array.size == 1 and len(ranges) == 1:
            return np.full(self.size, array.reshape(-1)[0])
        array = array.reshape(-1, array.shape[-1])[0] if len(ranges) == 1 else array
        return array[tuple(slice(*each) for each in ranges)]


def _matrix(terms: Sequence[_Term], role: str) -> Parameter:
    weight = terms[0].weight
    size = terms[0].rows[1] - terms[0].rows[0]
    width = terms[0].columns[1] - terms[0].columns[0]
    whole = [(weight.name, (k * size, (k + 1) * size), (0, weight.shape[1])) for k in range(len(_GATES))]
    if [term.key for term in terms] == whole and weight.shape[0] == len(_GATES) * size:
        return weight
    parts = tuple(((term.weight, (term.rows, term.columns)),) for term in terms)
    return _stacked(parts, size, (len(_GATES) * size, width), f"{weight.name} ({role})")


def _vector(shifts: Sequence[Sequence[_Shift]], terms: Sequence[_Term]) -> Parameter:
    size = terms[0].rows[1] - terms[0].rows[0]
    parts = tuple(tuple((shift.bias, (shift.entries,)) for shift in gate) for gate in shifts)
    (one, *_), spans = [shift.bias for gate in shifts for shift in gate], [s.entries for gate in shifts for s in gate]
    whole = [(k * size, (k + 1) * size) for k in range(len(_GATES))]
    alone = all(each == ((one, (span,)),) for each, span in zip(parts, whole, strict=True))
    if spans == whole and alone and one.shape == (len(_GATES) * size,):
        return one
    return _stacked(parts, size, (len(_GATES) * size,), f"{one.name} (bias)")


def _stacked(
    parts: tuple[tuple[tuple[Parameter, tuple[Span, ...]], ...], ...], size: int, shape: tuple[int, ...], name: str
) -> Parameter:
    load = _Stacked(parts, size)
    leaves = load.leaves()
    foremost = next((leaf for leaf in leaves if leaf.trainable), leaves[0])
    return Parameter(name, shape, foremost.dtype, load, kind=foremost.kind)


def _insert(
    rewriter: Rewriter,
    chain: Sequence[_Step],
    read: _Sequence,
    weights: Mapping[str, Parameter],
    shape: tuple[int, ...],
) -> str:
    """The layer, in front of its first step; the name of what it writes."""
    first = chain[0].hidden
    x, value = read.x, rewriter.value(read.x)
    if read.axis == 0:
        sizes = tuple(value.shape[axis] for axis in (1, 0, 2)) if value.shape is not None else None
        x = f"{first.name}/batch first"
        turn = Node(x, "transpose", (read.x,), (x,), attributes={"perm": (1, 0, 2)}, scope=first.scope)
        rewriter.insert(replace(turn, source_op="lstm"), Value(x, sizes, value.dtype), first)
    name = f"{first.scope}.lstm" if first.scope else ""
    if not name or rewriter.producer(name) is not None:
        name = f"{first.name}/lstm"
    layer = Node(name, "lstm", (x,), (name,), weights, {"reverse": read.backwards}, "lstm", first.scope, first.location)
    rewriter.insert(layer, Value(name, shape, value.dtype), first)
    return name


def _replace_stacks(rewriter: Rewriter, chain: Sequence[_Step], read: _Sequence, y: str) -> None:
    """Let joins of all states, in the order of the steps, be what the layer writes."""
    wanted = [step.hidden.outputs[0] for step in chain]
    for node in rewriter:
        if node.op != "concat" or len(node.present_inputs) != len(wanted) or rewriter.rank(node.outputs[0]) != 3:
            continue
        views = [rewriter.source(name, "reshape") for name in node.present_inputs]
        axis, sizes = node.attribute("axis") % 3, rewriter.value(node.outputs[0]).concrete_shape
        states = [None if view is None else rewriter.behind(view.inputs[0]) for view in views]
        own = rewriter.value(y).concrete_shape
        if states != wanted or axis > 1 or own is None or sizes != (own if axis == 1 else (own[1], own[0], own[2])):
            continue
        found = y
        if read.backwards:
            found = f"{node.name}/steps"
            turned = Node(found, "flip", (y,), (found,), attributes={"axes": (1,)}, source_op="lstm", scope=node.scope)
            rewriter.insert(turned, replace(rewriter.value(y), name=found), node)
        if axis == 1:
            rewriter.replace(node, "identity", (found,), "lstm")
        else:
            rewriter.replace(node, "transpose", (found,), "lstm", {"perm": (1, 0, 2)})
