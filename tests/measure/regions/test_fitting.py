"""What draws of a gradient show of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gnelint.measure.regions.fitting import Tally, gradient_of, moments_of


@pytest.mark.parametrize("common", [0.0, 0.5])
def test_features_that_add_up_to_nothing_hide_no_positions(common: float) -> None:
    """Behind a normalisation features do so at each position; what positions share was averaged over them with those,
    and lost."""
    generator = torch.Generator().manual_seed(0)
    tally = Tally((4, 12, 16), signed=False)
    for _ in range(16):
        own, shared = (torch.randn(4, n, 16, generator=generator) for n in (12, 1))
        draw = common**0.5 * shared + (1.0 - common) ** 0.5 * own
        tally.add(draw - draw.mean(dim=2, keepdim=True))
    found = gradient_of(tally)
    told = float(found.position_covariance.mean() / found.energy.mean())
    if common:
        assert found.axes[1].is_pooled
        assert not found.axes[2].is_pooled
        assert told == pytest.approx(common, abs=0.1)
    else:
        assert abs(told) < 0.1


def test_positions_that_cancel_are_one_cell() -> None:
    generator = torch.Generator().manual_seed(0)
    tally = Tally((4, 12, 16), signed=False)
    for _ in range(16):
        draw = torch.randn(4, 12, 16, generator=generator)
        tally.add(draw - draw.mean(dim=1, keepdim=True))
    found = gradient_of(tally)
    assert found.axes[1].is_pooled
    assert float(np.mean(found.position_covariance) / np.mean(found.energy)) == pytest.approx(-1 / 11, abs=0.02)


@pytest.mark.parametrize("taken", [False, True])
def test_averages_that_a_normalisation_has_taken_are_missed(taken: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    tally = Tally((4, 32, 16))
    for _ in range(16):
        draw = torch.randn(4, 32, 16, generator=generator) + torch.randn(4, 32, 1, generator=generator)
        tally.add(draw - draw.mean(dim=(0, 2), keepdim=True) if taken else draw)
    assert moments_of(tally).mean_known == pytest.approx(1.0 if taken else 0.0, abs=1e-6)
