"""An ONNX file as a program: the reader's graph beside the interpreter that runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from gnelint.analysis.sampling import Sampler
from gnelint.errors import ModelError
from gnelint.ir.graph import Graph
from gnelint.measure.distributed import Team
from gnelint.measure.estimators import through_estimators
from gnelint.measure.onnx_on_torch.call import NormalizationMode, Settings
from gnelint.measure.onnx_on_torch.interpreter import open_interpreter
from gnelint.measure.program import RunSettings, Watch, stored_weights
from gnelint.measure.regions.onnx_network import OnnxNetwork
from gnelint.measure.regions.sampler import TorchSampler
from gnelint.readers.onnx.inputs import HOW_TO_SET


class OnnxProgram:
    """An ONNX model that is run in the mode in which its graph was read.

    Attributes:
        graph, examples, weights, leaves, updated: see `Program`; an ONNX file brings no examples along.
    """

    def __init__(self, path: Path, graph: Graph, settings: RunSettings) -> None:
        """Open the file.

        Raises:
            ModelError: an operator has no kernel ("not verifiable: ..."), or the file is damaged.
        """
        normalization: NormalizationMode = "batch" if graph.training else "running"
        self.graph = graph
        self._path = path
        self.examples: Mapping[str, Tensor] = {}
        self.weights = stored_weights(graph)
        self._interpreter = open_interpreter(
            path, Settings(settings.device, settings.float32, normalization=normalization)
        )
        missing = self._interpreter.unsupported()
        if missing:
            raise ModelError(
                str(path),
                f"not verifiable: operator {', '.join(missing)} cannot be run",
                "gnelint check reads it without running it.",
            )

    @property
    def leaves(self) -> Mapping[str, Tensor]:
        """Weights by the names of the graph's parameters, once the network has run."""
        return self._interpreter.leaves

    @property
    def updated(self) -> Sequence[Tensor]:
        """The tensors that training changes."""
        return self._interpreter.updated

    def sampler(self) -> Sampler:
        """What runs parts of the network on draws."""
        return TorchSampler(OnnxNetwork(self._path, self.graph))

    def shard(self, team: Team) -> None:
        """Spread the large weights over a team, each process of which calls this before the network runs."""
        self._interpreter.shard(team)

    def ask_gradients(self, names: frozenset[str]) -> None:
        """Have gradients recorded for the weights of these names, and no others."""
        self._interpreter.ask_gradients(names)

    def run(self, feeds: Mapping[str, Any], watch: Watch) -> None:
        """Run the model.

        Raises:
            ModelError: an operator cannot be run; the message says which and why.
        """
        try:
            self._interpreter.run(feeds, through_estimators(self.graph, watch, {}))
        except ModelError as error:
            assumed = [note for note in self.graph.notes if HOW_TO_SET in note]
            if error.advice or not assumed:
                raise
            raise ModelError(error.subject, error.problem, f"Perhaps the sizes do not fit: {assumed[0]}") from error
