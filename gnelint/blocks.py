"""Blocks: the parts of a network between values that all of the gradient passes.

Such a value is a cut of the graph. What lies between two cuts and has branches is one block (residual, dense, gated,
attention or parallel, by what closes it); runs of single nodes are serial blocks, each a linear map with what follows
it up to the next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from gnelint.graph import Graph, Node
from gnelint.prediction import Basis, Block, BlockKind
from gnelint.theory.theorems import PLAIN, Spectrum, Structure, concatenated, identity, parallel, serial
from gnelint.vocabulary import VOCABULARY, families

_WEIGHTED = families()["recurrent"] | {"linear", "conv", "conv_transpose", "embedding", "matmul", "attention"}
_STRENGTH: dict[Basis, int] = {"exact": 0, "theorem": 1, "approximate": 2, "unmodelled": 3}


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
    """Nodes between two cuts."""

    entry: str
    exit: str
    nodes: tuple[Node, ...]


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
    return replace(block, name=_span(block.nodes))


def _span(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]}"


def _segments(graph: Graph) -> list[_Segment]:
    """The gradient path cut at every value that is the only one alive behind its node."""
    on_path = graph.gradient_values
    path = graph.gradient_nodes
    uses: dict[str, int] = {}
    for node in path:
        for name in node.present_inputs:
            if name in on_path:
                uses[name] = uses.get(name, 0) + 1
    for name in graph.outputs:
        if name in on_path:
            uses[name] = uses.get(name, 0) + 1
    alive = {name: uses.get(name, 0) for name in graph.inputs if name in on_path}
    entry = next(iter(alive)) if len(alive) == 1 else ""
    segments: list[_Segment] = []
    pending: list[Node] = []
    for node in path:
        pending.append(node)
        for name in node.present_inputs:
            if name in alive:
                alive[name] -= 1
                if alive[name] == 0:
                    del alive[name]
        alive.update({name: uses[name] for name in node.outputs if name in on_path and uses.get(name, 0) > 0})
        if len(alive) == 1:
            (cut,) = alive
            if cut in node.outputs:
                segments.append(_Segment(entry or cut, cut, tuple(pending)))
                entry, pending = cut, []
    if pending:
        last = next((name for name in reversed(pending[-1].outputs) if name in on_path), pending[-1].outputs[0])
        segments.append(_Segment(entry, last, tuple(pending)))
    return segments


def _family(node: Node) -> str:
    return VOCABULARY[node.op].family if node.op in VOCABULARY else "unmodelled"


def _grouped(segments: Sequence[_Segment]) -> list[_Segment]:
    """Serial segments joined from one linear map to the next; an activation right behind a join belongs to the join."""
    groups: list[_Segment] = []
    for segment in segments:
        previous = groups[-1] if groups else None
        if previous is not None and len(segment.nodes) == 1 and _belongs(segment.nodes[0], previous):
            groups[-1] = _Segment(previous.entry, segment.exit, previous.nodes + segment.nodes)
        else:
            groups.append(segment)
    return groups


def _belongs(node: Node, previous: _Segment) -> bool:
    """Whether a node that stands alone is part of the block before it."""
    return _family(node) == "activation" if _is_composite(previous) else node.op not in _WEIGHTED


def _is_composite(segment: _Segment) -> bool:
    """Whether some node of the segment reads two of its values: only then are there branches."""
    made = {segment.entry, *(name for node in segment.nodes for name in node.outputs)}
    return any(sum(name in made for name in node.present_inputs) > 1 for node in segment.nodes)


def _kind(segment: _Segment) -> BlockKind:
    if not _is_composite(segment):
        return "serial"
    closing = _closing(segment)
    if closing is not None and closing.op in ("add", "sub", "mean") and _shortcut(segment, closing) is not None:
        return "residual"
    if closing is not None and closing.op == "concat":
        return "dense" if _shortcut(segment, closing) is not None else "parallel"
    if any(node.op in ("attention", "softmax") for node in segment.nodes):
        return "attention"
    if closing is not None and closing.op == "mul":
        return "gated"
    return "parallel"


def _closing(segment: _Segment) -> Node | None:
    """The node that joins the branches: the last that reads two of the segment's values."""
    made = {segment.entry, *(name for node in segment.nodes for name in node.outputs)}
    for node in reversed(segment.nodes):
        if sum(name in made for name in node.present_inputs) > 1:
            return node
    return None


def _shortcut(segment: _Segment, closing: Node) -> str | None:
    """The operand of the join that comes from the entry past at most one linear map and no activation."""
    producers = {name: node for node in segment.nodes for name in node.outputs}
    best: tuple[int, str] | None = None
    for operand in closing.present_inputs:
        name, weights = operand, 0
        while name != segment.entry:
            node = producers.get(name)
            if node is None or _family(node) == "activation":
                break
            inside = [n for n in node.present_inputs if n == segment.entry or n in producers]
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
    producers = {name: node for node in segment.nodes for name in node.outputs}
    found: list[str] = []
    while operand != segment.entry:
        node = producers[operand]
        found.append(node.name)
        reads = node.present_inputs
        operand = segment.entry if segment.entry in reads else next(name for name in reads if name in producers)
    return tuple(reversed(found))


def _block(graph: Graph, segment: _Segment, spectra: Mapping[str, NodeSpectrum], problems: Mapping[str, str]) -> Block:
    kind = _kind(segment)
    names = tuple(node.name for node in segment.nodes)
    found = {name: spectra[name] for name in names if name in spectra}
    basis: Basis = "exact" if len(segment.nodes) == 1 else "theorem"
    assumptions: dict[str, None] = {}
    for node in segment.nodes:
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
    if len(segment.nodes) > 1:
        assumptions["neighbouring Jacobians are independent"] = None
    reached = _spectra_from_entry(graph, segment, spectra)
    whole = reached.get(segment.exit)
    closing = _closing(segment)
    operands = () if closing is None else closing.present_inputs
    phis = {name: reached[name].phi if name in reached else None for name in operands}
    shortcut = None if closing is None or kind not in ("residual", "dense") else _shortcut(segment, closing)
    branch = None
    if kind == "residual":
        parts = [phi for name, phi in phis.items() if name != shortcut]
        branch = math.fsum(phi for phi in parts if phi is not None) if parts and None not in parts else None
    return Block(
        name=_name(segment.nodes, kind),
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
    )


def _name(nodes: Sequence[Node], kind: BlockKind) -> str:
    """The module that holds the whole block, else the names of its first and last node."""
    names = [node.name for node in nodes]
    if kind != "serial":
        same = takewhile(lambda parts: len(set(parts)) == 1, zip(*(name.split(".") for name in names), strict=False))
        parts = [part for part, *_ in same]
        if parts:
            return ".".join(parts)
    return _span(names)


def _spectra_from_entry(graph: Graph, segment: _Segment, spectra: Mapping[str, NodeSpectrum]) -> dict[str, Spectrum]:
    """The Jacobian's spectrum from the block's entry to each of its values, by the theorems, where it is known."""
    entry_size = _size(graph, segment.entry)
    if entry_size is None:
        return {}
    reached = {segment.entry: identity(entry_size)}
    if segment.entry in segment.nodes[0].outputs:  # the path begins here: an embedding has no entry before it
        return {segment.exit: Spectrum(1.0, None, entry_size)} if len(segment.nodes) == 1 else {}
    for node in segment.nodes:
        own = spectra.get(node.name)
        if own is None:
            return reached
        arrived = [
            (reached[name], phi)
            for name, phi in zip(node.inputs, own.phis, strict=False)
            if name is not None and phi is not None and name in reached
        ]
        expected = sum(1 for name in node.present_inputs if name in graph.gradient_values)
        if not arrived or len(arrived) < expected:
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
