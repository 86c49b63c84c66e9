"""Parts of an ONNX model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from gnelint.analysis.sampling import NotSampledError, Region
from gnelint.ir.graph import Graph
from gnelint.measure.data import drawn_input
from gnelint.measure.estimators import through_estimators
from gnelint.measure.onnx_on_torch.call import NormalizationMode, Settings
from gnelint.measure.onnx_on_torch.interpreter import open_interpreter
from gnelint.measure.regions.sampler import Meter, Part
from gnelint.measure.regions.sharing import Sketch

_SEED = 0
"""Of the integers that stand in for an input's, of which a file has no example."""


class OnnxNetwork:
    """An ONNX model, in the mode in which its graph was read."""

    def __init__(self, path: Path, graph: Graph) -> None:
        """Open the file.

        Raises:
            ModelError: it is damaged.
        """
        mode: NormalizationMode = "batch" if graph.training else "running"
        self._graph = graph
        self._interpreter = open_interpreter(path, Settings(torch.device("cpu"), torch.float32, normalization=mode))
        self._own = self._interpreter.values

    def shows(self, value: str) -> bool:
        return value in self._own

    def part(self, region: Region) -> Part:
        own = self._graph.positions
        if any(node.name not in own or self._graph.node(node.name) is not node for node in region.nodes):
            raise NotSampledError("it is not the file's own any more")
        part = self._interpreter.part(region.inputs, region.outputs)
        seen = {value for value in region.written if self.shows(value)}
        others = {name: self._integers(name) for name in part.reads}
        others |= {name: self._zeros(name) for name in part.shapes if name not in region.inputs}

        def values(feeds: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            found: dict[str, Tensor] = {}
            meter = Meter()

            def watch(name: str, tensor: Tensor) -> Tensor:
                meter.saw(tensor)
                if name in seen:
                    found[name] = tensor
                return tensor

            given = {**others, **feeds}
            part.run(given, through_estimators(self._graph, watch, given))
            return found

        names = (*region.inputs, *region.outputs)  # a region is like itself, when the graph is walked again
        return Part(values, Sketch((region.inputs, region.outputs), names))

    def _integers(self, name: str) -> Tensor:
        """What stands in for an input of integers."""
        value = self._graph.values.get(name)
        if value is None or value.is_floating or name not in self._graph.inputs:
            raise NotSampledError(f'it reads "{name}" beside the values that are known')
        return drawn_input(self._graph, value, None, torch.Generator().manual_seed(_SEED))

    def _zeros(self, name: str) -> Tensor:
        value = self._graph.values.get(name)
        shape = None if value is None else value.concrete_shape
        if shape is None:
            raise NotSampledError(f'the size of "{name}" is not known')
        return torch.zeros(shape)
