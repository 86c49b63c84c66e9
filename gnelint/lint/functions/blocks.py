"""What a block is, and where in it a node stands."""

from __future__ import annotations

import math
from collections.abc import Callable

from gnelint.analysis.prediction import Block
from gnelint.ir.graph import Node
from gnelint.lint.facts import LAYERS, Facts
from gnelint.lint.functions.signature import Place, function
from gnelint.lint.functions.structure import between
from gnelint.ops import families


def _block(facts: Facts, node: Node) -> int | None:
    block = facts.block(node)
    return None if block is None else facts.block_positions[block.name]


def _neighbour(step: int) -> Callable[[Facts, Block], int | None]:
    def call(facts: Facts, block: Block) -> int | None:
        position = facts.block_positions[block.name] + step
        return position if 0 <= position < len(facts.prediction.blocks) else None

    return call


def _in_block(facts: Facts, node: Node, kind: str) -> bool:
    block = facts.block(node)
    return block is not None and block.kind == kind


def _in_chain(facts: Facts, node: Node) -> bool:
    block = facts.block(node)
    return block is not None and block.name in facts.plain_blocks


_MANY = 3
"""Layers of a block from which on they are a way of their own."""


def _is_beside(facts: Facts, node: Node) -> bool:
    block = facts.block(node)
    return block is not None and block.kind == "dense" and _count_in(facts, block, LAYERS) < _MANY


def _contains(facts: Facts, block: Block, named: frozenset[str]) -> bool:
    return any(facts.graph.node(name).op in named for name in block.nodes)


def _trains(facts: Facts, block: Block) -> bool:
    nodes = (facts.graph.node(name) for name in block.nodes)
    return any(parameter.trainable for node in nodes for parameter in node.parameters.values())


def _count_in(facts: Facts, block: Block, named: frozenset[str]) -> float:
    return float(sum(facts.graph.node(name).op in named for name in block.nodes))


def _is_join(facts: Facts, node: Node) -> bool:
    block = facts.block(node)
    return block is not None and block.kind == "residual" and block.join == node.name


def _on_shortcut(facts: Facts, node: Node) -> bool:
    block = facts.block(node)
    return block is not None and node.name in (block.shortcut or ())


def _last_in_branch(facts: Facts, node: Node, named: frozenset[str]) -> bool:
    if node.op in named and _is_added_to_its_source(facts, node):
        return True
    block = facts.in_branch(node)
    if block is None or block.join is None or node.op not in named:
        return False
    join = facts.graph.node(block.join)
    return not between(facts, node, join, named) or _beside_gates(facts, node, join, named)


_ENDS = frozenset({"identity", "dropout", "scale", "reshape", "transpose", "bias", "slice"})
"""What may stand between the end of a branch and the sum: windows are put together again, padding is cut off, what
stochastic depth leaves is divided by its share."""
_BRANCH = 512
"""Nodes of a branch that are looked at."""


def _is_added_to_its_source(facts: Facts, node: Node) -> bool:
    """Whether all that reads a node adds it to a value that it was computed of: the end of a branch, whatever block of
    several such sums it is in."""
    readers = list(facts.consumers_beyond(node, _ENDS))
    if len(readers) != 1 or readers[0].op != "add":
        return False
    others = {name for name in readers[0].present_inputs if not _comes_of(facts, name, node)}
    waiting, seen = list(node.present_inputs), set(node.present_inputs)
    while waiting and len(seen) < _BRANCH:
        name = waiting.pop(0)
        if name in others:
            return True
        source = facts.graph.producers.get(name)
        more = [each for each in (() if source is None else source.present_inputs) if each not in seen]
        waiting += more
        seen.update(more)
    return len(others) == 1 and _is_projection(facts, others.pop(), seen)


def _comes_of(facts: Facts, value: str, node: Node) -> bool:
    """Whether a value is what a node gives, past what may stand at the end of a branch."""
    source = facts.graph.producers.get(value)
    for _ in range(_PROJECTION):
        if source is None or source.name == node.name or source.op not in _ENDS:
            break
        source = facts.producer(source)
    return source is not None and source.name == node.name


_PROJECTION = 6
"""Nodes of a shortcut that brings its input to another width: a layer, a norm, an activation, a pooling."""


def _is_projection(facts: Facts, value: str, sources: set[str]) -> bool:
    """Whether a value is made of one of these, through at most a layer on a shortcut, and not scaled by zero itself."""
    layers = 0
    for _ in range(_PROJECTION):
        source = facts.graph.producers.get(value)
        if source is None or len(source.present_inputs) != 1:
            return False
        scale = source.parameters.get("scale")
        if scale is not None and scale.provenance == "data" and not scale.array().any():
            return False
        layers += source.op in LAYERS
        value = source.present_inputs[0]
        if value in sources:
            return layers <= 1
    return False


def _beside_gates(facts: Facts, node: Node, join: Node, named: frozenset[str]) -> bool:
    """Whether the operations named stand beside the way to the join only, in gates of it (squeeze-and-excite)."""
    ahead = {each.name: each for each in facts.nodes_between(node, join)}
    straight = {node.name}
    for each in sorted(ahead.values(), key=lambda other: facts.graph.positions[other.name]):
        if each.op not in named and any(source.name in straight for source in _sources(facts, each)):
            straight.add(each.name)
    way = [*(each for name, each in ahead.items() if name in straight), join]
    entered = [each for each in way if any(s.name in ahead and s.name not in straight for s in _sources(facts, each))]
    arrives = any(source.name in straight for source in _sources(facts, join))
    return arrives and all(each.op == "mul" for each in entered)


def _sources(facts: Facts, node: Node) -> list[Node]:
    return [facts.graph.producers[value] for value in node.present_inputs if value in facts.graph.producers]


def _first_in_branch(facts: Facts, node: Node, named: frozenset[str]) -> bool:
    block = facts.in_branch(node)
    if block is None or node.op not in named:
        return False
    inside = facts.branch(block)
    pending, seen = list(node.present_inputs), set(node.present_inputs)
    while pending:
        source = facts.graph.producers.get(pending.pop())
        if source is None or source.name not in inside:
            continue
        if source.op in named:
            return False
        pending.extend(set(source.present_inputs) - seen)
        seen.update(source.present_inputs)
    return True


def _block_number(facts: Facts, place: Place) -> float | None:
    block = facts.block(place)
    if block is None:
        return None
    before = facts.prediction.blocks[: facts.block_positions[block.name]]
    return 1.0 + sum(other.kind == block.kind for other in before)


def _stage(facts: Facts, place: Place) -> float | None:
    block = facts.block(place)
    return None if block is None else float(facts.stages[block.name])


def _stage_size(facts: Facts, place: Place) -> float | None:
    block = facts.block(place)
    return None if block is None else float(len(facts.stage_mates(block)))


def _at_stage_end(place_in: int) -> Callable[[Facts, Place], bool | None]:
    def call(facts: Facts, place: Place) -> bool | None:
        block = facts.block(place)
        return None if block is None else facts.stage_mates(block)[place_in].name == block.name

    return call


def _imbalance(facts: Facts, block: Block) -> float | None:
    if block.join is None or _uses_again(facts, block):
        return None  # the steps of a loop are no branches: the one that it begins with lies before the others
    operands = zip(facts.graph.node(block.join).present_inputs, block.operand_phis, strict=True)
    phis = [
        phi
        for operand, phi in operands
        if not _without_layer(facts, operand, block.entry) and not _comes_in_late(facts, operand)
    ]
    known = [phi for phi in phis if phi is not None]
    if len(known) < 2 or len(known) < len(phis) or max(known) == 0:
        return None
    return max(known) / min(known) if min(known) > 0 else math.inf


_MOVED = frozenset({"identity", "reshape", "slice", "transpose", "scale", "bias"})


def _joins_heads(facts: Facts, block: Block) -> bool:
    """Whether a block ends in the sum of two heads, each with layers, that is an output: a wide and a deep part, no
    branch beside a shortcut that other blocks follow."""
    if block.join is None:
        return False
    join = facts.graph.node(block.join)
    values, seen = list(join.outputs), set(join.outputs)
    while values and not seen & set(facts.graph.outputs):
        readers = facts.graph.consumers.get(values.pop(), ())
        values += [name for reader in readers if reader.op in _MOVED for name in reader.outputs]
        seen.update(values)
    given = bool(seen & set(facts.graph.outputs))
    return given and not any(_without_layer(facts, name, block.entry) for name in join.present_inputs)


def _uses_again(facts: Facts, block: Block) -> bool:
    """Whether a recurrent layer is called several times in a block."""
    own = [facts.graph.node(name).parameters.get("recurrent") for name in block.nodes]
    names = [each.name for each in own if each is not None]
    return len(set(names)) < len(names)


_SMALL = 1 / 16
"""Mean square of a trained scale below which it starts its branch small on purpose."""
_NORMS = families()["normalization"]
_PASSED = frozenset({"bias", "identity", "dropout", "reshape", "transpose", "scale"})


def _comes_in_late(facts: Facts, value: str) -> bool:
    """Whether a trained scale at the end of a branch starts it small (LayerScale, SkipInit, that of its last norm), or
    a last layer of zeros does, which training undoes."""
    node = facts.graph.producers.get(value)
    while node is not None and node.op in _PASSED | _NORMS | LAYERS:
        if node.op not in _PASSED:
            last = node.parameters.get("weight" if node.op in LAYERS else "scale")
            found = None if last is None or not last.trainable else facts.statistics(last)
            most = 0.0 if node.op in LAYERS else _SMALL
            return found is not None and found.second_moment <= most
        scale = node.parameters.get("scale") if node.op == "scale" else None
        if scale is not None and scale.trainable and not node.attribute("reciprocal"):
            found = facts.statistics(scale)
            return found is not None and found.second_moment < _SMALL
        node = facts.producer(node)
    return False


def _without_layer(facts: Facts, value: str, entry: str) -> bool:
    """Whether some way from the entry to the value passes no layer: a shortcut, behind a gate too (highways)."""
    pending, seen = [value], {value}
    while pending:
        name = pending.pop()
        if name == entry:
            return True
        producer = facts.graph.producers.get(name)
        if producer is None or producer.op in LAYERS:
            continue
        pending.extend(set(producer.present_inputs) - seen)
        seen.update(producer.present_inputs)
    return False


def _narrowest(behind: bool) -> Callable[[Facts, Place], float | None]:
    def call(facts: Facts, place: Place) -> float | None:
        block = facts.block(place)
        if block is None:
            return None
        position = facts.block_positions[block.name]
        chosen = facts.cut_widths[position:] if behind else facts.cut_widths[:position]
        return min((width for width in chosen if width is not None), default=None)

    return call


BLOCKS = (
    function("block(n)", "block", _block, "the block that holds n"),
    function("next(b)", "block", _neighbour(1), "the block behind b"),
    function("previous(b)", "block", _neighbour(-1), "the block before b"),
    function("in_block(n, kind)", "truth", _in_block, "n is in a block of this kind"),
    function(
        "is_beside(n)",
        "truth",
        _is_beside,
        "n makes a new feature or two that are concatenated to all others: its block holds one layer or two",
    ),
    function(
        "in_chain(n)",
        "truth",
        _in_chain,
        "n is in a block without normalisation, serial or with branches that only concatenations join: gains multiply",
    ),
    function("contains(b, op)", "truth", _contains, "the block holds an op"),
    function("trains(b)", "truth", _trains, "training changes a number of the block: it is no fixed transform"),
    function("count_in(b, op)", "number", _count_in, "how many of an op the block holds"),
    function("branch_phi(b)", "number", lambda facts, block: block.branch_phi, "phi of what a shortcut is added to"),
    function(
        "shortcut_phi(b)", "number", lambda facts, block: block.shortcut_phi, "phi of the shortcut: 1 for an identity"
    ),
    function(
        "joins_heads(b)",
        "truth",
        _joins_heads,
        "block b ends in the sum of two heads, each with layers, and that is an output",
    ),
    function(
        "branch_imbalance(b)",
        "number",
        _imbalance,
        "largest over least phi of the branches that meet at the end of the block and hold a layer",
    ),
    function("is_join(n)", "truth", _is_join, "n adds the branch of a residual block to its shortcut"),
    function(
        "in_branch(n)",
        "truth",
        lambda facts, node: facts.in_branch(node) is not None,
        "n is in the branch of a residual block",
    ),
    function("on_shortcut(n)", "truth", _on_shortcut, "n is on the shortcut of a residual or dense block"),
    function(
        "first_in_branch(n, op)",
        "truth",
        _first_in_branch,
        "n is an op in the branch of a residual block, and none lies before it there",
    ),
    function(
        "last_in_branch(n, op)",
        "truth",
        _last_in_branch,
        "n is an op in the branch of a residual block, and none lies behind it there but in a gate of it",
    ),
    function(
        "block_number(p)", "number", _block_number, "which of the blocks of its kind it is, counted from 1 at the input"
    ),
    function("stage(p)", "number", _stage, "which row of blocks with outputs of one shape, counted from 1"),
    function("stage_size(p)", "number", _stage_size, "blocks of its kind in its stage"),
    function("first_in_stage(p)", "truth", _at_stage_end(0), "the first block of its kind in its stage"),
    function("last_in_stage(p)", "truth", _at_stage_end(-1), "the last block of its kind in its stage"),
    function(
        "narrowest_before(p)",
        "number",
        _narrowest(False),
        "least width that all of the gradient passes before this block",
    ),
    function(
        "narrowest_behind(p)",
        "number",
        _narrowest(True),
        "least width that all of the gradient passes at the end of this block and behind it",
    ),
)
