"""The recurrence over time of a linear unit, c_t = k c_{t-1} + u_t, against its covariance matrices, exactly."""

from __future__ import annotations

import numpy as np
import pytest

from gnelint.theory.fields.autocorrelation import Autocorrelation
from gnelint.theory.recurrence import Cell, Pair, Slopes, Step, pull, unroll

KEEP = 0.7


class Linear(Cell):
    """h = c = k c_{t-1} + u: one gate, of slope 1, which nothing feeds back to."""

    def step(self, drive: Pair, hidden: Pair, carry: Pair, crossed: np.ndarray) -> Step:
        mean = KEEP * carry.mean + drive.mean[:, 0]
        variance = KEEP**2 * carry.variance + drive.variance[:, 0] + 2 * KEEP * crossed
        c, ones = Pair(mean, variance), np.ones_like(mean)
        slopes = Slopes(ones[:, None], ones[:, None], 0.0 * ones[:, None])
        nothing = Slopes(*[0.0 * ones[:, None]] * 3)
        return Step(
            c, c, KEEP * ones, KEEP**2 * ones, ones, ones, slopes, nothing, drive.variance, 0.0 * drive.variance
        )

    def back(self, step: Step, before: Pair, energy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return energy, 0.0 * energy[:, 0]


def filtered(steps: int) -> np.ndarray:
    """c = F u."""
    lags = np.subtract.outer(np.arange(steps), np.arange(steps))
    return np.where(lags >= 0, KEEP ** np.maximum(lags, 0), 0.0)


def covariance(steps: int, near: np.ndarray, far: float, scale: np.ndarray) -> np.ndarray:
    lags = np.abs(np.subtract.outer(np.arange(steps), np.arange(steps)))
    by_lag = np.concatenate([[1.0], Autocorrelation(1, near, far).reaching(steps)])
    return scale[:, None] * by_lag[lags] * scale[None, :]


def nothing() -> Pair:
    return Pair(np.zeros((1, 1)), np.zeros((1, 1)))


def each(runs: list, value) -> np.ndarray:  # type: ignore[no-untyped-def,type-arg]
    return np.concatenate([np.full(run.length, value(run)) for run in runs])


MEMORIES = [(np.zeros(0), 0.0), (0.6 ** np.arange(1, 40), 0.0), (np.zeros(0), 0.5), (np.array([0.9, 0.4]), 0.2)]


@pytest.mark.parametrize(("near", "far"), MEMORIES)
@pytest.mark.parametrize("steps", [1, 2, 12, 40])
def test_states(steps: int, near: np.ndarray, far: float) -> None:
    drive = Pair(np.full((1, 1, 1), 0.3), np.full((1, 1, 1), 2.0))
    runs, found = unroll(Linear(), [(steps, drive)], nothing(), nothing(), Autocorrelation(1, near, far))
    F = filtered(steps)
    true = F @ covariance(steps, near, far, np.full(steps, np.sqrt(2.0))) @ F.T
    np.testing.assert_allclose(each(runs, lambda run: run.step.carry.variance[0, 0]), np.diag(true), rtol=1e-3)
    np.testing.assert_allclose(each(runs, lambda run: run.step.carry.mean[0, 0]), F @ np.full(steps, 0.3), rtol=1e-3)
    if steps == 40:
        at = steps // 2
        np.testing.assert_allclose(found.hidden[:10], true[at, at + 1 : at + 11] / true[at, at], rtol=5e-3, atol=1e-3)


@pytest.mark.parametrize(("near", "far"), MEMORIES)
@pytest.mark.parametrize("steps", [1, 2, 12, 40])
def test_gradient(steps: int, near: np.ndarray, far: float) -> None:
    drive = Pair(np.zeros((1, 1, 1)), np.ones((1, 1, 1)))
    runs, states = unroll(Linear(), [(1, drive)] * steps, nothing(), nothing(), None)
    scale = np.linspace(0.5, 1.5, steps)
    cotangents = [np.full((1, 1), entry**2) for entry in scale]
    pulled = pull(Linear(), runs, cotangents, np.full((1, 1), 3.0), Autocorrelation(1, near, far), states)
    F = filtered(steps)
    cotangent = covariance(steps, near, far, scale)
    last = F[-1]  # dc_last / du
    true = np.diag(F.T @ cotangent @ F) + 3.0 * last**2
    assert pulled.lengths == (1,) * steps
    np.testing.assert_allclose(pulled.gates[:, 0, 0, 0], true, rtol=1e-9)
    np.testing.assert_allclose(pulled.carry[0, 0], KEEP**2 * true[0], rtol=1e-9)


@pytest.mark.parametrize(("near", "far"), MEMORIES)
def test_correlation_of_the_gradient(near: np.ndarray, far: float) -> None:
    steps = 40
    drive = Pair(np.zeros((1, 1, 1)), np.ones((1, 1, 1)))
    runs, states = unroll(Linear(), [(1, drive)] * steps, nothing(), nothing(), None)
    ones = [np.ones((1, 1))] * steps
    pulled = pull(Linear(), runs, ones, np.zeros((1, 1)), Autocorrelation(1, near, far), states)
    F = filtered(steps)
    true = F.T @ covariance(steps, near, far, np.ones(steps)) @ F
    at = steps // 2 - 5
    assert pulled.autocorrelation is not None
    np.testing.assert_allclose(
        pulled.autocorrelation.near[:10], true[at, at + 1 : at + 11] / true[at, at], rtol=2e-2, atol=1e-3
    )


def test_what_the_last_step_alone_sends_back_is_one_signal() -> None:
    steps = 20
    drive = Pair(np.zeros((1, 1, 1)), np.ones((1, 1, 1)))
    runs, states = unroll(Linear(), [(1, drive)] * steps, nothing(), nothing(), None)
    cotangents = [np.full((1, 1), float(index == steps - 1)) for index in range(steps)]
    pulled = pull(Linear(), runs, cotangents, np.zeros((1, 1)), None, states)
    assert pulled.autocorrelation is not None
    np.testing.assert_allclose(pulled.autocorrelation.near, 1.0, rtol=1e-9)
    np.testing.assert_allclose(pulled.gates[:, 0, 0, 0], KEEP ** (2.0 * np.arange(steps - 1, -1, -1)), rtol=1e-9)


def test_alike_steps_are_one_run() -> None:
    drive = Pair(np.zeros((1, 1, 1)), np.ones((1, 1, 1)))
    runs, _ = unroll(Linear(), [(1000, drive)], nothing(), nothing(), None)
    assert len(runs) < 40
    assert sum(run.length for run in runs) == 1000


def test_a_pass_that_is_to_be_made_again_ends_in_the_middle() -> None:
    class Counting(Linear):
        taken = 0

        def step(self, drive: Pair, hidden: Pair, carry: Pair, crossed: np.ndarray) -> Step:
            self.taken += 1
            return super().step(drive, hidden, carry, crossed)

    drives = [(1, Pair(np.zeros((1, 1, 1)), np.full((1, 1, 1), 1.0 + k))) for k in range(40)]
    cell = Counting()
    runs, _ = unroll(cell, drives, nothing(), nothing(), Autocorrelation(1, np.array([0.9, 0.4]), 0.2))
    assert len(runs) == 40
    halves, rest = divmod(cell.taken - 40, 21)  # up to the step in the middle, and all at the end
    assert halves >= 1
    assert rest == 0
