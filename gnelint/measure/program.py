"""A network that can be run on torch with its values named as in the graph: what everything in `measure` works on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, Protocol

import torch
from torch import Tensor

from gnelint.analysis.sampling import Sampler
from gnelint.ir.graph import Graph
from gnelint.measure.distributed import Team
from gnelint.measure.memory import ran_out
from gnelint.records import dataclass

Watch = Callable[[str, Tensor], Tensor]
"""Is shown each floating tensor with its name in the graph; what it returns takes the tensor's place."""


@dataclass(frozen=True)
class RunSettings:
    """Where and in which precision a network is run.

    Attributes:
        device: where tensors live.
        float32: the type that takes float32's place: float64 to check, bfloat16 to save.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    float32: torch.dtype = torch.float32

    def placed(self, datum: Any) -> Any:
        """A tensor as this run wants it: on the device, float32 in the type that takes its place."""
        if not isinstance(datum, Tensor):
            return datum
        return datum.to(self.device, self.float32 if datum.dtype is torch.float32 else None)


_TRAINED_ROLES = frozenset({"weight", "bias", "recurrent", "recurrent_bias", "scale", "slope"})


WEIGHTED = frozenset({"linear", "conv", "conv_transpose", "embedding"})
"""The layers whose weight gradients are compared with each other."""


def trainable(graph: Graph) -> frozenset[str]:
    """Names of the parameters that training changes: no running statistics, no indices, no masks."""
    return frozenset(
        parameter.name
        for node in graph.gradient_nodes
        for role, parameter in node.parameters.items()
        if role in _TRAINED_ROLES and parameter.provenance != "placeholder"
    )


def stored_weights(graph: Graph) -> frozenset[str]:
    """Names of the stored tensors that training changes, those included from which a layer's weight is computed."""
    return frozenset(
        leaf.name
        for node in graph.gradient_nodes
        for role, parameter in node.parameters.items()
        if role in _TRAINED_ROLES and parameter.provenance != "placeholder"
        for leaf in parameter.leaves
        if leaf.trainable
    )


class Program(Protocol):
    """A network that can be run.

    Attributes:
        graph: as the readers give it.
        examples: tensors for the inputs where the model brought some along, by name.
        weights: names of the stored tensors that training changes; of a file that does not tell, those of its layers.
        leaves: weights by the names of the graph's parameters, once the network has run: gradients arrive there.
        updated: the tensors that training changes; a weight that is sharded over processes is this one's slice of it.
    """

    @property
    def graph(self) -> Graph: ...

    @property
    def examples(self) -> Mapping[str, Tensor]: ...

    @property
    def weights(self) -> frozenset[str]: ...

    @property
    def leaves(self) -> Mapping[str, Tensor]: ...

    @property
    def updated(self) -> Sequence[Tensor]: ...

    def shard(self, team: Team) -> None:
        """Spread the large weights over a team, each process of which calls this before the network runs."""

    def ask_gradients(self, names: frozenset[str]) -> None:
        """Have gradients recorded for the weights of these names, and no others; those not read yet included."""

    def sampler(self) -> Sampler:
        """What runs parts of the network on draws."""

    def run(self, feeds: Mapping[str, Any], watch: Watch) -> None:
        """Run the network on a datum for each of the graph's inputs; `watch` sees the values, the outputs too.

        Raises:
            ModelError: an operation cannot be run; the message says which.
        """


def is_for_caller(error: BaseException) -> bool:
    """Whether an exception of an operation says nothing about the model: memory ran out, or an operation has no
    forward-mode derivative."""
    return ran_out(error) or "forward AD" in str(error)
