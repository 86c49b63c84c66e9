"""What is still known of a value behind an operation, by what the operation does to its entries."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace

import numpy as np
import pytest

from gnelint.components.linear import constant_moments, shifted
from gnelint.theory.fields.autocorrelation import Autocorrelation
from gnelint.theory.fields.cells import Axis
from gnelint.theory.fields.channel_correlation import ChannelCorrelation
from gnelint.theory.fields.field import Effect
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments, Peaks, Trace
from gnelint.theory.fields.nearby import Nearby
from gnelint.theory.gaussian.rectified_sum import cut_gaussian

LAW = cut_gaussian(np.full((1, 1, 1), 0.5), np.full((1, 1, 1), 0.4), np.full((1, 1, 1), 0.34))
ALL = replace(
    Moments.uniform((4, 3, 5), 1.0, 2.0),
    nonnegative=True,
    positive=True,
    centred_energy=(None, None, np.linspace(0.5, 1.5, 5)),
    cumulants=(np.ones((1, 1, 1)), np.ones((1, 1, 1))),
    rectified_part=(LAW, np.full((1, 1, 1), 0.4), np.full((1, 1, 1), 0.3)),
    above=LAW,
    floor=np.zeros((1, 1, 1)),
    silent=np.full((1, 1, 1), 0.1),
    channel_correlation=ChannelCorrelation(0.1, 0.05),
    variance_of_variance=0.2,
    log_norm_variance=0.3,
    neighbours=0.2,
    peaks=Peaks(Moments.uniform((4, 3, 5), 1.0, 2.0), (3,), (2,), (-1,)),
    mean_known=0.5,
    steady=0.5,
    square_known=0.4,
    balanced=0.3,
    levelled=0.2,
    alike=frozenset({2}),
    parted=0.5,
    autocorrelation=Autocorrelation(2, np.array([0.5])),
    nearby=Nearby((2,), np.array([1.0, 0.5])),
    trace=Trace(Moments.uniform((4, 3, 5), 1.0, 2.0), lambda grid: None, (True,), composed=False, linear=False),
)
OPTIONAL = {each.name: each.default for each in fields(Moments) if each.default is not MISSING}
WHERE = {"neighbours", "mean_known", "square_known", "balanced", "levelled", "alike", "nearby"}
ALWAYS = {"channel_correlation", "parted", "steady"}
LASTING = {
    Effect.RECUT: {"nonnegative", "positive", "autocorrelation", *ALWAYS, *WHERE},
    Effect.ORDERED: {"nonnegative", "positive", "mean_known", "square_known", *ALWAYS},
    Effect.MOVED: {"nonnegative", "positive", *ALWAYS},
    Effect.SCALED: {"nonnegative", "positive", "silent", "autocorrelation", *ALWAYS, *WHERE},
    Effect.SHIFTED: {
        *ALWAYS,
        *WHERE,
        "centred_energy",
        "variance_of_variance",
        "log_norm_variance",
        "autocorrelation",
    },
}


def known(x: Moments) -> set[str]:
    """The attributes that say more than their defaults."""
    return {name for name, default in OPTIONAL.items() if getattr(x, name) is not default}


def test_the_example_has_everything() -> None:
    assert known(ALL) == set(OPTIONAL)


@pytest.mark.parametrize("effect", Effect)
def test_what_outlasts_an_effect(effect: Effect) -> None:
    y = ALL.behind(effect, ALL.arrays())
    assert known(y) == LASTING[effect]
    assert all(getattr(y, name) is getattr(ALL, name) for name in LASTING[effect])


def test_a_constructor_makes_new_values() -> None:
    assert known(Moments(ALL.axes, ALL.profile, *ALL.arrays())) == set()


def test_axes_and_profile_stay_unless_others_are_given() -> None:
    line = np.linspace(0.5, 1.5, 5)
    y = ALL.behind(Effect.MOVED, ALL.arrays(), profile=(None, None, line))
    assert (y.axes, y.profile[2] is line) == (ALL.axes, True)
    z = y.behind(Effect.MOVED, [a.reshape(1, 1) for a in y.arrays()], (Axis(4), Axis(15)), (None, None))
    assert (z.shape, z.profile) == ((4, 15), (None, None))


def test_finer_cells_keep_cumulants_and_coarser_ones_do_not() -> None:
    fine = ALL.refined((Axis(4), Axis.full(3), Axis(5)))
    assert fine.cumulants is not None
    assert fine.cumulants[0].shape == (1, 3, 1)
    assert fine.silent is not None
    assert fine.silent.shape == (1, 3, 1)
    assert fine.pooled(1).cumulants is None
    assert fine.pooled(1).silent is None


def test_a_constant_leaves_the_energy_about_the_mean_unless_it_varies_along_the_cell() -> None:
    channels = np.arange(3.0).reshape(3, 1)
    fine = replace(ALL.refined((Axis(4), Axis.full(3), Axis(5))), centred_energy=ALL.centred_energy)
    assert shifted(fine, *constant_moments(channels, fine)).centred_energy is ALL.centred_energy
    assert shifted(fine, *constant_moments(channels + np.arange(5.0), fine)).centred_energy is None


def test_whoever_computes_new_energies_knows_nothing_of_the_mask() -> None:
    g = replace(Gradient.white((4, 3)), mask_overlap=np.full((1, 1), 0.7))
    assert g.scaled(2.0).mask_overlap.item() == 0.7
    assert g.behind(Effect.SCALED, (g.energy, g.position_covariance)).mask_overlap.item() == 0.0
