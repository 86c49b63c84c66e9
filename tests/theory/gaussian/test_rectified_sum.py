"""A rectified Gaussian beside a Gaussian, rectified once more, against sums over a grid of their densities."""

from __future__ import annotations

import numpy as np
import pytest

from gnelint.theory.gaussian import rectified_sum as module
from gnelint.theory.gaussian.gram_charlier import rectified_moments
from gnelint.theory.gaussian.rectified_sum import cut_gaussian, rectified_sum, rectified_sum_moments, surviving_share
from gnelint.theory.gaussian.special import normal_pdf


@pytest.mark.parametrize("location", [-2.0, -0.5, 0.0, 1.0, 4.0])
@pytest.mark.parametrize(("rest_mean", "rest_deviation"), [(0.0, 0.05), (0.1, 0.3), (-0.4, 0.3), (0.0, 2.0)])
def test_moments(location: float, rest_mean: float, rest_deviation: float) -> None:
    points = np.linspace(-8.0, 8.0, 1600)
    weights = normal_pdf(points) / normal_pdf(points).sum()
    part, rest = np.maximum(points + location, 0.0), points * rest_deviation + rest_mean
    first = float(weights @ part)
    share = float(weights @ (part > 0))
    law = cut_gaussian(np.array([share]), np.array([first]), np.array([float(weights @ part**2) - first**2]))
    rest_of_it = np.array([rest_mean]), np.array([rest_deviation**2])
    found = rectified_sum_moments(law, *rest_of_it)
    x = np.maximum(part[:, None] + rest, 0.0)
    expected = [weights @ power @ weights for power in ((x > 0).astype(float), x, x**2, x**3, x**4)]
    assert np.concatenate(found) == pytest.approx(expected, rel=3e-3, abs=1e-3)
    above = rectified_sum(law, *rest_of_it)
    assert above.share == pytest.approx(found[0])
    powers = [float((above.weights * above.points**power).sum()) for power in (1, 2, 3, 4)]
    assert powers == pytest.approx(expected[1:], rel=5e-3, abs=1e-3)


def test_again_and_again() -> None:
    """A trunk of ten sums and rectifiers, against draws: how many entries are above 0, and their moments."""
    generator = np.random.default_rng(0)
    y = np.maximum(generator.standard_normal(200_000), 0.0)
    law = cut_gaussian(np.array([0.5]), np.array([y.mean()]), np.array([y.var()]))
    for _ in range(10):
        y = np.maximum(y + 0.1 * generator.standard_normal(200_000), 0.0)
        law = rectified_sum(law, np.zeros(1), np.array([0.01]))
    assert law.share == pytest.approx([(y > 0).mean()], abs=5e-3)
    assert (law.weights * law.points).sum() == pytest.approx(y.mean(), rel=0.01)
    assert (law.weights * law.points**2).sum() == pytest.approx((y**2).mean(), rel=0.02)


@pytest.mark.parametrize("steps", [2, 5, 12])
@pytest.mark.parametrize("drift", [-0.05, 0.0, 0.05])
def test_who_survives_was_above_zero(steps: int, drift: float) -> None:
    generator = np.random.default_rng(0)
    y = np.maximum(generator.standard_normal(100_000), 0.0)
    law = cut_gaussian(np.array([0.5]), np.array([y.mean()]), np.array([y.var()]))
    walks = y + np.cumsum(0.1 * generator.standard_normal((steps, y.size)) + drift, axis=0)
    survived = (walks > 0).all(axis=0)
    found = surviving_share(law, np.array([drift]), np.array([0.01]), steps)
    assert found == pytest.approx([(y[survived] > 0).mean()], abs=0.02)


def test_quantile() -> None:
    y = np.maximum(np.random.default_rng(0).standard_normal(400_000) + 0.3, 0.0)
    law = cut_gaussian(np.array([(y > 0).mean()]), np.array([y.mean()]), np.array([y.var()]))
    for share in (0.05, 0.3, 0.6):
        assert law.quantile(np.array([share])) == pytest.approx([np.quantile(y, 1.0 - share)], abs=0.03)
    assert law.scaled(np.array([2.0])).quantile(np.array([0.3])) == pytest.approx(2.0 * law.quantile(np.array([0.3])))


def test_a_channel_that_is_never_above_zero_leaves_what_is_added_to_it() -> None:
    """Its share underflows, and the law was not a number (a ResNet of frozen batch norms lost all of its numbers)."""
    trunk = cut_gaussian(np.array([0.5, 0.5]), np.array([0.4, 0.4]), np.array([0.34, 0.34]))
    dead = rectified_sum(trunk, np.array([-60.0, 0.1]), np.array([1.0, 0.5]))
    assert dead.share[0] == 0.0
    assert dead.share[1] > 0.5
    mean, variance = np.array([0.6, 0.6]), np.array([0.1, 0.1])
    found = rectified_sum_moments(dead, mean, variance)
    alone = rectified_moments(mean, variance, np.zeros(2), np.zeros(2))
    assert [float(each[0]) for each in found[:3]] == pytest.approx([float(each[0]) for each in alone[:3]], rel=1e-9)
    assert all(np.isfinite(each).all() for each in found)


def test_few_points_tell_as_much_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trunk of eight sums: a plain sum over points that stand even in the interval was 0.004 off."""

    def trunk() -> np.ndarray:
        law = cut_gaussian(np.array([0.6]), np.array([0.5]), np.array([0.4]))
        for _ in range(8):
            law = rectified_sum(law, np.array([0.05]), np.array([0.3]))
        return np.concatenate([law.share, *rectified_sum_moments(law, np.array([0.1]), np.array([0.3]))])

    few = trunk()
    monkeypatch.setattr(module, "_LEAST", 600)
    monkeypatch.setattr(module, "_MOST", 600)
    assert few == pytest.approx(trunk(), rel=2e-6)
