"""Which nodes are run together where some of them have no formula, and the graph with each such region as one node.

A region is the smallest set of nodes around one without a formula with these properties.

1. Its inputs and outputs that depend on the network's floating inputs are real tensors of known size that the sampler
   can put in and read off: indices that a sort or an argmax finds, complex numbers and what has a size that depends on
   data stay inside.
2. No path leaves it and comes back.
3. Its inputs are independent as far as weights make values independent: where two of them, or the output of another
   region and one of them, come from one value with no weights between, what lies between is inside. So is a layer
   that makes one of them of another: a router beside what it routes. So are the layers that make several of one
   value where a product sums over its positions: keys and values of linear attention, which are alike by 1 / width
   each, add up over as many positions as there are.
4. Its outputs meet nothing of that kind behind it: where x + f(x) adds what it was made of, the sum is inside.
5. What stands between it and sums of many is inside, before it and behind it: activations, normalisations, products of
   values. What enters and leaves is then as Gaussian as sums are.

The last three are left out where a region would become too large.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from gnelint.analysis.correlation import have_in_common
from gnelint.analysis.sampling import Region
from gnelint.ir.graph import UNMODELLED, Graph, Node
from gnelint.ops import families
from gnelint.records import cached_property, dataclass

LARGE = 400
"""Nodes up to which a region grows for the sake of what its inputs and outputs have in common."""
_LIKENESS = 8
"""Times the positions, from which width on projections are so unlike that a sum over the positions tells nothing."""
_REACH = 64
"""Values that are looked at on the way to what two have in common."""
_REAL = frozenset({"float64", "float32", "float16", "bfloat16"})
_WEIGHTED = families()["recurrent"] | {"linear", "conv", "conv_transpose", "embedding"}
_JOINS = frozenset({"add", "sub", "mul", "div", "mean", "maximum", "minimum", "where", "matmul", "attention"})
_PRODUCTS = frozenset({"mul", "div", "matmul"})
_PARTS = frozenset({"split", "slice", "constant"})
"""What these write are different entries of what they read."""
_CUTS = frozenset({"split", "slice", "pad"})
"""What these write are entries of what they read, moved by some places."""
_OF_PRODUCTS = frozenset({"div", "attention"})
"""What joins parts of one matrix product: a quotient of sums, logits and what is added to them."""
_SUMS = frozenset({"add", "matmul", "attention"}) | _WEIGHTED
"""What they write is as Gaussian as it gets."""
_MOVES = frozenset({"reshape", "transpose", "identity", "dropout"})
_EVEN = _MOVES | {"relu"}
"""What they write moments say as well as those of what they read."""


@dataclass(frozen=True)
class Contraction:
    """A graph in which each region is one node, under the name of its first seed.

    Attributes:
        graph: the contracted graph.
        regions: by the name of the node that each has become.
    """

    graph: Graph
    regions: Mapping[str, Region]


class Planner:
    """Plans the regions of one graph."""

    def __init__(self, graph: Graph, shows: Callable[[str], bool]) -> None:
        self._graph = graph
        self._shows = shows
        self._known: dict[str, bool] = {}
        self._full: dict[frozenset[str], frozenset[str]] = {}
        self._steps: dict[tuple[str, bool], tuple[str, ...]] = {}

    def contraction(self, seeds: Collection[str], runs: Sequence[frozenset[str]] = ()) -> Contraction:
        """The graph with regions around the nodes of these names, and around no others.

        Args:
            seeds: the names.
            runs: those of them that are run together.
        """
        groups: list[frozenset[str]] = []
        for run in runs:
            groups = self._joined_by(self._grown(run), groups)
        for seed in sorted(seeds, key=self._graph.positions.__getitem__):
            if not any(seed in group for group in groups):
                groups = self._joined_by(self._grown(frozenset({seed})), groups)
        regions = [self._region(group, seeds) for group in groups]
        return _contracted(self._graph, {region.seed.name: region for region in regions})

    # --- what a region is ------------------------------------------------------------------------------------

    @cached_property
    def _moving(self) -> frozenset[str]:
        """Values of any type that depend on the network's floating inputs or on a table that tokens look up."""
        graph = self._graph
        found = {name for name in graph.inputs if graph.values[name].is_floating}
        for node in graph.nodes:
            if node.op == "embedding" or any(name in found for name in node.present_inputs):
                found.update(node.outputs)
        return frozenset(found)

    def moves(self, name: str) -> bool:
        """Whether a value depends on the network's floating inputs or on a table that tokens look up."""
        return name in self._moving

    def _is_border(self, name: str) -> bool:
        if name not in self._known:
            value = self._graph.values[name]
            fits = value.dtype in _REAL and value.concrete_shape is not None and 0 not in value.concrete_shape
            self._known[name] = fits and self._shows(name)
        return self._known[name]

    def _inputs(self, group: Collection[str]) -> list[str]:
        """What is read from outside and depends on the network's inputs, each once."""
        read = (name for node in self._nodes(group) for name in node.present_inputs if name in self._moving)
        producers = self._graph.producers
        return [n for n in dict.fromkeys(read) if n not in producers or producers[n].name not in group]

    def _outputs(self, group: Collection[str]) -> list[str]:
        """What is read outside, or returned, and depends on the network's inputs."""
        written = (name for node in self._nodes(group) for name in node.outputs if name in self._moving)
        return [n for n in written if n in self._graph.outputs or any(c.name not in group for c in self._readers(n))]

    def _nodes(self, group: Collection[str]) -> list[Node]:
        return [self._graph.node(name) for name in sorted(group, key=self._graph.positions.__getitem__)]

    def _readers(self, name: str) -> Sequence[Node]:
        return self._graph.consumers.get(name, ())

    def _region(self, group: Collection[str], seeds: Collection[str]) -> Region:
        outputs = [name for name in self._outputs(group) if self._is_border(name)]
        own = tuple(name for name in sorted(group, key=self._graph.positions.__getitem__) if name in seeds)
        return Region(own, tuple(self._nodes(group)), tuple(self._inputs(group)), tuple(outputs))

    # --- how it grows ----------------------------------------------------------------------------------------

    def _joined_by(self, group: frozenset[str], others: Sequence[frozenset[str]]) -> list[frozenset[str]]:
        """Regions that are apart, and one more: those that it overlaps, follows with no weights between, or lies in a
        circle with are one with it."""
        while True:
            near = next((other for other in others if self._belong_together(other, group)), None)
            if near is None:
                return [*others, group]
            others = [other for other in others if other is not near]
            group = self._grown(group | near)

    def _belong_together(self, a: frozenset[str], b: frozenset[str]) -> bool:
        if a & b:
            return True
        if len(a) + len(b) <= LARGE and (self._follows(a, b) or self._follows(b, a)):
            return True
        (first, last), (start, end) = self._span(a), self._span(b)
        return first < end and start < last and bool(self._behind(a, end) & b) and bool(self._ahead(a, start) & b)

    def _span(self, group: Collection[str]) -> tuple[int, int]:
        """The places of a group's first node and of its last."""
        places = [self._graph.positions[name] for name in group]
        return min(places), max(places)

    def _follows(self, first: frozenset[str], second: frozenset[str]) -> bool:
        """Whether a region reads what another wrote, with no sum between."""
        written = set(self._outputs(first))
        for name in self._inputs(second):
            value: str | None = name
            while value is not None:
                node = self._graph.producers.get(value)
                if value in written and node is not None and node.op not in _SUMS:
                    return True
                value = self._operand(node) if node is not None and self._stands_alone(node) else None
        return False

    def _operand(self, node: Node) -> str | None:
        """The only value that a node reads and that depends on the network's inputs."""
        moving = [name for name in node.present_inputs if name in self._moving]
        return moving[0] if len(moving) == 1 else None

    def _grown(self, group: frozenset[str]) -> frozenset[str]:
        if group not in self._full:
            self._full[group] = frozenset(self._growing(group))
        return self._full[group]

    def _growing(self, group: Collection[str]) -> set[str]:
        last = closed = self._closed(group)
        while len(closed) <= LARGE:
            more = self._before(closed) | self._between(closed) | self._meetings(closed) | self._after(closed)
            if more <= closed:
                return closed
            last, closed = closed, self._closed(closed | more)
        return last

    def _closed(self, group: Collection[str]) -> set[str]:
        """With what has to be inside."""
        group = set(group)
        while True:
            more: set[str] = set()
            for name in self._inputs(group):
                if not self._is_border(name) and name in self._graph.producers:
                    more.add(self._graph.producers[name].name)
            for name in self._outputs(group):
                if not self._is_border(name):
                    more.update(node.name for node in self._readers(name))
            first, last = self._span(group)
            more |= self._behind(group, last) & self._ahead(group, first)
            if more <= group:
                return group
            group |= more

    def _behind(self, group: Collection[str], until: int) -> set[str]:
        """Nodes up to this place that depend on the group."""
        reached = {name for node in self._nodes(group) for name in node.outputs}
        found: set[str] = set()
        for node in self._graph.nodes[self._span(group)[0] : until + 1]:
            if any(name in reached for name in node.present_inputs):
                found.add(node.name)
                reached.update(node.outputs)
        return found

    def _ahead(self, group: Collection[str], since: int) -> set[str]:
        """Nodes from this place on that the group depends on."""
        reached = {name for node in self._nodes(group) for name in node.present_inputs}
        found: set[str] = set()
        for node in reversed(self._graph.nodes[since : self._span(group)[1] + 1]):
            if any(name in reached for name in node.outputs):
                found.add(node.name)
                reached.update(node.present_inputs)
        return found

    def _sources(self, name: str, products: bool = False) -> dict[str, tuple[str, ...]]:
        """The values that one comes from with no weights between, itself first, each with the nodes on the way; with
        `products` also the matrix product that it is a part of."""
        found: dict[str, tuple[str, ...]] = {name: ()}
        waiting = [name]
        while waiting and len(found) < _REACH:
            value = waiting.pop(0)
            for operand in self._handed_on(value, products):
                if operand not in found:
                    found[operand] = (*found[value], self._graph.producers[value].name)
                    waiting.append(operand)
        return found

    def _near(self, name: str, products: bool) -> set[str]:
        """The values alone: every join asks for them."""
        found, waiting = {name}, [name]
        for value in waiting:
            if len(found) >= _REACH:
                break
            new = [operand for operand in self._handed_on(value, products) if operand not in found]
            found.update(new)
            waiting += new
        return found

    def _handed_on(self, value: str, products: bool) -> tuple[str, ...]:
        """The values that one comes from with no weights between, a step back."""
        known = self._steps.get((value, products))
        if known is None:
            node = self._graph.producers.get(value)
            passes = node is not None and (self._hands_on(node) or (products and self._is_part_of_product(node)))
            read = node.present_inputs if node is not None and passes else ()
            known = tuple(dict.fromkeys(name for name in read if name in self._moving))
            self._steps[value, products] = known
        return known

    def _is_part_of_product(self, node: Node) -> bool:
        """Whether a node takes some entries of a matrix product, or mixes those of several heads: other rows of it have
        a factor in common with them."""
        before: Node | None = node if node.op in _CUTS or node.op == "conv" else None
        while before is not None and (before.op in _MOVES or before.op in _CUTS or before.op in ("conv", "scale")):
            before = self._graph.producers.get(before.present_inputs[0])
        return before is not None and before.op == "matmul"

    def is_doubtful(self, node: Node) -> bool:
        """Whether two values that a node joins come from one with no weights between, or one that a fold adds up; of a
        quotient also whether they are parts of one product: a sum of values beside the sum of their weights; of
        attention whether its mask is a part of a product of its queries: positions that they ask for; of a product
        whether it sums over the positions of a value that both have projected: keys and values without a softmax."""
        if node.op == "fold":
            before = (self._graph.producers.get(source) for source in self._sources(node.present_inputs[0]))
            return any(each is not None and each.op == "unfold" for each in before)
        if node.op not in _JOINS:
            return False
        if node.op == "matmul" and self._sums_over_what_both_project(node):
            return True
        operands = node.present_inputs[1:] if node.op == "where" else node.present_inputs
        products = node.op in _OF_PRODUCTS
        sources = [self._near(name, products) for name in operands if name in self._moving]
        return have_in_common(sources)

    def _sums_over_what_both_project(self, node: Node) -> bool:
        """Whether two projections of a value meet in a sum over its positions: alike by 1 / width each, which is left
        out of their product and adds up over as many positions as there are."""
        first, second = (self._projected(name) for name in node.present_inputs[:2])
        shape = self._graph.values[node.present_inputs[0]].concrete_shape or ()
        inner = shape[-2 if node.attribute("transpose_a") else -1] if len(shape) > 1 else 0
        return any(
            inner in (own[-2], math.prod(own[1:-1])) and inner * _LIKENESS >= own[-1]
            for own in (self._graph.values[name].concrete_shape or () for name in first & second)
            if len(own) > 2
        )

    def _projected(self, name: str) -> frozenset[str]:
        """The values that weights make one of, with no others between."""
        found: set[str] = set()
        seen = {name}
        waiting = [name]
        while waiting and len(seen) < _REACH:
            node = self._graph.producers.get(waiting.pop(0))
            if node is None or node.op == "attention":
                continue
            read = {operand for operand in node.present_inputs if operand in self._moving} - seen
            if self._mixes(node):
                found |= read
            else:
                seen |= read
                waiting += sorted(read)
        return frozenset(found)

    @staticmethod
    def _mixes(node: Node) -> bool:
        """Whether weights blur what enters a node: not those that are a part of the program, as an adjacency is."""
        weight = node.parameters.get("weight")
        fixed = weight is not None and weight.kind in ("buffer", "constant") and node.op != "embedding"
        return (node.op in _WEIGHTED and not fixed) or (node.op == UNMODELLED and bool(node.parameters))

    def _hands_on(self, node: Node) -> bool:
        """Whether what leaves a node depends on what entered in a way that matters for who meets both."""
        return not self._mixes(node) and node.op not in _PARTS and node.op != "attention"

    def _stands_alone(self, node: Node) -> bool:
        """Whether a node reads one value, and no weights blur it."""
        return self._operand(node) is not None and not self._mixes(node)

    def _before(self, group: set[str]) -> set[str]:
        """What the inputs come out of that is no sum of many, with what moves its entries about."""
        found: set[str] = set()
        for name in self._inputs(group):
            way: list[str] = []
            node = self._graph.producers.get(name)
            while node is not None and self._stands_alone(node):
                way.append(node.name)
                if node.op not in _EVEN:
                    found.update(way)
                node = self._graph.producers.get(self._operand(node) or "")
            if node is not None and self._operand(node) is None and (node.op in _PRODUCTS or self._is_difference(node)):
                found.update(way, {node.name})
        return found

    def _is_difference(self, node: Node) -> bool:
        """Whether a node subtracts two entries of one value, as the decays between two steps: their sign is known."""
        return node.op == "sub" and self.is_doubtful(node)

    def _after(self, group: set[str]) -> set[str]:
        """What outputs which are no sums go into, up to the next weights or join."""
        found: set[str] = set()
        for name in self._outputs(group):
            if self._graph.producers[name].op in _SUMS - {"matmul"}:
                continue
            readers: list[tuple[Node, tuple[str, ...]]] = [(node, ()) for node in self._readers(name)]
            while readers:
                node, way = readers.pop()
                if node.name in group or not self._stands_alone(node):
                    continue
                way = (*way, node.name)
                if node.op not in _MOVES:
                    found.update(way)
                readers += [(reader, way) for reader in self._readers(node.outputs[0])]
        return found

    def _between(self, group: set[str]) -> set[str]:
        """What lies between two inputs and the value that both come from, the layer that makes one of another, and for
        a product those that make several of one."""
        inputs = self._inputs(group)
        products = any(node.op in _OF_PRODUCTS for node in self._nodes(group))
        sources = [self._sources(name, products) for name in inputs]
        found: set[str] = set()
        for index, one in enumerate(sources):
            for other in sources[index + 1 :]:
                common = one.keys() & other.keys()
                if common:
                    nearest = max(common, key=self._place)
                    found.update(one[nearest], other[nearest])
        maps: dict[str, list[set[str]]] = defaultdict(list)
        for one in sources:
            for value, way in one.items():
                node = self._graph.producers.get(value)
                if node is None or node.op not in ("linear", "conv"):
                    continue
                if (operand := self._operand(node)) in inputs:
                    found.update(way, {node.name})
                elif operand is not None:
                    maps[operand].append({*way, node.name})
        if any(node.op == "matmul" for node in self._nodes(group)):
            found.update(*(way for ways in maps.values() if len(ways) > 1 for way in ways))
        return found

    def _place(self, value: str) -> int:
        producer = self._graph.producers.get(value)
        return -1 if producer is None else self._graph.positions[producer.name]

    def _meetings(self, group: set[str]) -> set[str]:
        """The joins behind that read an output and what it was made of, or two outputs, no weights between."""
        own: dict[str, tuple[str, ...]] = {}
        before = {source for name in self._inputs(group) for source in self._sources(name)}
        marks: dict[str, frozenset[str]] = {name: frozenset({"<"}) for name in before}
        for name in self._outputs(group):
            marks[name], own[name] = frozenset({name}), ()
        first = min(self._place(name) for name in (*own, *before)) if own else 0
        found: set[str] = set()
        for node in self._graph.nodes[max(first, 0) :]:
            if node.name in group or not (node.op == "attention" or self._hands_on(node)):
                continue
            marked = [name for name in node.present_inputs if name in marks]
            reached = [name for name in marked if name in own]
            if not marked:
                continue
            way = _joined([own[name] for name in reached], node.name)
            together = frozenset().union(*(marks[name] for name in marked))
            if reached and len(marked) > 1 and len(together) > 1 and node.op != "concat":
                found.update(way)
            for name in node.outputs if self._hands_on(node) else ():
                marks[name] = together
                if reached:
                    own[name] = way
        return found


def _joined(ways: Sequence[tuple[str, ...]], last: str) -> tuple[str, ...]:
    """The nodes on ways that meet in a node; no more than make any region too large, however long they are."""
    long = next((way for way in ways if len(way) > LARGE), None)
    return long or tuple(dict.fromkeys((*(step for way in ways for step in way), last)))[: LARGE + 1]


def _contracted(graph: Graph, regions: Mapping[str, Region]) -> Contraction:
    """The graph with these regions as nodes."""
    if not regions:
        return Contraction(graph, {})
    inside = {node.name for region in regions.values() for node in region.nodes}
    nodes = [node for node in graph.nodes if node.name not in inside]
    for name, region in regions.items():
        seed = region.seed
        node = Node(name, UNMODELLED, region.inputs, region.outputs, source_op=seed.source_op, scope=seed.scope)
        nodes.append(replace(node, location=seed.location, sources=tuple(each.name for each in region.nodes)))
    ordered = _in_order(nodes, graph)
    return Contraction(replace(graph, nodes=tuple(ordered)), dict(regions))


def _in_order(nodes: Iterable[Node], graph: Graph) -> list[Node]:
    """The nodes in topological order, otherwise as they stand in the graph."""
    waiting = sorted(nodes, key=lambda node: graph.positions[node.name])
    made = {name for node in waiting for name in node.outputs}
    needs = {node.name: {name for name in node.present_inputs if name in made} for node in waiting}
    readers: dict[str, list[Node]] = defaultdict(list)
    for node in waiting:
        for name in needs[node.name]:
            readers[name].append(node)
    ready = [node for node in reversed(waiting) if not needs[node.name]]
    found: list[Node] = []
    while ready:
        node = ready.pop()
        found.append(node)
        freed = []
        for name in node.outputs:
            for reader in readers[name]:
                needs[reader.name].discard(name)
                if not needs[reader.name]:
                    freed.append(reader)
        ready += sorted(freed, key=lambda each: -graph.positions[each.name])
    assert len(found) == len(waiting)
    return found
