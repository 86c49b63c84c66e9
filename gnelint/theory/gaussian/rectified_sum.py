"""Values that are never negative beside Gaussian ones, rectified again and again: trunks that end in a rectifier.

With x = y + e, e ~ N(a, t^2), y = 0 but for a share P, and m_p(r) = E max(r + e, 0)^p of the Gaussian r + e:

    E max(x, 0)^p = (1 - P) m_p(0) + sum_k w_k m_p(r_k)
    density of x at s > 0: (1 - P) pdf(s; a, t) + sum_k w_k pdf(s; r_k + a, t)

over points r_k of the law of y above 0. The law of max(z, 0) of a Gaussian z, and of what else is told by its moments,
is that of a Gaussian cut off at 0. Where e is small beside y a series about a Gaussian (gram_charlier) says that far
more of the sum is negative than is, and a rectified Gaussian of the same moments has more zeros. Source: theory 9.7.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

import numpy as np

from gnelint.records import dataclass, replace
from gnelint.theory.gaussian.special import normal_cdf, normal_pdf

_LEAST, _MOST = 32, 200
_WORK = 6_000_000
"""Pairs of points, over all cells, from which on there are fewer points: Gaussians narrower than two of them stand
apart are told less well."""

_APART = 1.3
"""How far apart points need lie at most, in deviations of the narrowest Gaussian in a law: a ResNet-50's and a deep
trunk's numbers are those of 600 points, to six digits."""

_IN_CACHE = 2**17
"""Numbers, or pairs of them, that are worked on at once."""

_REACH = 36.0
"""Twice the fall of the logarithm of a density up to which it is kept."""

_BEYOND = 1e-7
"""Share of a law that is left out above its last point: the points of a sum of many would lie where nothing is."""

_PLACES = np.linspace(-8.0, 8.0, 801)
"""Means of Gaussians that are cut off at 0, in deviations: from nearly an exponential law to nearly a Gaussian one."""


@dataclass(frozen=True)
class Above:
    """The law of values that are never negative, above 0.

    Attributes:
        points: of shape (cells, points), rising.
        weights: likewise; they add up to P(y > 0).
    """

    points: np.ndarray
    weights: np.ndarray

    @property
    def share(self) -> np.ndarray:
        """P(y > 0)."""
        return np.asarray(self.weights.sum(-1))

    def quantile(self, share: np.ndarray) -> np.ndarray:
        """The point that is exceeded in this share of all cases, at most `share`; between two of them a line."""
        beyond = np.cumsum(self.weights[..., ::-1], -1)[..., ::-1] - self.weights / 2.0
        none = np.zeros_like(self.points[..., :1])
        beyond = np.concatenate([self.share[..., None] + none, beyond, none], -1)
        points = np.concatenate([none, self.points, self.points[..., -1:]], -1)
        place = np.clip((beyond >= share[..., None]).sum(-1), 1, beyond.shape[-1] - 1)[..., None]
        (more, less), (low, high) = (
            (np.take_along_axis(array, place - 1, -1)[..., 0], np.take_along_axis(array, place, -1)[..., 0])
            for array in (beyond, points)
        )
        return np.asarray(low + (high - low) * np.clip(_quotient(more - share, more - less), 0.0, 1.0))

    def scaled(self, factor: np.ndarray | float) -> Above:
        """Of positive multiples, of shape (cells) or one for all."""
        return Above(self.points * np.asarray(factor)[..., None], self.weights)


@cache
def _ratios() -> tuple[np.ndarray, np.ndarray]:
    """E r of the cut Gaussians at `_PLACES`, in deviations, and (E r)^2 / E r^2, which rises."""
    first = _PLACES + normal_pdf(_PLACES) / normal_cdf(_PLACES)
    return first, first**2 / (1.0 + _PLACES * first)


def cut_gaussian(share: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> Above:
    """The law of a value that is 0 but for this share, where it is a Gaussian cut off at 0.

    Args:
        share: P(y > 0), of shape (cells). A channel that never is above 0 has no points with weights.
        mean: E y. What is more spread out than an exponential law above 0 is met in this, not in its variance.
        variance: Var y.
    """
    first, second = _quotient(mean, share), _quotient(variance + mean**2, share)
    firsts, ratios = _ratios()
    t = np.interp(_quotient(first**2, second), ratios, _PLACES)
    scale = (first / np.interp(t, _PLACES, firsts))[..., None]
    location = t[..., None] * scale
    start = np.maximum(location - math.sqrt(_REACH) * scale, 0.0)
    end = location + np.sqrt(np.minimum(location, 0.0) ** 2 + _REACH * scale**2)
    points, lengths = _spread(start, end, scale)
    fall = _quotient(points - location, scale) ** 2 - _quotient(np.minimum(location, 0.0), scale) ** 2
    return _of_share(points, lengths * np.exp(-fall / 2.0), share)


def _spread(start: np.ndarray, end: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points and the lengths that they stand for, closer where the interval starts.

    They lie at s(u) = (3 u^3 - u^5) / 2 for u evenly spaced over (0, 1). Densities do not fall to 0 where the interval
    starts; s' and s'' do, and so what is summed over u has no edge there, which would cost a plain sum its accuracy.

    Args:
        start, end: of the interval.
        deviation: of the narrowest Gaussian that is to be told.
    """
    needed = 2.0 * float(_quotient(end - start, deviation).max(initial=0.0)) / _APART
    most = min(max(math.sqrt(_WORK / max(end.size, 1)), _LEAST), _MOST)
    count = int(min(max(needed, _LEAST), most))
    places = (np.arange(count) + 0.5) / count
    lengths = (4.5 * places**2 - 2.5 * places**4) / count
    return start + (end - start) * (1.5 * places**3 - 0.5 * places**5), (end - start) * lengths


def _of_share(points: np.ndarray, density: np.ndarray, share: np.ndarray) -> Above:
    return Above(points, density * _quotient(share, density.sum(-1))[..., None])


def _quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, and 0 where a channel has nothing above 0."""
    a, b = np.broadcast_arrays(a, b)
    return np.asarray(np.divide(a, b, out=np.zeros_like(a, dtype=float), where=b > 0))


def rectified_sum_moments(y: Above, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, ...]:
    """P(x > 0) and E max(x, 0)^p for p = 1 to 4 of x = y + e.

    Args:
        y: the law of y.
        mean: E e, of shape (cells).
        variance: Var e, positive.
    """
    points = np.concatenate([np.zeros_like(y.points[..., :1]), y.points], -1)
    weights = np.concatenate([1.0 - y.share[..., None], y.weights], -1)
    shape, arrays = _cells(points, weights, mean[..., None], np.sqrt(variance)[..., None])
    found = np.empty((5, len(arrays[0])))
    for part in _few_at_a_time(len(arrays[0]), points.shape[-1]):
        point, weight, middle, deviation = (array[part] for array in arrays)
        for moment, values in zip(found, _gaussian_parts(point + middle, deviation), strict=True):
            moment[part] = np.einsum("ij,ij->i", weight, values)
    return tuple(found.reshape(5, *shape))


def rectified_sum(
    y: Above, mean: np.ndarray, variance: np.ndarray, moments: tuple[np.ndarray, ...] | None = None
) -> Above:
    """The law of max(y + e, 0); arguments as of `rectified_sum_moments`, whose answer is `moments`."""
    deviation = np.sqrt(variance)[..., None]
    end = y.quantile(np.minimum(_BEYOND, y.share))[..., None]
    top = end + mean[..., None] + math.sqrt(_REACH) * deviation
    points, lengths = _spread(np.zeros_like(top), np.maximum(top, deviation), deviation)
    density = _mixed(points / deviation, (y.points + mean[..., None]) / deviation, y.weights)
    density = density + (1.0 - y.share[..., None]) * np.exp(-(((points - mean[..., None]) / deviation) ** 2) / 2.0)
    share, first, *_ = rectified_sum_moments(y, mean, variance) if moments is None else moments
    found = _of_share(points, lengths * density, share)
    return replace(found, points=points * _quotient(first, (found.weights * points).sum(-1))[..., None])


def _mixed(points: np.ndarray, centres: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """sum_k w_k exp(-(s - c_k)^2 / 2) at each point s, all of shape (..., points).

    In single precision, a few cells at a time: all pairs at once would go through memory six times.
    """
    shape, (points, centres, weights) = _cells(*(each.astype(np.float32) for each in (points, centres, weights)))
    found = np.empty(points.shape)
    for cells in _few_at_a_time(len(points), points.shape[-1] * centres.shape[-1]):
        steps = points[cells, :, None] - centres[cells, None, :]
        steps *= steps
        steps *= np.float32(-0.5)
        found[cells] = np.matmul(np.exp(steps, out=steps), weights[cells, :, None])[..., 0]
    return found.reshape(*shape, -1)


def _cells(*arrays: np.ndarray) -> tuple[tuple[int, ...], list[np.ndarray]]:
    """The common shape of all but the last axis, and the arrays with one axis in its place."""
    shape = np.broadcast_shapes(*(each.shape[:-1] for each in arrays))
    return shape, [np.broadcast_to(each, (*shape, each.shape[-1])).reshape(-1, each.shape[-1]) for each in arrays]


def _few_at_a_time(cells: int, size: int) -> Iterator[slice]:
    """Parts of the cells, each of which takes so many numbers, that fit the cache."""
    together = max(_IN_CACHE // size, 1)
    for start in range(0, cells, together):
        yield slice(start, start + together)


def surviving_share(y: Above, mean: np.ndarray, variance: np.ndarray, steps: float) -> np.ndarray:
    """P(y > 0 | a walk from y stays above 0), whose steps are Gaussian with this mean and variance.

    A walk from r stays above 0 for n steps as Brownian motion from r + deviation / sqrt(2) does, with the drift a:

        S(r) = Phi((r + n a) / (t sqrt(n))) - exp(-2 a r / t^2) Phi((n a - r) / (t sqrt(n)))

    which for many steps without drift is what a walk from 0 has exactly, 1 / sqrt(pi n) (Sparre Andersen).
    """
    at_zero = (1.0 - y.share) * _staying(np.zeros_like(y.points[..., :1]), mean, variance, steps)[..., 0]
    above = (y.weights * _staying(y.points, mean, variance, steps)).sum(-1)
    whole = at_zero + above
    return np.asarray(np.divide(above, whole, out=np.ones_like(whole), where=whole > 0))


def _staying(r: np.ndarray, mean: np.ndarray, variance: np.ndarray, steps: float) -> np.ndarray:
    deviation, drift = np.sqrt(variance)[..., None], mean[..., None]
    r = r + deviation * math.sqrt(0.5)
    spread = deviation * math.sqrt(steps)
    turned = np.exp(np.minimum(-2.0 * drift * r / deviation**2, 700.0)) * normal_cdf((steps * drift - r) / spread)
    return np.asarray(np.clip(normal_cdf((r + steps * drift) / spread) - turned, 0.0, 1.0))


def _gaussian_parts(mean: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, ...]:
    """P(x > 0) and E max(x, 0)^p for p = 1 to 4 of Gaussian values: I_p = mean I_{p-1} + (p - 1) variance I_{p-2}."""
    t, variance = mean / deviation, deviation**2
    share = normal_cdf(t)
    first = mean * share + deviation * normal_pdf(t)
    second = mean * first + variance * share
    cube = mean * second + 2.0 * variance * first
    return share, first, second, cube, mean * cube + 3.0 * variance * second
