"""Runs regions of a network on draws of their inputs: what the analysis asks where it has no formula.

A draw is a pass forward on inputs drawn from their moments, and one back with cotangents drawn from theirs. Draws go on
until the squared norm at the inputs is known to 0.05 bit, or the budget ends. Source: theory 7.3.
"""

from __future__ import annotations

import math
import statistics
import zlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field, replace
from typing import Protocol

import torch
from torch import Tensor

from gnelint.analysis.sampling import Draws, NotSampledError, Pulled, Region
from gnelint.errors import GnelintError
from gnelint.measure.memory import available, ran_out
from gnelint.measure.regions.counting import Counting
from gnelint.measure.regions.drawing import cotangent, drawn
from gnelint.measure.regions.fitting import Fitted, Tally, gradient_of, inside
from gnelint.measure.regions.sharing import Shared, Sketch, same_gradients
from gnelint.measure.regions.together import noise
from gnelint.measure.tape import recording
from gnelint.records import dataclass
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments

PRECISION = 0.05
"""Bits to which a squared norm is to be known."""
INNER_PRECISION = 0.15
"""Bits to which it is to be known at a value inside."""
UNSETTLED = 0.3
"""Bits of standard error beyond which few draws make up the average: what one run will show is the middle one."""
WIDEST = 2.0
"""Bits by which single draws may scatter for the middle one to say something."""
WIDEST_OF_FORMULAS = 8.0
"""The same where formulas would be believed that leave out what makes them scatter."""
UNKNOWN = 1.0
"""Bits of standard error beyond which the average says nothing where the middle one does not either."""
LEAST, MOST = 8, 64
"""Draws; of values inside only the first are looked at entry by entry."""
WORK, TOTAL = 2e9, 8e9
"""Multiplications that a region and a network may cost, forward: the number of draws is cut to it, LEAST_LARGE are made
as long as anything is left. Sending cotangents back costs about twice as much again."""
LEAST_LARGE = 4
_QUARTILES = 1.349
"""Distance of a Gaussian's quartiles, in deviations."""
_SHARES = 4
"""Parts of what is left of a network's work: a region takes one at most, so that those to come have theirs."""
_ENTRY, _CALL = 10.0, 1e5
"""Multiplications that take as long as one entry of a value, and as one operation, whatever it does."""
_CALLS_OF_ONE = 3
"""Calls of torch that one operation of a graph mostly takes."""
_PRODUCTS = ("matmul", "attention")
"""Operations that sum products of features over positions, where what these have in common adds up."""
MOST_ENTRIES, MOST_VALUES = 1 << 28, 20_000
"""Numbers and tensors that one draw may compute."""
_COPIES = 4
"""Tensors held for each entry that a region computes."""
_SIGMA_ENOUGH = 0.035
"""Relative standard error of a second moment that is 0.05 bit."""


Run = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""The floating values that a region computes of its inputs, by their names in the graph."""


@dataclass
class Meter:
    """What one draw has computed so far; more than a draw may cost ends it: a file's loop may have no end."""

    entries: int = 0
    values: int = 0

    def saw(self, value: Tensor) -> None:
        """Count a value that was computed.

        Raises:
            NotSampledError: it is too much.
        """
        self.entries += value.numel()
        self.values += 1
        if self.entries > MOST_ENTRIES or self.values > MOST_VALUES:
            raise NotSampledError(f"one draw computes more than {MOST_ENTRIES:.0e} numbers or {MOST_VALUES} values")


@dataclass(frozen=True)
class Part:
    """A region cut out of a network.

    Attributes:
        run: what computes its values.
        sketch: what it computes, for others that do the same.
    """

    run: Run
    sketch: Sketch


@dataclass
class Budget:
    """What the regions of one network may cost together.

    It counts work and no seconds: the same network is told the same on any machine.

    Attributes:
        left: multiplications.
    """

    left: float = TOTAL

    def most(self, work: float) -> int:
        """How many draws a region may have, each of which takes this many multiplications.

        Raises:
            NotSampledError: there is nothing left for it.
        """
        own = min(WORK, self.left / _SHARES)
        least = LEAST_LARGE * work
        if least > max(self.left, 0.0) and self.left < TOTAL:
            raise NotSampledError("what may be run of one network is spent on parts before it")
        return max(min(MOST, int(own / max(work, 1.0))), LEAST_LARGE)


class Network(Protocol):
    """A network parts of which can be run."""

    def shows(self, value: str) -> bool:
        """Whether a value of the graph is one of the network's own."""

    def part(self, region: Region) -> Part:
        """What computes the values of a region from its inputs.

        Raises:
            GnelintError: it cannot be cut out.
        """


@dataclass(frozen=True)
class TorchSampler:
    """Samples regions of a network on the CPU; those that are alike once.

    Attributes:
        network: whose regions.
        budget: what they may cost.
    """

    network: Network
    budget: Budget = field(default_factory=Budget, compare=False)
    _drawn: dict[Hashable, list[Shared]] = field(default_factory=lambda: defaultdict(list), compare=False)

    def shows(self, value: str) -> bool:
        return self.network.shows(value)

    def draws(self, region: Region, inputs: Mapping[str, Moments]) -> Draws:
        with _refusals():
            part, given = self.network.part(region), tuple(inputs[name] for name in region.inputs)
            alike = self._drawn[part.sketch.outline]
            known = next((each for each in alike if each.stands_for(part.sketch, given)), None)
            if known is not None:
                return known.as_of(part.sketch)
            try:
                alike.append(Shared(part.sketch, given, _Drawn(region, inputs, part.run, self.budget)))
            except NotSampledError:
                known = next((each for each in alike if each.stands_for(part.sketch, given, roughly=True)), None)
                if known is None:
                    raise
                return known.as_of(part.sketch, roughly=True)
            return alike[-1].draws


@contextmanager
def _refusals() -> Iterator[None]:
    """Whatever a region does that it cannot be run for is a sentence for people."""
    try:
        yield
    except NotSampledError:
        raise
    except GnelintError as error:
        raise NotSampledError(error.problem) from error
    except Exception as error:  # torch refuses operands in many ways
        if ran_out(error):
            raise NotSampledError("there is not enough memory to run it") from error
        said = " ".join(str(error).split())[:200]
        raise NotSampledError(f"it cannot be run by itself ({type(error).__name__}: {said})") from error


@dataclass
class _Estimate:
    """Totals of draws, and how well their average is known."""

    totals: list[float] = field(default_factory=list)

    @property
    def average(self) -> float:
        """Of the totals; 0 where there are none."""
        return math.fsum(self.totals) / max(len(self.totals), 1)

    @property
    def bits(self) -> float:
        """Standard error of log2 of the average."""
        n, average = len(self.totals), self.average
        if n < 2 or average <= 0:
            return 0.0
        variance = math.fsum((total - average) ** 2 for total in self.totals) / (n - 1)
        return math.sqrt(variance / n) / average / math.log(2.0)

    @property
    def settled(self) -> bool:
        """Whether the average is told: it is that of most draws, or there is no middle one."""
        return (self.bits <= UNSETTLED and not self._drawn_up) or (self.bits <= UNKNOWN and self.spread > WIDEST)

    @property
    def told(self) -> float:
        """What one run will show: the middle total where few draws make up the average."""
        return self.average if self.settled else statistics.median(self.totals)

    @property
    def error_bits(self) -> float:
        """Of log2 of that: what one run will show is one draw, those that are far off being counted with the rest."""
        told = self.told
        if told <= 0 or len(self.totals) < 2:
            return self.bits
        off = (abs(math.log2(total / told)) if total > 0 else math.inf for total in self.totals)
        scatter = math.fsum(min(each, WIDEST_OF_FORMULAS) ** 2 for each in off) / len(self.totals)
        return math.sqrt(scatter + (self.bits**2 if self.settled else 0.0))

    @property
    def _drawn_up(self) -> bool:
        """Whether a few have drawn the average beyond what most draws show."""
        if len(self.totals) < LEAST:
            return False
        usual: float = statistics.median(self.totals) * 2.0 ** max(self.spread, PRECISION)
        return self.average > usual

    @property
    def around_the_middle(self) -> Sequence[int]:
        """The numbers of the draws between the quartiles."""
        low, _, high = statistics.quantiles(self.totals, n=4)
        return [number for number, total in enumerate(self.totals) if low <= total <= high]

    @property
    def spread(self) -> float:
        """Standard deviation of a draw's log2, as its quartiles say; infinite where there are zeros among these."""
        if len(self.totals) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.totals, n=4)
        return math.log2(high / low) / _QUARTILES if low > 0 else math.inf


def _squared_norm(gradient: Tensor) -> float | None:
    """None where it is not finite."""
    norm = float(gradient.square().sum())
    if not math.isfinite(norm):  # squares of what single precision still holds
        norm = float(gradient.double().square().sum())
    return norm if math.isfinite(norm) else None


@dataclass
class _Ends:
    """The gradients at a region's inputs, draw by draw."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    values: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, gradients: Mapping[str, Tensor], feeds: Mapping[str, Tensor]) -> float:
        """Take in one draw; their squared norm.

        Raises:
            NotSampledError: one overflows.
        """
        total = 0.0
        for name, value in feeds.items():
            tally = self.tallies.setdefault(name, Tally(tuple(value.shape), signed=False))
            kept, norm = len(tally.kept), tally.add(gradients[name])
            if norm is None:
                raise NotSampledError(f'the gradient at "{name}" overflows')
            total += norm
            if len(tally.kept) > kept:
                self.values.setdefault(name, []).append(value.detach())
        return total

    def gradients(self, factor: float) -> dict[str, Gradient]:
        """What they show, times a factor."""
        return {
            name: gradient_of(tally, [value.numpy() for value in self.values[name]]).scaled(factor)
            for name, tally in self.tallies.items()
        }


class _Drawn:
    """A region with draws of its inputs; the n-th draw has the same numbers each time."""

    def __init__(
        self,
        region: Region,
        inputs: Mapping[str, Moments],
        run: Run,
        budget: Budget,
    ) -> None:
        self._region = region
        self._inputs = inputs
        self._run = run
        self._budget = budget
        self._sent: list[tuple[Mapping[str, Gradient], bool, Pulled]] = []
        self._seed = zlib.crc32("\0".join(region.outputs).encode())
        self._multiplies = any(node.op in _PRODUCTS for node in region.nodes)
        self._most = MOST
        self.moments: Mapping[str, Moments] = self._forward()

    def _generator(self, stream: str, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(
            (self._seed << 24) + (number << 2) + ("inputs", "cotangents").index(stream)
        )

    def _values(self, number: int, *, grad: bool) -> tuple[dict[str, Tensor], Mapping[str, Tensor]]:
        """The inputs of one draw, and what is computed of them."""
        generator = self._generator("inputs", number)
        white = noise(self._inputs, self._seed, generator, together=self._multiplies)
        feeds = {name: drawn(x, white[name]).requires_grad_(grad) for name, x in self._inputs.items()}
        with torch.random.fork_rng(devices=[]), torch.set_grad_enabled(grad), recording():
            torch.manual_seed(self._seed + number)
            found = self._run(feeds)
        return feeds, found

    def _forward(self) -> Mapping[str, Moments]:
        tallies: dict[str, Tally] = {}
        estimates: dict[str, _Estimate] = {}
        number = 0
        while number < self._most:
            with torch.no_grad():
                found = self._counted(number) if number == 0 else self._values(number, grad=False)[1]
            for name, value in found.items():
                leaves = name in self._region.outputs
                if not leaves and (number >= LEAST or value.numel() == 0):
                    continue
                shape = tuple(value.shape)
                if name not in tallies:
                    tallies[name] = Tally(shape) if leaves else inside(shape, len(found))
                elif not leaves and tallies[name].shape != shape:  # what an expert sees is of another size in each draw
                    continue
                energy = tallies[name].add(value)
                if energy is not None:
                    estimates.setdefault(name, _Estimate()).totals.append(energy)
                elif leaves:  # inside, -inf may say what is left out
                    raise NotSampledError(f'its value "{name}" overflows')
            number += 1
            if number >= LEAST and all(estimates[name].bits <= PRECISION for name in self._region.outputs):
                break
        self._budget.left -= number * self._work
        missing = [name for name in self._region.outputs if name not in tallies]
        if missing:
            raise NotSampledError(f'its output "{missing[0]}" is not to be seen')
        return Fitted({name: tally for name, tally in tallies.items() if tally.count})

    def _counted(self, number: int) -> Mapping[str, Tensor]:
        """The first draw, with how many there may be."""
        counter = Counting()
        with counter:
            found = self._values(number, grad=False)[1]
        entries = sum(value.numel() for value in found.values())
        memory = available(torch.device("cpu"))
        if memory is not None and entries * 4 * _COPIES > memory:
            raise NotSampledError("there is not enough memory to run it")
        calls = max(len(found), counter.calls / _CALLS_OF_ONE)  # a file's loop is run whole, its steps are not found
        self._work = counter.operations / 2 + _ENTRY * entries + _CALL * calls
        self._most = self._budget.most(self._work)
        return found

    def pulled(self, cotangents: Mapping[str, Gradient], *, inside: bool = True) -> Pulled:
        """Send cotangents back, unless the same have been."""
        scale = max((float(g.energy.max(initial=0.0)) for g in cotangents.values()), default=0.0)
        if scale == 0.0 or not math.isfinite(scale):
            return Pulled({name: _nothing(x) for name, x in self._inputs.items()}, 0.0)
        sent = {name: g.scaled(1.0 / scale) for name, g in cotangents.items()}
        known = (pulled for before, had, pulled in self._sent if had >= inside and same_gradients(before, sent))
        found = next(known, None)
        if found is None:
            with _refusals():
                found = self._pulled(sent, inside)
            self._sent.append((sent, inside, found))
        return replace(found, gradients={name: g.scaled(scale) for name, g in found.gradients.items()})

    def _pulled(self, sent: Mapping[str, Gradient], inside_too: bool) -> Pulled:
        """The gradients: of the draws around the middle where few others make up their average."""
        ends, estimate, inner = _Ends(), _Estimate(), defaultdict[str, _Estimate](_Estimate)
        shapes: dict[str, tuple[int, ...]] = {}
        for number in range(self._most):
            gradients, feeds = self._sent_back(number, sent, inside_too)
            estimate.totals.append(ends.add(gradients, feeds))
            for name, gradient in gradients.items():
                norm = None if name in feeds else _squared_norm(gradient)
                if norm is not None:
                    inner[name].totals.append(norm)
                    shapes.setdefault(name, tuple(gradient.shape))
            settled = all(each.bits <= INNER_PRECISION for each in inner.values())
            if number + 1 >= LEAST and estimate.bits <= PRECISION and settled:
                break
        bits, level = estimate.error_bits, estimate.average
        widest = WIDEST_OF_FORMULAS if self._region.has_formulas else WIDEST
        if estimate.spread > widest and not estimate.settled:
            raise NotSampledError(f"its gradient scatters by {estimate.spread:.1f} bits from draw to draw")
        if not estimate.settled:
            ends, level = _Ends(), 0.0
            around = estimate.around_the_middle
            for number in around:
                level += ends.add(*self._sent_back(number, sent, False)) / len(around)
        found = ends.gradients(estimate.told / level if level > 0 else 1.0)
        for name, each in inner.items():
            found[name] = Gradient.white(shapes[name]).scaled(each.told / max(math.prod(shapes[name]), 1))
        return Pulled(found, bits, {name: each.error_bits for name, each in inner.items()})

    def _sent_back(
        self, number: int, sent: Mapping[str, Gradient], inside_too: bool
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        """The gradients of one draw, and its inputs."""
        feeds, found = self._values(number, grad=True)
        return self._gradients(feeds, found, sent, self._generator("cotangents", number), inside_too), feeds

    def _gradients(
        self,
        feeds: Mapping[str, Tensor],
        found: Mapping[str, Tensor],
        sent: Mapping[str, Gradient],
        generator: torch.Generator,
        inside_too: bool,
    ) -> dict[str, Tensor]:
        """The gradient at every input and every value inside, for one draw of the cotangents."""
        probes = {name: cotangent(g, found[name], generator) for name, g in sent.items()}
        ends = {name: value for name, value in found.items() if value.requires_grad}
        starts = [name for name in probes if name in ends]
        wanted = dict(feeds)
        if inside_too:
            known = set(starts) - self._region.reread
            wanted |= {name: value for name, value in ends.items() if name not in known}
        made: Sequence[Tensor | None] = [None] * len(wanted)
        if starts:
            with recording():
                made = _pulled_back([(ends[name], probes[name]) for name in starts], list(wanted.values()))
        return {
            name: torch.zeros_like(wanted[name]) if gradient is None else gradient
            for name, gradient in zip(wanted, made, strict=True)
        }


def _pulled_back(ends: Sequence[tuple[Tensor, Tensor]], wanted: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """The gradients at tensors for these cotangents at the ends: those of the sum of their products.

    Cotangents of more than one number would do, but to compare their sizes torch loads sympy, for half a second.
    """
    sources, cotangents = [value for value, _ in ends], None
    if any(value.is_complex() for value in sources):
        cotangents = [probe.to(value.dtype) for value, probe in ends]
    else:
        sources = [torch.stack([(value * probe.to(value.dtype)).sum().double() for value, probe in ends]).sum()]
    found: Sequence[Tensor | None] = torch.autograd.grad(sources, wanted, cotangents, allow_unused=True)
    return found


def _nothing(x: Moments) -> Gradient:
    return Gradient.white(x.shape).scaled(0.0)
