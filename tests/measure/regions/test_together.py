"""Noise of features that weights have made of the same entries."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gnelint.measure.regions.together import noise
from gnelint.theory.fields.cells import Axis
from gnelint.theory.fields.channel_correlation import ChannelCorrelation, Followed
from gnelint.theory.fields.moments import Moments

TOKENS = (4, 12, 256)


def value(**known: object) -> Moments:
    """Twelve features at 256 positions of four samples."""
    x = Moments.uniform(TOKENS, 0.0, 1.0).refined((Axis(4), Axis.full(12), Axis(256)))
    return replace(x, **known)


def rows(z: Tensor) -> Tensor:
    return z.transpose(0, 1).flatten(1)


def test_features_are_correlated_as_is_known() -> None:
    one = noise({"x": value(channel_correlation=ChannelCorrelation(1 / 4))}, 0, torch.Generator(), together=True)["x"]
    assert float(one.square().mean()) == pytest.approx(1.0, abs=0.05)
    squared = torch.corrcoef(rows(one)).square()
    assert float((squared.sum() - 12) / (12 * 11)) == pytest.approx(1 / 4, abs=0.06)


def test_what_follows_one_value_is_correlated_the_same_way_in_every_draw() -> None:
    """By 1/4 of the part that follows, which is one half in one of two."""
    known = (ChannelCorrelation(1 / 4, follows=(Followed("x", 0.0, part, 1 / 4),)) for part in (1 / 4, 1 / 8))
    given = dict(zip(("key", "value"), (value(channel_correlation=each) for each in known), strict=True))
    found = [noise(given, 0, torch.Generator().manual_seed(draw), together=True) for draw in (1, 2)]
    first, second = ((rows(z["key"]) @ rows(z["value"]).T / 1024.0) for z in found)
    assert float((first * second).mean()) == pytest.approx(1 / 8, abs=0.03)


def test_an_average_that_is_not_there_is_not_drawn() -> None:
    z = noise({"x": value(mean_known=1.0)}, 0, torch.Generator(), together=True)["x"]
    assert float(z.mean(dim=(0, 2)).abs().max()) < 1e-5
    assert float(z.square().mean()) == pytest.approx(1.0, abs=0.05)


def test_values_with_nothing_in_common_are_drawn_as_they_were() -> None:
    expected = torch.randn(TOKENS, generator=torch.Generator().manual_seed(3))
    assert torch.equal(noise({"x": value()}, 0, torch.Generator().manual_seed(3), together=True)["x"], expected)
    known = value(channel_correlation=ChannelCorrelation(1 / 4), mean_known=1.0)
    assert torch.equal(noise({"x": known}, 0, torch.Generator().manual_seed(3), together=False)["x"], expected)
