"""The gradient's norm along the depth of a module while it trains, every so many steps, beside what was predicted.

Hooks stand on the module only for the passes that are measured: every other pass costs a counter. What is measured
stays on its device until the next step asks for it, so no pass waits for a copy.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gnelint.readers.torch.outputs import starts
from gnelint.records import dataclass

OUTPUT = "output"
"""The place where the module returns."""
SPREAD = 20.0
"""Bits between the largest and the smallest squared norm along the depth from which on it is told: a factor of 1000 of
the norm, as the rules have it."""
PART = 6.0
"""Bits that one part may change the squared norm by on its own."""
_NAMED = 3


class GradientNormWarning(UserWarning):
    """What the monitor saw: gradients that vanish, explode or are no numbers."""


@dataclass(frozen=True)
class Place:
    """A value along the depth whose gradient is measured.

    Attributes:
        module: qualified name of the module that returns it, or takes it.
        parts: names of the blocks between this place and the next one behind.
        predicted: log2 of the squared gradient norm here, relative to the cotangent's; None if not known.
        explanations: what the static check says of these blocks, a clause each.
        is_input: whether the module takes it: what functions compute no module returns.
    """

    module: str
    parts: tuple[str, ...] = ()
    predicted: float | None = None
    explanations: tuple[str, ...] = ()
    is_input: bool = False

    @property
    def name(self) -> str:
        """What it goes by in readings."""
        return f"{self.module}:input" if self.is_input else self.module


@dataclass(frozen=True)
class Plan:
    """Where to measure, front to back, and what is said of the network as a whole."""

    places: tuple[Place, ...]
    explanations: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class Reading:
    """What one pass measured.

    Attributes:
        step: number of the pass, from 0.
        gradients: log2 of the squared gradient norm at each place, relative to the output's; -inf for zero, NaN for no
            number.
    """

    step: int
    gradients: Mapping[str, float]

    @property
    def spread(self) -> float:
        """log2 of the largest over the smallest squared norm of those that are finite; 0 for fewer than two."""
        known = [value for value in self.gradients.values() if math.isfinite(value)]
        return max(known) - min(known) if len(known) > 1 else 0.0

    def metrics(self) -> dict[str, float]:
        """For a logger: the spread, and each place."""
        found = {f"gnelint/gradient_log2/{name}": value for name, value in self.gradients.items()}
        return {"gnelint/spread_log2": self.spread, **found}


@dataclass(frozen=True)
class Alert:
    """What the monitor warned of.

    Attributes:
        step: number of the pass.
        kind: "spread", "part", "zero" or "not finite".
        parts: names of the blocks it is about.
        text: for people.
    """

    step: int
    kind: str
    parts: tuple[str, ...]
    text: str


class Monitor:
    """Watches a module while it trains.

    A context manager; `close` does the same. Passes in training mode with gradients count as steps.

    Attributes:
        history: every reading.
        alerts: every warning.
        plan: where it measures; None before the first pass.
    """

    def __init__(
        self,
        module: nn.Module,
        planned: Callable[[tuple[Any, ...], Mapping[str, Any]], Plan],
        *,
        every: int,
        log: Callable[[Mapping[str, float], int], None],
    ) -> None:
        """Nothing is measured before the module's next pass.

        Args:
            module: which is only watched.
            planned: makes the plan from the arguments of the first pass.
            every: measure the first pass and then one of so many.
            log: gets the metrics of a reading and its step.
        """
        self.history: list[Reading] = []
        self.alerts: list[Alert] = []
        self.plan: Plan | None = None
        self._module = module
        self._planned = planned
        self._every = every
        self._log = log
        self._step = 0
        self._closed = False
        self._seen: dict[str, Tensor] = {}
        self._seen_at = 0
        self._measuring: list[RemovableHandle] = []
        self._counting = module.register_forward_pre_hook(self._begin, with_kwargs=True)

    def __enter__(self) -> Monitor:
        """The monitor itself; it watches since it was made."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Stop watching."""
        self.close()

    def close(self) -> None:
        """Take in the last pass, and take every hook off the module; a warning tells if there was no pass."""
        self._counting.remove()
        if not self._step and not self._closed:
            text = f"{type(self._module).__name__} was not called in training mode while it was monitored"
            warnings.warn(text, GradientNormWarning, stacklevel=2)
        self._closed = True
        self._unhook()
        self.read()

    def read(self) -> Reading | None:
        """Take in the pass measured last, where its backward pass is over; None where there is nothing new."""
        if OUTPUT not in self._seen or self.plan is None:
            return None
        seen, self._seen = self._seen, {}
        numbers = torch.stack([*seen.values()]).tolist()
        found = dict(zip(seen, numbers, strict=True))
        end = found.pop(OUTPUT)
        names = [place.name for place in self.plan.places if place.name in found]
        reading = Reading(self._seen_at, {name: _less(found[name], end) for name in names})
        self.history.append(reading)
        self._log(reading.metrics(), reading.step)
        self._judge(reading, self.plan)
        return reading

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not (module.training and torch.is_grad_enabled()):
            return
        step, self._step = self._step, self._step + 1
        if step % self._every and self._seen:
            self.read()
        if step % self._every:
            return
        self.read()
        if self.plan is None:
            self._counting.remove()  # planning calls the module
            self.plan = self._planned(args, kwargs)
            self._counting = module.register_forward_pre_hook(self._begin, with_kwargs=True)
            if self.plan.problem is not None:
                warnings.warn(self.plan.problem, GradientNormWarning, stacklevel=2)
        self._seen, self._seen_at = {}, step
        self._hook(self.plan)

    def _hook(self, plan: Plan) -> None:
        self._unhook()
        modules = dict(self._module.named_modules())
        for place in plan.places:
            watched = modules[place.module]
            if place.is_input:
                hook = watched.register_forward_pre_hook(self._watching_input(place.name), with_kwargs=True)
            else:
                hook = watched.register_forward_hook(self._watching(place.name))
            self._measuring.append(hook)
        self._measuring.append(self._module.register_forward_hook(self._end))

    def _unhook(self) -> None:
        for handle in self._measuring:
            handle.remove()
        self._measuring = []

    def _watching(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self._watch(name, output)

        return hook

    def _watching_input(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._watch(name, next(iter(starts((*args, *kwargs.values()))), ()))

        return hook

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        self._watch(OUTPUT, output)
        self._unhook()

    def _watch(self, name: str, output: Any) -> None:
        """Note the squared norm of the gradient when it comes; of several outputs or calls they add up."""
        for tensor in starts(output):
            if tensor.requires_grad:
                tensor.register_hook(self._noting(name))

    def _noting(self, name: str) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            norm = _log2_squared_norm(gradient.detach())
            before = self._seen.get(name)
            self._seen[name] = norm if before is None else torch.logaddexp2(before, norm)

        return hook

    def _judge(self, reading: Reading, plan: Plan) -> None:
        for alert in alerts(reading, plan):
            if all((alert.kind, alert.parts) != (old.kind, old.parts) for old in self.alerts):
                self.alerts.append(alert)
                warnings.warn(alert.text, GradientNormWarning, stacklevel=2)


def alerts(reading: Reading, plan: Plan) -> list[Alert]:
    """What is wrong with the norms of a reading, the worst first."""
    places = [place for place in plan.places if place.name in reading.gradients]
    norms = [reading.gradients[place.name] for place in places]
    at = f"step {reading.step}"
    broken = [place for place, norm in zip(places, norms, strict=True) if math.isnan(norm) or norm == math.inf]
    if broken:
        last = broken[-1]  # the gradient comes from behind: there it broke
        return [_alert(reading, "not finite", [last], f"{at}: the gradient at {last.name} is no finite number", plan)]
    dead = [place for place, norm in zip(places, norms, strict=True) if norm == -math.inf]
    if dead:
        return [_alert(reading, "zero", dead[-1:], f"{at}: no gradient arrives at {dead[-1].name}", plan)]
    return _uneven(reading, places, norms, plan) if places else []


def _uneven(reading: Reading, places: Sequence[Place], norms: Sequence[float], plan: Plan) -> list[Alert]:
    """Parts that lose or gain too much, each by itself or all of them together."""
    behind = [*norms[1:], 0.0]
    bits = [here - there for here, there in zip(norms, behind, strict=True)]
    parts = sorted(zip(places, bits, strict=True), key=lambda part: -abs(part[1]))
    found: list[Alert] = []
    if reading.spread > SPREAD:
        total = norms[0]
        word = "vanishes" if total < 0 else "explodes"
        worst = [place for place, own in parts if own * total > 0][:_NAMED]
        text = (
            f"step {reading.step}: the gradient {word}: 2^{reading.spread:.0f} lie between its largest and its "
            f"smallest squared norm along the depth; most at {', '.join(_named(place) for place in worst)}"
        )
        found.append(_alert(reading, "spread", worst, text, plan))
    for place, own in parts:
        if abs(own) > PART and len(places) > 1 and not any(place.parts == alert.parts for alert in found):
            expected = _expected(place, places)
            said = "" if expected is None else f" (2^{expected:.1f} was predicted of the start)"
            text = f"step {reading.step}: {_named(place)} multiplies the squared gradient norm by 2^{own:.1f}{said}"
            found.append(_alert(reading, "part", [place], text, plan))
    return found


def _expected(place: Place, places: Sequence[Place]) -> float | None:
    following = places[places.index(place) + 1 :]
    there = following[0].predicted if following else 0.0
    return None if place.predicted is None or there is None else place.predicted - there


def _alert(reading: Reading, kind: str, places: Sequence[Place], text: str, plan: Plan) -> Alert:
    said = dict.fromkeys(clause for place in places for clause in place.explanations)
    clauses = list(said) or list(plan.explanations)
    why = (
        ". The check says: " + "; ".join(clauses[:_NAMED]) if clauses else ". The check of the start says nothing of it"
    )
    return Alert(reading.step, kind, tuple(part for place in places for part in place.parts), text + why + ".")


def _named(place: Place) -> str:
    return ", ".join(place.parts) or place.name


def _log2_squared_norm(gradient: Tensor) -> Tensor:
    """Of any type, without overflow or underflow of the squares; on the gradient's own device."""
    largest = gradient.abs().amax().float() if gradient.numel() else gradient.new_zeros((), dtype=torch.float32)
    share = (gradient.float() / torch.where(largest > 0, largest, 1.0)).square().sum()
    return 2.0 * largest.log2() + torch.where(largest > 0, share, 1.0).log2()


def _less(norm: float, end: float) -> float:
    """Relative to the output's; an output without gradient says nothing of what is in front of it."""
    return norm - end if math.isfinite(end) else math.nan if math.isnan(end) or end == math.inf else norm


def hookable(module: nn.Module) -> list[str]:
    """Qualified names of the submodules that take hooks: scripted ones take none."""
    return [name for name, part in module.named_modules() if not isinstance(part, torch.jit.ScriptModule)]


def unwrapped(module: nn.Module) -> nn.Module:
    """The module that a data-parallel wrapper calls."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return unwrapped(module.module) if isinstance(module, parallel) else module
