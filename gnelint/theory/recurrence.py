"""Recurrent cells in mean field: moments of the state forward through time, of the gradient back.

Each unit keeps a carry, c_t = k_t c_{t-1} + u_t, and shows h_t = o(c_t); k_t, u_t and o depend on gates whose
pre-activations are sums of the step's input and of h_{t-1}, so Gaussian over samples. Different units and gates meet
through independent weights: their energies add. In one unit nothing averages out, there the correlation between steps
decides: E h_t h_{t+d} of what drives it adds up in the carry. With K = E k,

    Var c_t        = E k^2 Var c_{t-1} + ... + 2 K Cov(c_{t-1}, u_t),   Cov(c_{t-1}, u_t) = sum_j K^{j-1} C_u(j)
    dL/dc_t        = o'(c_t) dL/dh_t + k_{t+1} dL/dc_{t+1}
    E (dL/dc_t)^2  = E o'^2 E (dL/dh_t)^2 + E k^2 E (dL/dc_{t+1})^2 + 2 (E o')^2 K sum_j K^{j-1} C_h(j)

C_u(j) and C_h(j) being the covariances of u and of dL/dh at j steps' distance: those of the input and of the cotangent
(`Autocorrelation`), and those which the recurrence makes by itself, found as a fixed point. Dynamic mean field of
random recurrent networks: Sompolinsky, Crisanti and Sommers, Physical Review Letters 61, 1988; gated: arXiv 1806.05394.

Steps are taken until the state stands still; the rest of a run of alike inputs is then like the last step.

Source: theory 3.8.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from gnelint.records import dataclass
from gnelint.theory.fields.autocorrelation import Autocorrelation

STILL = 1e-4
"""Relative change of a step's moments below which those after it are taken as equal."""
MOST_STEPS = 512
"""Steps taken at most through a run of alike inputs."""
_GROWTH = 1e-2
"""Growth with every step that is no slow approach to a fixed point any more."""
REACH = 64
"""Largest distance in steps at which correlations are followed."""
_PASSES = 6
"""At most, of the fixed point of correlations that the recurrence makes by itself."""
_SETTLED = 1e-3
"""Change of a correlation below which it is taken as found."""
_FAST = 0.5
"""What is left of a change, from one step to the next, of correlations that come near a fixed point."""


@dataclass(frozen=True)
class Pair:
    """Mean and variance of entries over samples."""

    mean: np.ndarray
    variance: np.ndarray

    @property
    def second(self) -> np.ndarray:
        """E x^2."""
        return np.asarray(self.variance + self.mean**2)

    @staticmethod
    def of(mean: np.ndarray, second: np.ndarray) -> Pair:
        """From the second moment."""
        return Pair(mean, np.maximum(second - mean**2, 0.0))


@dataclass(frozen=True)
class Slopes:
    """Of a state with respect to each gate's pre-activation; arrays are (batch, gate, unit).

    Attributes:
        energy: E (slope)^2.
        lasting: what of it is left between far steps, (E slope)^2.
        fading: what of it goes with the carry's correlation between the steps.
    """

    energy: np.ndarray
    lasting: np.ndarray
    fading: np.ndarray


@dataclass(frozen=True)
class Passage:
    """A gate that h_{t-1} passes before it reaches the last gate; arrays are (batch, unit).

    Attributes:
        energy: what it multiplies the square of a gradient by that comes back from there, E k^2.
        lasting: what of it is left between far steps, (E k)^2.
        square: E (k')^2, of its slope.
    """

    energy: np.ndarray
    lasting: np.ndarray
    square: np.ndarray


@dataclass(frozen=True)
class Step:
    """One step of every unit; arrays are (batch, unit).

    Attributes:
        hidden, carry: h_t and c_t.
        keep, keep_square: E k_t and E k_t^2, the slope of c_t with respect to c_{t-1}.
        show, show_square: E and E ()^2 of the slope of h_t with respect to c_t.
        inner: slopes of c_t with respect to the gates, c_{t-1} held.
        outer: slopes of h_t with respect to the gates, c_t held.
        driven, fed: variance of the gates' pre-activations from the input and from h_{t-1}, (batch, gate, unit); of
            what passes a gate, what of it is left between far steps.
        reset: what h_{t-1} passes before it reaches the last gate; None where nothing is in between.
        met: of k_t and the slope of c_t with respect to the gates, which one gate may be in, the mean of the product
            over the product of the means.
    """

    hidden: Pair
    carry: Pair
    keep: np.ndarray
    keep_square: np.ndarray
    show: np.ndarray
    show_square: np.ndarray
    inner: Slopes
    outer: Slopes
    driven: np.ndarray
    fed: np.ndarray
    reset: Passage | None = None
    met: np.ndarray | float = 1.0

    @property
    def state(self) -> tuple[np.ndarray, ...]:
        """What the next step depends on."""
        return self.hidden.mean, self.hidden.variance, self.carry.mean, self.carry.variance


class Cell(ABC):
    """A kind of recurrent unit."""

    @abstractmethod
    def step(self, drive: Pair, hidden: Pair, carry: Pair, crossed: np.ndarray) -> Step:
        """One step.

        Args:
            drive: the input's part of the gates' pre-activations, biases included, (batch, gate, unit).
            hidden, carry: h_{t-1} and c_{t-1}.
            crossed: Cov(c_{t-1}, u_t).
        """

    @abstractmethod
    def back(self, step: Step, before: Pair, energy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From the gradient's energy at the gates to that at the pre-activations and at h_{t-1}, through the weights.

        Args:
            step: the step.
            before: h_{t-1}.
            energy: at the gates, (batch, gate, unit).
        """


@dataclass(frozen=True)
class Run:
    """Steps that are alike: how many, and one of them, with the state before it."""

    length: int
    step: Step
    hidden: Pair
    carry: Pair


class UnsettledError(ValueError):
    """Moments that go on growing where no more steps are taken: nothing can be said of those that are left."""

    def __init__(self) -> None:
        super().__init__(f"after {MOST_STEPS} steps the recurrence still grows")


def _grows(ratio: float, steps: int) -> bool:
    """Whether something that a step multiplies by this is out of hand at the end of so many."""
    return ratio > 1.0 + _GROWTH and (ratio - 1.0) * steps > 1.0


def _change(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> float:
    """The largest, relative to the largest entry of each array."""
    found = 0.0
    for old, new in zip(before, after, strict=True):
        scale = float(np.abs(new).max(initial=0.0))
        step = float(np.abs(new - old).max(initial=0.0))
        found = max(found, step / scale if scale > 0 else float(step > 0))
    return found


def unroll(
    cell: Cell, drives: Sequence[tuple[int, Pair]], hidden: Pair, carry: Pair, autocorrelation: Autocorrelation | None
) -> tuple[list[Run], Correlations]:
    """All steps forward.

    Args:
        cell: the kind of unit.
        drives: what each run of alike inputs adds to the pre-activations, with its length.
        hidden, carry: the initial state.
        autocorrelation: of the input over time.

    Returns:
        The steps, as runs of alike ones, and the correlations of the states between steps.
    """
    total = sum(length for length, _ in drives)
    given, far = _followed(autocorrelation, total)
    found = Correlations(np.zeros_like(given), np.zeros_like(given))
    passes = _PASSES if given.size else 0
    for number in range(passes + 1):
        steps = _unrolled(cell, drives, hidden, carry, given, found.hidden)
        runs = _until_middle(steps, total)
        if number == passes:
            break
        before, found = found, Correlations.of(runs[-1].step, given, far, total)
        if np.allclose(before.hidden, found.hidden, atol=_SETTLED):
            break
    return [*runs, *steps], found


def _followed(autocorrelation: Autocorrelation | None, total: int) -> tuple[np.ndarray, float]:
    """Correlations by distance as far as they are followed in so many steps, and those of what is further apart."""
    reach = min(total - 1, REACH)
    return (np.zeros(reach), 0.0) if autocorrelation is None else (autocorrelation.reaching(reach), autocorrelation.far)


def _until_middle(steps: Iterator[Run], total: int) -> list[Run]:
    """The steps up to the one in the middle of so many: that of a state that has settled, if any has. Those behind it
    need not be taken where it tells that all are to be taken again."""
    found: list[Run] = []
    place = total // 2
    for run in steps:
        found.append(run)
        place -= run.length
        if place < 0:
            break
    return found


class _Past:
    """What earlier steps drove a carry with, and how much of it is coherent with the next step's."""

    def __init__(self, correlations: np.ndarray) -> None:
        """Correlations by distance."""
        self._correlations = correlations[:, None, None]
        self._amplitudes: np.ndarray | None = None

    def add(self, amplitude: np.ndarray, steps: int) -> None:
        """So many steps with this root mean square."""
        reach = len(self._correlations)
        if self._amplitudes is None:
            self._amplitudes = np.zeros((reach, *amplitude.shape))
        steps = min(steps, reach)
        self._amplitudes[steps:] = self._amplitudes[: reach - steps].copy()
        self._amplitudes[:steps] = amplitude

    def gathered(self, keep: np.ndarray) -> np.ndarray:
        """sum_j K^{j-1} rho(j) a(j) over the distances j."""
        if self._amplitudes is None:
            return np.zeros_like(keep)
        return np.asarray((_powers(keep, len(self._correlations)) * self._correlations * self._amplitudes).sum(axis=0))


def _powers(keep: np.ndarray, count: int) -> np.ndarray:
    """K^0 .. K^(count - 1), along a new first axis."""
    found = np.empty((count, *keep.shape))
    found[:1], found[1:] = 1.0, keep
    return np.multiply.accumulate(found, axis=0, out=found)


def _pasts(*correlations: np.ndarray) -> list[tuple[int, _Past]]:
    """The past of each drive that is correlated over time, with its place among them."""
    return [(place, _Past(each)) for place, each in enumerate(correlations) if np.any(each)]


def _unrolled(
    cell: Cell,
    drives: Sequence[tuple[int, Pair]],
    hidden: Pair,
    carry: Pair,
    given: np.ndarray,
    made: np.ndarray,
) -> Iterator[Run]:
    """The steps, for correlations over time that the input has and that the hidden state has."""
    crossed = np.zeros_like(hidden.mean)
    pasts = _pasts(given, made)
    for length, drive in drives:
        left, taken = length, 0
        while left > 0:
            step = cell.step(drive, hidden, carry, crossed)
            change = _change((hidden.mean, hidden.variance, carry.mean, carry.variance), step.state)
            taken += 1
            if taken >= MOST_STEPS and _grows(float(step.carry.second.sum() / carry.second.sum()), left):
                raise UnsettledError
            count = left if taken >= MOST_STEPS or (taken > 1 and change <= STILL) else 1
            yield Run(count, step, hidden, carry)
            crossed = np.zeros_like(crossed)
            for place, past in pasts:
                amplitude = np.sqrt((step.inner.lasting * (step.driven, step.fed)[place]).sum(axis=1))
                past.add(amplitude, count)
                crossed = crossed + amplitude * past.gathered(step.keep)
            hidden, carry, left = step.hidden, step.carry, left - count


def _history(total: int) -> int:
    """Steps that a typical one looks back on, as far as they are followed."""
    return min(max(total // 2, 1), REACH)


def _kept(keep: np.ndarray, growth: np.ndarray) -> np.ndarray:
    """K between entries scaled to variance 1, where their amplitude changes by `growth` with every step."""
    return np.asarray(np.minimum(keep * growth, 1.0))


def _gathered(keep: np.ndarray, sources: np.ndarray, far: np.ndarray, steps: int) -> np.ndarray:
    """sum_j K^j C(d + j) over so many steps j, for every distance d; C(d) is `sources`, and `far` beyond them."""
    extended = np.concatenate([sources, np.broadcast_to(far, (steps, *sources.shape[1:]))])
    found = np.empty_like(extended)
    rest = np.zeros_like(keep)
    for distance in range(len(extended) - 1, -1, -1):
        rest = extended[distance] + keep * rest
        found[distance] = rest
    return np.asarray(found[: len(sources)] - keep**steps * found[steps:])


def _carried(keep: np.ndarray, own: np.ndarray, gathered: np.ndarray) -> np.ndarray:
    """Covariances of x_t = K x_{t-1} + v_t at every distance: V(d) = K V(d - 1) + sum_j K^j C_v(d + j)."""
    found = np.empty_like(gathered)
    for distance, source in enumerate(gathered):
        own = keep * own + source
        found[distance] = own
    return found


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Sums over everything but the distance, relative to the whole; between -1 and 1."""
    total = float(whole.sum())
    sums = part.sum(axis=tuple(range(1, part.ndim)))
    return np.asarray(np.clip(sums / total, -1.0, 1.0)) if total > 0 else np.zeros(len(part))


def joined_autocorrelation(near: np.ndarray, source: Autocorrelation | None) -> Autocorrelation | None:
    """Over time, of something whose source has this one: far steps have in common what the source's have."""
    if not near.size:
        return None
    return Autocorrelation(1, near, 0.0 if source is None or source.far == 0 else float(near[-1]))


@dataclass(frozen=True)
class Correlations:
    """Of the states between steps, by distance.

    Attributes:
        carry, hidden: of c and of h.
    """

    carry: np.ndarray
    hidden: np.ndarray

    @staticmethod
    def of(step: Step, given: np.ndarray, far: float, total: int) -> Correlations:
        """Those around a step in the middle of so many; `given` and `far` are the input's."""
        lines = (given.size, 1, 1)
        driven, fed = ((step.inner.lasting * part).sum(axis=1) for part in (step.driven, step.fed))
        outer_driven, outer_fed = ((step.outer.lasting * part).sum(axis=1) for part in (step.driven, step.fed))
        carry = hidden = np.zeros_like(given)
        for _ in range(_PASSES):
            into = given.reshape(lines) * driven + hidden.reshape(lines) * fed
            gathered = _gathered(step.keep, into, far * driven, _history(total))
            covariance = _carried(step.keep, step.carry.variance, gathered)
            carry = _ratio(covariance, step.carry.variance)
            shown = step.show**2 * covariance
            shown = shown + given.reshape(lines) * outer_driven + hidden.reshape(lines) * outer_fed
            before, hidden = hidden, _ratio(shown, step.hidden.variance)
            if np.allclose(before, hidden, atol=_SETTLED):
                break
        return Correlations(carry, hidden)


@dataclass(frozen=True)
class Pulled:
    """The gradient over time.

    Attributes:
        lengths: of the runs of alike steps.
        gates: energy at the gates' pre-activations in each, (run, batch, gate, unit).
        hidden, carry: energy at the initial state.
        autocorrelation: of the gradient at the gates over time; None for a single step.
    """

    lengths: tuple[int, ...]
    gates: np.ndarray
    hidden: np.ndarray
    carry: np.ndarray
    autocorrelation: Autocorrelation | None


@dataclass(frozen=True)
class _Moment:
    """The gradient's energies at one step."""

    hidden: np.ndarray
    recurrent: np.ndarray
    carry: np.ndarray
    gates: np.ndarray
    before: np.ndarray

    @property
    def energies(self) -> tuple[np.ndarray, ...]:
        """What the step before depends on."""
        return self.carry, self.before, self.hidden

    def continued(self, ratio: float, steps: int) -> _Moment:
        """The average over so many steps, each with `ratio` times the energy of the one before.

        Raises:
            UnsettledError: it grows.
        """
        if _grows(ratio, steps):
            raise UnsettledError
        decay = max(1.0 - ratio, 0.0)
        share = min(1.0, 1.0 / (decay * steps)) if decay > 0 else 1.0
        arrays = (self.hidden, self.recurrent, self.carry, self.gates, self.before)
        return _Moment(*(share * array for array in arrays))


def pull(
    cell: Cell,
    runs: Sequence[Run],
    cotangents: Sequence[np.ndarray],
    last: np.ndarray,
    autocorrelation: Autocorrelation | None,
    correlations: Correlations,
) -> Pulled:
    """All steps backward.

    Args:
        cell: the kind of unit.
        runs: the steps, cut where the cotangent's cells are.
        cotangents: its energy at h in each run, (batch, unit).
        last: energy of a cotangent at the last carry.
        autocorrelation: of the cotangent over time.
        correlations: of the states.
    """
    total = sum(run.length for run in runs)
    given, far = _followed(autocorrelation, total)
    made = near = np.zeros_like(given)
    moments = _pulled(cell, runs, cotangents, last, given, made)
    for _ in range(_PASSES if given.size else 0):
        at, growth, step = _typical(moments, runs)

        def next_to(made: np.ndarray, at: _Moment = at, growth: np.ndarray = growth, step: Step = step) -> np.ndarray:
            return _gate_correlations(step, at, growth, correlations, given, far, made, total)[1]

        near, back = _gate_correlations(step, at, growth, correlations, given, far, made, total)
        if np.allclose(back, made, atol=_SETTLED):
            break
        made = _followed_through(next_to, made, back)
        moments = _pulled(cell, runs, cotangents, last, given, made)
    first, start = moments[0][2], runs[0].step
    return Pulled(
        tuple(length for length, _, _ in moments),
        np.stack([moment.gates for _, _, moment in moments]),
        first.before,
        start.keep_square * first.carry,
        joined_autocorrelation(near, autocorrelation),
    )


def _followed_through(next_to: Callable[[np.ndarray], np.ndarray], before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Where correlations go while energies stay: to their fixed point where they come near it fast, else a step."""
    found, step = after, float(np.abs(after - before).max())
    for _ in range(_PASSES):
        ahead = next_to(found)
        previous, step = step, float(np.abs(ahead - found).max())
        if step > _FAST * previous:
            return after
        found = ahead
        if step <= _SETTLED:
            break
    return found


def _typical(moments: Sequence[tuple[int, int, _Moment]], runs: Sequence[Run]) -> tuple[_Moment, np.ndarray, Step]:
    """The step with half of the energy before it, and how its carry's amplitude has changed from the step before.

    Of a gradient that grows from step to step most of the energy is at the first ones, but every step made it grow: no
    step before the one in the middle is taken.
    """
    lengths = np.array([length for length, _, _ in moments])
    place = max(_half(lengths * [float(moment.gates.sum()) for _, _, moment in moments]), _half(lengths))
    length, index, moment = moments[place]
    if length > 1 or place == 0:
        return moment, np.ones_like(moment.carry), runs[index].step
    return moment, _growth(moments[place - 1][2].carry, moment.carry), runs[index].step


def _half(shares: np.ndarray) -> int:
    """Where half of the sum is reached."""
    sums = np.cumsum(shares)
    return min(int(np.searchsorted(sums, 0.5 * sums[-1])), len(sums) - 1)


def _growth(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt(np.divide(after, before, out=np.ones_like(after), where=before > 0)))


def _gate_correlations(
    step: Step,
    at: _Moment,
    growth: np.ndarray,
    states: Correlations,
    given: np.ndarray,
    far: float,
    made: np.ndarray,
    total: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Correlation by distance of the gradient at the gates and of what they hand back to h_{t-1}, from that of the
    cotangent and of the recurrence's own."""
    lines = (given.size, 1, 1)
    shown = given.reshape(lines) * (at.hidden - at.recurrent) + made.reshape(lines) * at.recurrent
    beyond = step.show**2 * far * (at.hidden - at.recurrent)
    keep = _kept(step.keep, growth)
    carried = _carried(keep, at.carry, _gathered(keep, step.show**2 * shown, beyond, _history(total)))
    before = np.concatenate([at.carry[None], carried])[: len(carried)]
    seen = carried - (1.0 - step.met) * keep * before  # c_t kept what the gates of the same step saw
    fading = states.carry.reshape(-1, 1, 1, 1)
    inner = (step.inner.lasting + fading * step.inner.fading) * seen[:, :, None]
    outer = (step.outer.lasting + fading * step.outer.fading) * shown[:, :, None]
    at_gates = inner + outer
    near = _ratio(at_gates, at.gates)
    if step.reset is None:
        return near, near
    last = np.zeros((1, at.gates.shape[1], 1))
    last[:, -1] = 1.0
    lasting, energy = (1.0 + last * (each[:, None] - 1.0) for each in (step.reset.lasting, step.reset.energy))
    return near, _ratio(at_gates * lasting, at.gates * energy)


def _pulled(
    cell: Cell,
    runs: Sequence[Run],
    cotangents: Sequence[np.ndarray],
    last: np.ndarray,
    given: np.ndarray,
    made: np.ndarray,
) -> list[tuple[int, int, _Moment]]:
    """(steps, index of their run, energies), in the order of time."""
    found: list[tuple[int, int, _Moment]] = []
    keep, keep_square = np.zeros_like(last), np.ones_like(last)
    carry, recurrent = last, np.zeros_like(last)
    pasts = _pasts(given, made)
    for index in range(len(runs) - 1, -1, -1):
        run, cotangent = runs[index], cotangents[index]
        step, left, taken = run.step, run.length, 0
        previous: _Moment | None = None
        while left > 0:
            hidden = cotangent + recurrent
            amplitudes = [step.show * np.sqrt((cotangent, recurrent)[place]) for place, _ in pasts]
            crossed = np.zeros_like(last)
            for amplitude, (_, past) in zip(amplitudes, pasts, strict=True):
                crossed = crossed + keep * amplitude * past.gathered(keep)
            total = np.maximum(step.show_square * hidden + keep_square * carry + 2.0 * crossed, 0.0)
            gates = step.inner.energy * total[:, None] + step.outer.energy * hidden[:, None]
            gates, before = cell.back(step, run.hidden, gates)
            moment = _Moment(hidden, recurrent, total, gates, before)
            taken += 1
            change = 1.0 if previous is None else _change(previous.energies, moment.energies)
            count = left if change <= STILL or taken >= MOST_STEPS else 1
            if change > STILL and taken >= MOST_STEPS and previous is not None:
                moment = moment.continued(float(moment.gates.sum() / previous.gates.sum()), left)
            found.append((count, index, moment))
            for amplitude, (_, past) in zip(amplitudes, pasts, strict=True):
                past.add(amplitude, count)
            keep, keep_square, carry, recurrent = step.keep, step.keep_square, moment.carry, moment.before
            previous, left = moment, left - count
    return found[::-1]
