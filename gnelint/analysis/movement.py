"""Which parameters can ever move: where the gradient is identically zero, at the start and in the steps behind it.

Two facts about each value are followed through the graph: whether it is zero for every input, and whether a gradient
that is not zero for every input arrives at it. Both spread as products, sums and slopes let them: the weight of a layer
gets a gradient where one arrives at its output and what it reads is not zero. A parameter that gets one is not zero in
the next step, which may let the gradient through elsewhere, until nothing changes. LoRA's A moves in the second step,
since B moves in the first; with both zero neither ever does.

What is not known counts as not zero, so that nothing is said to stand still that might move. A gradient that cancels
(the bias in front of a normalisation, the key's bias under a softmax) is not zero here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from functools import partial
from typing import Literal

import numpy as np

from gnelint.analysis.axes.statistic_size import statistic_size
from gnelint.analysis.invariance import is_fixed, taken_out
from gnelint.ir.graph import Derivation, Graph, Node, Parameter
from gnelint.ops import VOCABULARY, families
from gnelint.ops.record import Expanded, Polynomials, Smooth
from gnelint.records import dataclass, replace
from gnelint.theory.gaussian.arrays import NUMPY
from gnelint.theory.weights.contraction import is_zero

Cause = Literal[
    "unread", "flat", "single", "detached", "cancelled", "shared", "fixed", "zero weight", "zero operand",
    "reads zeros", "no state", "a number", "zero slope", "dropped", "flat here", "swapped bounds",
]  # fmt: skip
"""Why no gradient arrives: nothing leads to an output; a derivative that is zero everywhere; a softmax or norm of one
value; a detached value; a sum takes away as much of it as it adds; a softmax or norm takes out what is the same all
along its axis; the mean of what has been given a mean, or the sum of shares; all weights of a node behind are zero; it
is multiplied with zeros; the layer itself reads zeros; a cell that is called once, without a state; a slope of 0 at 0;
a dropout that keeps nothing; the numbers are computed from it by what has no derivative, or none where they start; a
clamp whose lower bound is not below its upper one."""


@dataclass(frozen=True)
class Block:
    """What keeps the gradient from a tensor.

    Attributes:
        cause: of the kinds above.
        node: name of the node that lets nothing through; of the tensor's own node where that reads zeros.
        zeros: tensors of zeros that the zeros it meets come from.
    """

    cause: Cause
    node: str
    zeros: tuple[str, ...] = ()


@dataclass(frozen=True)
class Movement:
    """When the parameters of a network first move.

    Attributes:
        first: by the name of a trained tensor, the step in which its gradient is first not identically zero, from 1;
            None where that is never.
        blocks: what keeps the gradient of those from them that do not move in the first step.
    """

    first: Mapping[str, int | None] = field(default_factory=dict)
    blocks: Mapping[str, Block] = field(default_factory=dict)

    @property
    def stuck(self) -> tuple[str, ...]:
        """Tensors that never move."""
        return tuple(name for name, step in self.first.items() if step is None)


_FAMILIES = families()
_LAYERS = frozenset({"linear", "conv", "conv_transpose"})
_NO_GRADIENT = {"embedding": (0,), "gather": (1,), "where": (0,), "one_hot": (0,), "scatter": (1,)}
"""Operands that are only looked at, by operation."""
SUMS = frozenset({"add", "sub"})
_FLAT = frozenset({"step", "compare", "logical", "top_mask", "one_hot"})


_BY_LENGTH = frozenset({"rms_norm", "second_moment_norm", "l2_normalize"})
"""Normalisations that do not subtract the mean: of one value they leave its sign."""


@dataclass(frozen=True)
class _State:
    """What is zero at one step.

    Attributes:
        tensors: names of the stored tensors all of whose entries are zero.
        single: names of the softmaxes and normalisations of one value each: what they give is the same for all inputs.
        fixed: names of the means and sums that are the same for all inputs.
        cancelled: operands, as a node's name and a place, of sums that take away as much of them as they add.
        shared: operands of sums that the softmax or normalisation behind takes out again.
        values: names of the values that are zero for every input.
    """

    tensors: frozenset[str]
    single: frozenset[str]
    fixed: frozenset[str]
    cancelled: frozenset[tuple[str, int]]
    shared: Mapping[tuple[str, int], str]
    values: frozenset[str] = frozenset()

    def is_zero(self, value: str | None) -> bool:
        return value in self.values

    def all_zero(self, parameter: Parameter | None) -> bool:
        """Whether a parameter's numbers are all zero; computed ones are as they were read, until a part moves."""
        return parameter is not None and parameter.name in self.tensors


def movement(graph: Graph) -> Movement:
    """When each trained tensor of the graph first gets a gradient.

    Cost: one pass over the graph forward and one back for each step in which a tensor of zeros begins to move.
    """
    zero = frozenset(parameter.name for parameter in graph.parameters() if holds_zeros(parameter))
    state = _State(
        zero,
        single=frozenset(node.name for node in graph.nodes if statistic_size(graph, node) == 1),
        fixed=frozenset(node.name for node in graph.nodes if is_fixed(graph, node)),
        cancelled=frozenset(_cancelled(graph)),
        shared=dict(taken_out(graph)),
    )
    trained = {leaf.name for parameter in graph.parameters() for leaf in parameter.leaves if leaf.trainable}
    if not any(_carries(graph, name) for name in graph.outputs):
        return Movement()  # the loss is taken elsewhere: the outputs are classes or indices
    first: dict[str, int | None] = dict.fromkeys(sorted(trained))
    blocks: dict[str, Block] = {}
    step = 0
    while True:
        step += 1
        state = _forward(graph, state)
        live = _backward(graph, state)
        moving = _moving(graph, state, live) | graph.in_losses
        if step == 1:
            blocks = dict(_blocks(graph, state, live, trained - moving))
        for name in moving & trained:
            first[name] = first[name] or step
        zero = _still_zero(graph, state, moving & trained)
        if zero == state.tensors:
            return Movement(first, blocks)
        state = replace(state, tensors=zero)


def _cancelled(graph: Graph) -> Iterator[tuple[str, int]]:
    """The operands of sums whose parts cancel: z in z + (r - z)."""
    for node in graph.nodes:
        if node.op not in SUMS or is_part(graph, node.outputs[0]):
            continue
        parts: dict[str, list[tuple[float, str, int]]] = {}
        for value, factor, holder, place in sum_parts(graph, node, 1.0):
            parts.setdefault(value, []).append((factor, holder, place))
        for found in parts.values():
            if len(found) > 1 and sum(factor for factor, *_ in found) == 0.0:
                yield from ((holder, place) for _, holder, place in found)


def is_part(graph: Graph, value: str) -> bool:
    """Whether nothing but one sum reads a value."""
    readers = graph.consumers.get(value, ())
    return len(readers) == 1 and readers[0].op in SUMS and value not in graph.outputs


def sum_parts(graph: Graph, node: Node, factor: float) -> Iterator[tuple[str, float, str, int]]:
    """What a sum adds, with its factor and where it stands; sums that nothing else reads are taken apart."""
    waiting = [_terms(node, factor)]
    while waiting:
        for value, own, holder, place in waiting[-1]:
            source = graph.producers.get(value)
            if source is not None and source.op in SUMS and is_part(graph, value):
                waiting.append(_terms(source, own))
                break
            yield value, own, holder, place
        else:
            waiting.pop()


def _terms(node: Node, factor: float) -> Iterator[tuple[str, float, str, int]]:
    """What one sum adds, as `sum_parts` tells it."""
    for place, value in enumerate(node.present_inputs):
        yield value, -factor if node.op == "sub" and place else factor, node.name, place


def holds_zeros(parameter: Parameter) -> bool:
    """Whether all numbers of a tensor are zero."""
    if parameter.law is not None:
        return not parameter.law.second_moment
    if parameter.provenance == "placeholder":
        return False
    array = parameter.array()
    if array.size == 0 or array.flat[0] != 0:
        return False  # of most weights one number is enough
    return is_zero(array)


def _still_zero(graph: Graph, state: _State, moving: set[str]) -> frozenset[str]:
    """The tensors of zeros none of whose parts begins to move."""
    left = {
        parameter.name
        for parameter in graph.parameters()
        if parameter.name in state.tensors and not any(leaf.name in moving for leaf in parameter.leaves)
    }
    return frozenset(left)


# --- which values are zero -------------------------------------------------------------------------------


def _forward(graph: Graph, state: _State) -> _State:
    values: set[str] = set()
    now = replace(state, values=values)  # type: ignore[arg-type]  # read only while the pass fills it
    for node in graph.nodes:
        if _gives_zero(node, now):
            values.update(node.outputs)
    return replace(state, values=frozenset(values))


def _gives_zero(node: Node, state: _State) -> bool:
    rule = _ZERO.get(node.op)
    if rule is not None:
        return rule(node, state)
    operands = node.present_inputs
    passes_zero = node.op in _FAMILIES["shape"] | _FAMILIES["reduction"] | _FAMILIES["pooling"]
    if node.op in _FAMILIES["activation"] | _FAMILIES["pointwise"]:
        return _zero_at_zero(node) and state.is_zero(operands[0])
    if node.op in _FAMILIES["normalization"]:
        nothing = node.name in state.single and node.op not in _BY_LENGTH
        nothing = nothing or state.is_zero(operands[0]) or state.all_zero(node.parameters.get("scale"))
        return nothing and _no_bias(node, state)
    return passes_zero and bool(operands) and state.is_zero(operands[0])


def _zero_at_zero(node: Node) -> bool:
    """Whether f(0) = 0. A root is left out: its slope there is infinite, and what is multiplied by it not zero."""
    record = VOCABULARY[node.op]
    if node.op == "sqrt" or (node.op == "pow" and node.attribute("exponent") < 1):
        return False
    if record.parameters or record.function is None:
        return True  # a slope of its own on one side of zero
    with np.errstate(all="ignore"):
        at_zero = record.function.value(
            NUMPY, np.zeros(1), **{name: node.attribute(name) for name in record.attributes}
        )
    return float(at_zero[0]) == 0.0


def _no_bias(node: Node, state: _State) -> bool:
    return "bias" not in node.parameters or state.all_zero(node.parameters["bias"])


def _layer(node: Node, state: _State) -> bool:
    nothing = state.is_zero(node.inputs[0]) or state.all_zero(node.parameters.get("weight"))
    return nothing and _no_bias(node, state)


def _all_operands(node: Node, state: _State) -> bool:
    return all(map(state.is_zero, node.present_inputs))


def _any_operand(node: Node, state: _State) -> bool:
    return any(map(state.is_zero, node.present_inputs))


def _scaled(node: Node, state: _State) -> bool:
    by_zero = state.all_zero(node.parameters.get("scale")) and not node.attribute("reciprocal")
    return state.is_zero(node.inputs[0]) or by_zero or node.attribute("factor") == 0


_ZERO: Mapping[str, Callable[[Node, _State], bool]] = {
    **dict.fromkeys(_LAYERS, _layer),
    "embedding": lambda node, state: state.all_zero(node.parameters.get("weight")),
    "bias": lambda node, state: state.is_zero(node.inputs[0]) and _no_bias(node, state),
    "scale": _scaled,
    "matmul": _any_operand,
    "mul": _any_operand,
    "dropout": lambda node, state: state.is_zero(node.inputs[0]) or node.attribute("p") >= 1,
    "div": lambda node, state: state.is_zero(node.inputs[0]),
    **dict.fromkeys(("add", "sub", "mean", "concat", "maximum", "minimum"), _all_operands),
    "where": lambda node, state: all(map(state.is_zero, node.inputs[1:])),
    "attention": lambda node, state: state.is_zero(node.inputs[2]),
    **dict.fromkeys(("stop_gradient", "straight_through"), lambda node, state: state.is_zero(node.inputs[0])),
    "constant": lambda node, state: state.all_zero(node.parameters.get("value")),
    # written out it is a root (`_zero_at_zero`)
    "reduce_l2": lambda node, state: state.is_zero(node.inputs[0]) and not node.attribute("exposed"),
    "pad": lambda node, state: (
        state.is_zero(node.inputs[0]) and (node.attribute("mode") != "constant" or node.attribute("value") == 0)
    ),
}
"""Whether a node gives zeros, for operations of which the family does not tell."""


# --- where a gradient arrives ----------------------------------------------------------------------------


def _backward(graph: Graph, state: _State) -> set[str]:
    """The values at which a gradient arrives that is not zero for every input."""
    live = {name for name in graph.outputs if _carries(graph, name)}
    live |= graph.captured  # what a body reads is not looked into
    for node in reversed(graph.nodes):
        if any(name in live for name in node.outputs):
            live.update(
                name
                for place, name in enumerate(node.inputs)
                if name is not None and _carries(graph, name) and _obstacle(node, place, state) is None
            )
    return live


def _carries(graph: Graph, name: str) -> bool:
    return name in graph.values and graph.values[name].is_floating


def _obstacle(node: Node, place: int, state: _State) -> Cause | None:
    """What keeps a gradient at a node's outputs from one of its inputs."""
    if node.op == "stop_gradient" or (node.op == "straight_through" and place == 0):
        return "detached"
    if (node.name, place) in state.cancelled:
        return "cancelled"
    if node.op == "dropout" and node.attribute("p") >= 1:
        return "dropped"
    if node.op == "clip" and _is_one_number(node):
        return "swapped bounds"
    if node.name in state.single:
        return "single"
    if node.name in state.fixed:
        return "fixed"
    if (node.name, place) in state.shared:
        return "shared"
    if node.op in _FLAT or place in _NO_GRADIENT.get(node.op, ()):
        return "flat"
    if node.op in _LAYERS | _FAMILIES["recurrent"]:
        return "zero weight" if state.all_zero(node.parameters.get("weight")) else None
    if node.op == "scale":
        return "zero weight" if _scaled(node, replace(state, values=frozenset())) else None
    if node.op in _FAMILIES["normalization"]:
        return "zero weight" if state.all_zero(node.parameters.get("scale")) else None
    if node.op in ("mul", "matmul") or (node.op == "div" and place == 1):
        others = node.inputs[:1] if node.op == "div" else [name for at, name in enumerate(node.inputs) if at != place]
        return "zero operand" if any(map(state.is_zero, others)) else None
    if node.op == "attention" and place < 2:
        return "zero operand" if state.is_zero(node.inputs[1 - place]) or state.is_zero(node.inputs[2]) else None
    if node.op in _FAMILIES["activation"] | _FAMILIES["pointwise"]:
        return "zero slope" if _flat_at_zero(node) and state.is_zero(node.inputs[0]) else None
    return None


def _is_one_number(node: Node) -> bool:
    """Whether a clamp gives its upper bound for every input."""
    low, high = node.attribute("min"), node.attribute("max")
    return low is not None and high is not None and low >= high


def _flat_at_zero(node: Node) -> bool:
    """Whether f'(0) = 0, as autograd takes it."""
    record = VOCABULARY[node.op]
    if node.op == "abs":
        return True  # the slopes on both sides are opposite, and autograd takes the one between
    if record.parameters or record.function is None:
        return False
    numbers = {name: node.attribute(name) for name in record.attributes}
    if isinstance(record.function, Polynomials):  # at a bend autograd takes the slope to the left of it
        pieces = record.function.pieces(**numbers)
        coefficients = next(piece[2] for piece in pieces if piece[1] >= 0.0)
        return len(coefficients) < 2 or coefficients[1] == 0.0
    if isinstance(record.function, (Smooth, Expanded)):
        with np.errstate(all="ignore"):
            return bool(record.function.slope(NUMPY, np.zeros(1), **numbers)[0] == 0.0)
    return False


def _moving(graph: Graph, state: _State, live: set[str]) -> set[str]:
    """The stored tensors that get a gradient."""
    return {
        leaf.name
        for node in graph.nodes
        if node.op not in _FLAT and any(name in live for name in node.outputs)
        for role, parameter in node.parameters.items()
        if parameter.trainable and not _reads_zeros(node, role, state)
        for leaf in parameter.leaves
        if not is_flat_here(parameter, leaf.name)
    } | {leaf.name for body in graph.subgraphs.values() for parameter in body.parameters() for leaf in parameter.leaves}


def is_flat_here(parameter: Parameter, name: str) -> bool:
    """Whether what a parameter is computed by is flat where this tensor of it starts."""
    return isinstance(parameter.load, Derivation) and parameter.load.slopes().get(name) == 0.0


def _lacks_state(node: Node, role: str, state: _State) -> bool:
    """Whether a recurrent weight multiplies a state of zeros alone: that of a cell which is called once."""
    if role != "recurrent" or "cell" not in node.source_op:
        return False
    return len(node.inputs) < 2 or node.inputs[1] is None or state.is_zero(node.inputs[1])


def _reads_zeros(node: Node, role: str, state: _State) -> bool:
    """Whether what the parameter is multiplied with is zero."""
    if _lacks_state(node, role, state):
        return True
    product = role in ("weight", "scale", "slope") and node.op != "embedding"
    return product and node.op not in _FAMILIES["recurrent"] and state.is_zero(node.inputs[0])


# --- what is in the way ----------------------------------------------------------------------------------


def _blocks(graph: Graph, state: _State, live: set[str], names: set[str]) -> Iterator[tuple[str, Block]]:
    """What keeps the gradient from each of these tensors, of its first use."""
    behind = _obstacles(graph, state, live)
    seen: set[str] = set()
    for node in graph.nodes:
        for parameter in node.parameters.values():
            for leaf in parameter.leaves:
                if leaf.name in names and leaf.name not in seen:
                    seen.add(leaf.name)
                    yield leaf.name, _with_zeros(graph, state, _block(node, parameter, live, behind))


def _block(node: Node, parameter: Parameter, live: set[str], behind: Mapping[str, Block]) -> Block:
    if any(name in live for name in node.outputs):
        if not parameter.trainable:
            return Block("a number", node.name)
        if all(is_flat_here(parameter, leaf.name) for leaf in parameter.leaves if leaf.trainable):
            return Block("flat here", node.name)
        return Block("no state" if node.op in _FAMILIES["recurrent"] else "reads zeros", node.name)
    return next((behind[name] for name in node.outputs if name in behind), Block("unread", node.name))


def _obstacles(graph: Graph, state: _State, live: set[str]) -> dict[str, Block]:
    """Behind each value that no gradient reaches: the node that one reaches and does not pass."""
    found: dict[str, Block] = {}
    read = set(graph.outputs)
    for node in reversed(graph.nodes):
        if not any(name in read for name in node.outputs):
            continue
        read.update(node.present_inputs)
        # what gives integers or truth values is read, but no gradient arrives at it
        reached = any(name in live or not _carries(graph, name) for name in node.outputs)
        further = next((found[name] for name in node.outputs if name in found), None)
        for place, name in enumerate(node.inputs):
            if name is None or name in live:
                continue
            cause = _obstacle(node, place, state) if reached else None
            if cause is None and _carries(graph, name) and not any(map(partial(_carries, graph), node.outputs)):
                cause = "flat"  # an argmax, a count: what is given is no longer a number that moves
            if cause is not None and (name not in found or found[name].cause != "cancelled"):
                found[name] = Block(cause, state.shared.get((node.name, place), node.name))
            elif further is not None:
                found.setdefault(name, further)
    return found


_OF_ZEROS: frozenset[Cause] = frozenset({"zero operand", "zero slope"})


def _with_zeros(graph: Graph, state: _State, block: Block) -> Block:
    """The block, with the tensors that make zero what its node meets."""
    if block.cause not in _OF_ZEROS:
        return block
    found: dict[str, None] = {}
    waiting, seen = [graph.node(block.node)], set[str]()
    while waiting:
        node = waiting.pop()
        for name in filter(state.is_zero, node.present_inputs):
            source = graph.producers.get(name)
            if source is None or source.name in seen:
                continue
            seen.add(source.name)
            own = [parameter.name for parameter in source.parameters.values() if state.all_zero(parameter)]
            found.update(dict.fromkeys(own))
            if not own:
                waiting.append(source)
    return replace(block, zeros=tuple(found))
