"""Attention, head by head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, TypeVar

import numpy as np

from gnelint.components.attention.softmax import IID_LOGITS, LOGITS_ERROR_BITS, over_counts
from gnelint.components.base import Basis, Gradients, Inputs, NotModelledError, OneOutput, component
from gnelint.components.combine.side_by_side import join
from gnelint.records import dataclass
from gnelint.theory.fields.cells import Axes, Axis
from gnelint.theory.fields.channel_correlation import NONE, ChannelCorrelation
from gnelint.theory.fields.field import Effect, Field, put, set_average
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments
from gnelint.theory.fields.profiles import normalised

F = TypeVar("F", bound=Field)


_EVEN = 0.2
"""Where more than this share of the output's energy is a mean that all rows have, they have no profile."""
_UNEVEN = 0.05
"""Square of the relative deviation of energies from sample to sample from which on they are told apart."""
_FLAT = 1e-6
"""Difference of tokens' relative energies below which they are alike."""
_HIDING = 1e4
"""Variance of what is added to logits from which on it hides keys."""
_MOST_KINDS = 32
"""Kinds of samples that are."""


@dataclass(frozen=True)
class _Rows:
    """What softmax does in each row of one attention node.

    Attributes:
        visible: number of keys that each query sees: 1 / sum_j w_j^2 of the weights w that the mask alone would give.
        s2, k: E sum_j a_j^2 and E[S2 - 2 S3 + S2^2] of each row.
        s2_common, k_common: n times the same over pairs of rows that see n keys: of the part of the logits that all
            queries share.
        logit: q, their variance.
        tilt: tr(C^2) / tr(C)^2 of the tokens' covariance C: how far keys and values of one token are correlated. A
            row's output gets q times that, in units of the values' own variance.
        overlap: E sum_j a_ij a_i'j over pairs of rows.
        squares, weights: (queries, keys), how a row's a^2 and a are distributed over the keys, each row summing to 1;
            None for evenly over the keys seen.
    """

    visible: np.ndarray
    s2: np.ndarray
    k: np.ndarray
    s2_common: np.ndarray
    k_common: np.ndarray
    logit: float
    tilt: float
    overlap: float
    squares: np.ndarray | None = None
    weights: np.ndarray | None = None

    @property
    def tilted(self) -> np.ndarray:
        """The tilt of each row: covariances over n keys are (1 - 1/n) of the tokens' own, and nothing over one."""
        return np.asarray(self.tilt * (1.0 - self.s2) ** 2)

    @staticmethod
    def over(counts: np.ndarray, logit: float, common: float, tilt: float, overlap: float, cap: float | None) -> _Rows:
        """Rows that see so many keys each, with independent logits of which all queries share `common`."""
        s2, k, slope = over_counts(counts, logit, cap)
        shared_s2, shared_k, _ = over_counts(counts, common, cap)
        logit, tilt = logit * slope**2, tilt * slope**2
        together, centred = counts * shared_s2, counts * shared_k
        overlap = min(overlap * float(together.mean()), 1.0)
        return _Rows(counts, s2, k, together, centred, logit, tilt, overlap)


@dataclass(frozen=True)
class _Side:
    """Query, key or value: means, variances and position covariances as (heads, width) arrays, alike for all tokens.

    Attributes:
        along, along_free: E x_d x_d' of two entries of one token's width, and less what all tokens share; 0 where these
            are features. Attention over channels has positions there, which share the channel's mean.
        line: second moment of each token relative to the rest: what started at zero has none.
    """

    mean: np.ndarray
    variance: np.ndarray
    position_covariance: np.ndarray
    along: float
    along_free: float
    line: np.ndarray

    @property
    def second(self) -> np.ndarray:
        """E x^2."""
        return np.asarray(self.variance + self.mean**2)

    @property
    def common(self) -> np.ndarray:
        """E x x' of two tokens."""
        return np.asarray(np.maximum(self.position_covariance, 0.0) + self.mean**2)

    @property
    def free(self) -> np.ndarray:
        """Variance from token to token: what all tokens share moves every logit of a row alike and drops out."""
        return np.asarray(np.maximum(self.variance - self.position_covariance, 0.0))

    def scaled(self, factor: float) -> _Side:
        """With so many times the energy on average; each token keeps its own."""
        mean = self.mean * math.sqrt(factor)
        variance, covariance, line = self.variance * factor, self.position_covariance * factor, self.line / factor
        return replace(self, mean=mean, variance=variance, position_covariance=covariance, line=line)

    def repeated(self, heads: int) -> _Side:
        """As each of so many query heads sees it."""
        own = len(self.mean)
        if heads % own:
            raise NotModelledError(f"{heads} query heads over {own} key heads")
        mean, variance, covariance = (
            np.repeat(a, heads // own, axis=0) for a in (self.mean, self.variance, self.position_covariance)
        )
        return replace(self, mean=mean, variance=variance, position_covariance=covariance)


@dataclass(frozen=True)
class _Samples:
    """Gradients of samples of several kinds.

    Attributes:
        parts: one of each kind.
        kinds: of which each cell of the batch is.
        batch: its axis; None where all are of one kind.
    """

    parts: tuple[Gradient, ...]
    kinds: tuple[int, ...]
    batch: Axis | None = None

    def together(self, parts: Sequence[Gradient]) -> Gradient:
        """What the parts have become, in the cells of the batch."""
        if self.batch is None:
            return parts[0]
        axes, arrays, profile = join([parts[kind] for kind in self.kinds], 0)
        return Gradient(put(axes, 0, self.batch), profile, *arrays)


@component("attention")
class Attention(OneOutput):
    """y_i = sum_j a_ij v_j, a = softmax(scale q k^T), for projections of the same tokens by independent weights.

        logits' variance   q = scale^2 sum_d E q_d^2 Var_j k_jd
        mean -> mean over the keys
        variance of row i -> (S_i + q t) var_v + covariance_v
        value path    energy_v,j = sum_{i sees j} (S_i / n_i) energy_i + sum_{i != i'} S' covariance / (n_i n_i')
        query path    energy_q,i = scale^2 (K_i + t) gv_i var_k,     gv_i = sum_d energy_i,d var(v_d)
        key path      energy_k,j = scale^2 E q^2 sum_{i sees j} (K_i / n_i) gv_i
                                   + scale^2 (E q q' K' + u var_q) sum_{i != i'} gv' / (n_i n_i')

    Query i sees n_i keys: all of them, or i with a causal mask, which moves the gradient to the first tokens (the
    profiles along the tokens say so). The sums over pairs of queries are there where both get the same gradient (gv' =
    sum_d covariance_d var(v_d)); S' and K' are n S and n K of the part of the logits that both share, and u =
    (1 + D t) (q / D) / (1 + q / D)^2 for a width of D: queries that weigh a key lean towards it, E a_ij q_i ~ scale
    var_q k_j. t = tr(C^2) / tr(C)^2 of the tokens' covariance is the mean squared correlation of the values' channels,
    1 / (heads times width) where nobody knows it. What is added to the logits and depends on the input (positions
    that queries ask for, pairs) adds its variance over the keys to q and gets energy K_i gv_i / n_i. A soft cap c makes
    c tanh(x / c) of scaled products x, whose S and K are those of `capped_softmax_moments`. Source: theory 3.6
    (arXiv 1706.03762).
    """

    basis: ClassVar[Basis] = "theorem"
    assumptions: ClassVar[tuple[str, ...]] = (IID_LOGITS, "queries, keys and values come from independent projections")
    model_error_bits: ClassVar[float | None] = 0.15

    def model_error_bits_of(self, index: int) -> float | None:
        """What passes the softmax, to queries and keys, depends on how alike the tokens are."""
        return LOGITS_ERROR_BITS if index < 2 else self.model_error_bits

    @property
    def _cap(self) -> float | None:
        cap = self.node.attribute("softcap")
        return None if cap is None else float(cap)

    @property
    def _causal(self) -> bool:
        return bool(self.node.attribute("causal"))

    def _heads(self, role: int) -> int | None:
        heads = self.node.attribute("heads")
        found = heads if role == 0 else self.node.attribute("kv_heads") or heads
        return None if found is None else int(found)

    def _split_shape(self, shape: tuple[int, ...], role: int) -> tuple[int, ...]:
        """(batch, heads, tokens, width) of a query, key or value; (batch, tokens, heads, width) when packed."""
        if self.node.attribute("packed"):
            heads = self._heads(role)
            if not heads:
                raise NotModelledError("packed attention without a number of heads")
            return (shape[0], shape[1], heads, shape[2] // heads)
        if len(shape) < 4:
            return ((1, 1) if len(shape) == 2 else (shape[0], 1)) + shape[-2:]
        return (shape[0], math.prod(shape[1:-2]), *shape[-2:])

    def _unpack(self, x: F, role: int) -> F:
        split = x.reshaped(self._split_shape(x.shape, role))
        return split.permuted((0, 2, 1, 3)) if self.node.attribute("packed") else split

    def _pack(self, x: F, shape: tuple[int, ...]) -> F:
        if self.node.attribute("packed"):
            x = x.permuted((0, 2, 1, 3))
        return x.reshaped(shape)

    def _sides(self, inputs: Inputs) -> tuple[list[_Side], list[tuple[int, ...]]]:
        """Query, key and value, and their unpacked shapes."""
        sides, shapes = [], []
        for role, x in enumerate(inputs[:3]):
            if x is None:
                raise NotModelledError("a query, key or value whose values are not known before the network runs")
            line = _line(self._unpack(x, role))
            whole = self._unpack(x.flattened(), role)
            shapes.append(whole.shape)
            along = free = 0.0
            if _is_over_channels(whole):
                channels = whole.only(1, 2)
                along = float((channels.mean**2 + channels.position_covariance).mean())
                free = max(along - float(channels.mean.mean()) ** 2, 0.0)
                whole = replace(whole, position_covariance=0.0 * whole.position_covariance)
            pooled = whole.only(1, 3)
            full = pooled.refined(_head_axes(pooled.shape))
            mean, variance, covariance = (a.reshape(whole.shape[1], whole.shape[3]) for a in full.arrays())
            sides.append(_Side(mean, variance, covariance, along, free, line))
        heads = shapes[0][1]
        return self._met([side.repeated(heads) for side in sides], shapes), shapes

    def _met(self, sides: list[_Side], shapes: Sequence[tuple[int, ...]]) -> list[_Side]:
        """Keys and values as queries meet them: where a mask hides some, those that padding has put there, the others
        are more than the average, and so are queries that are no padding."""
        if "mask" not in self.node.parameters or all(np.ptp(side.line) < _FLAT for side in sides):
            return sides
        query = sides[0].line / max(float(sides[0].line.sum()), 1e-300)
        met = query @ self._mask_weights(shapes).mean(axis=0)
        shares = (query, met, met)
        shares_of_energy = (float(share @ side.line) for share, side in zip(shares, sides, strict=True))
        return [side.scaled(f) if f > 0 else side for f, side in zip(shares_of_energy, sides, strict=True)]

    def _scale(self, width: int) -> float:
        scale = self.node.attribute("scale")
        return 1.0 / math.sqrt(width) if scale is None else float(scale)

    def _rows(self, sides: Sequence[_Side], shapes: Sequence[tuple[int, ...]], inputs: Inputs) -> _Rows:
        """What softmax does."""
        alike, steady = _alike(inputs, sides), _steady(inputs)
        query, key, _ = sides
        heads, queries, width = shapes[0][1:]
        keys = shapes[1][2]
        square = self._scale(width) ** 2 * width
        logit, common = (
            square * float(np.mean(own.mean(axis=1) * key.free.mean(axis=1))) for own in (query.second, query.common)
        )
        logit += square * (width - 1) * query.along * key.along_free
        added = _added(inputs, shapes)
        if added is not None and self._cap is not None:
            raise NotModelledError("capped logits to which a value of the network is added")
        logit += 0.0 if added is None else _free_of_rows(added)
        tilt = steady / (heads * width) if alike is None else steady * alike
        if "mask" in self.node.parameters:
            return self._masked_rows(shapes, logit, common, tilt)
        if not self._causal:
            counts, overlap = np.full(queries, float(keys)), 1.0 / max(keys, 1)
        else:
            counts = np.clip(np.arange(queries) + 1 + keys - queries, 1, keys).astype(float)
            # two rows weigh the keys that both see with 1/n each: E sum_j a_ij a_i'j = 1 / max(n_i, n_i')
            overlap = float(((2 * np.arange(queries) + 1) / np.sort(counts)).sum()) / max(queries, 1) ** 2
        return _Rows.over(counts, logit, common, tilt, overlap, self._cap)

    def _masked_rows(self, shapes: Sequence[tuple[int, ...]], logit: float, common: float, tilt: float) -> _Rows:
        """Rows under a constant mask: as many independent logits as the weights that it gives have effective keys."""
        weights = self._mask_weights(shapes)
        squares = weights**2
        concentration = squares.sum(axis=2)
        overlap = float((weights.mean(axis=1) ** 2).sum(axis=1).mean())
        each = _Rows.over(1.0 / concentration, logit, common, tilt, overlap, self._cap)
        over_keys = (squares * (each.s2 / concentration)[:, :, None]).mean(axis=0)
        return replace(
            each,
            visible=1.0 / concentration.mean(axis=0),
            **{name: getattr(each, name).mean(axis=0) for name in ("s2", "k", "s2_common", "k_common")},
            squares=over_keys / over_keys.sum(axis=1, keepdims=True),
            weights=weights.mean(axis=0),
        )

    def _mask_weights(self, shapes: Sequence[tuple[int, ...]]) -> np.ndarray:
        """(matrices, queries, keys): the softmax of the mask, one for all heads and samples, or each of them apart."""
        queries, keys = shapes[0][2], shapes[1][2]
        mask = np.asarray(self.node.parameters["mask"].array())
        added = np.where(mask, 0.0, -np.inf) if mask.dtype == bool else mask.astype(np.float64)
        added = added.reshape((1,) * (3 - added.ndim) + added.shape)
        heads = np.broadcast_to(added, (*added.shape[:-2], queries, keys)).reshape(-1, queries, keys)
        heads = heads[:1] if np.array_equal(heads[1:], heads[:-1]) else heads
        if self._causal:
            seen = np.tril(np.ones((queries, keys), dtype=bool), keys - queries)
            heads = np.where(seen, heads, -np.inf)
        top = heads.max(axis=2, keepdims=True)
        weights = np.exp(heads - np.where(np.isfinite(top), top, 0.0))
        # A row that sees nothing weighs all keys alike here: runtimes differ.
        weights = np.where(np.isfinite(top), weights, 1.0)
        return np.asarray(weights / weights.sum(axis=2, keepdims=True))

    def joined(self, inputs: Inputs) -> Moments:
        sides, shapes = self._sides(inputs)
        rows = self._rows(sides, shapes, inputs)
        value = sides[2]
        batch, heads, queries, _ = shapes[0]
        shape = (batch, heads, queries, shapes[2][3])
        passed = rows.s2 + rows.logit * rows.tilted
        variance = value.position_covariance + value.free * float(passed.mean())
        covariance = np.minimum(value.position_covariance + value.free * rows.overlap, variance)
        arrays = [a[None, :, None, :] for a in (value.mean, variance, covariance)]
        y = Moments.flat(_head_axes(shape), arrays[0], arrays[1], arrays[2])
        fixed = float((value.mean**2 + value.position_covariance).mean())
        energy = fixed + float(value.free.mean()) * passed
        if float((value.mean**2).mean()) < _EVEN * float(energy.mean()):  # else a profile would scale the mean too
            y = replace(y, profile=(None, None, normalised(energy), None))
        passed_whole = float(value.position_covariance.mean()) / max(float(covariance.mean()), 1e-300)
        y = replace(y, parted=min(passed_whole, 1.0) * x.parted if (x := inputs[2]) is not None else 0.0)
        y = replace(y, channel_correlation=self._carried(inputs, heads, rows))
        return self._pack(y, self.output_shapes[0])

    def _carried(self, inputs: Inputs, heads: int, rows: _Rows) -> ChannelCorrelation:
        """The values' correlation between channels, which sums over tokens keep, between those of different heads as
        far as these weigh the same tokens; values that several query heads share come several times."""
        value = inputs[2]
        if value is None or _is_over_channels(self._unpack(value, 2)):
            return NONE
        own = self._unpack(value, 2).shape[1]
        together = float(np.mean(1.0 / np.maximum(rows.visible * rows.s2, 1.0))) ** 2
        found = value.channel_correlation.scaled(1.0 / heads + (1.0 - 1.0 / heads) * together)
        copies = (heads / own - 1.0) / (heads * self._unpack(value, 2).shape[3])
        return replace(found, same=found.same + copies * together)

    def parted(self, inputs: Inputs, y: Moments, g: Gradient) -> Gradients:
        sides, shapes = self._sides(inputs)
        rows = self._rows(sides, shapes, inputs)
        samples = _samples_apart(self._unpack(g, 0))
        pulled = [self._pulled(part, sides, shapes, rows) for part in samples.parts]
        gradients = [
            self._pack(samples.together([found[role] for found in pulled]), x.shape)
            for role, x in enumerate(inputs[:3])
            if x
        ]
        added = _added(inputs, shapes)
        if added is None:
            return (*gradients, *(None,) * (len(inputs) - 3))
        of_logits = samples.together([found[3] for found in pulled])
        assert inputs[3] is not None
        return (*gradients, of_logits.summed_to(added.shape).reshaped(inputs[3].shape))

    def _pulled(
        self, g: Gradient, sides: Sequence[_Side], shapes: Sequence[tuple[int, ...]], rows: _Rows
    ) -> tuple[Gradient, ...]:
        """The gradients at query, key, value and logits for an unpacked cotangent."""
        query, key, value = sides
        keys, width = shapes[1][2], shapes[0][3]
        along = 0.0
        if _is_over_channels(g):
            along = max(float(g.position_covariance.mean()), 0.0)
            g = replace(g, position_covariance=0.0 * g.position_covariance)
        of_cells, g = not g.axes[2].is_pooled, g.profiled(2)
        line = np.ones(g.shape[2]) if g.profile[2] is None else g.profile[2]
        g = g.only(1, 3).refined(_head_axes(g.shape))
        energy, common, across = (
            a.reshape(g.shape[1], g.shape[3]) for a in (g.energy, g.position_covariance, g.sample_covariance)
        )
        signed, common = common, np.maximum(common, 0.0)
        if of_cells:  # what two rows share on average, whichever they are: where the profile is 1 it is more
            signed = common = np.minimum(common / _amplitude(line) ** 2, energy)

        received = self._received(rows, line * rows.s2, keys)
        value_pairs = float(self._from_pairs(rows, line * rows.s2_common, keys).mean())
        queries = len(line)
        value_covariance = energy * float((line * (1 - rows.s2)).sum()) / (keys * max(keys - 1, 1))
        pairs = max(float(np.sqrt(line).sum()) ** 2 - float(line.sum()), 0.0)  # a class token alone: none
        value_covariance = value_covariance + signed * pairs / keys**2
        # rows whose gradients add up to nothing leave of it what their weights differ in
        value_energy = np.maximum(energy * received.mean() + signed * value_pairs, 0.0)
        gv, gv_common = ((a * value.free).sum(axis=1, keepdims=True) for a in (energy, common))
        gv = gv + value.mean.shape[1] * (value.mean.shape[1] - 1) * along * value.along_free
        square = self._scale(width) ** 2
        through = line * (rows.k + rows.tilted)
        asked = line * query.line  # a query that is zero moves no key
        to_keys = self._received(rows, asked * rows.k, keys)
        key_pairs = self._from_pairs(rows, line * rows.k_common, keys)
        pairs_asked = self._from_pairs(rows, asked * rows.k_common, keys)
        key_energy = gv * query.second * float(to_keys.mean()) + gv_common * query.common * float(pairs_asked.mean())
        # queries that weigh one key lean towards it, all of them
        leaning = (1.0 + width * rows.tilt) * rows.logit / width / (1.0 + rows.logit / width) ** 2
        both = float(self._from_pairs(rows, asked * (1.0 - rows.s2) ** 2, keys).mean())
        key_energy = key_energy + gv_common * query.free * leaning * both
        # what two queries get, where the energy's profile is 1
        of_pairs = float(key_pairs.sum()) / max(queries * (queries - 1), 1)
        of_pairs = of_pairs + rows.tilt * _amplitude(line * (1.0 - rows.s2)) ** 2
        evenness = _amplitude(through) ** 2 / max(float(through.mean()), 1e-300)  # a single key: 0
        query_common = gv_common * key.free * of_pairs / max(evenness, 1e-12)
        found = (
            (square * gv * key.free * float(through.mean()), square * query_common, 0.0 * query.second, through),
            (square * key_energy, 0.0 * query.second, 0.0 * query.second, to_keys),
            (
                value_energy,
                np.minimum(value_covariance, value_energy),
                across * (queries / keys) ** 2,
                received,
            ),
        )
        sides_pulled = (
            self._gradient(part, (g.shape[0], *shape[1:])) for part, shape in zip(found, shapes, strict=True)
        )
        return (*sides_pulled, _of_logits(gv, line * rows.k, (*g.shape[:3], keys)))

    def _received(self, rows: _Rows, sent: np.ndarray, keys: int, plain: bool = False) -> np.ndarray:
        """What each key gets when query i sends `sent[i]` in all, as its a^2 are distributed (its a if `plain`)."""
        if rows.squares is not None and rows.weights is not None:
            return np.asarray(sent @ (rows.weights if plain else rows.squares))
        each = sent / rows.visible
        if not self._causal:
            return np.full(keys, float(each.sum()))
        late = np.cumsum(each[::-1])[::-1]  # key j is seen from the row that first reaches it
        first = np.clip(np.arange(keys) - (keys - len(sent)), 0, len(sent) - 1)
        return np.asarray(late[first])

    def _from_pairs(self, rows: _Rows, sent: np.ndarray, keys: int) -> np.ndarray:
        """What each key gets from pairs of different queries that send the same, weighted by a_ij a_i'j."""
        together = self._received(rows, np.sqrt(sent), keys, plain=True)
        return np.asarray(np.maximum(together**2 - self._received(rows, sent / rows.visible, keys), 0.0))

    def _gradient(
        self,
        part: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
        split: tuple[int, ...],
    ) -> Gradient:
        """Energies of (query heads, width) as a gradient on the operand, summed over the heads that share one of its
        heads."""
        own = split[1]
        energy, covariance, across = (a.reshape(own, -1, a.shape[1]).sum(axis=1)[None, :, None, :] for a in part[:3])
        return Gradient.flat(_head_axes(split), energy, covariance, (None, None, normalised(part[3]), None), across)


def _added(inputs: Inputs, shapes: Sequence[tuple[int, ...]]) -> Moments | None:
    """What is added to the logits, (batch, heads, queries, keys) or 1 for some of them, where it is a value that comes
    of the network's input; None for a mask, which hides by numbers that no value has."""
    added = inputs[3] if len(inputs) > 3 else None
    if added is None or len(added.shape) not in (2, len(shapes[0]), 3 if shapes[0][1] == 1 else 4):
        return None
    batch = added.shape[:1] if len(added.shape) > 2 else (1,)
    heads = added.shape[1:-2] or (1,)
    whole = (*batch, *heads, *added.shape[-2:])
    fits = zip(whole, (*shapes[0][:3], shapes[1][2]), strict=True) if len(whole) == 4 else ()
    if not fits or any(size not in (1, full) for size, full in fits):
        return None
    added = added.flattened().reshaped(whole)
    return added if 0.0 < _free_of_rows(added) < _HIDING else None


def _free_of_rows(added: Moments) -> float:
    """Variance over the keys of what is added to the logits: what a row shares drops out."""
    pooled = added.pooled(3)
    return float(np.maximum(pooled.variance - pooled.position_covariance, 0.0).mean())


def _of_logits(gv: np.ndarray, sent: np.ndarray, shape: tuple[int, ...]) -> Gradient:
    """The gradient at the logits, of which row i gets gv times `sent[i]`, evenly over its keys, and 0 in sum."""
    axes = (Axis(shape[0]), Axis.full(shape[1]), Axis(shape[2]), Axis(shape[3]))
    energy = gv.reshape(1, -1, 1, 1) * float(sent.mean()) / max(shape[3], 1)
    shared = -energy / max(shape[2] * shape[3] - 1, 1)
    return Gradient.flat(axes, energy, shared, (None, None, normalised(sent), None))


def _line(x: Moments) -> np.ndarray:
    """Second moment of each token relative to all, of an unpacked query, key or value."""
    axis, line = x.axes[2], x.profile[2]
    if not axis.is_pooled:
        line = normalised(np.repeat(set_average(x.second, x, (0, 1, 3)).reshape(-1), axis.lengths.astype(int)))
    return np.ones(axis.size) if line is None else line


def _amplitude(energy: np.ndarray) -> float:
    """Mean square root."""
    return float(np.sqrt(energy).mean())


def _alike(inputs: Inputs, sides: Sequence[_Side]) -> float | None:
    """tr(C^2) / tr(C)^2 of the covariance of the tokens that keys and values project, as one of these knows it: of what
    differs from token to token, which all that is fixed at its place does."""
    for x, side in ((inputs[2], sides[2]), (inputs[1], sides[1])):
        if x is None or (found := x.channel_correlation).same <= 0:
            continue
        free = float(side.free.mean()) / max(float(side.variance.mean()), 1e-300)
        fixed = min(found.fixed / free, 1.0) if free > 0 else found.fixed
        return found.same + fixed**2 * found.few + found.placed
    return None


def _steady(inputs: Inputs) -> float:
    """`Moments.steady` of keys and values together: what places do to one of them the other does not follow."""
    return math.prod(x.steady for x in inputs[1:3] if x is not None)


def _is_over_channels(x: Field) -> bool:
    """Whether each token has a cell of its own and the entries of its width have one together, as in attention over
    channels: what entries share then lies along the width, and two tokens have nothing in common."""
    tokens, width = x.axes[2], x.axes[3]
    return 1 < tokens.size == tokens.count and 2 not in x.alike and (width.size > width.count or 3 in x.alike)


def _samples_apart(g: Gradient) -> _Samples:
    """Gradients of samples that get different energies: most of a window at a border is padding, which gets none."""
    batch = g.axes[0]
    line = g.energy.mean(axis=tuple(range(1, len(g.axes))))
    if batch.is_pooled or float(line.var()) <= _UNEVEN * float(line.mean()) ** 2:
        return _Samples((g.pooled(0),), (0,))
    kinds: dict[bytes, int] = {}
    of_cell: list[int] = []
    first: list[int] = []
    for cell, energy in enumerate(g.energy):
        kind = kinds.setdefault(energy.tobytes() + g.position_covariance[cell].tobytes(), len(kinds))
        first += [cell] if kind == len(first) else []
        of_cell.append(kind)
    if len(first) > _MOST_KINDS:
        return _Samples((g.pooled(0),), (0,))
    parts = (g.behind(Effect.RECUT, [a[[cell]] for a in g.arrays()], put(g.axes, 0, Axis(1))) for cell in first)
    return _Samples(tuple(parts), tuple(of_cell), batch)


def _head_axes(shape: Sequence[int]) -> Axes:
    """Cells for every head and every entry of its width."""
    return (Axis(shape[0]), Axis.full(shape[1]), Axis(shape[2]), Axis.full(shape[3]))
