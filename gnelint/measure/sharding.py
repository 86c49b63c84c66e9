"""Networks larger than a device: their weights are sharded over the processes of a team by torch's own FSDP2.

A network is cut into stages, runs of operations whose weights together are a small part of all. Each process keeps a
slice of every weight; a stage's weights are brought together while it runs, forward and backward, and dropped again.
Every process sends its own probes, so all of them must run the same passes in step.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from gnelint.measure.distributed import Team
from gnelint.measure.program import RunSettings
from gnelint.records import dataclass

STAGES = 32
"""Into how many parts of about the same size the weights are cut: that much of them is whole at a time."""
LEAST_SIZE = 1024
"""Weights with fewer entries stay whole in every process: to send them around costs more than to keep them."""

Run = Callable[[Sequence[int], Mapping[str, Any]], Mapping[str, Any]]
"""Runs the operations of these numbers on data by name; returns what they make, by name."""


def is_large(datum: Any) -> bool:
    """Whether a constant of a network is a weight that is worth sharding."""
    return isinstance(datum, Tensor) and datum.is_floating_point() and datum.numel() >= LEAST_SIZE


@dataclass(frozen=True)
class Operation:
    """One step of a network: the names of what it reads, weights too, and of what it makes."""

    reads: tuple[str, ...]
    makes: tuple[str, ...]


@dataclass(frozen=True)
class _Cut:
    """A run of operations.

    Attributes:
        numbers: of the operations.
        weights: that no other stage reads.
        reads: what the stage reads that it does not make.
        dead: what nothing reads after it.
    """

    numbers: range
    weights: tuple[str, ...]
    reads: tuple[str, ...]
    dead: tuple[str, ...]


class _Stage(nn.Module):  # type: ignore[misc]  # torch is not followed
    """What FSDP2 wraps: its weights are whole while it runs."""

    def __init__(self, cut: _Cut, weights: Sequence[Tensor], leaves: dict[str, Tensor]) -> None:
        super().__init__()
        self.cut = cut
        self.leaves = leaves
        self.held = nn.ParameterList(map(_parameter, weights))

    def forward(self, data: Mapping[str, Any], run: Run) -> Mapping[str, Any]:
        held = dict(zip(self.cut.weights, self.held, strict=True))
        self.leaves.update(held)
        return run(self.cut.numbers, {**data, **held})


class ShardedNetwork(nn.Module):  # type: ignore[misc]  # torch is not followed
    """A network whose large weights are sharded over the processes of a team.

    Attributes:
        leaves: the weights as they were whole in the last run, by name: gradients arrive at them, hooks can be put on
            them, but outside of their stage they hold no numbers.
    """

    def __init__(
        self,
        operations: Sequence[Operation],
        weights: Mapping[str, Tensor],
        outputs: Sequence[str],
        team: Team,
        settings: RunSettings,
    ) -> None:
        """Cut and shard. Every process keeps its slice; no more than one stage is whole on the device at a time.

        Args:
            operations: in the order in which they run.
            weights: by name, wherever they are now; see `is_large`.
            outputs: names of what the last operations make for others.
            team: the processes; every one of them must call this.
            settings: where and in which type they are wanted.
        """
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard  # most of a second that few runs need

        super().__init__()
        mesh = init_device_mesh(settings.device.type, (team.size,))
        cuts, shared = _cut(operations, {name: weight.numel() for name, weight in weights.items()}, outputs)
        self._outputs = tuple(outputs)
        self.leaves: dict[str, Tensor] = {}
        self.shared_names = shared
        self.stages = nn.ModuleList()
        for cut in cuts:
            stage = _Stage(cut, [settings.placed(weights[name]) for name in cut.weights], self.leaves)
            self.stages.append(fully_shard(stage, mesh=mesh))
        self.held = nn.ParameterList(_parameter(settings.placed(weights[name])) for name in shared)
        fully_shard(self, mesh=mesh)

    def ask_gradients(self, names: frozenset[str]) -> None:
        """Have gradients recorded for the weights of these names, and no others."""
        parts = [(self.shared_names, self.held), *((stage.cut.weights, stage.held) for stage in self.stages)]
        for keys, held in parts:
            for name, parameter in zip(keys, held, strict=True):
                parameter.requires_grad_(name in names)
        for name, leaf in self.leaves.items():
            leaf.requires_grad_(name in names)

    def run(self, data: Mapping[str, Any], run: Run) -> dict[str, Any]:
        """Run the whole network on data by name; returns the outputs."""
        with warnings.catch_warnings():  # no operation here writes into a value in place
            warnings.filterwarnings("ignore", message=".*returned a view tensor")
            found: dict[str, Any] = self(data, run)
        return found

    def forward(self, data: Mapping[str, Any], run: Run) -> dict[str, Any]:
        """What FSDP2 wraps; see `run`."""
        held = dict(zip(self.shared_names, self.held, strict=True))
        self.leaves.update(held)
        known = {**data, **held}
        for stage in self.stages:
            known.update(stage({name: known[name] for name in stage.cut.reads}, run))
            for name in stage.cut.dead:
                known.pop(name, None)
        return {name: known[name] for name in self._outputs}


def _parameter(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach().clone(), requires_grad=False)  # the caller's memory is left alone


def _cut(
    operations: Sequence[Operation], sizes: Mapping[str, int], outputs: Sequence[str]
) -> tuple[list[_Cut], tuple[str, ...]]:
    """The stages, and the weights that several of them read."""
    limit = max(sum(sizes.values()) // STAGES, 1)
    ranges = list(_ranges(operations, sizes, limit))
    readers: dict[str, set[int]] = {}
    for index, numbers in enumerate(ranges):
        for number in numbers:
            for name in operations[number].reads:
                readers.setdefault(name, set()).add(index)
    cuts = []
    for index, numbers in enumerate(ranges):
        own = tuple(name for name in sizes if readers.get(name) == {index})
        made = {name for number in numbers for name in operations[number].makes}
        read = dict.fromkeys(name for number in numbers for name in operations[number].reads)
        reads = tuple(name for name in read if name not in made and name not in own)
        dead = tuple(n for n in (*read, *made) if n not in outputs and max(readers.get(n, {index})) <= index)
        cuts.append(_Cut(numbers, own, reads, dead))
    return cuts, tuple(name for name in sizes if len(readers.get(name, ())) > 1)


def _ranges(operations: Sequence[Operation], sizes: Mapping[str, int], limit: int) -> Iterator[range]:
    """Runs of operations, each ended before the weights that it is first to read exceed the limit."""
    start, size = 0, 0
    seen: set[str] = set()
    for number, operation in enumerate(operations):
        new = {name for name in operation.reads if name in sizes and name not in seen}
        seen |= new
        more = sum(sizes[name] for name in new)
        if size and size + more > limit:
            yield range(start, number)
            start, size = number, 0
        size += more
    yield range(start, len(operations))
