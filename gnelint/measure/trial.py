"""One network before and after a fix, run and measured within a time that was allowed for it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from gnelint.analysis.prediction import Prediction
from gnelint.analysis.propagation import analyse
from gnelint.errors import GnelintError, ModelError, UnmeasuredError
from gnelint.ir.graph import Graph
from gnelint.measure.data import Batch, drawn
from gnelint.measure.distributed import Team
from gnelint.measure.harm import MAX_PROBES, Health, OutOfTimeError, Probes, block_ends, harms, health
from gnelint.measure.memory import ran_out
from gnelint.measure.opening import Source, batch_size, device_named
from gnelint.measure.program import Program, RunSettings
from gnelint.measure.tape import Tape
from gnelint.measure.verify import batch_that_fits
from gnelint.records import dataclass

SAME = 1e-5
"""Of an output's standard deviation: by so much an edit may change it that promises the same function."""
_ROUNDING = 8.0
"""How many times the rounding of the network's own type is not told from a change."""
_SMALLER = 8
"""The batch is divided by this where one run takes too long."""
_RAISED = (RuntimeError, MemoryError, TypeError, ValueError, IndexError)
"""What torch raises where it cannot run or differentiate an operation."""


@dataclass(frozen=True)
class Trial:
    """A network measured before and after.

    Attributes:
        before, after: of the two; None after a fix that leaves a network that cannot be run.
        harms: what is worse, a clause each; () if nothing is.
        batch: examples they were run on, None where the inputs share no such axis.
        device: of the run.
    """

    before: Health
    after: Health | None
    harms: tuple[str, ...]
    batch: int | None
    device: str


@dataclass(frozen=True)
class _Before:
    """What the fixed networks are measured against."""

    source: Source
    feeds: Batch
    health: Health
    batch: int | None


class Bench:
    """Where a network is measured as it is, once, and then with one set of edits after the other.

    Inputs and probes are the same for all; so are random numbers that the network draws itself.
    """

    def __init__(self, source: Source, prediction: Prediction, seconds: float, seed: int = 0) -> None:
        """Nothing is run yet.

        Args:
            source: the network as it is; what it names is only read.
            prediction: of the network.
            seconds: allowed for all of the measuring.
            seed: of inputs and probes.
        """
        self._source = source
        self._prediction = prediction
        self._seconds = seconds
        self._seed = seed
        self._end = time.monotonic() + seconds
        self._settings = RunSettings(device_named("auto"))
        self._before: _Before | None = None

    def measure(self, fixed: Source, *, same: bool) -> Trial:
        """The network against a fixed one.

        Args:
            fixed: the fixed network.
            same: whether the edits promise that the function stays the same.

        Raises:
            UnmeasuredError: the network as it is cannot be run, or it takes too long.
        """
        name = self._source.name
        try:
            before = self._before = self._before or self._as_it_is()
            trial = self._against(before, fixed, same)
        except OutOfTimeError:
            raise UnmeasuredError(name, f"it takes longer than the {self._seconds:g} s allowed") from None
        except GnelintError as error:
            raise UnmeasuredError(name, error.problem.removeprefix("not verifiable: "), error.advice) from error
        except _RAISED as error:
            problem = "there is not enough memory" if ran_out(error) else f"running it raised {_in_a_line(error)}"
            raise UnmeasuredError(name, problem) from error
        if not trial.before.finite and (trial.after is None or not trial.after.finite):
            raise UnmeasuredError(name, "its output is no finite number on inputs from N(0, 1)")
        return trial

    def _against(self, before: _Before, fixed: Source, same: bool) -> Trial:
        try:
            source = self._alike(fixed, before)
            after = self._fixed(source, before)
            found = harms(before.health, after) or (tuple(self._changes(source, before)) if same else ())
        except ModelError as error:
            return self._trial(before, None, (f"the fixed network cannot be run: {error.problem}",))
        except _RAISED as error:
            if ran_out(error):
                raise
            return self._trial(before, None, (f"running the fixed network raised {_in_a_line(error)}",))
        return self._trial(before, after, found)

    def _trial(self, before: _Before, after: Health | None, found: tuple[str, ...]) -> Trial:
        return Trial(before.health, after, found, before.batch, str(self._settings.device))

    def _as_it_is(self) -> _Before:
        """A sixth of the time for the whole batch; half of the rest for a smaller one where that is too little."""
        graph = self._prediction.graph
        source = self._fitting(self._source)
        try:
            return self._measured(source, time.monotonic() + self._seconds / 6)
        except (OutOfTimeError, RuntimeError, MemoryError) as error:
            size = batch_size(graph)
            if not (isinstance(error, OutOfTimeError) or ran_out(error)) or size is None or size < 3:
                raise
            too_large = error
        try:
            smaller = source.with_batch(graph, max(size // _SMALLER, 2))
            return self._measured(smaller, (time.monotonic() + self._end) / 2)
        except GnelintError:
            raise too_large from None  # the size is part of the model

    def _fitting(self, source: Source) -> Source:
        """The network on as many examples as there is memory for."""
        graph = self._prediction.graph
        fitting = batch_that_fits(graph, self._settings, Team(), sharded=False)
        return source if fitting is None else source.with_batch(graph, fitting)

    def _measured(self, source: Source, until: float) -> _Before:
        program = self._program(source)
        feeds = drawn(program, self._seed)
        found = self._health(program, self._prediction, feeds, MAX_PROBES, until)
        return _Before(source, feeds, found, batch_size(program.graph))

    def _alike(self, fixed: Source, before: _Before) -> Source:
        """The fixed network on as many examples as the one it is measured against."""
        graph = self._prediction.graph
        return fixed if before.batch in (None, batch_size(graph)) else fixed.with_batch(graph, before.batch)

    def _fixed(self, source: Source, before: _Before) -> Health:
        program = self._program(source)
        if set(program.graph.inputs) != set(before.feeds):
            raise ModelError(source.name, f"its inputs are {', '.join(program.graph.inputs)} now")
        kept = all(name in program.graph.gradient_values for name in block_ends(self._prediction))
        prediction = self._prediction if kept else analyse(program.graph, program.sampler)
        return self._health(program, prediction, before.feeds, before.health.probes, self._end)

    def _program(self, source: Source) -> Program:
        program = source.open(self._settings)
        if not program.graph.gradient_values:
            raise ModelError(source.name, "no output depends on a floating input, so there is no gradient to measure")
        return program

    def _health(self, program: Program, prediction: Prediction, feeds: Batch, probes: int, until: float) -> Health:
        at = prediction.cotangent_at if prediction.cotangent_at in program.graph.gradient_values else "output"
        clock = partial(_check, min(until, self._end))
        moved = None if at == "output" else at
        with self._repeatable():
            tape = Tape(program, feeds, prediction.blocks, moved, parameters=program.weights, clock=clock)
            return health(tape, block_ends(prediction), at, Probes(self._settings.device, self._seed, probes))

    def _changes(self, fixed: Source, before: _Before) -> Iterator[str]:
        """By how much outputs differ in the forms in which the network is used."""
        forms = (self._source.training, False) if _has_modes(self._prediction.graph) else (self._source.training,)
        for training in dict.fromkeys(forms):
            opener = before.source.in_form(training=training).opener()
            new = fixed.in_form(training=training).open(self._settings)
            first, second = (self._outputs(each, before.feeds) for each in (opener(self._settings), new))
            exact = self._exact_outputs(opener, before.feeds)
            for name, values in first.items():
                change = _change(values, second.get(name), exact.get(name))
                if change:
                    form = "training" if training else "inference"
                    yield f"output {name} of the {form} form changes by {change:.1e} of its deviation"

    def _exact_outputs(self, opener: Callable[[RunSettings], Program], feeds: Batch) -> Mapping[str, Tensor]:
        """In double precision, which shows how much the network's own rounding is; none where it cannot be run so."""
        try:
            return self._outputs(opener(replace(self._settings, float32=torch.float64)), feeds)
        except (ModelError, RuntimeError, MemoryError):
            return {}

    def _outputs(self, program: Program, feeds: Batch) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}

        def watch(name: str, tensor: Tensor) -> Tensor:
            _check(self._end)
            if name in program.graph.outputs:
                found[name] = tensor.detach().double().cpu()
            return tensor

        with torch.no_grad(), self._repeatable():
            program.run(feeds, watch)
        return found

    @contextmanager
    def _repeatable(self) -> Iterator[None]:
        """What the network draws starts from the seed; torch's generators are afterwards as they were."""
        device = self._settings.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self._seed)
            yield


def _in_a_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


def _has_modes(graph: Graph) -> bool:
    """Whether the network computes something else in inference than in training."""
    return any(node.op in ("batch_norm", "second_moment_norm") for node in graph.nodes)


def _change(before: Tensor, after: Tensor | None, exact: Tensor | None) -> float:
    """The largest difference over the deviation, 0 where it is no larger than rounding; inf where one output is no
    number and the other is, or is not there."""
    if after is None or after.shape != before.shape:
        return math.inf
    known = torch.isfinite(before)
    if not torch.equal(known, torch.isfinite(after)):
        return math.inf
    if not known.any():
        return 0.0
    before, after = before[known], after[known]
    scale = float(before.std(correction=0)) or float(before.abs().max())
    rounding = 0.0 if exact is None else float((exact[known] - before).abs().nan_to_num().max())
    difference = float((after - before).abs().max())
    if difference <= max(SAME * scale, _ROUNDING * rounding):
        return 0.0
    return difference / scale if scale else math.inf


def _check(until: float) -> None:
    if time.monotonic() > until:
        raise OutOfTimeError
