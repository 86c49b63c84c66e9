"""What a recurrence keeps over its steps: of a layer, of a cell that is called in a loop, of a state written out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from gnelint.analysis.axes.layout import label
from gnelint.analysis.movement import holds_zeros
from gnelint.ir.graph import Graph, Node
from gnelint.lint.facts import Facts
from gnelint.lint.functions.signature import function
from gnelint.ops import families

_RECURRENT = families()["recurrent"]
_KEEPING_GATE = {"lstm": (4, 1), "gru": (3, 1)}
"""How many gates there are, and which of them multiplies the state."""
_NONE = "none"
_BACK = 12
"""Nodes between a layer and the factor that is made of it."""


def _kept_share(facts: Facts, node: Node) -> float | None:
    """What a step keeps of the state: of a plain network the recurrent matrix's size, of one with gates a + b.

    There a step multiplies the gradient by a I + b G: a is sigmoid(bias) of the gate that keeps, on average, and G, the
    recurrent matrix, comes back through the candidate with b = (what lets it in) (what lets the state out) sqrt(h q).
    It is the same matrix at every step, so its powers do not average out: a + b is the radius that counts (measured
    1.5 bits of the squared norm a step for torch's draw, 1.3 said; by a alone it would be 2).
    What the gate reads moves it a little up or down; the slope of a plain network's activation takes a little more.
    Of a state written out it is the mean of what multiplies it.
    """
    if node.op == "mul":
        factor = _factor(facts.graph, node)
        moments = None if factor is None else facts.input_moments(node, factor)
        return None if moments is None else moments[0]
    if node.op not in _RECURRENT or (node.op == "lstm" and node.attribute("coupled")):
        return None
    recurrent = node.parameters["recurrent"]
    hidden = recurrent.shape[-1]
    if node.op == "rnn":
        found = facts.statistics(recurrent)
        return None if found is None else math.sqrt(hidden * found.second_moment)
    found, gates = facts.statistics(recurrent), _gates(node, hidden)
    if found is None:
        return None
    kept = float(gates[_KEEPING_GATE[node.op][1]])
    opened = float(gates[0] * gates[3]) if node.op == "lstm" else float(gates[0]) * (1.0 - kept)
    return kept + opened * math.sqrt(hidden * found.second_moment)


def _gates(node: Node, hidden: int) -> np.ndarray:
    """Of each gate of a recurrent layer what it lets through on average, by its biases: sigmoid(bias)."""
    total = np.zeros((_KEEPING_GATE[node.op][0], hidden))
    for role in ("bias", "recurrent_bias"):
        parameter = node.parameters.get(role)
        if parameter is not None:
            total = total + np.asarray(parameter.array(), np.float64).reshape(total.shape)
    return np.asarray(np.mean(1.0 / (1.0 + np.exp(-total)), axis=1))


def _growth(facts: Facts, node: Node) -> float | None:
    """What a step multiplies a state by that is written out: a computed factor's mean, the largest stored one."""
    if node.op == "scale":
        scale = node.parameters.get("scale")
        if _state_before(facts.graph, node) is None or scale is None or scale.provenance != "data":
            return None
        return float(np.abs(np.asarray(scale.array(), np.float64)).max())
    factor = _factor(facts.graph, node)
    moments = None if factor is None else facts.input_moments(node, factor)
    return None if moments is None else moments[0]


def _state_before(graph: Graph, node: Node) -> Node | None:
    """The step before, of a state that the same stored numbers multiply each time."""
    if node.op != "scale" or "scale" not in node.parameters:
        return None
    total = graph.producers.get(node.present_inputs[0])
    if total is None or total.op not in ("add", "bias"):
        return None
    makers = (graph.producers.get(name) for name in total.present_inputs)
    own = _stored(node)
    # the first step multiplies zeros, and is read as what was written alone
    return next((each for each in makers if each is not None and each.op == "scale" and _stored(each) == own), None)


def _summed_before(graph: Graph, node: Node) -> str | None:
    """The state to which a gate plus its candidate is added, where their product was meant."""
    if node.op != "add" or len(node.present_inputs) != 2:
        return None
    for name, state in (node.present_inputs, node.present_inputs[::-1]):
        added = graph.producers.get(name)
        if added is None or added.op != "add":
            continue
        makers = [graph.producers.get(each) for each in added.present_inputs]
        if sorted(maker.op for maker in makers if maker is not None) == ["sigmoid", "tanh"]:
            return state
    return None


def _summed_gates(facts: Facts, node: Node) -> float:
    """Steps of a state to each of which a sigmoid plus a tanh is added, up to this one; 0 where another one follows."""
    graph = facts.graph
    state = _summed_before(graph, node)
    later = (reader for name in node.outputs for reader in graph.consumers.get(name, ()))
    if state is None or any(_summed_before(graph, reader) in node.outputs for reader in later):
        return 0.0
    steps = 0
    while state is not None:
        steps, before = steps + 1, graph.producers.get(state)
        state = _summed_before(graph, before) if before is not None else None
    return float(steps)


def _stored(node: Node) -> frozenset[str]:
    scale = node.parameters.get("scale")
    return frozenset() if scale is None else frozenset(leaf.name for leaf in scale.leaves)


def _scalings(graph: Graph, node: Node) -> int:
    """Steps of a state that stored numbers multiply, up to this one; 0 where another one follows."""
    sums = [reader for name in node.outputs for reader in graph.consumers.get(name, ())]
    later = (reader for total in sums for name in total.outputs for reader in graph.consumers.get(name, ()))
    before = _state_before(graph, node)
    if before is None or any(_state_before(graph, each) is node for each in later):
        return 0
    count = 1
    while before is not None:
        count, before = count + 1, _state_before(graph, before)
    return count


def _reads_last_step(facts: Facts, node: Node) -> bool | None:
    """Whether all that is read of a recurrent layer's output is its last step (its first, if it runs backwards)."""
    shape = facts.shape(node)
    if _is_cell(node):
        return _ends_loop(facts.graph, node)
    if shape is None or len(shape) != 3 or node.op not in _RECURRENT:
        return None
    if any(_is_other_direction(node, each) for each in facts.graph.consumers.get(node.present_inputs[0], ())):
        return False  # each half begins where the other one ends: all of the sequence is near to one of them
    return _only_reads(facts.graph, node.outputs[0], 1, 0 if node.attribute("reverse") else shape[1] - 1)


def _is_other_direction(node: Node, other: Node) -> bool:
    return other.op == node.op and other.attribute("reverse") != node.attribute("reverse")


def _reads_first_step(facts: Facts, node: Node) -> bool | None:
    """Whether all that is read of a recurrent layer's output is the step at which it begins."""
    shape = facts.shape(node)
    if shape is None or len(shape) != 3 or node.op not in _RECURRENT or shape[1] < 2 or len(node.outputs) > 1:
        return None
    return _only_reads(facts.graph, node.outputs[0], 1, shape[1] - 1 if node.attribute("reverse") else 0)


def _only_reads(graph: Graph, value: str, axis: int, step: int) -> bool:
    """Whether of a value nothing but one step of the axis is read, past transpositions and reshapes; what leads to no
    output, as the last states in an ONNX file that nobody asks for, reads nothing."""
    readers = [node for node in graph.consumers.get(value, ()) if not graph.gradient_values.isdisjoint(node.outputs)]
    if value in graph.outputs or not readers:
        return False
    return all(_takes(graph, reader, value, axis, step) for reader in readers)


def _takes(graph: Graph, node: Node, value: str, axis: int, step: int) -> bool:
    if node.op == "slice" and axis in node.attribute("axes"):
        place = node.attribute("axes").index(axis)
        return bool(node.attribute("starts")[place] == step and node.attribute("ends")[place] > step)
    indices = node.parameters.get("indices")
    if node.op == "gather" and indices is not None and node.attribute("axis") == axis:
        return bool(np.all(indices.array() == step))
    if node.op == "concat" and node.attribute("axis") != axis:
        return _only_reads(graph, node.outputs[0], axis, step)
    moved = _moved(graph, node, value, axis)
    return moved is not None and _only_reads(graph, node.outputs[0], moved, step)


def _moved(graph: Graph, node: Node, value: str, axis: int) -> int | None:
    """The axis of what a transposition or reshape gives that an axis of its input has become."""
    if node.op == "transpose":
        return int(node.attribute("perm").index(axis))
    before, after = graph.values[value].concrete_shape, graph.values[node.outputs[0]].concrete_shape
    if node.op not in ("reshape", "identity") or before is None or after is None:
        return None
    ahead = math.prod(before[:axis])
    return next((at for at in range(len(after)) if math.prod(after[:at]) == ahead and after[at] == before[axis]), None)


def _is_cell(node: Node) -> bool:
    return node.op in _RECURRENT and "cell" in node.source_op


def _cells(graph: Graph, node: Node) -> list[Node]:
    """The calls of one cell before this one, each the state of the next, the nearest first."""
    found: list[Node] = []
    while len(node.inputs) > 1 and node.inputs[1] is not None:
        before = graph.producers.get(node.inputs[1])
        while before is not None and before.op == "reshape":
            before = graph.producers.get(before.present_inputs[0])
        if before is None or not _is_cell(before) or before.parameters["recurrent"] != node.parameters["recurrent"]:
            break
        found.append(before)
        node = before
    return found


_FEWEST_STEPS = 3
"""Calls from which on a cell is called in a loop."""


def _state_fault(facts: Facts, node: Node) -> str:
    """What is wrong with the states that the second call of a cell in a loop gets from the first."""
    if _starts_again(facts, node) or _reads_one_state(facts, node):
        return "starts from the same state at every step: what the step before gave is not read"
    before = _cells(facts.graph, node) if node.op == "lstm" and _is_cell(node) else []
    if len(before) != 1 or not any(reader.op == "lstm" for reader in _readers(facts.graph, node)):
        return _NONE
    state, memory = (_whose(facts.graph, node, before[0], place) for place in (1, 2))
    if (state, memory) == (1, 0):
        return "is given the state and the memory of the step before in each other's place"
    return _NONE if memory is not None else "is not given the memory of the step before, but another one every time"


def _starts_again(facts: Facts, node: Node) -> bool:
    """Whether a layer is called for one step at a time, each time with the state that something before the loop gave;
    of its second call."""
    if node.op not in _RECURRENT or len(node.inputs) < 2 or node.inputs[1] not in facts.learnt_values:
        return False
    calls = facts.users.get(node.parameters["recurrent"].name, ())
    if len(calls) < _FEWEST_STEPS or calls[1].name != node.name:
        return False
    shapes = [facts.graph.values[each.present_inputs[0]].concrete_shape for each in calls]
    single = all(shape is not None and len(shape) == 3 and shape[1] == 1 for shape in shapes)
    read = {each.present_inputs[0] for each in calls}
    states = {None if len(each.inputs) < 2 else _unmoved(facts.graph, each.inputs[1]) for each in calls}
    return single and len(read) == len(calls) and len(states) == 1


def _reads_one_state(facts: Facts, node: Node) -> bool:
    """Whether a layer of a loop that is written out adds what it makes of one state to what another layer makes of each
    step, and nothing leads from step to step; of the second step, and of the first such layer."""
    found = facts.once(("one state", None), lambda: _of_one_state(facts))
    return found.get(node.parameters["weight"].name) == node.name if "weight" in node.parameters else False


def _of_one_state(facts: Facts) -> Mapping[str, str]:
    """By the weight of such a layer the name of its second use; of each state the first layer alone."""
    found: dict[str, tuple[str, str]] = {}
    for weight, users in facts.users.items():
        if len(users) < _FEWEST_STEPS or users[0].op != "linear":
            continue
        state = users[0].present_inputs[0]
        if any(tuple(each.present_inputs) != (state,) for each in users):
            continue
        sums = [_sum_of_step(facts, each, state) for each in users]
        steps = {None if one is None else one[1] for one in sums}
        if state not in facts.learnt_values or None in steps or len(steps) < len(users):
            continue
        first, second = sums[0], sums[1]
        if first is not None and second is not None and not _meet(facts.graph, first[0], second[0]):
            found.setdefault(state, (weight, users[1].name))
    return dict(found.values())


def _sum_of_step(facts: Facts, node: Node, state: str) -> tuple[Node, str] | None:
    """The sum of what a layer makes of a state, as wide as that, and of what a layer makes of one step of a series; and
    the step."""
    shape = facts.graph.values[state].concrete_shape
    readers = list(_readers(facts.graph, node))
    own = facts.shape(node) or (0, 0)
    wide = shape is not None and len(shape) == len(own) == 2 and shape[0] == own[0] and own[1] % shape[1] == 0
    if not wide or len(readers) != 1 or readers[0].op != "add":
        return None
    others = [name for name in readers[0].present_inputs if name not in node.outputs]
    step = _step_read(facts.graph, others[0]) if others else None
    return None if step is None else (readers[0], step)


def _step_read(graph: Graph, value: str) -> str | None:
    """The step of a series that a value is, or that a layer makes it of."""
    source = graph.producers.get(value)
    while source is not None and source.op in ("reshape", "identity", "linear"):
        value = source.present_inputs[0]
        source = graph.producers.get(value)
    return value if source is not None and source.op in ("slice", "split") else None


def _meet(graph: Graph, first: Node, second: Node) -> bool:
    """Whether what one step gives is used together with the next one, but for being joined to it."""
    of_first, of_second = set(first.outputs), set(second.outputs)
    for node in graph.nodes[graph.positions[first.name] + 1 :]:
        early, late = not of_first.isdisjoint(node.present_inputs), not of_second.isdisjoint(node.present_inputs)
        if node.op == "concat":
            continue
        if early and (late or node.name == second.name):
            return True
        of_first.update(node.outputs if early else ())
        of_second.update(node.outputs if late else ())
    return False


def _unmoved(graph: Graph, name: str | None) -> str | None:
    """What a state is before it is put into another shape."""
    source = None if name is None else graph.producers.get(name)
    while source is not None and source.op in ("reshape", "identity", "transpose", "slice", "expand"):
        name = source.present_inputs[0]
        source = graph.producers.get(name)
    return name


def _whose(graph: Graph, node: Node, before: Node, place: int) -> int | None:
    """Which output of the step before a state is, 0 for the state and 1 for the memory; None where it is none."""
    value = node.inputs[place] if place < len(node.inputs) else None
    while value is not None and value not in before.outputs:
        source = graph.producers.get(value)
        value = source.present_inputs[0] if source is not None and source.op in _CARRIES_STATE else None
    return None if value is None else before.outputs.index(value)


def _ends_loop(graph: Graph, node: Node) -> bool:
    """Whether a cell is the last of a loop all of whose other steps are read by the next one alone."""
    chain = [node, *_cells(graph, node)]
    readers = [list(_readers(graph, each)) for each in chain]
    alone = all(reader is later for later, found in zip(chain, readers[1:], strict=False) for reader in found)
    passed_on = {name for each in chain[1:] for name in each.outputs} & set(graph.outputs)
    return len(chain) > 1 and alone and not passed_on and not any(map(_is_cell, readers[0]))


def _readers(graph: Graph, node: Node) -> Iterator[Node]:
    """Who reads what a cell gives, past reshapes."""
    for name in node.outputs:
        for reader in graph.consumers.get(name, ()):
            yield from _readers(graph, reader) if reader.op == "reshape" else (reader,)


def _factor(graph: Graph, node: Node) -> int | None:
    """The operand of a product that multiplies a state: the other one is a sum that the product of a step before is in,
    and the same layer, or the next slice of the same value, gives what multiplies it."""
    if node.op != "mul" or len(node.present_inputs) != 2:
        return None
    for place, name in enumerate(node.present_inputs):
        before = _product_before(graph, name)
        own = _origin(graph, node.present_inputs[1 - place])
        if before is not None and own is not None and own in {_origin(graph, each) for each in before.inputs if each}:
            return 1 - place
    return None


def _product_before(graph: Graph, state: str) -> Node | None:
    """The product, or the scaling of the first step, in the sum that makes a state."""
    total = graph.producers.get(state)
    if total is None or total.op not in ("add", "bias"):
        return None
    makers = (graph.producers.get(name) for name in total.present_inputs)
    return next((each for each in makers if each is not None and each.op in ("mul", "scale")), None)


def _origin(graph: Graph, value: str) -> str | None:
    """Where a factor is from: the weight of the layer before it, or the value that it is a slice of."""
    for _ in range(_BACK):
        node = graph.producers.get(value)
        if node is None or not node.present_inputs:
            return None
        if node.op == "slice":
            return node.present_inputs[0]
        if "weight" in node.parameters:
            return node.parameters["weight"].name
        value = node.present_inputs[0]
    return None


def _products(graph: Graph, node: Node) -> int:
    """Steps of a state written out, up to this product; 0 where another one follows, which tells."""
    factor = _factor(graph, node)
    if factor is None:
        return 0
    sums = [reader for name in node.outputs for reader in graph.consumers.get(name, ())]
    later = (reader for total in sums for name in total.outputs for reader in graph.consumers.get(name, ()))
    if any(_factor(graph, each) is not None for each in later):
        return 0
    count, step = 1, node
    while (place := _factor(graph, step)) is not None:
        before = _product_before(graph, step.present_inputs[1 - place])
        if before is None:
            break
        count, step = count + 1, before
    return count


def _gates_nothing(facts: Facts, node: Node) -> bool:
    """Whether all that a value does is to be multiplied by zeros: the gate of a state that was not written yet."""
    readers = [reader for name in node.outputs for reader in facts.graph.consumers.get(name, ())]
    scales = [reader.parameters.get("scale") for reader in readers if reader.op == "scale"]
    return (
        bool(readers) and len(scales) == len(readers) and all(each is not None and holds_zeros(each) for each in scales)
    )


def _steps(facts: Facts, node: Node) -> float | None:
    if node.op == "mul":
        return float(_products(facts.graph, node))
    if node.op == "scale":
        return float(_scalings(facts.graph, node))
    if _is_cell(node):
        return float(1 + len(_cells(facts.graph, node)))
    shape = facts.shape(node)
    return None if shape is None or len(shape) != 3 else float(shape[1])


_CARRIES_STATE = frozenset({"slice", "reshape", "identity", "expand"})


def _drawn_state(facts: Facts, node: Node) -> bool:
    """Whether a recurrent layer starts from numbers that forward draws anew in every pass."""
    if node.op not in _RECURRENT:
        return False
    for name in node.present_inputs[1:]:
        source = facts.source_beyond(facts.graph.producers.get(name), _CARRIES_STATE)
        value = source.parameters.get("value") if source is not None and source.op == "constant" else None
        if value is not None and value.transform == "random" and not any(leaf.trainable for leaf in value.leaves):
            return True
    return False


def _unbatched_rows(facts: Facts, node: Node) -> float:
    """How many rows of a network's input of two axes a recurrent layer takes for the steps of one series, where it was
    told that the batch comes first."""
    frame = facts.producer(node)
    if (
        node.op not in _RECURRENT
        or frame is None
        or frame.op != "reshape"
        or not frame.name.startswith(f"{node.name}.")
    ):
        return 0.0
    layout, shape = facts.axes.layouts.get(frame.outputs[0]), facts.shape(frame)
    alone = layout is not None and shape is not None and len(shape) == 3 and shape[0] == 1 < shape[1]
    return (
        float(shape[1]) if alone and layout and shape and label(layout[1]) == 0 and len(facts.axes.shape) == 2 else 0.0
    )


MEMORY = (
    function(
        "unbatched_rows(n)",
        "number",
        _unbatched_rows,
        "rows of an input of two axes that the recurrent layer n, told that the batch comes first, takes for the steps "
        "of one series; 0 of others",
    ),
    function(
        "state_fault(n)",
        "text",
        _state_fault,
        "what is wrong with the states that n, the second call of a recurrent cell in a loop, gets from the first, a "
        "clause; or none",
    ),
    function(
        "drawn_state(n)",
        "truth",
        _drawn_state,
        "the recurrent layer n starts from a state that forward draws anew in every pass",
    ),
    function(
        "kept_share(n)",
        "number",
        _kept_share,
        "what a step of a recurrent layer keeps of the state: average of sigmoid(bias) of the gate that multiplies it "
        "and what comes back through the recurrent matrix, of a layer without gates the root of that matrix's phi, "
        "of a state written out its factor's mean",
    ),
    function(
        "state_growth(n)",
        "number",
        _growth,
        "what a step multiplies a state by that is written out: the mean of a computed factor, the largest stored one",
    ),
    function(
        "summed_gates(n)",
        "number",
        _summed_gates,
        "steps of a state to each of which a sigmoid plus a tanh is added, up to n; 0 where another one follows",
    ),
    function(
        "reads_last_step(n)",
        "truth",
        _reads_last_step,
        "of a recurrent layer's output, or of a cell called in a loop, nothing but the last step is read",
    ),
    function(
        "reads_first_step(n)",
        "truth",
        _reads_first_step,
        "of a recurrent layer's output nothing but the step at which it begins is read: its state has seen no other",
    ),
    function(
        "gates_nothing(n)",
        "truth",
        _gates_nothing,
        "all that reads n multiplies it by zeros, as the gate of a state before the first step",
    ),
    function(
        "steps(n)",
        "number",
        _steps,
        "steps in time of a recurrent layer; of a cell called in a loop and of a state written out, those up to n",
    ),
)
