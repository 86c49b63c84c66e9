"""Whether the parameters of a node can ever move, and what holds them back."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

from gnelint.analysis.invariance import is_fixed
from gnelint.analysis.movement import SUMS, Block, is_part, sum_parts
from gnelint.ir.graph import Graph, Node
from gnelint.lint.facts import LAYERS, Facts
from gnelint.lint.functions.signature import function
from gnelint.lint.places import folded
from gnelint.ops import families

_NONE = "none"
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


def _trained(facts: Facts, node: Node) -> Iterator[str]:
    for parameter in node.parameters.values():
        yield from (leaf.name for leaf in parameter.leaves if leaf.name in facts.movement.first)


def _never(facts: Facts, node: Node) -> list[str]:
    return list(dict.fromkeys(name for name in _trained(facts, node) if facts.movement.first[name] is None))


_TOLD_AT = frozenset({"linear", "conv", "conv_transpose", "embedding", "scale", "bias", "prelu", "constant"}) | (
    families()["recurrent"] | families()["normalization"]
)
"""Operations at which a parameter that never moves is told, at the first that uses it."""


def _stuck(facts: Facts, node: Node) -> str:
    told = facts.once(("told at", None), lambda: _first_uses(facts))
    return ", ".join(name for name in _never(facts, node) if told.get(name, node.name) == node.name) or _NONE


def _first_uses(facts: Facts) -> Mapping[str, str]:
    """By the name of a trained parameter the first node at which it is told."""
    found: dict[str, str] = {}
    for node in facts.graph.nodes:
        for name in _trained(facts, node) if node.op in _TOLD_AT else ():
            found.setdefault(name, node.name)
    return found


def _held_back(facts: Facts, node: Node) -> str:
    names = _never(facts, node)
    block = facts.movement.blocks.get(names[0]) if names else None
    return _NONE if block is None else _told(facts, block)


def _switched_off(facts: Facts, node: Node) -> bool:
    """Whether what holds the node's parameters back is a factor of zeros that nobody trains: a mask, a switch."""
    holder = _holder(facts, node)
    return holder is not None and not any(parameter.trainable for parameter in holder.parameters.values())


def _holder(facts: Facts, node: Node) -> Node | None:
    """The factor of zeros that holds the node's parameters back; None if something else does."""
    block = next((facts.movement.blocks[name] for name in _never(facts, node) if name in facts.movement.blocks), None)
    if block is None or block.cause != "zero weight":
        return None
    holder = facts.graph.node(block.node)
    return holder if holder.op == "scale" else None


def _kept_off(facts: Facts, node: Node) -> bool:
    """Whether that factor is a parameter that was frozen at zero: whoever does so knows that the part is off."""
    holder = _holder(facts, node)
    leaves = [leaf for each in holder.parameters.values() for leaf in each.leaves] if holder is not None else []
    return bool(leaves) and all(leaf.kind == "frozen" for leaf in leaves)


_CAUSES = {
    "flat": "the derivative of {} is zero everywhere",
    "single": "{} runs over a single entry, so what it gives is the same for every input",
    "detached": "{} stops the gradient",
    "cancelled": "{} takes away as much of it as it adds, so its derivative is zero",
    "shared": "it adds the same number all along the axis of {}, which takes that out again",
    "fixed": "{} is the same for every input: the mean of what has been given a mean, or the sum of shares",
    "a number": "{} gets numbers that were computed from it by what has no derivative (detach, .data, sign, round)",
    "flat here": "what {} uses is computed from it by a function that is flat at the numbers it starts with (outside "
    "of a clamp's bounds, far out in a sigmoid, below zero in a ReLU)",
    "swapped bounds": "{} gives its upper bound for every input, since its lower one is not below that",
    "dropped": "{} drops everything (p = 1)",
    "no state": "{} is called without the state of the step before, and starts from zeros every time",
    "zero weight": "the weights of {} are all zero",
    "zero operand": "what {} multiplies it with is zero",
    "reads zeros": "{} reads nothing but zeros",
    "zero slope": "{} reads nothing but zeros, and its derivative at zero is zero",
}
"""What holds a gradient back, of the node that does."""


def _told(facts: Facts, block: Block) -> str:
    node = facts.graph.node(block.node)
    if block.cause not in _CAUSES:
        return "no output of the network depends on it"
    too = " and never move either" if block.cause == "zero weight" and _never(facts, node) else ""
    starts = f", which {', '.join(folded(block.zeros)[:2])} of zeros makes it" if block.zeros else ""
    return _CAUSES[block.cause].format(f"{node.name} ({node.source_op or node.op})") + too + starts


def _turned_estimator(facts: Facts, node: Node) -> bool:
    """Whether a sum takes a value away and adds it again detached: what is left of it is its gradient, turned round.

    Straight through it is added, and taken away detached.
    """
    if node.op not in SUMS or is_part(facts.graph, node.outputs[0]):
        return False
    parts: dict[tuple[str, bool], float] = {}
    for value, factor, _, _ in sum_parts(facts.graph, node, 1.0):
        source = facts.graph.producers.get(value)
        detached = source is not None and source.op == "stop_gradient"
        own = (source.present_inputs[0] if source is not None and detached else value, detached)
        parts[own] = parts.get(own, 0.0) + factor
    return any(
        not detached and factor < 0.0 and parts.get((value, True)) == -factor and value in facts.learnt_values
        for (value, detached), factor in parts.items()
    )


def _idle_term(facts: Facts, node: Node) -> str:
    """Why an operand of a loss's sum moves nothing: frozen layers compute it of inputs or detached values alone; or why
    a sum of what layers give is the same for every input, as that of shares is."""
    shares = facts.producer(node) if is_fixed(facts.graph, node) else None
    if shares is not None and shares.op == "softmax" and node.outputs[0] in facts.learnt_values:
        return f"the shares of {shares.name} add up to 1 along the axis that it sums, whatever they are"
    if node.op != "add" or facts.shape(node) not in ((), (1,)):
        return _NONE
    for name in node.present_inputs:
        stops = _stops(facts.graph, name)
        if stops:
            return f"{', '.join(folded(sorted(stops)))} stops the gradient, and all layers behind are frozen"
        if _is_frozen(facts.graph, name):
            return "all of its layers are frozen, and it is computed of inputs alone"
    return _NONE


def _stops(graph: Graph, value: str) -> set[str]:
    """Where the gradient of a value ends, if it is at nothing but detached values behind frozen layers."""
    stops = set[str]()
    layers = 0
    for source in _sources(graph, value, past_stops=False):
        if any(parameter.trainable for parameter in source.parameters.values()):
            return set()
        if source.op == "stop_gradient":
            stops.add(source.name)
        layers += source.op in LAYERS
    return stops if layers else set()


def _is_frozen(graph: Graph, value: str) -> bool:
    """Whether frozen layers, and nothing that is trained, compute a value."""
    found = list(_sources(graph, value, past_stops=True))
    trained = any(parameter.trainable for source in found for parameter in source.parameters.values())
    return not trained and any(source.op in LAYERS for source in found)


def _sources(graph: Graph, value: str, past_stops: bool) -> Iterator[Node]:
    """The nodes that a value is computed by, each once."""
    waiting, seen = [value], set[str]()
    while waiting:
        source = graph.producers.get(waiting.pop())
        if source is None or source.name in seen:
            continue
        seen.add(source.name)
        yield source
        if past_stops or source.op != "stop_gradient":
            waiting += source.present_inputs


def _first_step(facts: Facts, node: Node) -> float | None:
    steps = [facts.movement.first[name] for name in _trained(facts, node)]
    return None if not steps or None in steps else float(max(step for step in steps if step is not None))


def _kinds(facts: Facts, node: Node, kind: str) -> str:
    names = [leaf.name for parameter in node.parameters.values() for leaf in parameter.leaves if leaf.kind == kind]
    return ", ".join(dict.fromkeys(names)) or _NONE


_WEIGHT = re.compile(r"(?P<module>.+)\.weight(_hh_(?P<layer>l\d+(_reverse)?))?")
"""A layer's weight; of those that a recurrent module holds the recurrent one, with which layer and direction it is."""


_FEWEST = 64
"""Numbers from which on it shows whether they were drawn."""
_LIFTED = re.compile(r"(lifted_tensor|_tensor_constant)_?\d*")
"""What forward itself writes as torch.tensor(...)."""


def _unsaved_draws(facts: Facts, node: Node) -> str:
    """Tensors of independent draws that a layer multiplies with and the module holds as plain attributes."""
    weight = node.parameters.get("weight") if facts.graph.source == "torch" else None
    if node.op not in LAYERS or weight is None or weight.kind != "constant" or weight.provenance != "data":
        return _NONE
    named = [leaf for leaf in weight.leaves if not _LIFTED.fullmatch(leaf.name)]
    plain = len(named) == len(weight.leaves) == 1 and weight.transform is None and ":" not in weight.name
    return weight.name if plain and weight.once("is drawn", lambda: _is_drawn(weight.array())) else _NONE


def _is_drawn(stored: np.ndarray) -> bool:
    """Whether numbers look drawn independently about zero: hardly any two alike, of no mean and no order."""
    numbers = np.asarray(stored, np.float64)
    count, deviation = numbers.size, float(numbers.std())
    if count < _FEWEST or not np.isfinite(deviation) or deviation == 0.0 or np.unique(numbers).size < 0.9 * count:
        return False
    centred = (numbers - numbers.mean()) / deviation
    bound = 4.0 / math.sqrt(count)
    order = [
        float((np.delete(centred, 0, axis) * np.delete(centred, -1, axis)).mean())
        for axis in range(numbers.ndim)
        if numbers.shape[axis] > 1
    ]
    return abs(float(numbers.mean())) < bound * deviation and all(abs(each) < 1.5 * bound for each in order)


def _unread(facts: Facts) -> list[str]:
    """Modules with a weight none of whose trained parameters is used, and layers of a stacked recurrent one.

    A loose tensor beside used ones is not told.
    """
    return [*_unread_modules(facts), *_unread_of_stacks(facts)]


def _unread_modules(facts: Facts) -> list[str]:
    used = {name.rpartition(".")[0] for name in facts.graph.uses}
    weighted = (found["module"] for name in facts.graph.unread if (found := _WEIGHT.fullmatch(name)) is not None)
    return [module for module in dict.fromkeys(weighted) if module not in used]


def _unread_of_stacks(facts: Facts) -> list[str]:
    """Layers, or directions, of a recurrent module of which others are used."""
    used = {name.rpartition(".")[0] for name in facts.graph.uses}
    found = (_WEIGHT.fullmatch(name) for name in facts.graph.unread)
    return [
        f"{each['module']} ({each['layer']})" for each in found if each and each["layer"] and each["module"] in used
    ]


def _skipped(facts: Facts) -> list[str]:
    """Unused members of a numbered list, others of which are used: a loop that ends too early, a state not read."""
    used = {_NUMBER.sub("*", name) for name in facts.graph.uses}
    weights = (f"{module}.weight" for module in _unread_modules(facts))
    left_out = [name for name in weights if name in facts.graph.uncalled and _NUMBER.sub("*", name) in used]
    return left_out + _unread_of_stacks(facts)


def _unread_inputs(facts: Facts) -> str:
    """Inputs from which no path leads to an output; integers are followed too."""
    graph = facts.graph
    needed = {*graph.outputs, *graph.captured, *graph.deciding, *graph.loss_inputs}
    for node in reversed(graph.nodes):
        if any(name in needed for name in node.outputs):
            needed.update(node.present_inputs)
    return ", ".join(name for name in graph.inputs if name not in needed and not _is_in_constants(graph, name)) or _NONE


def _is_in_constants(graph: Graph, name: str) -> bool:
    """Whether constants were computed of an input of integers: the targets of a loss."""
    of_integers = graph.values[name].dtype is not None and not graph.values[name].is_floating
    return of_integers and any(
        each.name.startswith(f"{name}:") or each.name in (name, "indices") for each in graph.parameters()
    )


def _of_kind(facts: Facts, kind: str) -> float:
    leaves = (leaf for parameter in facts.graph.parameters() for leaf in parameter.leaves)
    return float(len({leaf.name for leaf in leaves if leaf.kind == kind}))


def _taken_out(facts: Facts) -> str:
    unread = set(facts.graph.unread)
    return ", ".join(f"{name} ({place})" for name, place in facts.graph.slips.numbers if name in unread) or _NONE


MOVEMENT = (
    function(
        "trained()",
        "number",
        lambda facts: _of_kind(facts, "parameter") + len(facts.graph.unread),
        "how many parameters of the network training changes",
    ),
    function(
        "frozen()",
        "number",
        lambda facts: _of_kind(facts, "frozen"),
        "how many parameters that outputs depend on are frozen (requires_grad=False)",
    ),
    function("unread_inputs()", "text", _unread_inputs, "the inputs that no output depends on; or none"),
    function(
        "stuck(n)",
        "text",
        _stuck,
        "the trained parameters of n whose gradient is zero in every step of training, whatever the input, of those "
        "that no node before it uses; or none",
    ),
    function("held_back(n)", "text", _held_back, "what keeps the gradient from them, a clause; or none"),
    function(
        "switched_off(n)",
        "truth",
        _switched_off,
        "it is a factor of zeros that nobody trains, as a mask or a switch is",
    ),
    function(
        "kept_off(n)",
        "truth",
        _kept_off,
        "it is a factor of zeros that the model holds as a parameter and has frozen (requires_grad=False)",
    ),
    function(
        "first_step(n)",
        "number",
        _first_step,
        "the step, from 1, by which all trained parameters of n have got a gradient that is not zero; unknown if one "
        "never does",
    ),
    function(
        "turned_estimator(n)",
        "truth",
        _turned_estimator,
        "the sum n takes a learnt value away and adds it again detached, which leaves its gradient with the other sign",
    ),
    function(
        "idle_term(n)",
        "text",
        _idle_term,
        "why an operand of n, a sum that gives a loss, moves nothing, a clause: frozen layers compute it of detached "
        "values or of inputs, and nothing that is trained; or why n, a sum of shares, does not; or none",
    ),
    function(
        "unregistered(n)",
        "text",
        lambda facts, node: _kinds(facts, node, "unregistered"),
        "the parameters of n that the module does not know of, since it keeps their layer in a plain list; or none",
    ),
    function(
        "unsaved_draws(n)",
        "text",
        _unsaved_draws,
        "a tensor of independent draws that n multiplies with, if the module holds it as neither parameter nor buffer; "
        "or none",
    ),
    function(
        "unread()",
        "text",
        lambda facts: ", ".join(folded(_unread(facts))) or _NONE,
        "the layers that the model holds and no output depends on; or none",
    ),
    function(
        "skipped()",
        "number",
        lambda facts: float(len(_skipped(facts))),
        "how many of them are never called, or read by nothing, though others of their numbered list or stack are used",
    ),
    function(
        "lost_results()",
        "text",
        lambda facts: ", ".join(facts.graph.lost) or _NONE,
        "results that a statement of the module's code computes and does not keep, with their lines; or none",
    ),
    function(
        "read_as_numbers()",
        "text",
        _taken_out,
        "trained tensors that are read as a number (.item()) and by nothing else, with the lines; or none",
    ),
    function(
        "untold_dropouts()",
        "text",
        lambda facts: ", ".join(facts.graph.slips.dropouts) or _NONE,
        "lines that call a dropout as a function and do not tell it whether this is training; or none",
    ),
    function(
        "untold_axes()",
        "text",
        lambda facts: ", ".join(facts.graph.slips.axes) or _NONE,
        "lines that take a softmax of three axes and do not say along which; or none",
    ),
    function(
        "inverted_masks()",
        "text",
        lambda facts: ", ".join(facts.graph.slips.masks) or _NONE,
        "lines that compare ids with that of padding, of masks that hide all words but the padding; or none",
    ),
    function(
        "broken_outputs()",
        "text",
        lambda facts: ", ".join(facts.graph.slips.broken) or _NONE,
        "what gives outputs that are computed of stored tensors alone and are no number, with the lines; or none",
    ),
    function(
        "deaf_backwards()",
        "text",
        lambda facts: ", ".join(facts.graph.slips.deaf) or _NONE,
        "lines that call a function with a backward of its own that gives the same whatever comes back to it; or none",
    ),
    function(
        "unheard_backwards()",
        "text",
        lambda facts: ", ".join(folded(facts.graph.slips.unheard)) or _NONE,
        "modules without parameters whose class defines backward, which nobody calls; or none",
    ),
    function("unread_layers()", "number", lambda facts: float(len(_unread(facts))), "how many of them there are"),
)
