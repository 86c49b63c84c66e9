"""Recurrent layers: averages over samples of one layer of random weights, in float64, against autograd.

The components stand for the mean over weights; one layer scatters about it by some percent, which is what the
tolerances allow. Numbers are compared in bits, |log2(predicted / measured)|, over all units of a layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gnelint.analysis.propagation import analyse
from gnelint.components import Component, NotModelledError
from gnelint.components.recurrent import Recurrent
from gnelint.readers.torch.reader import trace_module
from gnelint.theory.fields.autocorrelation import Autocorrelation
from gnelint.theory.fields.cells import Axis
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments
from tests.components.harness import dense_energy, everywhere, make

BATCH = 64
GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def lstm_step(z: Tensor, u: Tensor, h: Tensor, c: Tensor, coupled: bool) -> tuple[Tensor, Tensor]:
    i, f, g, o = (z + u).chunk(4, 1)
    keep = 1 - i.sigmoid() if coupled else f.sigmoid()
    c = keep * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


@dataclass(frozen=True)
class Layer:
    """One layer of random weights and what meets it.

    Attributes:
        op, attributes: of the node.
        steps, width, hidden: of the sequence.
        gain: times the framework's initial weights.
        forget: added to the forget gate's bias.
        mean: of the input.
        persistence: correlation of the input from step to step.
        cotangent: "white", "mean" (the same at every step), "last" (at the last step only), or its correlation from
            step to step.
        states: whether the initial states vary over samples, with variance 1/4.
        tolerance: in bits.
    """

    op: str
    steps: int
    attributes: dict[str, Any] = field(default_factory=dict)
    width: int = 64
    hidden: int = 64
    gain: float = 1.0
    forget: float = 0.0
    mean: float = 0.0
    persistence: float = 0.0
    cotangent: str | float = "white"
    states: bool = False
    tolerance: float = 0.1
    because: str = "one layer of weights stands for the mean over all"

    @property
    def id(self) -> str:
        own = {
            name: value
            for name, value in vars(self).items()
            if name not in ("op", "tolerance", "because") and value != type(self).__dataclass_fields__[name].default
        }
        return f"{self.op} {' '.join(f'{name}={value}' for name, value in own.items())}"

    @property
    def reverse(self) -> bool:
        return bool(self.attributes.get("reverse", False))

    def weights(self) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(3)
        rows, bound = GATES[self.op] * self.hidden, self.hidden**-0.5

        def draw(*shape: int) -> Tensor:
            return (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1) * bound

        found = {
            "weight": self.gain * draw(rows, self.width),
            "recurrent": self.gain * draw(rows, self.hidden),
            "bias": draw(rows),
            "recurrent_bias": draw(rows),
        }
        if self.forget:
            found["bias"][self.hidden : 2 * self.hidden] += self.forget
        return found

    def run(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """All hidden states and the last carry (of the LSTM)."""
        w = self.weights()
        order = range(x.shape[1] - 1, -1, -1) if self.reverse else range(x.shape[1])
        ys: dict[int, Tensor] = {}
        for t in order:
            z = x[:, t] @ w["weight"].T + w["bias"]
            u = h @ w["recurrent"].T + w["recurrent_bias"]
            if self.op == "lstm":
                h, c = lstm_step(z, u, h, c, self.attributes.get("coupled", False))
            elif self.op == "rnn":
                h = (z + u).relu() if self.attributes.get("activation") == "relu" else (z + u).tanh()
            else:
                (zr, zz, zn), (ur, uz, un) = z.chunk(3, 1), u.chunk(3, 1)
                r, keep = (zr + ur).sigmoid(), (zz + uz).sigmoid()
                if not self.attributes.get("reset_after", True):
                    un = (r * h) @ w["recurrent"][2 * self.hidden :].T + w["recurrent_bias"][2 * self.hidden :]
                    r = torch.ones_like(r)
                h = (1 - keep) * (zn + r * un).tanh() + keep * h
            ys[t] = h
        return torch.stack([ys[t] for t in range(x.shape[1])], 1), c

    @property
    def shapes(self) -> tuple[list[tuple[int, ...] | None], list[tuple[int, ...]]]:
        state = (BATCH, self.hidden)
        count = 2 if self.op == "lstm" else 1
        outputs = [(BATCH, self.steps, self.hidden), *([state] if self.op == "lstm" else [])]
        return [(BATCH, self.steps, self.width), *([state if self.states else None] * count)], outputs

    def component(self) -> Component:
        inputs, outputs = self.shapes
        return make(self.op, inputs, outputs, self.weights(), **self.attributes)

    def moments(self) -> list[Moments | None]:
        inputs, _ = self.shapes
        x = Moments.uniform(inputs[0] or (), self.mean, 1.0)
        if self.persistence:
            x = x.with_autocorrelation(Autocorrelation(1, self.persistence ** np.arange(1, self.steps)))
        return [x, *(None if shape is None else Moments.uniform(shape, 0.0, 0.25) for shape in inputs[1:])]

    def cotangents(self) -> list[Gradient | None]:
        """At the hidden states; for the LSTM also a white one at the last carry, of a tenth of the energy."""
        _, outputs = self.shapes
        g = Gradient.white(outputs[0])
        if self.cotangent == "mean":
            g = Gradient.flat((Axis(BATCH), Axis(self.steps), Axis.full(self.hidden)), np.ones(1), 1.0)
        elif self.cotangent == "last":
            at = np.zeros((1, self.steps, 1))
            at[:, self.last] = 1.0
            g = Gradient.flat((Axis(BATCH), Axis.full(self.steps), Axis(self.hidden)), at)
        elif isinstance(self.cotangent, float):
            g = g.with_autocorrelation(Autocorrelation(1, self.cotangent ** np.arange(1, self.steps)))
        return [g, *(Gradient.white(shape).scaled(0.1) for shape in outputs[1:])]

    @property
    def last(self) -> int:
        return 0 if self.reverse else self.steps - 1

    def draw_cotangent(self, y: Tensor, generator: torch.Generator) -> Tensor:
        if self.cotangent == "mean":
            return noise((BATCH, 1, self.hidden), 0.0, generator).expand(y.shape)
        if self.cotangent == "last":
            found = torch.zeros_like(y)
            found[:, self.last] = noise((BATCH, 1, self.hidden), 0.0, generator)[:, 0]
            return found
        return noise(tuple(y.shape), self.cotangent if isinstance(self.cotangent, float) else 0.0, generator)


def noise(shape: tuple[int, ...], persistence: float, generator: torch.Generator) -> Tensor:
    """N(0, 1), correlated from step to step."""
    fresh = torch.randn(shape, generator=generator, dtype=torch.float64)
    steps = [fresh[:, 0]]
    for t in range(1, shape[1]):
        steps.append(persistence * steps[-1] + math.sqrt(1 - persistence**2) * fresh[:, t])
    return torch.stack(steps, 1)


@dataclass
class Sampled:
    """Averages over draws: of the hidden state by step and unit, of the gradients' energy."""

    mean: np.ndarray
    second: np.ndarray
    energy: np.ndarray
    states: list[float]
    hidden_near: float
    gradient_near: float
    carry: float


@lru_cache(maxsize=4)
def sampled_at(index: int) -> Sampled:
    layer = CASES[index]
    generator = torch.Generator().manual_seed(1)
    draws = max(4, 200 // layer.steps)
    rows: dict[str, Any] = dict.fromkeys(("mean", "second", "energy", "carry", "hidden", "gradient"), 0.0)
    states = np.zeros(2)
    for _ in range(draws):
        x = (noise((BATCH, layer.steps, layer.width), layer.persistence, generator) + layer.mean).requires_grad_()
        first = [torch.randn(BATCH, layer.hidden, generator=generator, dtype=torch.float64) * 0.5 for _ in range(2)]
        first = [(s if layer.states else torch.zeros_like(s)).requires_grad_() for s in first]
        y, c = layer.run(x, *first)
        outputs = [y, c] if layer.op == "lstm" else [y]
        cotangents = [layer.draw_cotangent(y, generator)]
        if layer.op == "lstm":
            cotangents.append(torch.randn(c.shape, generator=generator, dtype=torch.float64) * math.sqrt(0.1))
        g, *at_states = torch.autograd.grad(outputs, [x, *first], cotangents, allow_unused=True)
        y, c = y.detach(), c.detach()
        rows["mean"] += y.mean(0) / draws
        rows["second"] += (y**2).mean(0) / draws
        rows["energy"] += (g**2).sum((0, 2)) / draws
        rows["carry"] += float((c**2).mean()) / draws
        for name, value in (("hidden", y - y.mean((0, 1))), ("gradient", g)):
            rows[name] += float((value[:, 1:] * value[:, :-1]).sum(-1).mean() / (value**2).sum(-1).mean()) / draws
        states += [0.0 if each is None else float((each**2).sum()) / draws for each in at_states]
    return Sampled(
        rows["mean"].numpy(), rows["second"].numpy(), rows["energy"].numpy(), list(states), rows["hidden"],
        rows["gradient"], rows["carry"],
    )  # fmt: skip


CASES = [
    *(Layer(op, steps) for op in GATES for steps in (1, 5, 50)),
    *(Layer(op, 5, {"reverse": True}, states=True) for op in GATES),
    *(Layer(op, 20, cotangent=kind) for op in GATES for kind in ("mean", "last", 0.6)),
    *(Layer(op, 20, {"reverse": True}, cotangent="last") for op in GATES),
    *(Layer(op, 20, gain=2.0, width=96, hidden=128, mean=0.3) for op in GATES),
    Layer("lstm", 30, persistence=0.6),
    Layer("gru", 30, persistence=0.6, tolerance=0.2, because="gates that stay are taken for fresh ones at every step"),
    Layer("rnn", 30, persistence=0.6),
    *(
        Layer(op, 10, gain=gain, cotangent="last", tolerance=0.3, because="one matrix grows by its own rate ten times")
        for op in GATES
        for gain in (4.0, 8.0)
    ),
    Layer("lstm", 50, forget=2.0),
    Layer("lstm", 50, forget=2.0, cotangent="mean", tolerance=0.15),
    Layer("lstm", 20, {"coupled": True}),
    Layer("gru", 20, {"reset_after": False}),
    Layer("rnn", 20, {"activation": "relu"}),
    Layer("rnn", 20, {"activation": "relu"}, gain=1.5, hidden=128),
]


def bits(predicted: float, measured: float) -> float:
    return abs(math.log2(predicted / measured))


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda index: CASES[index].id)
def test_moments(index: int) -> None:
    layer, true = CASES[index], sampled_at(index)
    y, *carry = layer.component().forward(layer.moments())
    second, mean = everywhere(y.second, y)[0], everywhere(y.mean, y)[0]
    assert bits(second.sum(), true.second.sum()) < layer.tolerance
    if layer.steps <= 5:
        for predicted, measured in zip(second.sum(-1), true.second.sum(-1), strict=True):
            assert bits(predicted, measured) < layer.tolerance
    off = np.sqrt(((mean - true.mean) ** 2).mean() / true.second.mean())
    assert off < 0.2  # means over 64 samples and a few draws, of units that the mean over weights does not tell apart
    for last in carry:
        assert bits(last.total_second, true.carry) < layer.tolerance


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda index: CASES[index].id)
def test_gradient(index: int) -> None:
    layer, true = CASES[index], sampled_at(index)
    component, inputs = layer.component(), layer.moments()
    outputs = component.forward(inputs)
    g, *states = component.backward(inputs, outputs, layer.cotangents())
    assert g is not None
    energy = dense_energy(g).sum((0, 2))
    assert bits(energy.sum(), true.energy.sum()) < layer.tolerance
    if layer.steps <= 5:
        for predicted, measured in zip(energy, true.energy, strict=True):
            assert bits(predicted, measured) < layer.tolerance
    if layer.states:
        for state, measured in zip(states, true.states, strict=False):
            assert state is not None
            assert bits(state.total, measured) < layer.tolerance
    else:
        assert all(state is None for state in states)


LONG = [index for index, layer in enumerate(CASES) if layer.steps >= 20 and layer.cotangent != "last"]
"""Those with a step that is typical for the most of the others."""


@pytest.mark.parametrize("index", LONG, ids=lambda index: CASES[index].id)
def test_correlation_of_neighbouring_steps(index: int) -> None:
    layer, true = CASES[index], sampled_at(index)
    component, inputs = layer.component(), layer.moments()
    outputs = component.forward(inputs)
    g = component.backward(inputs, outputs, layer.cotangents())[0]
    assert g is not None
    assert g.autocorrelation is not None
    assert outputs[0].autocorrelation is not None
    assert outputs[0].autocorrelation.near[0] == pytest.approx(true.hidden_near, abs=0.1)
    assert g.autocorrelation.near[0] == pytest.approx(true.gradient_near, abs=0.12)


@pytest.mark.parametrize("op", GATES)
def test_long_sequences_take_no_more_steps(op: str) -> None:
    def runs(steps: int) -> tuple[int, int, float]:
        layer = Layer(op, steps)
        component = layer.component()
        assert isinstance(component, Recurrent)
        inputs = layer.moments()
        y = component.forward(inputs)[0]
        g = component.backward(inputs, component.forward(inputs), layer.cotangents())[0]
        assert g is not None
        return len(component.unrolled(inputs).runs), max(y.axes[1].count, g.axes[1].count), g.total / steps

    short, long = runs(100), runs(100_000)
    assert long[:2] == short[:2]
    assert long[2] == pytest.approx(short[2], rel=0.05)


def test_energy_at_one_cell_of_a_cotangent_reaches_the_steps_before_it() -> None:
    layer = Layer("rnn", 10)
    component, inputs = layer.component(), layer.moments()
    at = np.zeros((1, 10, 1))
    at[:, 6] = 1.0
    g = Gradient.flat((Axis(BATCH), Axis.full(10), Axis(64)), at)
    found = component.backward(inputs, component.forward(inputs), [g])[0]
    assert found is not None
    energy = dense_energy(found).sum((0, 2))
    assert np.all(energy[7:] == 0.0)
    assert np.all(np.diff(energy[:7]) > 0.0)


def test_reverse_is_forward_on_the_sequence_turned_round() -> None:
    uneven = np.linspace(0.5, 2.0, 12).reshape(1, 12, 1)
    axes = (Axis(BATCH), Axis.full(12), Axis(64))
    found = []
    for reverse in (False, True):
        layer = Layer("gru", 12, {"reverse": reverse})
        component = layer.component()
        order = slice(None, None, -1) if reverse else slice(None)
        x: list[Moments | None] = [Moments.flat(axes, 0.3 * uneven[:, order], uneven[:, order]), None]
        y = component.forward(x)
        g = component.backward(x, y, [Gradient.flat(axes, uneven[:, order])])[0]
        assert g is not None
        found.append((everywhere(y[0].second, y[0])[0, order], dense_energy(g)[0, order]))
    for forward, backward in zip(*found, strict=True):
        np.testing.assert_allclose(forward, backward, rtol=1e-12)


def test_a_state_that_is_not_known_is_refused() -> None:
    layer = Layer("lstm", 3, states=True)
    with pytest.raises(NotModelledError, match="state"):
        layer.component().forward([layer.moments()[0], None, None])


@pytest.mark.parametrize("op", GATES)
def test_a_sequence_without_steps_is_refused(op: str) -> None:
    layer = Layer(op, 0)
    with pytest.raises(NotModelledError, match="without steps"):
        layer.component().forward(layer.moments())


def test_a_state_that_grows_without_end_is_refused() -> None:
    layer = Layer("rnn", 5000, {"activation": "relu"}, gain=3.0)
    with pytest.raises(NotModelledError, match="still grows"):
        layer.component().forward(layer.moments())


def test_a_gradient_that_decays_slowly_goes_on_decaying() -> None:
    totals = []
    for steps in (500, 3000):
        layer = Layer("lstm", steps, forget=4.0, gain=0.1, cotangent="last")
        component, inputs = layer.component(), layer.moments()
        g = component.backward(inputs, component.forward(inputs), layer.cotangents())[0]
        assert g is not None
        totals.append(g.total)
    assert totals[1] == pytest.approx(totals[0], rel=0.02)


class Conditioned(nn.Module):
    """A layer of recurrent units that reads the same vector at every step, beside what differs from step to step."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.condition, self.layer = nn.Linear(12, 8), kind(12, 40, batch_first=True)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        every = self.condition(z)[:, None].expand(-1, x.shape[1], -1)
        found: Tensor = self.layer(torch.cat([every, x], -1))[0]
        return found


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_steps_add_up_at_what_all_of_them_read(kind: type[nn.RNNBase]) -> None:
    """Their gradients go along with each other: added as if they did not, the sum was 1.4 to 1.7 bits too small."""
    errors = []
    for seed in range(3):
        torch.manual_seed(seed)
        module, z, x = Conditioned(kind), torch.randn(16, 12), torch.randn(16, 20, 4)
        said = analyse(trace_module(module, (z, x), name="conditioned").graph).by_node["condition"].gradient_log2
        caught: list[Tensor] = []
        module.condition.register_forward_hook(lambda _, __, output, caught=caught: caught.append(output))
        y = module(z, x)
        sent = [torch.randn_like(y) for _ in range(8)]
        found = [torch.autograd.grad(y, caught, each, retain_graph=True)[0] for each in sent]
        measured = sum(float(g.square().sum()) for g in found) / sum(float(each.square().sum()) for each in sent)
        assert said is not None
        errors.append(said - math.log2(measured))
    assert float(np.mean(errors)) == pytest.approx(0.0, abs=0.4)
