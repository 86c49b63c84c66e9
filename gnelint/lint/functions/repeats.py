"""What is used twice where once was meant: a value in a sum, a layer in a chain or beside one that is not used."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from gnelint.analysis.stacks import Stack, stacks
from gnelint.ir.graph import UNMODELLED, Graph, Node
from gnelint.lint.facts import LAYERS, Facts
from gnelint.lint.functions.signature import function
from gnelint.ops import families

_NONE = "none"
_RECURRENT = families()["recurrent"]
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


def _added_twice(facts: Facts, node: Node) -> str:
    """The value that a chain of sums adds twice; of a concatenation, the one that it holds twice. What the same layers
    compute of the same value is one value."""
    if node.op == "add":
        readers = [reader for name in node.outputs for reader in facts.graph.consumers.get(name, ())]
        if len(readers) == 1 and readers[0].op == "add":
            return _NONE  # the sum that reads it tells
        names = list(_summed(facts, node))
    elif _is_doubled(node) and not _is_part(facts, facts.producer(node)):
        names = [*node.present_inputs] * 2
    elif node.op == "concat" and node.attribute("axis") != 0:
        names = list(node.present_inputs)
    else:
        return _NONE
    numbers = facts.once(("computed alike", None), lambda: _computed_alike(facts.graph))
    trained = [numbers.get(name, name) for name in names if _is_learnt(facts, name) and not _is_pooled(facts, name)]
    return next((name for name in dict.fromkeys(trained) if trained.count(name) > 1), _NONE)


def _is_pooled(facts: Facts, name: str) -> bool:
    """Whether a value is an average or a maximum over windows: NASNet's cells add the same one twice, as a search for
    architectures found them, and files hold it once."""
    source = facts.graph.producers.get(name)
    return source is not None and source.op in families()["pooling"]


_DRAWS = frozenset({"dropout", "stochastic_depth", UNMODELLED})
"""What may give other numbers the second time, or is not known well enough to say that it does not."""


def _computed_alike(graph: Graph) -> Mapping[str, str]:
    """By the name of a value that trained layers computed before of the same numbers: the first of them."""
    first: dict[Any, Node] = {}
    same: dict[str, str] = {}
    by_layers: set[str] = set()
    for node in graph.nodes:
        if node.op in _DRAWS or node.op == "constant":
            continue
        key = (
            node.op,
            repr(sorted(node.attributes.items())),
            tuple(None if name is None else same.get(name, name) for name in node.inputs),
            tuple((role, each.name, each.shape) for role, each in sorted(node.parameters.items())),
            tuple(graph.values[name].shape for name in node.outputs),
        )
        earlier = first.setdefault(key, node)
        if earlier is not node and not any(each.transform == "random" for each in node.parameters.values()):
            same.update(zip(node.outputs, earlier.outputs, strict=True))
            trained = any(each.trainable for each in node.parameters.values())
            if trained or by_layers.intersection(node.present_inputs):
                by_layers.update(node.outputs)
    return {name: earlier for name, earlier in same.items() if name in by_layers}


def _is_doubled(node: Node) -> bool:
    """Whether a node is x + x, which is read as 2 x."""
    return node.op == "scale" and "add" in node.source_op.lower() and node.attribute("factor") == 2


def _is_part(facts: Facts, node: Node | None) -> bool:
    """Whether one operation made a value beside others, as those of complex numbers make a real and an imaginary part:
    z + z.real is no z + z. What is cut into pieces is left alone, unless it is cut into such parts."""
    if node is None or node.location is None or (node.op in _CUTS and "complex" not in node.source_op):
        return False
    nodes, at, made = facts.graph.nodes, facts.graph.positions[node.name], {node.outputs[0]}
    for step in (-1, 1):
        place = at + step
        while 0 <= place < len(nodes) and _origin(nodes[place]) == _origin(node):
            made.update(nodes[place].outputs)
            place += step
    readers = {name: facts.graph.consumers.get(name, ()) for name in made}
    return sum(any(_origin(each) != _origin(node) for each in found) for found in readers.values()) > 1


def _origin(node: Node) -> tuple[object, ...]:
    """The call that a node was read from, of those in a row."""
    return node.source_op, node.location


_CUTS = frozenset({"slice", "split", "gather"})


def _summed(facts: Facts, node: Node) -> Iterator[str]:
    """The operands of a sum, those of sums that nothing else reads taken apart."""
    waiting = [*reversed(node.present_inputs)]
    while waiting:
        name = waiting.pop()
        source = facts.graph.producers.get(name)
        alone = len(facts.graph.consumers.get(name, ())) == 1 and name not in facts.graph.outputs
        if source is not None and source.op == "add" and alone:
            waiting += reversed(source.present_inputs)
        else:
            yield name


def _is_learnt(facts: Facts, name: str) -> bool:
    """Whether a trained layer lies before a value."""
    return name in facts.learnt_values


def _repeats(facts: Facts, node: Node) -> str:
    """The numbered names at which the module holds the one layer, where it feeds itself."""
    weight = node.parameters.get("weight")
    if weight is None or node.op not in LAYERS:
        return _NONE
    names = facts.graph.aliases.get(weight.name, ())
    kept = [name for name in (weight.name, *names) if _NUMBER.sub("*", name) == _NUMBER.sub("*", weight.name)]
    users = facts.users.get(weight.name, ())
    if len(kept) < 2 or len(users) < 2 or users[0].name != node.name:
        return _NONE
    chained = any(facts.depth(LAYERS)[late.name] > facts.depth(LAYERS)[early.name] for early in users for late in users)
    return (
        ", ".join(name.rpartition(".")[0] for name in kept) if chained and _feeds(facts, users[0], users[-1]) else _NONE
    )


def _feeds(facts: Facts, first: Node, last: Node) -> bool:
    """Whether what the one gives leads to the other."""
    reached = set(first.outputs)
    for node in facts.graph.nodes[facts.graph.positions[first.name] + 1 :]:
        if any(name in reached for name in node.present_inputs):
            if node.name == last.name:
                return True
            reached.update(node.outputs)
    return False


_BEFORE_NORM = frozenset({"identity", "bias", "scale", "reshape", "transpose", "dropout"})


def _shared_statistics(facts: Facts, node: Node) -> str:
    """The layers, each with weights of its own, whose outputs one batch normalisation averages together; of its first
    use. What is shared with its layer (a network for several views or sizes) is left alone."""
    mean = node.parameters.get("running_mean") if node.op == "batch_norm" else None
    users = facts.users.get(mean.name, ()) if mean is not None else ()
    if len(users) < 2 or users[0].name != node.name:
        return _NONE
    layers = [facts.source_beyond(facts.producer(user), _BEFORE_NORM) for user in users]
    own = [layer.parameters["weight"].name for layer in layers if layer is not None and "weight" in layer.parameters]
    if len(set(own)) < len(users):
        return _NONE
    return ", ".join(name.removesuffix(".weight") for name in own)


def _used_for_another(facts: Facts) -> str:
    """Which layer is used twice or more beside one of the same module, kind and shape that no output depends on."""
    for name, shape in facts.graph.unread_shapes.items():
        module, _, role = name.rpartition(".")
        for used, nodes in facts.users.items():
            other, _, own = used.rpartition(".")
            if (
                role == own == "weight"
                and len(nodes) > 1
                and other.rpartition(".")[0] == module.rpartition(".")[0]
                and nodes[0].op in LAYERS
                and facts.graph.classes.get(other) == facts.graph.classes.get(module)
                and tuple(nodes[0].parameters["weight"].shape) == shape
            ):
                return f"{other} is used {len(nodes)} times and {module}, of the same shape, never"
    return _NONE


_FEWEST = 3
"""Steps from which on a loop over time is one."""


def _detached_steps(facts: Facts, node: Node) -> float:
    """How many steps of a loop over slices a layer is used in, if no gradient passes from one step to the next.

    A layer that some gradient reaches through the step before, or one that reads the same in every step (what is
    refined again and again), is no such step.
    """
    weight = node.parameters.get("recurrent") or node.parameters.get("weight")
    users = () if weight is None else facts.users.get(weight.name, ())
    if len(users) < _FEWEST or users[-1].name != node.name:
        return 0.0
    loops = facts.once(("detached loops", None), lambda: _detached_loops(facts))
    return float(len(users)) if weight is not None and weight.name in loops else 0.0


def _detached_loops(facts: Facts) -> frozenset[str]:
    """Weights of loops over slices whose steps are joined by detached values alone; none if any other joins them."""
    if not any(node.op == "stop_gradient" for node in facts.graph.nodes):
        return frozenset()
    found = set()
    for name, users in facts.users.items():
        trained = any(each.trainable for each in users[0].parameters.values())
        if len(users) < _FEWEST or not trained or users[0].op not in LAYERS | _RECURRENT:
            continue
        joined, through = _joined(facts, users)
        if through:
            return frozenset()
        if joined == len(users) - 1 and _reads_slices(facts, users):
            found.add(name)
    return frozenset(found)


def _joined(facts: Facts, users: tuple[Node, ...]) -> tuple[int, bool]:
    """How many uses of a layer read what the one before gave; and whether any does so with a gradient."""
    any_way: dict[str, int] = {}
    with_gradient: set[str] = set()
    places = {node.name: place for place, node in enumerate(users)}
    joined, through = 0, False
    for node in facts.graph.nodes:
        before = max((any_way[name] for name in node.present_inputs if name in any_way), default=-1)
        passed = node.op != "stop_gradient" and any(name in with_gradient for name in node.present_inputs)
        place = places.get(node.name)
        if place is not None and place:
            joined += before == place - 1
            through = through or passed
        if place is not None or before >= 0:
            any_way.update(dict.fromkeys(node.outputs, before if place is None else place))
        if place is not None or passed:
            with_gradient.update(node.outputs)
    return joined, through


def _reads_slices(facts: Facts, users: tuple[Node, ...]) -> bool:
    """Whether each use reads a part of its own of one value."""
    parts = [_slice_before(facts, node) for node in users]
    return None not in parts and len(set(parts)) == len(parts)


def _slice_before(facts: Facts, node: Node) -> tuple[str, str] | None:
    """The value that a use reads a part of, and which part; moves and joins in front of it passed over."""
    waiting = list(node.present_inputs)
    while waiting:
        source = facts.graph.producers.get(waiting.pop(0))
        if source is not None and source.op == "slice":
            return source.present_inputs[0], str(source.attribute("starts"))
        if source is not None and source.op in ("reshape", "identity", "concat", "transpose", "linear", "bias", "add"):
            waiting += source.present_inputs
    return None


def _stack(facts: Facts, node: Node) -> Stack | None:
    """The stack of copies that begins at a layer."""
    found = facts.once(("stacks", None), lambda: stacks(facts.graph, facts.prediction.weights))
    return next((stack for stack in found if stack.first.name == node.name), None)


def _stacked_blocks(facts: Facts, node: Node) -> float:
    """How many blocks that start as copies of one follow each other, from the layer at which the first begins."""
    stack = _stack(facts, node)
    return 0.0 if stack is None else float(stack.blocks)


def _stacked_names(facts: Facts, node: Node) -> str:
    """What tells the names of a stack's blocks from each other, the first and the last."""
    stack = _stack(facts, node)
    if stack is None:
        return _NONE
    first, last = (_PART.split(layer.name) for layer in (stack.rows[0][0], stack.rows[0][-1]))
    while len(first) > 1 and len(last) > 1 and first[-1] == last[-1]:
        first, last = first[:-2], last[:-2]
    return f"{''.join(first)} to {''.join(last)}"


_PART = re.compile(r"([./])")


REPEATS = (
    function(
        "stacked_blocks(n)",
        "number",
        _stacked_blocks,
        "blocks behind each other that start with the same numbers in weights of their own, where n is the first layer "
        "of the first of them; else 0",
    ),
    function(
        "stacked_names(n)",
        "text",
        _stacked_names,
        "the first and the last of these blocks by name; or none",
    ),
    function(
        "detached_steps(n)",
        "number",
        _detached_steps,
        "steps of a loop over slices of a value whose layers n is the last use of, if nothing but detached values "
        "leads from each to the next; else 0",
    ),
    function(
        "is_learnt(n)",
        "truth",
        lambda facts, node: _is_learnt(facts, node.outputs[0]),
        "a trained layer lies before what n gives",
    ),
    function(
        "added_twice(n)",
        "text",
        _added_twice,
        "a value behind trained layers that the sum n (with sums in it) or the concatenation n holds twice; or none",
    ),
    function(
        "repeats(n)",
        "text",
        _repeats,
        "the numbered places at which a module holds the layer n, the same one, several times in one chain; or none",
    ),
    function(
        "shared_statistics(n)",
        "text",
        _shared_statistics,
        "the layers of their own weights behind each of which the batch normalisation n, the same one, stands; or none",
    ),
    function(
        "used_for_another()",
        "text",
        _used_for_another,
        "which layer is used twice or more, beside an unused one of the same module and shape, a clause; or none",
    ),
)
