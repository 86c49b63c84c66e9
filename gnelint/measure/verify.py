"""The whole of a verification: open, predict, measure, compare; with less memory where there is not enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnelint.analysis.prediction import Prediction
from gnelint.analysis.propagation import analyse
from gnelint.budget import allowed
from gnelint.errors import ModelError
from gnelint.ir.graph import Graph
from gnelint.measure.compare import Comparison, compare, is_worse
from gnelint.measure.data import Batch, drawn
from gnelint.measure.distributed import Team, together
from gnelint.measure.harm import MAX_PROBES, Health, Probes, block_ends, harms, health
from gnelint.measure.measuring import Measurement, Probing, measure
from gnelint.measure.memory import available, ran_out, values_need, weights_need
from gnelint.measure.opening import Source, batch_size
from gnelint.measure.program import Program, RunSettings, trainable
from gnelint.measure.tape import Tape
from gnelint.measure.training import TrainingRun, train
from gnelint.records import cached_property, dataclass

PRECISE = 0.01
"""A probe that says this much else in float64 makes float32 not precise enough."""

LESS_EQUAL = "the gradient norms along the depth are less equal than they were"

Progress = Callable[[str], None]
DataSource = Callable[[Program], Iterator[tuple[Batch, Tensor | None]]]
"""Batches for a program, each with its targets if it has any."""


@dataclass(frozen=True)
class Plan:
    """How networks are verified.

    Attributes:
        settings: where and in which precision.
        probing: with how many probes.
        tolerance: bits that a prediction may lie outside the measured interval.
        data: what they are run on; None draws what the analysis assumes.
        steps: of training, 0 for none.
    """

    settings: RunSettings
    probing: Probing
    tolerance: float = 0.5
    data: DataSource | None = None
    steps: int = 0


@dataclass(frozen=True)
class Verified:
    """One network, predicted and measured.

    Attributes:
        prediction, measurement, comparison: of the network.
        batch: examples that it was run on; None where its inputs share no such axis.
        device, dtype: of the run.
        training: what became of it in a few steps, None if it was not trained.
        notes: sentences for people.
        health: from the network's true outputs; None where the weights are sharded over processes.
    """

    prediction: Prediction
    measurement: Measurement
    comparison: Comparison
    batch: int | None
    device: str
    dtype: str
    training: TrainingRun | None = None
    notes: tuple[str, ...] = ()
    health: Health | None = None


@dataclass(frozen=True)
class Verification:
    """One network, or one before and after it was fixed.

    Attributes:
        target: the network.
        fixed: the one that is to be better; None if only one was given.
    """

    target: Verified
    fixed: Verified | None = None

    @cached_property
    def worse(self) -> bool:
        """Whether the fixed network is worse than the target."""
        return bool(self.harms)

    @cached_property
    def harms(self) -> tuple[str, ...]:
        """What is worse in the fixed network, a clause each; () if nothing is."""
        if self.fixed is None:
            return ()
        before, after = self.target.health, self.fixed.health
        found = () if before is None or after is None else harms(before, after, designed=True)
        uneven = is_worse(self.target.comparison, self.fixed.comparison)
        return found or ((LESS_EQUAL,) if uneven else ())

    @property
    def holds(self) -> bool:
        """Whether every prediction agrees with what was measured, and the fixed network is no worse."""
        networks = [self.target] if self.fixed is None else [self.target, self.fixed]
        return not self.worse and not any(network.comparison.differing for network in networks)


def verify_source(source: Source, plan: Plan, team: Team, progress: Progress = lambda text: None) -> Verified:
    """Predict and measure one network, on fewer examples where memory asks for it.

    Raises:
        ModelError: it cannot be read or run, or not even one example fits into memory.
        UsageError: inputs or data do not fit.
    """
    source = source.built(plan.probing.seed)
    notes: list[str] = []
    while True:
        program = source.open(plan.settings)
        sharded = _must_be_sharded(program.graph, plan.settings, team)
        smaller = batch_that_fits(program.graph, plan.settings, team, sharded=sharded)
        if smaller is None:
            try:
                if sharded:
                    program.shard(team)
                return _verified(source, program, plan, team, progress, notes, sharded=sharded)
            except (RuntimeError, MemoryError) as error:
                if not ran_out(error):
                    raise
                smaller = _half(program.graph, source.name)
        notes = [*notes, f"{batch_size(program.graph)} examples do not fit into memory: measured on {smaller}"]
        source = source.with_batch(program.graph, smaller)
        del program
        if plan.settings.device.type == "cuda":
            torch.cuda.empty_cache()


def _half(graph: Graph, name: str) -> int:
    batch = batch_size(graph)
    if batch is None or batch < 2:
        advice = "Give smaller inputs: --input 1,3,64,64. Or allow more by --max-memory."
        raise ModelError(name, f"one example does not fit into {allowed()}", advice)
    return batch // 2


def _must_be_sharded(graph: Graph, settings: RunSettings, team: Team) -> bool:
    """Whether the weights are too large for the device of one process, and there are others to share them with."""
    room = available(settings.device)
    too_large = room is not None and weights_need(graph, settings.float32.itemsize) > room
    return team.size > 1 and team.agreed(too_large)


def batch_that_fits(graph: Graph, settings: RunSettings, team: Team, *, sharded: bool) -> int | None:
    """A smaller batch, where what the recorded values will take is more than there is."""
    batch, room = batch_size(graph), available(settings.device)
    if batch is None or room is None:
        return None
    room -= weights_need(graph, settings.float32.itemsize) // (team.size if sharded else 1)
    total = values_need(graph, settings.float32.itemsize)
    fitting = batch
    while fitting > 1 and total * fitting > room * batch:
        fitting //= 2
    smallest = min(team.gathered(fitting))
    return smallest if smallest < batch else None


def _verified(
    source: Source,
    program: Program,
    plan: Plan,
    team: Team,
    progress: Progress,
    notes: list[str],
    *,
    sharded: bool,
) -> Verified:
    graph = program.graph
    progress("predicting")
    prediction = analyse(graph, program.sampler)
    if not graph.gradient_values:
        raise ModelError(source.name, "no output depends on a floating input, so there is no gradient to measure")
    progress("running")
    feeds = _first_batch(program, plan)
    at = None if prediction.cotangent_at == "output" else prediction.cotangent_at
    asked = trainable(graph) | program.weights
    tape = together(team, partial(Tape, program, feeds, prediction.blocks, at, parameters=asked))
    _require_the_same(tape, source.name, team)
    measurement = measure(tape, graph, plan.probing, plan.settings.device, team, progress)
    probes = Probes(plan.settings.device, plan.probing.seed, min(measurement.probes, MAX_PROBES))
    found = None if sharded else health(tape, block_ends(prediction), prediction.cotangent_at, probes)
    more = list(notes)
    if sharded:
        more.append(f"the weights are spread over {team.size} processes: float32 was not checked against float64")
    elif plan.settings.float32 is torch.float32:
        more += _checked_precisely(source, plan, prediction, feeds, tape, progress)
    del tape
    training = _trained(source, plan, team, progress, sharded=sharded) if plan.steps else None
    return Verified(
        prediction,
        measurement,
        compare(prediction, measurement, plan.tolerance),
        batch_size(graph),
        str(plan.settings.device),
        str(plan.settings.float32).removeprefix("torch."),
        training,
        tuple(dict.fromkeys((*graph.notes, *prediction.notes, *more, *measurement.notes))),
        found,
    )


def _require_the_same(tape: Tape, name: str, team: Team) -> None:
    """Processes that drew weights of their own would average over different networks."""
    own = [moments.second_moment for moments in tape.moments.values()]
    first = team.gathered(own)[0]
    if len(first) != len(own) or not np.allclose(first, own, rtol=1e-2, atol=0.0, equal_nan=True):
        raise ModelError(name, "the processes have built different weights", "Seed what draws them.")


def _first_batch(program: Program, plan: Plan) -> Batch:
    return drawn(program, plan.probing.seed) if plan.data is None else next(plan.data(program))[0]


def _checked_precisely(
    source: Source,
    plan: Plan,
    prediction: Prediction,
    feeds: Mapping[str, Any],
    tape: Tape,
    progress: Progress,
) -> list[str]:
    """Blocks of which one probe says something else in float64; "" where the check itself cannot be made."""
    progress("checking in float64")
    device, room = plan.settings.device, available(plan.settings.device)
    wide = torch.float64.itemsize
    graph = prediction.graph
    if room is not None and values_need(graph, wide) + weights_need(graph, wide) > room:
        return ["float32 was not checked against float64: there is not enough memory"]

    def generator() -> torch.Generator:
        found = torch.Generator(device)
        found.manual_seed(plan.probing.seed)
        return found

    try:
        precise = source.open(replace(plan.settings, float32=torch.float64))
        other = Tape(precise, feeds, prediction.blocks, None, parameters=False)
        exact = other.block_samples(generator(), squares=False)
    except (RuntimeError, MemoryError, ModelError) as error:
        reason = "there is not enough memory" if ran_out(error) else "it cannot be run so"
        return [f"float32 was not checked against float64: {reason}"]
    narrow = tape.block_samples(generator(), squares=False)
    off = {
        name: abs(narrow[name].phi / sample.phi - 1)
        for name, sample in exact.items()
        if name in narrow and sample.phi > 0
    }
    worst = max(off, key=lambda name: off[name], default=None)
    if worst is None or off[worst] <= PRECISE:
        return []
    by = f"{off[worst]:.0%}" if off[worst] < 10 else f"a factor of {off[worst]:.0e}"
    return [f"float32 rounding changes phi of {worst} by {by}: measure with --dtype float64"]


def _trained(source: Source, plan: Plan, team: Team, progress: Progress, *, sharded: bool) -> TrainingRun:
    program = source.open(plan.settings)
    if sharded:
        program.shard(team)
    batches = plan.data(program) if plan.data is not None else _again(drawn(program, plan.probing.seed))
    return train(program, batches, plan.steps, seed=plan.probing.seed, progress=progress)


def _again(batch: Batch) -> Iterator[tuple[Batch, Tensor | None]]:
    while True:
        yield batch, None
