"""Where formulas end: which regions of a graph are sampled, as it turns out while the graph is walked."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from gnelint.analysis.blocks import span, with_inner_nodes
from gnelint.analysis.gated import gated_runs
from gnelint.analysis.passed_on import passing_runs
from gnelint.analysis.prediction import Block
from gnelint.analysis.regions import LARGE, Contraction, Planner
from gnelint.analysis.sampling import MakeSampler, NotSampledError, Region, Sampled, Sampler
from gnelint.analysis.unmixed import unmixed_runs
from gnelint.components import Component, component_class
from gnelint.ir.graph import Graph, Node
from gnelint.theory.fields.moments import Moments

_LARGEST = 1 << 25
"""Entries of a value up to which what reads or writes it is run."""
_TREES = frozenset(f"ai.onnx.ml.TreeEnsemble{kind}" for kind in ("", "Classifier", "Regressor"))
"""Operators that nothing runs: for them PyTorch need not be loaded, which takes longer than all else."""
_MOST_READ = 1 << 28
"""Entries that the windows of a pooling may read together."""
_REGIONS, _DOUBTS = 64, 16
"""Regions of one graph, and those of them around joins that have a formula: what has none must find room."""
_MOST = 3
"""Names in a sentence."""


class Fallback:
    """The regions of one graph that are sampled.

    Attributes:
        original: the graph.
    """

    def __init__(self, graph: Graph, make: MakeSampler | None) -> None:
        self.original = graph
        self._make = make
        self._sampler: Sampler | None = None
        self._planner = Planner(graph, self._shows)
        self._seeds: set[str] = set()
        self._refused: dict[str, str] = {}
        self._doubted = 0
        self._contraction = Contraction(graph, {})
        unknown = [node.name for node in graph.gradient_nodes if component_class(node.op) is None]
        self._runs = (
            (*unmixed_runs(graph), *passing_runs(graph, self._planner.moves), *gated_runs(graph))
            if make is not None
            else ()
        )
        together = [name for run in self._runs if len(run) <= LARGE for name in run]
        if (unknown or together) and make is not None:
            self._plan([*unknown, *together])

    @property
    def graph(self) -> Graph:
        """The graph in which each region is one node."""
        return self._contraction.graph

    @property
    def regions(self) -> Mapping[str, Region]:
        """By the name of the node that each has become."""
        return self._contraction.regions

    def component(self, node: Node) -> Component | None:
        """What stands for a region; None for any other node."""
        region = self.regions.get(node.name)
        if region is None or self._sampler is None:
            return None
        values = self.original.values
        shapes = tuple(values[name].concrete_shape or () for name in region.outputs)
        inputs = tuple(values[name].concrete_shape for name in region.inputs)
        return Sampled(node, inputs, shapes, region, self._sampler)

    def leave(self, name: str, reason: str) -> None:
        """Never sample this node, for a reason."""
        self._refused.setdefault(name, reason)

    def refusal(self, name: str, reason: str) -> str:
        """Why a node has no numbers: why no formula gives them, and why it was not sampled."""
        refused = self._refused.get(name)
        return f"{reason}; not sampled: {refused}" if refused else reason

    def _shows(self, value: str) -> bool:
        return self._sampler is not None and self._sampler.shows(value)

    def doubts(self, node: Node, outputs: Iterable[Moments]) -> bool:
        """Whether a node's formula leaves out what its operands have in common, and it could be sampled."""
        if self._make is None or node.name in self.regions or node.name in self._refused or self._doubted >= _DOUBTS:
            return False
        known = all(y.trace is not None and y.trace.composed for y in outputs)
        doubtful = not known and self._planner.is_doubtful(node)
        self._doubted += doubtful
        return doubtful

    def missing(self, node: Node, known: Collection[str]) -> list[str]:
        """The nodes that write what a region reads and nobody knows, beside the gradient's path."""
        region = self.regions.get(node.name)
        lacking = [] if region is None else [name for name in region.inputs if name not in known]
        off_path = [name for name in lacking if name not in self.original.gradient_values]
        return [self.original.producers[name].name for name in off_path if name in self.original.producers]

    def failed(self, names: Iterable[str], reason: str = "") -> frozenset[str] | None:
        """Sample the nodes of these names too; a region that could not be is given up.

        Returns:
            The nodes of the new graph that are to be walked again; None where nothing changes.
        """
        if self._make is None:
            return None
        wanted = [name for name in names if name not in self._refused]
        given_up = [name for name in wanted if name in self.regions]
        for name in given_up:
            seeds = self.regions[name].seeds
            self._refused.update(dict.fromkeys(seeds, reason))
            self._seeds.difference_update(seeds)
        fresh = [name for name in wanted if name not in self.regions and name not in self._seeds]
        if len(self.regions) >= _REGIONS:
            self._refused.update(dict.fromkeys(fresh, f"{_REGIONS} parts of the network are run already"))
            fresh = []
        return self._plan(fresh, given_up) if fresh or given_up else None

    def _plan(self, fresh: Sequence[str], given_up: Sequence[str] = ()) -> frozenset[str] | None:
        """The regions with more seeds, and what is to be walked again."""
        assert self._make is not None
        large = [name for name in fresh if self._is_large(self.original.node(name))]
        self._refused.update(dict.fromkeys(large, "it is too large to be run"))
        trees = [name for name in fresh if self.original.node(name).source_op in _TREES]
        self._refused.update(dict.fromkeys(trees, "trees have no derivative"))
        fresh = [name for name in fresh if name not in large and name not in trees]
        if not fresh and not given_up:
            return None
        if self._sampler is None:
            try:
                self._sampler = self._make()
            except NotSampledError as error:
                self._refused.update(dict.fromkeys(fresh, str(error)))
                return None
        self._seeds.update(fresh)
        old, self._contraction = (
            self._contraction,
            self._planner.contraction(self._seeds, [run for run in self._runs if run <= self._seeds]),
        )
        return _changed(old, self._contraction)

    def _is_large(self, node: Node) -> bool:
        """Whether a node reads or writes more than is run: said before anything is loaded, as a file of a few bytes may
        ask for any size. What a PyTorch program takes from data has a size that is not known, and is small."""
        for name in (*node.present_inputs, *node.outputs):
            shape = self.original.values[name].concrete_shape
            if shape is None and self.original.source == "onnx":
                return True
            if shape is not None and math.prod(shape) > _LARGEST:
                return True
        written = self.original.values[node.outputs[0]].concrete_shape or ()
        return math.prod(written) * math.prod(node.attributes.get("kernel") or ()) > _MOST_READ

    def notes(self) -> tuple[str, ...]:
        """What was sampled, for people."""
        names = list(dict.fromkeys(seed for region in self.regions.values() for seed in region.seeds))
        if not names:
            return ()
        shown = ", ".join(names[:_MOST]) + ("" if len(names) <= _MOST else f" and {len(names) - _MOST} more")
        return (f"Formulas do not describe {shown}: run on draws from predicted moments, with what surrounds them.",)

    def whole(self, block: Block) -> Block:
        """A block of the contracted graph as one of the graph itself."""
        if not self.regions:
            return block
        nodes = self._opened(block.nodes)
        name = span(nodes) if block.name == span(block.nodes) else block.name
        if any(each in self.regions for each in block.nodes):
            block = with_inner_nodes(block, self.original, nodes)
        return replace(block, name=name, side=self._opened(block.side))

    def _opened(self, names: Iterable[str]) -> tuple[str, ...]:
        on_path = {node.name for node in self.original.gradient_nodes}
        found: list[str] = []
        for name in names:
            region = self.regions.get(name)
            inside = [name] if region is None else [node.name for node in region.nodes if node.name in on_path]
            found += inside
        return tuple(found)


def _changed(old: Contraction, new: Contraction) -> frozenset[str]:
    """The nodes of a new graph that the old one has not, and those behind them."""
    before = {node.name for node in old.graph.nodes}
    fresh = {name for name, region in new.regions.items() if old.regions.get(name) != region}
    fresh |= {node.name for node in new.graph.nodes if node.name not in before or node.name in old.regions}
    fresh -= {name for name, region in new.regions.items() if old.regions.get(name) == region}
    values: set[str] = set()
    found: set[str] = set()
    for node in new.graph.nodes:
        if node.name in fresh or any(name in values for name in node.present_inputs):
            found.add(node.name)
            values.update(node.outputs)
    return frozenset(found)
