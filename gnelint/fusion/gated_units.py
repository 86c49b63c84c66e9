"""Gated recurrent units that programs write out, as a layer over one step each; `one_step` joins these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from gnelint.fusion.slices import viewed
from gnelint.fusion.terms import Shift, Term, alike, is_row, is_zero, matrix, summed, vector
from gnelint.ir.graph import Node, Parameter, Value
from gnelint.ir.rewriter import Rewriter
from gnelint.records import dataclass, replace

_RESET, _UPDATE, _NEW = range(3)
_Sum = tuple[tuple[Term, ...], tuple[Shift, ...]]


@dataclass(frozen=True)
class _Unit:
    """One step.

    Attributes:
        node: writes the new state.
        before: the state that it reads, None where that is 0.
        own: by gate (reset, update, new) the terms that are not of the state; none of a gate that has no effect.
        back: by gate the terms of the state, as far as there are any.
        shifts: of each gate.
        inner: what is added inside the product with the reset gate; None where that multiplies the state itself.
        flipped: whether what the update gate lets through is the new value.
    """

    node: Node
    before: str | None
    own: tuple[tuple[Term, ...], ...]
    back: tuple[tuple[Term, ...], ...]
    shifts: tuple[tuple[Shift, ...], ...]
    inner: tuple[Shift, ...] | None
    flipped: bool

    @property
    def is_whole(self) -> bool:
        """Whether each gate has one term of one input and one of the state."""
        return (
            all(len(terms) == 1 for terms in (*self.own, *self.back))
            and len({gate[0].source for gate in self.own}) == 1
        )

    @property
    def signs(self) -> tuple[int, ...]:
        """s(-x) = 1 - s(x)."""
        return (1, -1, 1) if self.flipped else ()

    def begins(self, other: _Unit) -> bool:
        """Whether this step, from nothing, is one of the same layer as another one."""
        size = other.own[_UPDATE][0].rows[1] - other.own[_UPDATE][0].rows[0]
        for gate, (own, theirs) in enumerate(zip(self.own, other.own, strict=True)):
            if gate == _RESET and not own:
                continue
            if [term.key for term in own] != [term.key for term in theirs]:
                return False
            if not alike(self.shifts[gate], other.shifts[gate], size):
                return False
        if (self.inner is None) != (other.inner is None) or self.flipped != other.flipped:
            return False
        return self.inner is None or alike(self.inner, other.inner or (), size)


def fuse_gated_units(rewriter: Rewriter) -> None:
    """Replace h' = z h + (1 - z) tanh(...), written out, by a `gru` over one step."""
    units = {node.outputs[0]: unit for node in rewriter if (unit := _unit(rewriter, node)) is not None}
    starts: dict[str, _Unit] = {}
    for unit in units.values():
        start = units.get(unit.before or "")
        if unit.is_whole and start is not None and start.before is None and start.begins(unit):
            starts[start.node.name] = unit
    for unit in units.values():
        whole = unit if unit.is_whole and unit.before is not None else starts.get(unit.node.name)
        if whole is not None:
            _replace(rewriter, unit, whole)


def _gate(rewriter: Rewriter, value: str) -> tuple[Node, bool] | None:
    """The logistic function behind a value, and whether that is one minus it."""
    plain = rewriter.source(value, "sigmoid")
    if plain is not None:
        return plain, False
    added = rewriter.source(value, "bias")
    turned = None if added is None else rewriter.source(added.inputs[0], "scale")
    if added is None or turned is None or not (_adds_one(added) and _turns_round(turned)):
        return None
    gate = rewriter.source(turned.inputs[0], "sigmoid")
    return None if gate is None else (gate, True)


def _adds_one(node: Node) -> bool:
    number = node.parameters.get("bias")
    return (
        number is not None and number.provenance != "initializer" and number.size > 0
        and bool((node.attribute("factor") * number.array() == 1.0).all())
    )  # fmt: skip


def _turns_round(node: Node) -> bool:
    return not node.parameters and node.attribute("factor") == -1.0


def _unit(rewriter: Rewriter, node: Node) -> _Unit | None:
    if node.op != "add" or len(node.present_inputs) != 2 or rewriter.rank(node.outputs[0]) != 2:
        return None
    for fresh, kept in (node.present_inputs, node.present_inputs[::-1]):
        found = rewriter.source(fresh, "mul")
        states = _kept(rewriter, kept)
        if found is None or states is None:
            continue
        for a, b in (found.present_inputs, found.present_inputs[::-1]):
            new, gate = rewriter.source(a, "tanh"), _gate(rewriter, b)
            if new is not None and gate is not None and gate[0] is states[0] and gate[1] != states[1]:
                return _with_sums(rewriter, node, new, states)
    return None


def _kept(rewriter: Rewriter, value: str) -> tuple[Node, bool, str | None] | None:
    """A gate, whether it is one minus that, and the state that it multiplies: None for zeros."""
    node = rewriter.source(value, "mul", "scale")
    if node is None:
        return None
    if node.op == "scale":
        gate, number = _gate(rewriter, node.inputs[0] or ""), node.parameters.get("scale")
        return None if gate is None or number is None or not is_zero(number) else (*gate, None)
    for x, y in (node.present_inputs, node.present_inputs[::-1]):
        gate = _gate(rewriter, x)
        if gate is not None:
            return (*gate, rewriter.behind(y))
    return None


def _with_sums(rewriter: Rewriter, node: Node, new: Node, states: tuple[Node, bool, str | None]) -> _Unit | None:
    gate, flipped, before = states
    update, inside = summed(rewriter, gate.present_inputs[0]), list[str]()
    fresh = summed(rewriter, new.present_inputs[0], inside)
    if update is None or fresh is None or len(inside) > 1:
        return None
    found = _reset_inside(rewriter, inside[0], fresh, before) if inside else _reset_before(rewriter, fresh, before)
    if found is None:
        return None
    reset_gate, own_new, back_new, inner = found
    reset = ((), ()) if reset_gate is None else summed(rewriter, reset_gate.present_inputs[0])
    if reset is None:
        return None
    gates = (reset[0], update[0])
    own = (*(tuple(t for t in terms if t.source != before) for terms in gates), own_new)
    own = tuple(tuple(_read_once(rewriter, term, own[_UPDATE]) for term in terms) for terms in own)
    back = (*(tuple(t for t in terms if t.source == before) for terms in gates), back_new)
    return _Unit(node, before, own, back, (reset[1], update[1], fresh[1]), inner, flipped)


def _read_once(rewriter: Rewriter, term: Term, others: Sequence[Term]) -> Term:
    """The term, of the value that one of the others reads if it is the same slice of a sequence, cut out again."""
    cut = rewriter.producer(viewed(rewriter, term.source), "slice")
    for other in others:
        first = rewriter.producer(viewed(rewriter, other.source), "slice")
        if cut is None or first is None or cut.attributes != first.attributes:
            continue
        alike = rewriter.shape(term.source) == rewriter.shape(other.source)
        if alike and rewriter.same(cut.present_inputs[0], first.present_inputs[0]):
            return replace(term, source=other.source)
    return term


_Found = tuple[Node | None, tuple[Term, ...], tuple[Term, ...], tuple[Shift, ...] | None]
"""The reset gate, the terms of what is new that are not of the state, those that are, and what is added inside."""


def _reset_inside(rewriter: Rewriter, product: str, fresh: _Sum, before: str | None) -> _Found | None:
    """tanh(W x + b + r (U h + c))."""
    node = rewriter.source(product, "mul", "scale")
    if node is None:
        return None
    if node.op == "scale":
        gate, number = rewriter.source(node.inputs[0], "sigmoid"), node.parameters.get("scale")
        plain = node.attribute("factor") == 1 and not node.attribute("reciprocal")
        if gate is None or number is None or before is not None or not plain or not is_row(number):
            return None
        return gate, fresh[0], (), (Shift(number, (0, number.shape[-1])),) if number.shape else ()
    for a, b in (node.present_inputs, node.present_inputs[::-1]):
        gate, inner = rewriter.source(a, "sigmoid"), summed(rewriter, b)
        if gate is not None and inner is not None and all(term.source == before for term in inner[0]):
            return gate, fresh[0], inner[0], inner[1]
    return None


def _reset_before(rewriter: Rewriter, fresh: _Sum, before: str | None) -> _Found | None:
    """tanh(W x + b + U (r h))."""
    own: list[Term] = []
    back: list[Term] = []
    gate: Node | None = None
    for term in fresh[0]:
        node = rewriter.source(term.source, "mul", "scale")
        reset = None if node is None else _kept(rewriter, term.source)
        if reset is None or reset[1] or reset[2] != before:
            own.append(term)
            continue
        gate = reset[0]
        if before is not None:
            back.append(term)
    return gate, tuple(own), tuple(back), None


def _replace(rewriter: Rewriter, unit: _Unit, whole: _Unit) -> None:
    """Put in the layer over one step; `whole` is a step of it that has all parameters."""
    node, x = unit.node, unit.own[_UPDATE][0].source
    shape, read = rewriter.value(node.outputs[0]).concrete_shape, rewriter.value(x)
    if shape is None or read.concrete_shape is None or len(unit.own[_UPDATE]) != 1:
        return
    row, layer = f"{node.name}/row", f"{node.name}/gru"
    long = (shape[0], 1, read.concrete_shape[-1])
    for name, made in _nodes(node, x, unit.before, row, layer, whole):
        sizes = long if name == row else (shape[0], 1, shape[1])
        rewriter.insert(made, Value(name, sizes, read.dtype), node)
    rewriter.replace(node, "reshape", (layer,), "gru")


def _nodes(node: Node, x: str, before: str | None, row: str, layer: str, whole: _Unit) -> Iterator[tuple[str, Node]]:
    yield row, Node(row, "reshape", (x,), (row,), source_op="gru", scope=node.scope)
    attributes = {"reverse": False, "reset_after": whole.inner is not None}
    weights = _weights(whole)
    yield layer, Node(layer, "gru", (row, before), (layer,), weights, attributes, "gru", node.scope, node.location)


def _weights(unit: _Unit) -> Mapping[str, Parameter]:
    own: Sequence[Term] = [gate[0] for gate in unit.own]
    size = own[0].rows[1] - own[0].rows[0]
    found = {
        "weight": matrix(own, "weight", unit.signs),
        "recurrent": matrix([gate[0] for gate in unit.back], "recurrent", unit.signs),
    }
    if any(unit.shifts):
        found["bias"] = vector(unit.shifts, size, "bias", unit.signs)
    if unit.inner:
        found["recurrent_bias"] = vector(((), (), unit.inner), size, "recurrent bias")
    return found
