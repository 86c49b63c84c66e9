"""Recurrent layers: the cells' formulas; the recurrence over time is in theory.recurrence.

With s, f, o the logistic function of a gate's pre-activation and E over its Gaussian, a gate's part of the gradient is,
for a cotangent d at the carry, E d^2 times E of the squared slope with respect to it. At the input the gates' parts add
through independent weights, dL/dx = sum_g W_g^T d_g.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, TypeVar

import numpy as np

from gnelint.components.base import (
    Basis,
    Component,
    Cotangents,
    Gradients,
    Inputs,
    NotModelledError,
    Remembered,
    component,
    first_input,
)
from gnelint.records import cached_property, dataclass
from gnelint.theory.fields.autocorrelation import Autocorrelation
from gnelint.theory.fields.cells import Axis
from gnelint.theory.fields.field import Field
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments
from gnelint.theory.gaussian.gates import (
    Averages,
    gate_averages,
    gated_tanh_averages,
    relu_averages,
    tanh_averages,
)
from gnelint.theory.recurrence import (
    MOST_STEPS,
    Cell,
    Correlations,
    Pair,
    Passage,
    Pulled,
    Run,
    Slopes,
    Step,
    UnsettledError,
    joined_autocorrelation,
    pull,
    unroll,
)
from gnelint.theory.weights.contraction import columns_times, rows_times

TIME = 1
_FINENESS = 4
"""Cells of the output's time axis are at most this fraction of the distance to the nearer end long."""


@dataclass(frozen=True)
class Unrolled:
    """A layer's steps, for one input."""

    batch: Axis
    runs: list[Run]
    correlations: Correlations
    autocorrelation: Autocorrelation | None


@dataclass(frozen=True)
class _Weights:
    """What h_{t-1} meets: `matrix` is (gates * hidden, hidden), `bias` (gate, hidden)."""

    matrix: np.ndarray
    bias: np.ndarray

    @cached_property
    def _squares(self) -> np.ndarray:
        """Of the entries: every step asks for them, forward and back."""
        entries = self.matrix if self.matrix.dtype == np.float64 else self.matrix.astype(np.float32, copy=False)
        return entries * entries

    def forward(self, hidden: Pair) -> Pair:
        """Mean and variance of U h + b, (batch, gate, unit)."""
        shape = (-1, *self.bias.shape)
        mean = rows_times(self.matrix, hidden.mean, squared=False).reshape(shape) + self.bias
        return Pair(mean, rows_times(self._squares, hidden.variance, squared=False).reshape(shape))

    def backward(self, energy: np.ndarray) -> np.ndarray:
        """Energy of U^T d, (batch, unit)."""
        return columns_times(self._squares, energy.reshape(len(energy), -1), squared=False)

    def rows(self, gate: int) -> _Weights:
        """Those of one gate."""
        return self._by_gate[gate]

    @cached_property
    def _by_gate(self) -> list[_Weights]:
        count, size = self.bias.shape
        return [_Weights(self.matrix[k * size : (k + 1) * size], self.bias[k : k + 1]) for k in range(count)]


def _stacked(*gates: np.ndarray) -> np.ndarray:
    found = np.empty((len(gates[0]), len(gates), gates[0].shape[1]))
    for place, gate in enumerate(gates):
        found[:, place] = gate
    return found


def _no_slopes(like: np.ndarray) -> Slopes:
    nothing = np.zeros_like(like)
    return Slopes(nothing, nothing, nothing)


class Recurrent(Component):
    """A layer of recurrent units in one direction.

    No variance of the spectrum: all steps share one recurrent matrix, so the products of their Jacobians are not free
    of each other, and the rule for independent factors does not hold for their sum over time.
    """

    basis: ClassVar[Basis] = "approximate"
    assumptions: ClassVar[tuple[str, ...]] = (
        "pre-activations of gates are Gaussian",
        "different gates and units of a step fluctuate independently",
    )

    @abstractmethod
    def cell(self, recurrent: _Weights) -> Cell:
        """The unit's formulas."""

    @property
    def _hidden(self) -> int:
        return int(self._recurrent.shape[1])

    @property
    def _gates(self) -> int:
        return int(self._weight.shape[0]) // max(self._hidden, 1)

    @cached_property
    def _weight(self) -> np.ndarray:
        return self.node.parameters["weight"].array()

    @cached_property
    def _recurrent(self) -> np.ndarray:
        return self.node.parameters["recurrent"].array()

    def _bias(self, role: str) -> np.ndarray:
        parameter = self.node.parameters.get(role)
        if parameter is None:
            return np.zeros((self._gates, self._hidden))
        return np.asarray(parameter.array(), dtype=np.float64).reshape(self._gates, self._hidden)

    @cached_property
    def _cell(self) -> Cell:
        return self.cell(_Weights(self._recurrent, self._bias("recurrent_bias")))

    @cached_property
    def _known(self) -> Remembered[Unrolled]:
        return Remembered()

    def unrolled(self, inputs: Inputs) -> Unrolled:
        """The steps forward, for these inputs."""
        return self._known.of(inputs, lambda: self._unroll(inputs))

    def _unroll(self, inputs: Inputs) -> Unrolled:
        x = first_input(inputs)
        steps = x.shape[TIME]
        if 0 in x.shape:
            raise NotModelledError("a sequence without steps")
        states = [state for state in inputs[1:] if state is not None]
        autocorrelation = _autocorrelation_over_time(x)
        x = _in_time(x.absorbed(TIME).flattened(), bool(self.node.attribute("reverse")))
        batch = x.axes[0]
        for state in states:
            batch = batch.refine(state.axes[0])
        x = x.refined((batch, x.axes[TIME], x.axes[2]))
        gates = (batch.count, x.axes[TIME].count, self._gates, self._hidden)
        mean = rows_times(self._weight, x.mean.reshape(-1, x.shape[2]), squared=False).reshape(gates)
        variance = rows_times(self._weight, x.variance.reshape(-1, x.shape[2]), squared=True).reshape(gates)
        drives = [
            (int(length), Pair(mean[:, index] + self._bias("bias"), variance[:, index]))
            for index, length in enumerate(x.axes[TIME].lengths)
        ]
        first = [self._state(inputs, index + 1, batch) for index in range(2)]
        hidden, carry = first if len(inputs) > 2 else (first[0], first[0])
        try:
            runs, correlations = unroll(self._cell, drives, hidden, carry, autocorrelation if steps > 1 else None)
        except UnsettledError as error:
            raise NotModelledError(str(error)) from error
        return Unrolled(batch, runs, correlations, joined_autocorrelation(correlations.hidden, autocorrelation))

    def _state(self, inputs: Inputs, index: int, batch: Axis) -> Pair:
        state = inputs[index] if index < len(inputs) else None
        if state is None:
            if index < len(inputs) and self.node.inputs[index] is not None:
                raise NotModelledError("begins in a state whose values are not known before the network runs")
            nothing = np.zeros((batch.count, self._hidden))
            return Pair(nothing, nothing)
        state = state.flattened().refined((batch, Axis.full(self._hidden)))
        return Pair(state.mean, state.variance)

    def forward(self, inputs: Inputs) -> tuple[Moments, ...]:
        found = self.unrolled(inputs)
        axis = _time_axis([run.length for run in found.runs])
        mean, variance = (
            np.stack([getattr(run.step.hidden, name) for run in found.runs], axis=1) for name in ("mean", "variance")
        )
        axes = (found.batch, axis, Axis.full(self._hidden))
        y = Moments.flat(axes, mean, variance, _pair_covariance(axis, variance, found.autocorrelation))
        y = y.with_autocorrelation(found.autocorrelation).pooled(TIME, _coarse(axis))
        y = y.sliced(TIME, axis.size - 1, -1, -1) if self.node.attribute("reverse") else y
        last = found.runs[-1].step.carry
        carried = Moments.flat((found.batch, Axis.full(self._hidden)), last.mean, last.variance)
        return (y, carried)[: len(self.output_shapes)]

    def backward(self, inputs: Inputs, outputs: Sequence[Moments], cotangents: Cotangents) -> Gradients:
        x = first_input(inputs)
        found = self.unrolled(inputs)
        nothing = np.zeros((found.batch.count, self._hidden))
        g, last = cotangents[0], cotangents[1] if len(cotangents) > 1 else None
        if g is None and last is None:
            return (None,) * len(inputs)
        at_last = nothing if last is None else _on_batch(last, found.batch).energy
        g = Gradient.white(self.output_shapes[0]).scaled(0.0) if g is None else g
        autocorrelation = _autocorrelation_over_time(g)
        g = _on_batch(_in_time(g, bool(self.node.attribute("reverse"))), found.batch)
        runs, cells = _cut(found.runs, g.axes[TIME])
        energies = [g.energy[:, cell] for cell in cells]
        try:
            pulled = pull(self._cell, runs, energies, at_last, autocorrelation, found.correlations)
        except UnsettledError as error:
            raise NotModelledError(str(error)) from error
        states = [Gradient.flat((found.batch, Axis.full(self._hidden)), energy) for energy in self._at_states(pulled)]
        kept = [state if index + 1 < len(inputs) and inputs[index + 1] is not None else None
                for index, state in enumerate(states)]  # fmt: skip
        return (self._at_input(pulled, found.batch, x.shape), *kept[: len(inputs) - 1])

    def _at_states(self, pulled: Pulled) -> tuple[np.ndarray, ...]:
        """Energy at the initial states; where h is the carry both arrive there."""
        return (pulled.hidden + pulled.carry,)

    def _at_input(self, pulled: Pulled, batch: Axis, shape: tuple[int, ...]) -> Gradient:
        runs = len(pulled.lengths)
        energy = columns_times(self._weight, pulled.gates.reshape(runs * batch.count, -1), squared=True)
        energy = energy.reshape(runs, batch.count, shape[2]).transpose(1, 0, 2)
        axis = _time_axis(pulled.lengths)
        axes, covariance = (batch, axis, Axis.full(shape[2])), _pair_covariance(axis, energy, pulled.autocorrelation)
        g = Gradient.flat(axes, energy, covariance).with_autocorrelation(pulled.autocorrelation)
        g = g.pooled(TIME, _coarse(axis))
        return g.sliced(TIME, axis.size - 1, -1, -1) if self.node.attribute("reverse") else g


# --- cells of the time axis ----------------------------------------------------------------------------------------


def _time_axis(lengths: Sequence[int]) -> Axis:
    size = sum(lengths)
    if len(lengths) == size:
        return Axis.full(size)
    return Axis(size, tuple(int(start) for start in np.cumsum(lengths)[:-1]))


def _coarse(axis: Axis) -> Axis:
    """Cells that grow with the distance from either end, so that their number grows like the logarithm of the size."""
    kept = [0]
    for start in axis.starts[1:]:
        near = min(kept[-1], axis.size - int(start))
        if int(start) - kept[-1] >= max(1, near // _FINENESS):
            kept.append(int(start))
    return Axis.full(axis.size) if len(kept) == axis.size else Axis(axis.size, tuple(kept[1:]))


F = TypeVar("F", Moments, Gradient)


def _in_time(field: F, reverse: bool) -> F:
    """In the order in which the steps are taken, with a cell for every run of like indices and for every channel."""
    field = field.absorbed(TIME)
    axis = field.axes[TIME]
    if not axis.is_pooled:
        field = field.pooled(TIME, _alike(field))
    if field.axes[TIME].count > MOST_STEPS:
        field = field.pooled(TIME, _coarse(field.axes[TIME]))
    if reverse:
        field = field.sliced(TIME, axis.size - 1, -1, -1)
    return field.refined((field.axes[0], field.axes[TIME], Axis.full(field.shape[2])))


def _alike(field: Field) -> Axis:
    """The time axis without the cuts between cells that are alike."""
    axis = field.axes[TIME]
    changed = np.zeros(axis.count - 1, dtype=bool)
    for array in field.arrays():
        changed |= np.any(np.diff(array, axis=TIME) != 0, axis=(0, 2))
    starts = axis.starts[1:][changed]
    return Axis.full(axis.size) if len(starts) == axis.size - 1 else Axis(axis.size, tuple(int(k) for k in starts))


def _autocorrelation_over_time(field: F) -> Autocorrelation | None:
    """What is known of the correlation over time: all distances alike where only `position_covariance` is."""
    if field.autocorrelation is not None and field.autocorrelation.axis == TIME:
        return field.autocorrelation
    if not field.correlated:
        return None
    whole = field.variance if isinstance(field, Moments) else field.energy
    total = float(whole.sum())
    share = float(field.position_covariance.sum()) / total if total > 0 else 0.0
    return Autocorrelation(TIME, np.zeros(0), min(max(share, 0.0), 1.0))


def _pair_covariance(axis: Axis, energy: np.ndarray, autocorrelation: Autocorrelation | None) -> np.ndarray:
    """Average covariance of the pairs in each cell of the time axis."""
    if autocorrelation is None:
        return np.zeros_like(energy)
    return np.asarray(energy * np.array([autocorrelation.within(int(length)) for length in axis.lengths])[:, None])


def _on_batch(field: Gradient, batch: Axis) -> Gradient:
    """On these cells of the batch, and one for every channel."""
    last = len(field.axes) - 1
    axes = (batch, *(Axis(axis.size) for axis in field.axes[1:last]), Axis.full(field.axes[last].size))
    return field.refined(axes).pooled(0, batch)


def _cut(runs: Sequence[Run], axis: Axis) -> tuple[list[Run], list[int]]:
    """The runs cut where the cells of an axis are, and the cell that each is in."""
    cut: list[Run] = []
    cells: list[int] = []
    start = 0
    for run in runs:
        stop = start + run.length
        inside = [int(k) for k in axis.starts if start < k < stop]
        for low, high in zip([start, *inside], [*inside, stop], strict=True):
            cut.append(replace(run, length=high - low))
            cells.append(int(np.searchsorted(axis.starts, low, side="right")) - 1)
        start = stop
    return cut, cells


# --- the cells ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _WeightedCell(Cell):
    """With the weights that h_{t-1} meets; unless it says so, no gate stands between them."""

    recurrent: _Weights

    def back(self, step: Step, before: Pair, energy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return energy, self.recurrent.backward(energy)


@dataclass(frozen=True)
class _LSTMCell(_WeightedCell):
    coupled: bool

    def step(self, drive: Pair, hidden: Pair, carry: Pair, crossed: np.ndarray) -> Step:
        fed = self.recurrent.forward(hidden)
        mean, variance = drive.mean + fed.mean, drive.variance + fed.variance
        i, f, g, o = gate_averages(mean, variance, (True, True, False, True))
        nothing = np.zeros_like(i.first)
        both = nothing  # E f i beyond E f E i
        if self.coupled:
            f = Averages(1.0 - i.first, 1.0 - 2.0 * i.first + i.second, nothing, nothing)
            both = i.first - i.second - f.first * i.first
        c_mean = f.first * carry.mean + i.first * g.first
        met = f.first * i.first + both
        cross = 2.0 * met * (carry.mean * g.first + _over(crossed, i.first))
        c = Pair.of(c_mean, f.second * carry.second + i.second * g.second + cross)
        shown = tanh_averages(c.mean, c.variance)
        h = Pair.of(o.first * shown.first, o.second * shown.second)
        new, old = Pair(g.first, g.variance), carry if self.coupled else Pair(nothing, nothing)
        through = Pair(new.mean - old.mean, new.variance + old.variance)
        inner = Slopes(
            _stacked(i.square * through.second, f.square * carry.second, i.second * g.square, nothing),
            _stacked((i.slope * through.mean) ** 2, (f.slope * carry.mean) ** 2, (i.first * g.slope) ** 2, nothing),
            _stacked(i.slope**2 * old.variance, f.slope**2 * carry.variance, nothing, nothing),
        )
        outer = Slopes(
            _stacked(nothing, nothing, nothing, o.square * shown.second),
            _stacked(nothing, nothing, nothing, (o.slope * shown.first) ** 2),
            _stacked(nothing, nothing, nothing, o.slope**2 * shown.variance),
        )
        return Step(
            h, c, f.first, f.second, o.first * shown.slope, o.second * shown.square, inner, outer,
            drive.variance, fed.variance, met=_over(met, f.first * i.first),
        )  # fmt: skip


@component("lstm")
class LSTM(Recurrent):
    """c' = s(f) c + s(i) tanh(g),  h' = s(o) tanh(c'),  (i, f, g, o) = W x + U h + b.

        dL/dc  = d_h s(o) (1 - tanh(c')^2) + d_c' s(f')
        d_i = d_c tanh(g) s'(i),  d_f = d_c c s'(f),  d_g = d_c s(i) (1 - tanh(g)^2),  d_o = d_h tanh(c') s'(o)

    coupled: 1 - s(i) in place of s(f), d_i = d_c (tanh(g) - c) s'(i). Source: theory 3.8; Hochreiter and
    Schmidhuber, Neural Computation 9, 1997; averages by quadrature.
    """

    def cell(self, recurrent: _Weights) -> Cell:
        if "peephole" in self.node.parameters:
            raise NotModelledError("peepholes")
        return _LSTMCell(recurrent, bool(self.node.attribute("coupled")))

    def _at_states(self, pulled: Pulled) -> tuple[np.ndarray, ...]:
        return pulled.hidden, pulled.carry


@dataclass(frozen=True)
class _GRUCell(_WeightedCell):
    reset_after: bool

    def step(self, drive: Pair, hidden: Pair, carry: Pair, crossed: np.ndarray) -> Step:
        whole = self.recurrent.forward(hidden)
        mean, variance = drive.mean + whole.mean, drive.variance + whole.variance
        r, z = gate_averages(mean[:, :2], variance[:, :2], (True, True))
        last = Pair(drive.mean[:, 2], drive.variance[:, 2])
        if self.reset_after:
            through = Pair(whole.mean[:, 2], whole.variance[:, 2])
            n, reset, passage, fed = _reset_after(last, through, Pair(mean[:, 0], variance[:, 0]), r)
        else:
            n, reset, passage, fed = self._reset_before(last, hidden, r)
        kept = z.first - z.second  # E z (1 - z): one gate lets out what it does not let in
        opened = 1.0 - 2.0 * z.first + z.second  # E (1 - z)^2
        h_mean = z.first * hidden.mean + (1.0 - z.first) * n.first
        covariance = _over(crossed, 1.0 - z.first)
        both = 2.0 * kept * (hidden.mean * n.first + covariance)
        h = Pair.of(h_mean, z.second * hidden.second + opened * n.second + both)
        nothing, gap = np.zeros_like(z.first), hidden.mean - n.first
        apart = gap**2 + np.maximum(hidden.variance + n.variance - 2.0 * covariance, 0.0)
        inner = Slopes(
            _stacked(opened * reset, z.square * apart, opened * n.square),
            _stacked(nothing, (z.slope * gap) ** 2, ((1.0 - z.first) * n.slope) ** 2),
            _stacked(nothing, z.slope**2 * hidden.variance, nothing),
        )
        fed_variance = np.concatenate([whole.variance[:, :2], fed[:, None]], axis=1)
        ones = np.ones_like(z.first)
        return Step(
            h, h, z.first, z.second, ones, ones, inner, _no_slopes(inner.energy), drive.variance, fed_variance, passage,
            _over(kept, z.first * (1.0 - z.first)),
        )  # fmt: skip

    def _reset_before(self, last: Pair, hidden: Pair, r: Averages) -> tuple[Averages, np.ndarray, Passage, np.ndarray]:
        """As `_reset_after`, where h_{t-1} is gated: many units add up to what is Gaussian and knows nothing of r."""
        masked = Pair.of(r.first * hidden.mean, r.second * hidden.second)
        fed = self.recurrent.rows(2).forward(masked)
        lasting = self.recurrent.rows(2).forward(Pair(masked.mean, r.first**2 * hidden.variance))
        n = tanh_averages(last.mean + fed.mean[:, 0], last.variance + fed.variance[:, 0])
        return n, np.zeros_like(n.first), Passage(r.second, r.first**2, r.square), lasting.variance[:, 0]

    def back(self, step: Step, before: Pair, energy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert step.reset is not None
        r = step.reset
        if self.reset_after:
            inside = energy.copy()
            inside[:, 2] *= r.energy
            return energy, self.recurrent.backward(inside)
        masked = self.recurrent.rows(2).backward(energy[:, 2:])
        energy = np.stack([masked * before.second * r.square, energy[:, 1], energy[:, 2]], axis=1)
        inside = energy.copy()
        inside[:, 2] = 0.0
        return energy, self.recurrent.backward(inside) + r.energy * masked


def _reset_after(
    last: Pair, through: Pair, gate: Pair, r: Averages
) -> tuple[Averages, np.ndarray, Passage, np.ndarray]:
    """Of n = tanh(last + s(gate) through): its averages, the square of its slope with respect to the gate, what a
    gradient passes on its way back, and the variance that `through` gives n's pre-activation between far steps."""
    found = gated_tanh_averages(last.mean, last.variance, (through.mean, through.variance), (gate.mean, gate.variance))
    n = found.new
    lasting = _over(found.passed, n.slope) ** 2
    return n, found.reset, Passage(_over(found.passed_square, n.square), lasting, r.square), through.variance * lasting


def _over(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.asarray(np.divide(part, whole, out=np.zeros_like(part), where=whole > 0))


@component("gru")
class GRU(Recurrent):
    """h' = (1 - s(z)) tanh(n) + s(z) h,  n = W_n x + s(r) (U_n h + b_n), or W_n x + U_n (s(r) h) + b_n.

        d_z = d_h (h - tanh(n)) s'(z),  d_n = d_h (1 - s(z)) (1 - tanh(n)^2),  d_r = d_n (U_n h + b_n) s'(r)

    Source: theory 3.8; arXiv 1406.1078; averages by quadrature.
    """

    def cell(self, recurrent: _Weights) -> Cell:
        return _GRUCell(recurrent, bool(self.node.attribute("reset_after")))


@dataclass(frozen=True)
class _RNNCell(_WeightedCell):
    activation: str

    def step(self, drive: Pair, hidden: Pair, carry: Pair, crossed: np.ndarray) -> Step:
        fed = self.recurrent.forward(hidden)
        averages = relu_averages if self.activation == "relu" else tanh_averages
        y = averages(drive.mean[:, 0] + fed.mean[:, 0], drive.variance[:, 0] + fed.variance[:, 0])
        h = Pair(y.first, y.variance)
        slopes = Slopes(y.square[:, None], (y.slope**2)[:, None], np.zeros_like(y.square)[:, None])
        ones, nothing = np.ones_like(y.first), np.zeros_like(y.first)
        return Step(h, h, nothing, nothing, ones, ones, slopes, _no_slopes(slopes.energy), drive.variance, fed.variance)


@component("rnn")
class RNN(Recurrent):
    """h' = f(W x + U h + b), f = tanh or max(., 0): d_z = d_h f'(z). Source: Elman, Cognitive Science 14, 1990.

    Source: theory 3.8.
    """

    def cell(self, recurrent: _Weights) -> Cell:
        return _RNNCell(recurrent, str(self.node.attribute("activation")))
