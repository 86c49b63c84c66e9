"""Measures a network with as many probes as the wanted precision takes, alone or together with other processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field, replace
from functools import partial

import numpy as np
import torch

from gnelint.ir.graph import Graph
from gnelint.measure.distributed import Team, together
from gnelint.measure.estimate import Estimate, estimate, probes_for, spectrum_variance
from gnelint.measure.tape import BlockSample, ChainSample, Moments, Tape, own_inputs
from gnelint.progress import Clock
from gnelint.records import dataclass

FIRST_PROBES = 8
MAX_PROBES = 256
"""Where `relative_error` stops asking: the interval then says how far it got."""
MAX_SECOND = 32
"""Probes that are multiplied by J as well and sent through single nodes, where phi's precision asks for more."""


@dataclass(frozen=True)
class Probing:
    """How many probes to send, and which.

    Attributes:
        relative_error: stop once every block's interval is this fraction of its phi on either side.
        probes: send exactly so many instead.
        seed: of the probes; the same seed gives the same numbers.
    """

    relative_error: float = 0.05
    probes: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class BlockMeasurement:
    """What a block was found to do: phi(J J^T) and its spectrum's variance, None where J could not be multiplied by."""

    phi: Estimate
    phi_variance: Estimate | None


@dataclass(frozen=True)
class Measurement:
    """What a network was found to do on one batch.

    Attributes:
        blocks: by name; a block that no gradient comes through is missing.
        nodes: phi(J J^T) of single nodes, by name; for those whose inputs nothing else reads.
        gradients: log2 of the squared gradient norm at each value, relative to the cotangent's.
        transfers: squared gradient norm at a node's inputs over that at its output, for the gradient that really
            arrives there; for the same nodes.
        parameters: log2 of the squared gradient norm of each weight, relative to the cotangent's.
        moments: E[x] and E[x^2] of each value.
        probes: that were sent.
        notes: sentences for people.
    """

    blocks: Mapping[str, BlockMeasurement]
    nodes: Mapping[str, Estimate]
    gradients: Mapping[str, Estimate]
    transfers: Mapping[str, Estimate]
    parameters: Mapping[str, Estimate]
    moments: Mapping[str, Moments]
    probes: int
    notes: tuple[str, ...] = ()


@dataclass
class _Samples:
    """The samples of each probe, by its number."""

    blocks: dict[int, Mapping[str, BlockSample]] = field(default_factory=dict)
    nodes: dict[int, Mapping[str, float]] = field(default_factory=dict)
    chains: dict[int, ChainSample] = field(default_factory=dict)


def measure(
    tape: Tape,
    graph: Graph,
    probing: Probing,
    device: torch.device,
    team: Team,
    progress: Callable[[str], None] = lambda text: None,
) -> Measurement:
    """Send probes until the precision is reached.

    Every process of the team sends its share; all of them return the same.

    Args:
        tape: the recorded network.
        graph: of the network.
        probing: how many probes.
        device: of the run.
        team: the processes that measure together.
        progress: is told what is being done.
    """
    sender = _Sender(tape, probing, device, team, progress)
    samples = _Samples()
    wanted = probing.probes or FIRST_PROBES
    done = 0
    while done < wanted:
        own = together(team, partial(sender.send, done, wanted))
        for part in team.gathered(own):
            samples.blocks.update(part.blocks)
            samples.nodes.update(part.nodes)
            samples.chains.update(part.chains)
        done = wanted
        if probing.probes is None:
            wanted = min(max(_probes_for(samples, probing.relative_error), done), MAX_PROBES)
    return _measurement(samples, graph, tape, sender.notes)


class _Sender:
    """Sends this process's share of the probes.

    All processes run the same passes in step, as weights that are sharded over them demand: who has no probe left sends
    one that is dropped.

    Attributes:
        notes: sentences for people.
    """

    def __init__(
        self, tape: Tape, probing: Probing, device: torch.device, team: Team, progress: Callable[[str], None]
    ) -> None:
        self.notes: list[str] = []
        self._tape = tape
        self._probing = probing
        self._device = device
        self._team = team
        self._progress = progress
        self._squares = True

    def send(self, start: int, end: int) -> _Samples:
        """Send this process's share of the probes of these numbers."""
        last = MAX_SECOND if self._probing.probes is None else end
        samples = _Samples()
        clock = Clock()
        for first in range(start, end, self._team.size):
            number = first + self._team.rank
            self._progress(f"probe {first + 1} of {end}{clock.left(first - start, end - start)}")
            blocks = self._blocks(number, squares=first < last)
            nodes = self._tape.node_samples(self._generator(3 * number + 2)) if first < last else {}
            chain = self._tape.chain_sample(self._generator(3 * number + 1))
            if number < end:
                samples.blocks[number] = blocks if number < last else _without_squares(blocks)
                samples.chains[number] = chain
            if number < min(end, last):
                samples.nodes[number] = nodes
        return samples

    def _blocks(self, number: int, *, squares: bool) -> Mapping[str, BlockSample]:
        try:
            return self._tape.block_samples(self._generator(3 * number), squares=squares and self._squares)
        except NotImplementedError as error:
            self._squares = False
            cause = _operation(error)
            self.notes.append(f"the spectrum's variance is not measured: {cause} has no forward-mode derivative")
            return self._tape.block_samples(self._generator(3 * number), squares=False)

    def _generator(self, stream: int) -> torch.Generator:
        generator = torch.Generator(self._device)
        generator.manual_seed((self._probing.seed << 20) + stream)
        return generator


def _without_squares(samples: Mapping[str, BlockSample]) -> Mapping[str, BlockSample]:
    return {name: replace(sample, square=None) for name, sample in samples.items()}


def _operation(error: NotImplementedError) -> str:
    """The operation that torch's message names."""
    words = str(error).split()
    return words[words.index("with") + 1] if "with" in words[:-1] else "an operation"


def _by_block(samples: _Samples) -> dict[str, list[BlockSample]]:
    """In the order of the probes, whoever sent them."""
    found: dict[str, list[BlockSample]] = {}
    for number in sorted(samples.blocks):
        for name, sample in samples.blocks[number].items():
            found.setdefault(name, []).append(sample)
    return found


def _probes_for(samples: _Samples, relative_error: float) -> int:
    return max(
        (probes_for([sample.phi for sample in found], relative_error) for found in _by_block(samples).values()),
        default=0,
    )


def _measurement(samples: _Samples, graph: Graph, tape: Tape, notes: Sequence[str]) -> Measurement:
    chains = [samples.chains[number] for number in sorted(samples.chains)]
    gradients = [chain.gradients for chain in chains]
    return Measurement(
        blocks={name: _block(found) for name, found in _by_block(samples).items()},
        nodes={
            name: estimate(found, least=0.0)
            for name, found in _columns([samples.nodes[n] for n in sorted(samples.nodes)])
        },
        gradients={name: _log_mean(column) for name, column in _columns(gradients)},
        transfers=dict(_transfers(graph, gradients)),
        parameters={name: _log_mean(column) for name, column in _columns([chain.parameters for chain in chains])},
        moments=tape.moments,
        probes=len(chains),
        notes=tuple(dict.fromkeys(notes)),
    )


def _block(samples: Sequence[BlockSample]) -> BlockMeasurement:
    both = [(sample.phi, sample.square) for sample in samples if sample.square is not None]
    variance = spectrum_variance([x for x, _ in both], [y for _, y in both]) if len(both) > 1 else None
    return BlockMeasurement(estimate([sample.phi for sample in samples], least=0.0), variance)


def _columns(rows: Sequence[Mapping[str, float]]) -> Iterable[tuple[str, list[float]]]:
    """The numbers of each name over all rows; names that a row lacks are left out."""
    for name in rows[0] if rows else ():
        if all(name in row for row in rows):
            yield name, [row[name] for row in rows]


def _log_mean(logs: Sequence[float]) -> Estimate:
    """log2 of the mean of numbers that are given by their log2, which may lie beyond a double's range."""
    shift = math.nan if any(map(math.isnan, logs)) else max(logs)
    if not math.isfinite(shift):
        return Estimate(shift, shift, shift, len(logs))
    found = estimate(np.exp2(np.asarray(logs) - shift), least=0.0).log2()
    return Estimate(found.value + shift, found.low + shift, found.high + shift, found.probes)


def _transfers(graph: Graph, rows: Sequence[Mapping[str, float]]) -> Iterable[tuple[str, Estimate]]:
    """What each node makes of the gradient that really arrives, where all of its inputs' gradient comes through it."""
    for node in graph.gradient_nodes:
        inputs = own_inputs(graph, node)
        names = (*inputs, node.outputs[0])
        if not inputs or not rows or any(name not in rows[0] for name in names):
            continue
        ratios = [_ratio([row[name] for name in inputs], row[node.outputs[0]]) for row in rows]
        if all(math.isfinite(ratio) for ratio in ratios):
            yield node.name, estimate(ratios, least=0.0)


def _ratio(inputs: Sequence[float], output: float) -> float:
    return math.fsum(2.0 ** (found - output) for found in inputs) if math.isfinite(output) else math.nan
