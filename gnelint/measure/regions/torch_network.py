"""Parts of a traced PyTorch program."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind

from gnelint.analysis.sampling import NotSampledError, Region
from gnelint.ir.graph import Dim, Graph
from gnelint.measure.program import RunSettings
from gnelint.measure.regions.sampler import Meter, Part
from gnelint.measure.regions.sharing import Sketch
from gnelint.measure.torch_runner import Runner, is_forced, user_inputs
from gnelint.readers.torch.constants import from_numpy
from gnelint.readers.torch.operations import shape_only
from gnelint.readers.torch.reader import Traced

_LARGEST_DRAWN = 1 << 24
"""Entries of a tensor on the meta device that is drawn to be run."""


class TorchNetwork:
    """A traced program on its own parameters, which stay as they are."""

    def __init__(self, traced: Traced) -> None:
        self._graph = traced.graph
        self._program = traced.program
        self._nodes = {node.name: node for node in traced.program.graph.nodes}
        self._operations = {**{name: name for name in traced.graph.inputs}, **traced.operations}
        self._order = {node: index for index, node in enumerate(traced.program.graph.nodes)}
        self._forced = is_forced(traced)
        self._given = user_inputs(traced.program)
        self._leaves = {leaf.name: leaf for parameter in traced.graph.parameters() for leaf in parameter.leaves}

    def shows(self, value: str) -> bool:
        node = self._nodes.get(self._operations.get(value, ""))
        if node is None:
            return False
        traced = node.meta.get("val")
        return isinstance(traced, Tensor) and _same_sizes(traced.shape, self._graph.values[value].shape)

    def part(self, region: Region) -> Part:
        fed = {self._nodes[self._operations[name]]: name for name in region.inputs}
        ends = [self._nodes[self._operations[name]] for name in region.outputs]
        plan = self._plan(ends, fed)
        shown: dict[str, list[str]] = defaultdict(list)
        for value in (name for node in region.nodes for name in node.outputs):
            if value in self._operations and self.shows(value):
                shown[self._operations[value]].append(value)
        edited = _edited(region, self._graph)
        constants = {node: self._constant(node, edited) for node in plan if node.op == "placeholder"}
        read = {shape_only(node) for node in plan} - {None, *plan, *fed}
        shapes = {source: _zeros(source) for source in read if source is not None}
        steps = [node for node in plan if node.op != "placeholder"]

        found: dict[str, Tensor] = {}
        meter = Meter()

        def watch(name: str, tensor: Tensor) -> Tensor:
            meter.saw(tensor)
            found[name] = tensor
            return tensor

        # one for all draws: it walks the whole program when it is made
        runner = Runner(self._program.graph_module, RunSettings(), shown, watch, self._forced)

        def run(feeds: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            nonlocal found, meter
            found, meter = {}, Meter()
            data: dict[fx.Node, Any] = {**shapes, **constants}
            for node, name in fed.items():
                data[node] = feeds[name].to(node.meta["val"].dtype)
            runner.run_nodes(steps, data)
            drawn, found, runner.env = found, {}, {}  # nothing of a draw is held until the next
            return drawn

        return Part(run, self._sketch(steps, fed, {**shapes, **constants}, region.outputs, shown))

    def _sketch(
        self,
        steps: Sequence[fx.Node],
        fed: Mapping[fx.Node, str],
        others: Mapping[fx.Node, Any],
        outputs: Sequence[str],
        shown: Mapping[str, Sequence[str]],
    ) -> Sketch:
        """The operations with numbers in the place of names."""
        numbers = {node: number for number, node in enumerate([*fed, *others, *steps])}
        constants: list[Any] = list(others.values())

        def numbered(node: fx.Node) -> str:
            return f"%{numbers[node]}" if node in numbers else node.name

        operations: list[Any] = []
        for node in steps:
            target = str(node.target)
            if node.op == "get_attr":
                constants.append(operator.attrgetter(target)(self._program.graph_module))
                target = ""
            given = (fx.node.map_arg(node.args, numbered), fx.node.map_arg(dict(node.kwargs), numbered))
            operations.append((node.op, target, repr(given), len(shown.get(node.name, ()))))
        ends = tuple(numbers[self._nodes[self._operations[name]]] for name in outputs)
        seen = (name for node in steps for name in shown.get(node.name, ()))
        return Sketch((len(fed), tuple(operations), ends), (*fed.values(), *outputs, *seen), tuple(constants))

    def _plan(self, ends: list[fx.Node], fed: Mapping[fx.Node, str]) -> list[fx.Node]:
        """The operations that the ends need, in order; the fed ones and what is before them left out."""
        needed: set[fx.Node] = set()
        waiting = list(ends)
        while waiting:
            node = waiting.pop()
            if node in needed or node in fed:
                continue
            needed.add(node)
            only_shape = shape_only(node)
            waiting.extend(source for source in node.all_input_nodes if source is not only_shape)
        return sorted(needed, key=self._order.__getitem__)

    def _constant(self, node: fx.Node, edited: Mapping[str, Tensor]) -> Any:
        """What a placeholder stands for: a stored tensor, or an input of integers or of nothing, as in the example."""
        specs = {spec.arg.name: spec for spec in self._program.graph_signature.input_specs}
        spec = specs[node.name]
        if spec.kind is InputKind.USER_INPUT:
            given = self._given.get(node.name)
            # what has no entries has none to be known
            if isinstance(given, Tensor) and given.numel() > 0 and (given.is_floating_point() or given.is_meta):
                raise NotSampledError(f'it reads the input "{node.name}" beside the values that are known')
            return given
        name = str(spec.target)
        if name in edited:
            return edited[name]
        stored = self._program.state_dict.get(name)
        tensor = self._program.constants[name] if stored is None else stored
        if isinstance(tensor, Tensor) and tensor.is_meta:
            return self._drawn(name)
        return tensor.detach() if isinstance(tensor, Tensor) else tensor

    def _drawn(self, name: str) -> Tensor:
        """A tensor without numbers as its initialiser draws it."""
        leaf = self._leaves.get(name)
        if leaf is None or leaf.provenance != "initializer":
            raise NotSampledError(f'parameter "{name}" is on the meta device and holds no numbers')
        if leaf.size > _LARGEST_DRAWN:
            raise NotSampledError(f'parameter "{name}" is too large to be drawn')
        return from_numpy(leaf.load())


def _same_sizes(traced: Sequence[Any], read: Sequence[Dim] | None) -> bool:
    """Whether sizes agree as far as tracing knew them: how much a mask keeps only the reading knows."""
    return (
        read is not None
        and len(traced) == len(read)
        and all(
            isinstance(known, int) and (not isinstance(size, int) or size == known)
            for size, known in zip(traced, read, strict=True)
        )
    )


def _edited(region: Region, graph: Graph) -> dict[str, Tensor]:
    """The stored tensors of a region's nodes that hold other numbers than the graph's own, by name."""
    found: dict[str, Tensor] = {}
    for node in region.nodes:
        own = graph.node(node.name) if node.name in graph.positions else None
        if own is node:
            continue
        if own is None or (own.op, own.inputs, own.attributes) != (node.op, node.inputs, node.attributes):
            raise NotSampledError("it is not the network's own any more")
        for parameter in node.parameters.values():
            found.update({leaf.name: from_numpy(leaf.load()) for leaf in parameter.leaves})
    return found


def _zeros(node: fx.Node) -> Tensor:
    """What stands for a tensor of which only the shape is read."""
    shown = node.meta["val"]
    return torch.zeros(tuple(int(size) for size in shown.shape), dtype=shown.dtype)
