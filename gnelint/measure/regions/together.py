"""White noise that values are drawn of: features that weights have made of the same entries go along.

Channels that independent weights make of one value have a mean squared correlation, and covariances of random signs
that are the same in every sample. A product over positions adds these up, as linear attention's k^T v: drawn apart,
features would have nothing in common. A value that spans 1 / c dimensions at each position (c being the mean squared
correlation of any two sums of it, `Followed.level` or `ChannelCorrelation.same`) is drawn as that many independent
numbers, of which each feature is one combination:

    z_i = sqrt(s) u_i . t + sqrt(1 - s) own,    |u_i| = 1, the same in all samples and draws

s is how much of the feature the value makes. Source: theory 7.3 and 9.4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from gnelint.records import dataclass
from gnelint.theory.fields.channel_correlation import Followed
from gnelint.theory.fields.moments import Moments
from gnelint.theory.gaussian.piecewise import rectified_source
from gnelint.theory.gaussian.special import normal_cdf

_LEAST = 1.0 / 512.0
"""Mean squared correlation below which features are drawn apart."""


@dataclass(frozen=True)
class _Member:
    """A value that follows another.

    Attributes:
        name: of the other.
        share: of its own noise that is made of the other.
        rank: dimensions that the other spans.
    """

    name: str
    share: float
    rank: int


def noise(inputs: Mapping[str, Moments], seed: int, generator: torch.Generator, *, together: bool) -> dict[str, Tensor]:
    """One draw of what values are made of: entries of mean 0 and variance 1, float32.

    Args:
        inputs: the values.
        together: whether features go along.
        seed: of the weights, which are the same in every draw.
        generator: of the draw.
    """
    found = {name: torch.randn(x.shape, generator=generator) for name, x in inputs.items()}
    weights = torch.Generator().manual_seed(seed)
    common: dict[tuple[object, ...], Tensor] = {}
    for name, member in (_members(inputs) if together else {}).items():
        positions, features = _split(inputs[name])
        shape = tuple(found[name].shape[i] for i in positions)
        key = (member.name, member.rank, shape[0], math.prod(shape))
        if key not in common:
            common[key] = torch.randn((math.prod(shape), member.rank), generator=generator)
        size = math.prod(found[name].shape[i] for i in features)
        mix = torch.nn.functional.normalize(torch.randn((member.rank, size), generator=weights), dim=0)
        turned = (common[key] @ mix).reshape(*shape, *(found[name].shape[i] for i in features))
        shared = turned.permute([int(i) for i in np.argsort([*positions, *features])])
        found[name] = math.sqrt(member.share) * shared + math.sqrt(1.0 - member.share) * found[name]
    return {name: _centred(z, inputs[name]) if together else z for name, z in found.items()}


def _centred(z: Tensor, x: Moments) -> Tensor:
    """Without what a normalisation has taken of the average over samples and positions."""
    positions, features = _split(x)
    entries = math.prod(x.shape[i] for i in positions)
    if not x.mean_known or not features or entries < 2:
        return z
    average = z.mean(positions, keepdim=True)
    lost = 1.0 - x.mean_known / entries
    return (z - (1.0 - math.sqrt(1.0 - x.mean_known)) * average) / math.sqrt(lost)


def _members(inputs: Mapping[str, Moments]) -> dict[str, _Member]:
    """The values whose features are correlated: those that follow one other at the same positions have it in common."""
    found: dict[str, _Member] = {}
    for name, x in inputs.items():
        best, own = _LEAST, x.channel_correlation.same
        if own > best and all(_split(x)) and len(_split(x)[0]) > 1:
            found[name] = _Member(name, 1.0, round(1.0 / min(own, 1.0)))
        for other, y in inputs.items():
            for mine in x.channel_correlation.follows if other != name and _side_by_side(x, y) else ():
                for theirs in y.channel_correlation.follows:
                    met = mine.with_other(theirs) if mine.name == theirs.name else 0.0
                    if met > best:
                        best, level = met, mine.level or theirs.level
                        found[name] = _Member(mine.name, _share(x, mine, level), max(round(1.0 / level), 1))
    return found


def _side_by_side(x: Moments, y: Moments) -> bool:
    """Whether two values have features, each with cells of its own, at the same positions."""
    (mine, own), (theirs, other) = _split(x), _split(y)
    sizes = [(v.shape[0], math.prod(v.shape[i] for i in positions)) for v, positions in ((x, mine), (y, theirs))]
    return bool(own and other) and len(mine) > 1 and sizes[0] == sizes[1]


def _split(x: Moments) -> tuple[list[int], list[int]]:
    """The axes of samples and positions, and those of features."""
    features = [i for i, axis in enumerate(x.axes) if i and axis.size == axis.count > 1]
    return [i for i in range(len(x.axes)) if i not in features], features


def _share(x: Moments, part: Followed, level: float) -> float:
    """Of the noise that a value is made of, which a rectifier has cut in what is never negative."""
    share = part.own + part.others / level
    if x.nonnegative and not x.positive:
        location, scale = rectified_source(x.mean, x.variance)
        ratio = np.divide(location, scale, out=np.zeros_like(location), where=scale > 0)
        slope = (normal_cdf(ratio) * scale) ** 2
        linear = float(slope.mean()) / max(float(x.variance.mean()), 1e-300)
        share /= linear if linear > 0 else 1.0
    return min(max(share, 0.0), 1.0)
