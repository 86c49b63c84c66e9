"""States that programs add to step by step: how many steps there are, and that the bound says so."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import gnelint
from gnelint.analysis.unrolled import unrolled_steps
from gnelint.readers.torch.reader import read_module
from tests.gradients import measured_log2

STEPS, BATCH, INNER, UNITS = 6, 32, 16, 64


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drive, self.head = nn.Linear(INNER, UNITS), nn.Linear(UNITS, 10)


class Integrator(Layers):
    """Leaky integrators on each other, fed the same input at every step."""

    def forward(self, x: Tensor) -> Tensor:
        state, shown, found = torch.zeros(len(x), UNITS), torch.zeros(len(x), 10), []
        for _ in range(STEPS):
            state = 0.9 * state + self.drive(x)
            shown = 0.9 * shown + self.head(torch.tanh(state - 1.0))
            found.append(shown)
        return torch.stack(found)


class Sequence(Layers):
    """Another input at every step, and a state that moves towards it."""

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(len(x), UNITS)
        for step in range(STEPS):
            state = state * 0.5 + self.drive(x + step)
        return self.head(state)


class Stream(Layers):
    """A residual stream: nothing decays."""

    def forward(self, x: Tensor) -> Tensor:
        state = self.drive(x)
        for _ in range(STEPS):
            state = state + self.head(torch.tanh(state)).mean(-1, keepdim=True)
        return state


class Polynomial(Layers):
    """Chebyshev's, from one use of the layer."""

    def forward(self, x: Tensor) -> Tensor:
        last, now = self.drive(x), 2 * self.drive(x) ** 2 - 1
        first = last
        for _ in range(STEPS):
            last, now = now, 2 * first * now - last
        return self.head(now)


@pytest.mark.parametrize(
    ("kind", "steps"),
    [(Integrator, {STEPS}), (Sequence, {STEPS}), (Stream, set()), (Polynomial, set())],
)
def test_steps_are_counted_where_a_state_decays(kind: type[nn.Module], steps: set[int]) -> None:
    graph = read_module(kind(), (torch.randn(BATCH, INNER),), name="steps")
    assert set(unrolled_steps(graph).values()) == steps


def test_what_steps_have_in_common_is_within_what_is_stated() -> None:
    """The steps go along: 3.2 bits too few, where 0.3 were stated."""
    torch.manual_seed(0)
    module, x = Integrator(), torch.randn(BATCH, INNER)
    prediction = gnelint.check(module, (x,)).prediction
    measured = measured_log2(module, x)
    assert prediction.gradient_log2 is not None
    assert prediction.error_bits is not None
    assert abs(prediction.gradient_log2 - measured) < prediction.error_bits < 6.0
    assert prediction.fluctuation_bits is not None
    assert prediction.fluctuation_bits < 1.0, "no matter of the draw: GNE504 blamed the width"
