"""Blocks: the parts of a network between values that all of the gradient passes.

Such a value is a cut of the graph. What lies between two cuts and has branches is one block (residual, dense, gated,
attention or parallel, by what closes it); runs of single nodes are serial blocks, each a linear map with what follows
it up to the next. The scale, dropout and activation of a join belong to its block: phi of s (x + F(x)) holds s.

The gradient is that of the network's main input (`Graph.main_values`). What other inputs bring in from the side, a
diffusion model's step at each of its blocks, is no branch: its nodes belong to the first block that reads them.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import takewhile

from gnelint.analysis.prediction import Block, BlockKind
from gnelint.components.base import Basis
from gnelint.ir.graph import UNMODELLED, Graph, Node
from gnelint.ops import VOCABULARY, families
from gnelint.records import dataclass, replace
from gnelint.theory.spectrum import PLAIN, Spectrum, Structure, concatenated, identity, parallel, serial

_WEIGHTED = families()["recurrent"] | {"linear", "conv", "conv_transpose", "embedding", "matmul", "attention"}
_OF_A_JOIN = frozenset({"scale", "dropout", "identity"})
_STRENGTH: dict[Basis, int] = {"exact": 0, "theorem": 1, "approximate": 2, "sampled": 3, "unmodelled": 4}


@dataclass(frozen=True)
class NodeSpectrum:
    """What one node does by itself.

    Attributes:
        phis: phi(J J^T) with respect to each input, None where no gradient passes.
        variance: of the spectrum with respect to all inputs together; None if not known.
        basis, assumptions: what they stand on.
        structure: what a chain must know of it besides.
    """

    phis: tuple[float | None, ...]
    variance: float | None
    basis: Basis
    assumptions: tuple[str, ...]
    structure: Structure = PLAIN


@dataclass(frozen=True)
class _Segment:
    """Nodes between two cuts.

    Attributes:
        main: those that a gradient passes on its way to the main input.
        side: the others, whose first reader is here.
        values: those that the main nodes read and write on that way.
    """

    entry: str
    exit: str
    main: tuple[Node, ...]
    side: tuple[Node, ...]
    values: frozenset[str]

    def inside(self, node: Node) -> list[str]:
        """Which of the segment's values the node reads, one entry a use."""
        return [name for name in node.present_inputs if name in self.values]


def find_blocks(graph: Graph, spectra: Mapping[str, NodeSpectrum], problems: Mapping[str, str]) -> tuple[Block, ...]:
    """The blocks in topological order.

    Args:
        spectra: of every node whose component gave one.
        problems: why a node is not modelled, by its name.
    """
    groups = _grouped(_segments(graph))
    blocks = [_block(graph, group, spectra, problems) for group in groups]
    seen: dict[str, int] = {}
    for block in blocks:
        seen[block.name] = seen.get(block.name, 0) + 1
    return tuple(b if seen[b.name] == 1 else _renamed(b) for b in blocks)


def _renamed(block: Block) -> Block:
    """The block under the names of its ends, which no other block has."""
    return replace(block, name=span(block.nodes))


def span(names: Sequence[str]) -> str:
    """What a block without a module of its own is called."""
    return names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]}"


def with_inner_nodes(block: Block, graph: Graph, names: Sequence[str]) -> Block:
    """A block in which a node stood for several, with these of the graph itself: what kind it is depends on them.

    Args:
        block: found in a graph in which nodes were taken together.
        graph: the graph with each of its nodes.
        names: of the block's nodes there, in topological order.
    """
    nodes = tuple(graph.node(name) for name in names)
    values = _values(graph, block.entry, nodes)
    main = tuple(node for node in nodes if not values.isdisjoint(node.outputs))
    segment = _Segment(block.entry, block.exit, main, (), values)
    kind, closing = _kind(segment), _closing(segment)
    operand = None if closing is None or kind not in ("residual", "dense") else _shortcut(segment, closing)
    shortcut = None if operand is None else _shortcut_nodes(segment, operand)
    return replace(
        block, kind=kind, nodes=tuple(names), join=None if closing is None else closing.name, shortcut=shortcut
    )


def _segments(graph: Graph) -> list[_Segment]:
    """The main path cut at every value that is the only one alive behind its node."""
    path = [node for node in graph.gradient_nodes if any(name in graph.main_values for name in node.outputs)]
    cut = _cuts(graph, path)
    side = _side_nodes(graph, {node.name: index for index, (_, _, nodes) in enumerate(cut) for node in nodes})
    return [
        _Segment(entry, exit, tuple(nodes), side.get(index, ()), _values(graph, entry, nodes))
        for index, (entry, exit, nodes) in enumerate(cut)
    ]


def _cuts(graph: Graph, path: Sequence[Node]) -> list[tuple[str, str, list[Node]]]:
    """Entry, exit and nodes of each segment."""
    on_path = graph.main_values
    uses = Counter(name for node in path for name in node.present_inputs if name in on_path)
    uses.update(name for name in graph.outputs if name in on_path)
    alive = {name: uses[name] for name in graph.inputs if name in on_path}
    entry = next(iter(alive), "")
    segments: list[tuple[str, str, list[Node]]] = []
    pending: list[Node] = []
    for node in path:
        pending.append(node)
        for name in node.present_inputs:
            if name in alive:
                alive[name] -= 1
                if alive[name] == 0:
                    del alive[name]
        alive.update({name: uses[name] for name in node.outputs if uses[name] > 0})
        if len(alive) == 1:
            (cut,) = alive
            if cut in node.outputs:
                segments.append((entry or cut, cut, pending))
                entry, pending = cut, []
    if pending:
        last = next(name for name in reversed(pending[-1].outputs) if name in on_path)
        segments.append((entry, last, pending))
    return segments


def _side_nodes(graph: Graph, home: dict[str, int]) -> dict[int, tuple[Node, ...]]:
    """The nodes off the main path by the segment that reads them first; those that none reads go to the last one.

    Args:
        home: the segment of each node of the main path; it is added to.
    """
    last = max(home.values(), default=0)
    found: dict[int, list[Node]] = defaultdict(list)
    for node in reversed(graph.gradient_nodes):
        if node.name in home:
            continue
        readers = (reader.name for name in node.outputs for reader in graph.consumers.get(name, ()))
        home[node.name] = min((home[name] for name in readers if name in home), default=last)
        found[home[node.name]].append(node)
    return {index: tuple(reversed(nodes)) for index, nodes in found.items()}


def _values(graph: Graph, entry: str, nodes: Sequence[Node]) -> frozenset[str]:
    made = {name for node in nodes for name in node.outputs if name in graph.main_values}
    return frozenset({entry, *made})


def _family(node: Node) -> str:
    return VOCABULARY[node.op].family if node.op in VOCABULARY else "unmodelled"


def _grouped(segments: Sequence[_Segment]) -> list[_Segment]:
    """Serial segments joined from one linear map to the next; an activation right behind a join belongs to the join."""
    groups: list[list[_Segment]] = []
    joins = False
    for segment in segments:
        if groups and len(segment.main) == 1 and _belongs(segment.main[0], joins):
            groups[-1].append(segment)
            joins = joins or _is_composite(segment)
        else:
            groups.append([segment])
            joins = _is_composite(segment) or _stands_for_several(segment.main[-1])
    return [_joined(group) for group in groups]


def _joined(group: Sequence[_Segment]) -> _Segment:
    """Segments in a row as one."""
    if len(group) == 1:
        return group[0]
    return _Segment(
        group[0].entry,
        group[-1].exit,
        tuple(node for segment in group for node in segment.main),
        tuple(node for segment in group for node in segment.side),
        frozenset().union(*(segment.values for segment in group)),
    )


def _belongs(node: Node, joins: bool) -> bool:
    """Whether a node that stands alone is part of the block before it.

    Behind a join that is what acts on the sum entry by entry: its activation, dropout and its scale, s (x + F(x)). A
    node that stands for several is a block, and may well end in a join.

    Args:
        node: the node.
        joins: whether there are branches in the block before it, or may be.
    """
    if _stands_for_several(node):
        return False
    if not joins:
        return node.op not in _WEIGHTED
    return _family(node) == "activation" or node.op in _OF_A_JOIN


def _stands_for_several(node: Node) -> bool:
    return node.op == UNMODELLED and len(node.sources) > 1


def _is_composite(segment: _Segment) -> bool:
    """Whether some node of the segment reads two of its values: only then are there branches."""
    return _closing(segment) is not None


def _kind(segment: _Segment) -> BlockKind:
    closing = _closing(segment)
    if closing is None:
        return "serial"
    if closing.op in ("add", "sub", "mean") and _shortcut(segment, closing) is not None:
        return "residual"
    if closing.op == "concat":
        return "dense" if _shortcut(segment, closing) is not None else "parallel"
    if any(node.op in ("attention", "softmax") for node in segment.main):
        return "attention"
    return "gated" if closing.op == "mul" else "parallel"


def _closing(segment: _Segment) -> Node | None:
    """The node that joins the branches: the last that reads two of the segment's values."""
    return next((node for node in reversed(segment.main) if len(segment.inside(node)) > 1), None)


_BENDING = frozenset({"activation", "attention", "pointwise", "recurrent", "reduction"})
"""Families behind which a value is no shortcut: a sum of logarithms of shares is no residual block."""


def _shortcut(segment: _Segment, closing: Node) -> str | None:
    """The operand of the join that comes from the entry past at most one linear map and nothing that bends it."""
    producers = {name: node for node in segment.main for name in node.outputs}
    best: tuple[int, str] | None = None
    for operand in segment.inside(closing):
        name, weights = operand, 0
        while name != segment.entry:
            node = producers.get(name)
            if node is None or _family(node) in _BENDING:
                break
            inside = segment.inside(node)
            if node.op == "concat" and closing.op == "concat" and segment.entry in inside:
                inside = [segment.entry]  # a dense block hands its entry on through every concatenation
            if len(inside) != 1:
                break
            weights += node.op in _WEIGHTED
            name = inside[0]
        if name == segment.entry and weights <= 1 and (best is None or weights < best[0]):
            best = (weights, operand)
    return None if best is None else best[1]


def _shortcut_nodes(segment: _Segment, operand: str) -> tuple[str, ...]:
    """Names of the nodes between the entry and the operand that `_shortcut` found, in topological order."""
    producers = {name: node for node in segment.main for name in node.outputs}
    found: list[str] = []
    while operand != segment.entry:
        node = producers[operand]
        found.append(node.name)
        inside = segment.inside(node)
        operand = segment.entry if segment.entry in inside else inside[0]
    return tuple(reversed(found))


def _block(graph: Graph, segment: _Segment, spectra: Mapping[str, NodeSpectrum], problems: Mapping[str, str]) -> Block:
    kind = _kind(segment)
    nodes = segment.main
    names = tuple(node.name for node in nodes)
    found = {name: spectra[name] for name in names if name in spectra}
    basis: Basis = "exact" if len(nodes) == 1 else "theorem"
    assumptions: dict[str, None] = {}
    for node in nodes:
        own: Basis = (
            "unmodelled" if node.name in problems else found[node.name].basis if node.name in found else "exact"
        )
        basis = max(basis, own, key=_STRENGTH.__getitem__)
        for text in (
            (problems[node.name],)
            if node.name in problems
            else found[node.name].assumptions
            if node.name in found
            else ()
        ):
            assumptions[text] = None
    if len(nodes) > 1:
        assumptions["neighbouring Jacobians are independent"] = None
    reached = _spectra_from_entry(graph, segment, spectra)
    whole = reached.get(segment.exit)
    closing = _closing(segment)
    operands = () if closing is None else tuple(segment.inside(closing))
    phis = {name: reached[name].phi if name in reached else None for name in operands}
    shortcut = None if closing is None or kind not in ("residual", "dense") else _shortcut(segment, closing)
    branch = None
    if kind == "residual":
        parts = [phi for name, phi in phis.items() if name != shortcut]
        branch = math.fsum(phi for phi in parts if phi is not None) if parts and None not in parts else None
    return Block(
        name=_name(nodes, kind),
        kind=kind,
        nodes=names,
        entry=segment.entry,
        exit=segment.exit,
        phi=None if whole is None else whole.phi,
        phi_variance=None if whole is None else whole.variance,
        branch_phi=branch,
        join=None if closing is None else closing.name,
        operand_phis=tuple(phis[name] for name in operands),
        shortcut=None if shortcut is None else _shortcut_nodes(segment, shortcut),
        shortcut_phi=None if shortcut is None else phis[shortcut],
        basis=basis,
        assumptions=tuple(assumptions),
        side=tuple(node.name for node in segment.side),
    )


def _name(nodes: Sequence[Node], kind: BlockKind) -> str:
    """The module that holds the whole block, else the names of its first and last node."""
    names = [node.name for node in nodes]
    if kind != "serial":
        same = takewhile(lambda parts: len(set(parts)) == 1, zip(*(name.split(".") for name in names), strict=False))
        parts = [part for part, *_ in same]
        if parts:
            return ".".join(parts)
    return span(names)


def _spectra_from_entry(graph: Graph, segment: _Segment, spectra: Mapping[str, NodeSpectrum]) -> dict[str, Spectrum]:
    """The Jacobian's spectrum from the block's entry to each of its values, by the theorems, where it is known."""
    entry_size = _size(graph, segment.entry)
    if entry_size is None:
        return {}
    reached = {segment.entry: identity(entry_size)}
    if segment.entry in segment.main[0].outputs:  # the path begins here: an embedding has no entry before it
        return {segment.exit: Spectrum(1.0, None, entry_size)} if len(segment.main) == 1 else {}
    for node in segment.main:
        own = spectra.get(node.name)
        if own is None:
            return reached
        arrived = [
            (reached[name], phi)
            for name, phi in zip(node.inputs, own.phis, strict=False)
            if name is not None and phi is not None and name in reached
        ]
        if not arrived or len(arrived) < len(segment.inside(node)):
            continue
        for output in node.outputs:
            size = _size(graph, output)
            if size is not None:
                reached[output] = _through(node, arrived, own, size, entry_size)
    return reached


def _through(
    node: Node, arrived: Sequence[tuple[Spectrum, float]], own: NodeSpectrum, size: int, entry_size: int
) -> Spectrum:
    mixes = node.op in _WEIGHTED
    if len(arrived) == 1:
        spectrum, phi = arrived[0]
        return serial(spectrum, Spectrum(phi, own.variance, size, own.structure, weighted=mixes))
    if node.op == "concat":
        return concatenated([spectrum for spectrum, _ in arrived], entry_size)
    if node.op in ("add", "sub", "mean"):
        return parallel([serial(spectrum, Spectrum(phi, 0.0, size)) for spectrum, phi in arrived], entry_size)
    if node.op == "mul" and any(spectrum.outputs < size for spectrum, _ in arrived):
        return parallel(
            [serial(spectrum, _factor(spectrum, phi, own.variance, size)) for spectrum, phi in arrived], entry_size
        )
    total = parallel([serial(spectrum, Spectrum(phi, 0.0, size)) for spectrum, phi in arrived], entry_size)
    return Spectrum(total.phi, None, size)


def _factor(spectrum: Spectrum, phi: float, variance: float | None, size: int) -> Spectrum:
    """A product with a gate that holds for many entries (one for each channel), with respect to one of its operands.

    One entry of the gate moves all that it holds for, a single direction among so many outputs: phi_2 = (m / n) phi^2.
    `variance` is the other operand's, the one that is scaled entry by entry.
    """
    if spectrum.outputs == size:
        return Spectrum(phi, variance, size)
    return Spectrum(phi, phi**2 * max(size / spectrum.outputs - 1.0, 0.0), size)


def _size(graph: Graph, name: str) -> int | None:
    value = graph.values.get(name)
    shape = None if value is None else value.concrete_shape
    if shape is None:
        return None
    return math.prod(shape)
