"""Modules of one kind, most of which add their input to what they give, and those that do not."""

from __future__ import annotations

import re
from typing import Any

from gnelint.ir.graph import Node
from gnelint.lint.facts import LAYERS, Facts
from gnelint.lint.functions.signature import function
from gnelint.lint.places import folded
from gnelint.ops import families

_BEFORE_SUM = (
    frozenset({"scale", "bias", "identity", "dropout"}) | families()["activation"] | families()["normalization"]
)
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


def _as_wide(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two values are of one width: a stage of a width of its own may be built without shortcuts on purpose."""
    return len(shape) == len(other) and (shape[1:2] == other[1:2] or shape[-1:] == other[-1:])


def _without_shortcut(facts: Facts) -> str:
    """Numbered modules of one kind with one input and one output of the same shape, most of which have a shortcut."""
    kinds: dict[Any, list[tuple[str, bool, tuple[int, ...]]]] = {}
    for scope, nodes in _modules(facts).items():
        ends = _ends(facts, nodes)
        if ends is not None:
            place = _NUMBER.sub("*", scope)
            layers = tuple(node.op for node in nodes if node.op in LAYERS)
            shape = facts.graph.values[ends[0]].concrete_shape or ()
            kinds.setdefault((place, layers), []).append((scope, _is_added(facts, *ends), shape))
    found = []
    for members in kinds.values():
        lacking = [(scope, shape) for scope, added, shape in members if not added]
        if lacking and len(lacking) * 3 <= len(members):
            others = [shape for _, added, shape in members if added]
            found += [scope for scope, shape in lacking if any(_as_wide(shape, other) for other in others)]
    return ", ".join(found) or "none"


_RESIDUAL = re.compile(r"(^|[a-z\d_])Res(?=[A-Z\d_]|$)|Resid|^Res(Net|net)?(?=Block|Unit|Layer)|ResBlock|ResUnit|^res_")
"""What the classes of residual blocks are called."""
_NO_BLOCK = re.compile(
    "Quanti|VQ|Stage|Group|Tower|Stack|Encoder|Decoder|Generator|Discriminator|Model|Network|Net$"
    "|Res[Nn]et(Conv|Norm|Embed|Shortcut|Stem|Pool)"
)
"""What holds blocks, or something else, has such a name beside."""
_JOINS = frozenset({"add", "sub", "mul", "concat", "matmul", "attention", "where", "maximum", "minimum"})
_MOST_LAYERS = 6
"""Linear layers in one block."""


def _called_residual(facts: Facts) -> str:
    """Modules of a residual block's name that read and give one shape, and in which no paths meet."""
    nodes: dict[str, list[Node]] = {}
    for node in facts.graph.nodes:
        parts = node.scope.split(".")
        for count in range(1, len(parts) + 1):
            nodes.setdefault(".".join(parts[:count]), []).append(node)
    found = []
    for scope, name in facts.graph.classes.items():
        own = nodes.get(scope, [])
        layers = sum(node.op in LAYERS for node in own)
        if not _RESIDUAL.search(name) or _NO_BLOCK.search(name) or not 0 < layers <= _MOST_LAYERS:
            continue
        ends = _ends(facts, own)
        if ends is not None and not (_meet(own) or _is_added(facts, *ends) or _is_added_by_holder(facts, scope, *ends)):
            found.append(scope)
    return ", ".join(folded(found)) or "none"


def _is_added_by_holder(facts: Facts, scope: str, source: str, result: str) -> bool:
    """Whether the module that holds one adds the input of that to what it makes of its output (by a gate, a share), or
    its output, as it is, to anything: a shortcut with layers of its own, the other half of a reversible block."""
    holder = scope.rpartition(".")[0]
    if any(reader.op == "add" and reader.scope == holder for reader in facts.graph.consumers.get(result, ())):
        return True
    seen, front = {result}, [result]
    while front:
        for reader in facts.graph.consumers.get(front.pop(), ()):
            if f"{reader.scope}.".startswith(f"{holder}." if holder else ""):
                if reader.op == "add" and _leads_to(facts, source, reader):
                    return True
                front += [name for name in reader.outputs if name not in seen]
                seen.update(reader.outputs)
    return False


def _meet(nodes: list[Node]) -> bool:
    """Whether paths meet in nodes."""
    return any(node.op in _JOINS and len(node.present_inputs) > 1 for node in nodes)


def _bare_blocks(facts: Facts) -> str:
    """Rows of plain blocks of two or more layers that keep their shape, in a network without any shortcut.

    A block is a numbered module, or the layers of one number of several lists, called one behind the other.
    """
    if any(block.kind in ("residual", "dense") for block in facts.prediction.blocks):
        return "none"
    rows: dict[Any, list[str]] = {}
    for scope, nodes in _modules(facts).items():
        layers = [node for node in nodes if node.op in LAYERS]
        if len(layers) > 1 and not _meet(nodes) and _ends(facts, nodes) is not None:
            rows.setdefault(_NUMBER.sub("*", scope), []).append(scope)
    for parts in _of_several_lists(facts):
        rows.setdefault("lists", []).extend(parts)
    found = [scope for members in rows.values() if len(members) >= _A_ROW for scope in members]
    return ", ".join(folded(found)) or "none"


_A_ROW = 3
"""Blocks from which on they are a row."""


def _of_several_lists(facts: Facts) -> list[list[str]]:
    """The names of the layers that have one number in two or more lists, where the first reads and the last gives one
    shape."""
    numbered: dict[tuple[str, str], list[Node]] = {}
    for node in facts.graph.nodes:
        whole, _, number = node.name.rpartition(".")
        if node.op in LAYERS and number.isdigit() and whole:
            numbered.setdefault((whole.rpartition(".")[0], number), []).append(node)
    values = facts.graph.values
    found = []
    for nodes in numbered.values():
        before, after = values[nodes[0].present_inputs[0]], values[nodes[-1].outputs[0]]
        lists = {node.name.rpartition(".")[0] for node in nodes}
        if len(lists) > 1 and before.concrete_shape == after.concrete_shape is not None:
            found.append([node.name for node in nodes])
    return found


def _modules(facts: Facts) -> dict[str, list[Node]]:
    """The nodes inside each numbered module, in order."""
    found: dict[str, list[Node]] = {}
    for node in facts.graph.nodes:
        for match in _NUMBER.finditer(node.scope):
            found.setdefault(node.scope[: match.end()], []).append(node)
    return found


def _ends(facts: Facts, nodes: list[Node]) -> tuple[str, str] | None:
    """The one value that a module reads and the one that it gives, if they are of one shape."""
    made = {name for node in nodes for name in node.outputs}
    read = {name for node in nodes for name in node.present_inputs} - made
    inside = {node.name for node in nodes}
    given = {
        name
        for name in made
        if name in facts.graph.outputs
        or any(reader.name not in inside for reader in facts.graph.consumers.get(name, ()))
    }
    if len(read) != 1 or len(given) != 1 or not any(node.op in LAYERS for node in nodes):
        return None
    ends = next(iter(read)), next(iter(given))
    values = facts.graph.values
    return ends if values[ends[0]].concrete_shape == values[ends[1]].concrete_shape is not None else None


def _is_added(facts: Facts, source: str, result: str) -> bool:
    """Whether the input of a module meets what it gives in a sum, inside or right behind it."""
    last = facts.graph.producers.get(result)
    sums = [last, *facts.graph.consumers.get(result, ())]
    for _ in range(3):  # past a scale, a bias, an activation or dropout on either side
        sums += [
            reader
            for node in sums
            if node is not None and node.op in _BEFORE_SUM
            for name in node.outputs
            for reader in facts.graph.consumers.get(name, ())
        ]
    if last is not None and last.op != "add":
        sums += [facts.graph.producers.get(name) for name in last.present_inputs]
    return any(node is not None and node.op == "add" and _leads_to(facts, source, node) for node in sums)


def _leads_to(facts: Facts, source: str, join: Node) -> bool:
    """Whether a value is an operand of a sum, past what changes no position and needs no layer."""
    for name in join.present_inputs:
        for _ in range(3):
            if name == source:
                return True
            node = facts.graph.producers.get(name)
            if node is None or node.op not in _BEFORE_SUM or not node.present_inputs:
                break
            name = node.present_inputs[0]
    return False


def _drops_trunk(facts: Facts, node: Node) -> bool:
    """Whether a dropout of whole samples reads the sum of a residual block that all of the gradient passes."""
    shape, alike = facts.shape(node), node.attribute("alike") if node.op == "dropout" else None
    if not shape or not alike or len(alike) != len(shape) - 1 or 0 in alike:
        return False
    join = facts.source_beyond(facts.producer(node), ("scale", "identity"))
    if join is None or join.op != "add" or join.outputs[0] not in facts.graph.bottlenecks:
        return False
    return any(block.join == join.name and block.kind == "residual" for block in facts.prediction.blocks)


SHORTCUTS = (
    function(
        "drops_trunk(n)",
        "truth",
        _drops_trunk,
        "the dropout n drops whole samples behind the sum of a residual block, which nothing goes past",
    ),
    function(
        "called_residual()",
        "text",
        _called_residual,
        "modules whose class is called a residual block and that add nothing to what their layers give; or none",
    ),
    function(
        "bare_blocks()",
        "text",
        _bare_blocks,
        "in a network without any shortcut the blocks of two or more layers that keep their shape, three or more in a "
        "row; or none",
    ),
    function(
        "without_shortcut()",
        "text",
        _without_shortcut,
        "numbered modules whose input is not added to what they give, where that of most of their kind is; or none",
    ),
)
