"""Couplings against samples: where they come from, how they are summed, and what they do to a channel's variance."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from gnelint.theory.fields.channel_correlation import (
    NONE,
    Ahead,
    ChannelCorrelation,
    meetings,
    mixed,
    participation,
    summed,
    weighted_sum,
    window_overlap,
)


def mean_square_correlation(covariance: np.ndarray) -> float:
    """Sum of the squared covariances of different entries over the squared trace."""
    off = covariance - np.diag(np.diag(covariance))
    return float((off**2).sum() / np.trace(covariance) ** 2)


def weights(out: int, inner: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((out, inner)) / inner**0.5


def test_sums_of_the_same_entries_are_coupled() -> None:
    variance = np.random.default_rng(0).uniform(0.1, 2.0, 40)
    w = weights(400, 40, 1)
    found = mean_square_correlation(w @ np.diag(variance) @ w.T)
    assert weighted_sum(NONE, participation(variance[None])).same == pytest.approx(found, rel=0.1)


def test_channel_correlations_add_up_over_layers() -> None:
    first, second = weights(300, 40, 0), weights(300, 300, 1)
    inner = first @ first.T
    one = weighted_sum(NONE, participation(np.ones((1, 40))))
    assert one.same == pytest.approx(mean_square_correlation(inner), rel=0.1)
    two = weighted_sum(one, participation(np.diag(inner)[None]))
    assert two.same == pytest.approx(mean_square_correlation(second @ inner @ second.T), rel=0.1)


def test_a_channels_variance_strays_by_twice_the_correlation() -> None:
    inner = (first := weights(200, 20, 3)) @ first.T
    w = weights(4000, 200, 4)
    true = np.einsum("oi,ij,oj->o", w, inner, w)
    stated = (w**2) @ np.diag(inner)
    ratio = true / stated
    channel_correlation = weighted_sum(NONE, participation(np.ones((1, 20))))
    assert float(ratio.mean()) == pytest.approx(1.0, abs=0.02)
    assert float(ratio.var()) == pytest.approx(2 * channel_correlation.same, rel=0.15)


def test_parts_count_by_the_square_of_their_share() -> None:
    assert mixed([(3.0, ChannelCorrelation(0.2, 0.1)), (1.0, NONE)]).same == pytest.approx(0.2 * 9 / 16)
    assert mixed([(0.0, ChannelCorrelation(0.2, 0.1))]) == NONE


def test_a_branch_is_correlated_with_its_stream() -> None:
    """x + W2 f(W1 x) of correlated channels, f with two thirds of its variance linear; a shortcut V x in place of x."""
    first, inner, outer, short = (weights(a, b, i) for i, (a, b) in enumerate([(80, 80), (80, 80), (80, 80), (80, 80)]))
    covariance, linear, width = first @ first.T, 2.0 / 3.0, np.ones((1, 80))
    own = participation(width)
    stream = weighted_sum(NONE, own).read_by_several("stream", even=False)
    branch = weighted_sum(weighted_sum(stream, own).mapped(linear), own)
    mixed_in = math.sqrt(linear) * outer @ inner
    hidden = inner @ covariance @ inner.T
    # what is not linear is a square of correlations: next to independent entries
    rest = outer @ (linear * hidden + (1.0 - linear) * np.diag(np.diag(hidden))) @ outer.T
    for name, shortcut, other in (("x", np.eye(80), stream), ("V x", short, weighted_sum(stream, own))):
        cross = shortcut @ covariance @ mixed_in.T
        whole = shortcut @ covariance @ shortcut.T + rest + cross + cross.T
        found = summed([(1.0, other), (1.0, branch)])
        assert found.same == pytest.approx(mean_square_correlation(whole), rel=0.15), name
        assert mixed([(1.0, other), (1.0, branch)]).same < 0.75 * found.same
    # what has been summed follows the stream by one half, and as far as the branch does
    again = weighted_sum(summed([(1.0, stream), (1.0, branch)]), own)
    assert again.meeting(stream)[0] == pytest.approx((1.0 + linear) / 2.0 * (stream.same + own), rel=0.02)


def test_what_follows_a_levelled_value_adds_nothing_to_the_scatter_of_norms() -> None:
    """x + W x on a sphere: |x|^2 and |W x|^2 cannot vary together, of Gaussian x they do."""
    rng, width = np.random.default_rng(0), 24
    x = rng.standard_normal((20000, 6)) @ weights(6, width, 1)
    x -= x.mean(axis=0)
    sphere = x / np.sqrt((x**2).mean(axis=1, keepdims=True))
    for value, even in ((x, False), (sphere, True)):
        covariance = np.cov(value.T)
        known = ChannelCorrelation(mean_square_correlation(covariance)).read_by_several("x", even=even)
        levelled = 2.0 * (known.same + participation(np.diag(covariance)[None])) if even else 0.0
        branch = weighted_sum(known, participation(np.diag(covariance)[None]))
        parts = [(1.0, known), (1.0, branch)]
        kept = 0.25 * levelled + 0.25 * levelled + 2.0 * meetings(parts)[1]
        found = [((value + value @ weights(width, width, seed).T) ** 2).mean(axis=1) for seed in range(8)]
        true = np.mean([norm.var() / norm.mean() ** 2 for norm in found])
        stated = 2.0 * (summed(parts).same + 1.0 / width) - kept
        assert stated == pytest.approx(true, rel=0.25, abs=0.03), even


def test_a_window_sees_its_stream_at_one_of_its_places() -> None:
    stream = ChannelCorrelation(0.02, 0.01).read_by_several("stream", even=False)
    once, nine = weighted_sum(stream, 0.1), weighted_sum(stream, 0.1 / 9, taps=9.0)
    assert nine.meeting(stream)[0] == pytest.approx(once.meeting(stream)[0] / 9)
    assert stream.meeting(stream.read_by_several("other", even=False))[0] == 0.0  # no weights between them
    assert stream.meeting(ChannelCorrelation(0.02).read_by_several("other", even=False))[0] == 0.0


def test_what_is_fixed_has_few_dimensions() -> None:
    """A part of the variance that lies in three patterns over positions, beside one that is independent."""
    rng = np.random.default_rng(5)
    patterns, own = rng.standard_normal((3, 12)), math.sqrt(0.7) * rng.standard_normal((4000, 12))
    channels = rng.standard_normal((600, 3))
    fixed = math.sqrt(0.3 / 3) * channels @ patterns
    gram = fixed @ fixed.T / 12
    few = mean_square_correlation(gram)
    state = ChannelCorrelation(fixed=0.3, few=few)
    assert state.total == pytest.approx(0.3**2 * few)
    assert mixed([(1.0, state), (3.0, NONE)]).fixed == pytest.approx(0.3 / 4)
    # the same places in another part of as much variance: no more dimensions
    both = mixed([(1.0, state), (1.0, ChannelCorrelation(fixed=0.3, few=few))])
    assert (both.fixed, both.few) == pytest.approx((0.3, few))
    value = fixed[:100, None] - fixed[:100, None].mean(2, keepdims=True) + own[None]

    def share(x: np.ndarray) -> float:
        about = x - x.mean((1, 2), keepdims=True)
        return float((about.mean(1) ** 2).mean() / (about**2).mean())

    linear = 0.25 / (0.5 - 0.5 / math.pi)  # of a rectifier
    found = ChannelCorrelation(fixed=share(value), few=few).mapped(linear)
    assert found.fixed == pytest.approx(share(np.maximum(value, 0.0)), abs=0.02)


def test_windows_that_overlap() -> None:
    assert window_overlap([1, 1], [1, 1]) == 0.0
    assert window_overlap([3, 3], [3, 3]) == 0.0
    places = list(itertools.product(range(3), repeat=2))
    pairs = [(p, q) for p in places for q in places if p != q]
    same = np.mean([(1 - abs(p[0] - q[0]) / 3) * (1 - abs(p[1] - q[1]) / 3) for p, q in pairs])
    assert window_overlap([3, 3], [1, 1]) == pytest.approx(same)
    assert window_overlap([], []) == 0.0


@pytest.mark.parametrize("overlap", [0.0, 0.4])
@pytest.mark.parametrize("taps", [1.0, 9.0])
def test_what_lies_ahead_is_the_transpose_of_a_sum(taps: float, overlap: float) -> None:
    x, ahead, own, step = ChannelCorrelation(0.1, 0.05), Ahead(0.7, 0.4, 1.0), 0.03, 1e-6

    def later(x: ChannelCorrelation, own: float) -> float:
        """Squared correlations that later normalisations meet, to first order, and what the next one sums."""
        y = weighted_sum(x, own, taps, overlap)
        return ahead.same * y.same + ahead.beside * y.beside + ahead.next * x.over(taps)

    before, lost = ahead.before_sum(own, taps, overlap)
    whole = later(x, own)
    assert before.same == pytest.approx((later(ChannelCorrelation(0.1 + step, 0.05), own) - whole) / step)
    assert before.beside == pytest.approx((later(ChannelCorrelation(0.1, 0.05 + step), own) - whole) / step)
    assert -math.log1p(-lost) == pytest.approx(2 * (whole - later(x, 0.0)))


@pytest.mark.parametrize(("inputs", "channels"), [(27, 64), (1000, 64), (27, 256)])
def test_gains_of_normalisations_are_no_product(inputs: int, channels: int) -> None:
    """A linear chain over endless samples, each channel divided by its deviation: the gradient at every layer."""
    rng, found, layers = np.random.default_rng(0), [], 7
    for _ in range(30):
        jacobian, maps = np.eye(inputs), []
        for _ in range(layers):
            w = rng.standard_normal((channels, len(jacobian))) / len(jacobian) ** 0.5
            jacobian = w @ jacobian
            deviation = np.sqrt((jacobian**2).sum(axis=1))
            jacobian /= deviation[:, None]
            maps.append(w / deviation[:, None])
        gradient = np.eye(channels)
        found.append([((gradient := gradient @ one) ** 2).sum() / channels for one in reversed(maps)])
    correlations, correlation = [], NONE
    for layer in range(layers):
        strays = 2 * correlation.total
        correlations.append(strays)
        correlation = weighted_sum(correlation, 1 / (channels if layer else inputs)).scaled(1 / (1 + strays))
    ahead, total = Ahead(), 1.0
    for layer in reversed(range(layers)):
        strays = correlations[layer]
        ahead = replace(ahead.scaled(1 / (1 + strays)), next=1.0)
        ahead, lost = ahead.before_sum(1 / (channels if layer else inputs), 1.0, 0.0)
        total *= (1 - lost) / (1 - strays)
        measured = float(np.mean(found, axis=0)[layers - 1 - layer])
        assert math.log2(total) == pytest.approx(math.log2(measured), abs=0.15)
