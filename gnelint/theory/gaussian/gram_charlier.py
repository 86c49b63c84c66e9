"""Rectified moments of values that are not quite Gaussian, from their third and fourth cumulants.

With y = (x - mu) / sigma of density pdf(y) (1 + s/6 He_3(y) + k/24 He_4(y)) (Gram-Charlier series, type A; s is the
skewness, k the excess kurtosis) and t = -mu / sigma:

    E (y - t)_+^p = Gaussian part + s/6 c_3,p + k/24 c_4,p,    c_n,p = int_t^inf (y - t)^p He_n(y) pdf(y) dy

where p integrations by parts leave c_n,p = p! He_{n-p-1}(t) pdf(t) for p < n, p! times the tail Phi(-t) for p = n, and
p! times its integral pdf(t) - t Phi(-t) for p = n + 1. A sum of a rectified value and a Gaussian one, as residual
trunks have it, is met to 1 % by this where the Gaussian formula is 5 to 15 % off (measured). Source: theory 9.7.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gnelint.theory.gaussian.special import normal_cdf, normal_pdf

MOST_SKEWNESS = 1.0
MOST_EXCESS = 2.0
"""Beyond these the series need not be a density any more; it is cut there."""


def rectified_moments(
    mean: np.ndarray, variance: np.ndarray, third: np.ndarray, fourth: np.ndarray
) -> tuple[np.ndarray, ...]:
    """P(x > 0) and E max(x, 0)^p for p = 1 to 4, of x with these first four cumulants; variances are positive."""
    deviation = np.sqrt(variance)
    cubed = variance * deviation  # products: numpy's general power costs far more
    s = np.clip(third / cubed, -MOST_SKEWNESS, MOST_SKEWNESS) / 6.0
    k = np.clip(fourth / variance**2, -MOST_EXCESS / 2, MOST_EXCESS) / 24.0
    t = -mean / deviation
    t2 = t * t
    t3, t4 = t2 * t, t2 * t2
    tail, pdf = normal_cdf(-t), normal_pdf(t)
    once = pdf - t * tail
    parts = (
        tail + pdf * (s * (t2 - 1) + k * (t3 - 3 * t)),
        once + pdf * (s * t + k * (t2 - 1)),
        (1 + t2) * tail - t * pdf + 2 * pdf * (s + k * t),
        (t2 + 2) * pdf - (t3 + 3 * t) * tail + 6 * (s * tail + k * pdf),
        (t4 + 6 * t2 + 3) * tail - (t3 + 5 * t) * pdf + 24 * (s * once + k * tail),
    )
    share, first, second, cube, quart = (np.maximum(part, 0.0) for part in parts)
    return np.minimum(share, 1.0), first * deviation, second * variance, cube * cubed, quart * variance**2


def skewed_values(
    mean: np.ndarray, variance: np.ndarray, third: np.ndarray, fourth: np.ndarray, z: np.ndarray
) -> np.ndarray:
    """The value with these cumulants that rises with a Gaussian, where that is z (ascending, along a new last axis).

    Cornish-Fisher series y = z + s/6 (z^2 - 1) + [k/24 (z^3 - 3 z) - s^2/36 (2 z^3 - 5 z)], up to half of its second
    term, which is against the first; it is flat below where it would fall. Of 2 to 4 rectified values that are summed
    the largest of 4 and 9 have the mean within 2 % and the variance within 10 % (measured).
    """
    deviation = np.sqrt(variance)[..., None]
    s, k = third[..., None] / deviation**3, fourth[..., None] / deviation**4
    bend = k / 24.0 * (z**3 - 3.0 * z) - s**2 / 36.0 * (2.0 * z**3 - 5.0 * z)
    y = z + s / 6.0 * (z**2 - 1.0) + 0.5 * bend
    rising = np.minimum.accumulate(y[..., ::-1], axis=-1)[..., ::-1]
    return np.asarray(mean[..., None] + deviation * rising)


_STEP = 0.5
"""Deviations between the means from which derivatives are taken: expectations are smooth over one."""


def shaped_expectation(
    expected: Callable[[np.ndarray], np.ndarray],
    mean: np.ndarray,
    variance: np.ndarray,
    third: np.ndarray,
    fourth: np.ndarray,
) -> np.ndarray:
    """E f(x) of x with these cumulants, from F(mu) = E f of a Gaussian of mean mu and this variance.

    The integral of f(x) He_n(y) pdf(y) is sigma^n times the n-th derivative of F, so that the series is
    F + third F^(3) / 6 + fourth F^(4) / 24; derivatives are differences over half a deviation.
    """
    step = _STEP * np.sqrt(variance)
    far_below, below, at, above, far_above = (expected(mean + k * step) for k in (-2, -1, 0, 1, 2))
    s = np.clip(third / variance**1.5, -MOST_SKEWNESS, MOST_SKEWNESS) / 6.0
    k = np.clip(fourth / variance**2, -MOST_EXCESS / 2, MOST_EXCESS) / 24.0
    odd = (far_above - 2.0 * above + 2.0 * below - far_below) / (2.0 * _STEP**3)
    even = (far_above - 4.0 * above + 6.0 * at - 4.0 * below + far_below) / _STEP**4
    return np.asarray(at + s * odd + k * even)


def cumulants(first: np.ndarray, second: np.ndarray, cube: np.ndarray, quart: np.ndarray) -> tuple[np.ndarray, ...]:
    """The third and fourth cumulant from E x, E x^2, E x^3 and E x^4."""
    variance = second - first**2
    third = cube - 3 * first * second + 2 * first**3
    central = quart - 4 * first * cube + 6 * first**2 * second - 3 * first**4
    return third, central - 3 * variance**2
