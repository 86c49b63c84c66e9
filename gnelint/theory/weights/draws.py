"""Could this matrix be a draw? Tests of one tensor against independent entries of one distribution, and against
orthogonal matrices, each a tail probability in bits.

A tail probability p becomes a likelihood ratio by the calibrator of Vovk and Wang (E-values, Annals of Statistics,
2021), (1 - p + p ln p) / (p ln^2 p): its average over draws is 1, so ratios of several tests of one tensor may be
averaged and those of different tensors multiplied. Source: theory 11.1 and theory 11.2.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import ml_dtypes
import numpy as np

from gnelint.ir.mapped import taken
from gnelint.records import dataclass
from gnelint.theory.sorting import distinct, median, scattered
from gnelint.theory.weights.contraction import as_float

MOST_ROWS, MOST_COLUMNS = 192, 384
"""Of the part of a matrix that is looked at."""
MOST_ENTRIES = 1 << 15
"""Of a tensor whose statistics are not known."""
MOST_LONG = 1 << 14
"""Entries of the longest row of which orthogonality is asked."""
FEWEST = 48
"""Entries below which a matrix tells nothing."""
STRONGEST = 40.0
"""Bits that one tensor can add."""

_VECTORS = 32
"""Rows that orthogonality is judged by."""
_TRACY_WIDOM = (46.446, 0.186054, 9.84801)
"""Shape, scale and shift of the gamma distribution near the Tracy-Widom law of order 1 (Chiani, 2014)."""


@dataclass(frozen=True)
class Oddity:
    """What no draw would show.

    Attributes:
        text: for people, `{}` for the tensor's name.
        bits: log2 of the likelihood ratio, trained against drawn; below 0 where it looks drawn.
    """

    text: str
    bits: float


def ratio_bits(surprise: float) -> float:
    """log2 of the likelihood ratio that a tail probability of 2^-surprise stands for."""
    if surprise > 30.0:
        return min(surprise - 2.0 * math.log2(surprise * math.log(2.0)), STRONGEST)
    p = 2.0 ** -max(surprise, 1e-3)
    log = math.log(p)
    return math.log2((1.0 - p + p * log) / (p * log * log))


def normal_surprise(z: float) -> float:
    """-log2 of the probability that a standard normal variable is above z."""
    if z < 25.0:
        return -math.log2(0.5 * math.erfc(z / math.sqrt(2.0)))
    return (z * z / 2.0 + math.log(z * math.sqrt(2.0 * math.pi))) / math.log(2.0)


def chi_square_surprise(value: float, freedom: float) -> float:
    """-log2 of the probability that chi-square of this many degrees of freedom is above a value (Wilson, Hilferty)."""
    variance = 2.0 / (9.0 * freedom)
    return normal_surprise(((value / freedom) ** (1.0 / 3.0) - (1.0 - variance)) / math.sqrt(variance))


def rounding(entries: np.ndarray) -> float:
    """Relative spacing of the type that the numbers were stored in once: a copy in 32 bits keeps its coarse steps."""
    sample = np.asarray(entries).reshape(-1)[:4096].astype(np.float32)
    first = sample[:32]  # tell most tensors
    with np.errstate(all="ignore"):
        for kind, step in ((ml_dtypes.bfloat16, 2.0**-8), (np.float16, 2.0**-11)):
            if all(np.array_equal(each.astype(kind).astype(np.float32), each) for each in (first, sample)):
                return step
    return 2.0**-23


def sketch(array: np.ndarray) -> np.ndarray:
    """An evenly spaced part of a tensor of two or more axes as (rows, columns, taps), in float64."""
    taps = math.prod(array.shape[2:])
    rows = max(1, -(-array.shape[0] // MOST_ROWS))
    columns = max(1, -(-array.shape[1] * taps // MOST_COLUMNS))
    part = np.asarray(taken(array[::rows, :: min(columns, array.shape[1])]), np.float64)
    found = part.reshape(part.shape[0], part.shape[1], -1) if taps else np.zeros((0, 0, 0))
    found = found[:, :, :MOST_COLUMNS]
    return found[np.any(found != 0, axis=(1, 2))][:, np.any(found != 0, axis=(0, 2))]


def is_built(part: np.ndarray) -> bool:
    """Whether many numbers come again and again, as in tables of sines, adjacencies and masks, but in no draw."""
    if rounding(part) > 2.0**-20:
        return False
    sizes = part.reshape(-1)
    if sizes.size > 4 * _SEEN:
        seen = distinct(scattered(_SEEN, sizes.size))
        if len(seen) - len(distinct(np.abs(sizes[seen]))) < _AGAIN:
            return False
    sizes = np.abs(sizes)
    single = sizes.astype(np.float32)
    if sizes.dtype != np.float32 and np.array_equal(single, sizes):
        sizes = single  # of half the width in half the time
    sizes.sort()
    return bool(1 + np.count_nonzero(sizes[1:] != sizes[:-1]) < 0.8 * sizes.size)


_SEEN, _AGAIN = 4096, 4
"""Entries in which numbers must come again, and how often, before all are looked at. Where less than 0.8 N of N numbers
differ, 0.2 N pairs and more of the N^2 / 2 are alike: 23 and more are expected among these, up to 147,000 entries."""


@dataclass(frozen=True)
class Entries:
    """Of all entries of a tensor, or of `count` of them: kurtosis and largest absolute value."""

    count: int
    kurtosis: float
    extreme: float

    @classmethod
    def of(cls, array: np.ndarray) -> Entries:
        """Of an evenly spaced part of a tensor."""
        sample = np.asarray(array.reshape(-1)[:: max(1, -(-array.size // MOST_ENTRIES))], np.float64)
        squares = (sample - sample.mean()) ** 2
        variance = float(squares.mean())
        kurtosis = float((squares * squares).mean()) / variance**2 if variance > 0 else math.nan
        return cls(sample.size, kurtosis, float(np.abs(sample).max()))


def oddities(array: np.ndarray, fan_in: int, entries: Entries, *, rounded: bool = False) -> list[Oddity]:
    """All tests that the tensor allows; none where it is too small, constant or built by a formula.

    Args:
        array: of two or more axes, rows first.
        fan_in: entries that are summed for one output.
        entries: what is known of all its entries.
        rounded: whether the numbers are whole multiples of a step, as in few bits: they repeat, many are 0, and none
            tells an edge to the last digit.
    """
    part = sketch(array)
    if part.size < FEWEST or not np.all(np.isfinite(part)) or part.min() == part.max():
        return []
    if rounded:
        return _of_all(part, entries)
    zeros = float(np.mean(part == 0))
    if zeros > 0.02:
        return list(_pruned(part))
    if is_built(part):
        return []
    angles = _angles(array)
    if angles is not None:
        return [angles]
    return [*_edge(part, entries.kurtosis), *_bound(part, fan_in, entries), *_of_all(part, entries)]


def _of_all(part: np.ndarray, entries: Entries) -> list[Oddity]:
    """The tests of sums over many entries."""
    kurtosis = entries.kurtosis
    return [
        *_tails(entries.count, kurtosis),
        *_marginals(part, min(kurtosis, 6.0) if math.isfinite(kurtosis) else 3.0),
        *_spikes(part, kurtosis),
    ]


def together(found: list[Oddity]) -> Oddity | None:
    """The tests of one tensor as one: the average likelihood ratio, in the words of the largest; None without tests."""
    if not found:
        return None
    best = max(found, key=lambda each: each.bits)
    return Oddity(best.text, math.log2(math.fsum(2.0**each.bits for each in found) / len(found)))


def alignment(first: np.ndarray, second: np.ndarray) -> list[Oddity]:
    """Whether two layers in a row learned together: units that feed the same outputs come to read the same inputs.

    The inner products of the second's columns are compared with those of the first's rows, pair of units by pair (the
    correlation of Mantel's test), and so are their lengths. For independent draws neither is correlated.

    Args:
        first: (units, inputs) or a convolution's (units, channels, taps).
        second: (outputs, units) or (outputs, units, taps).
    """
    step = max(1, -(-first.shape[0] // MOST_ROWS))
    rows = _beginnings(first[::step])
    columns = _beginnings(np.moveaxis(second[:, ::step], 1, 0))
    if len(rows) < 6 or min(rows.shape[1], columns.shape[1]) < 3 or is_built(rows) or is_built(columns):
        return []
    if not (np.isfinite(rows).all() and np.isfinite(columns).all()):
        return []
    products = [_products(rows), _products(columns)]
    upper = _upper(len(rows))
    inner = [product.reshape(-1)[upper] for product in products]
    for pairs, product, vectors in zip(inner, products, (rows, columns), strict=True):
        if float((pairs**2).mean()) * vectors.shape[1] < 0.2 * float(np.diag(product).mean()) ** 2:
            return []  # orthogonal: what is left of the inner products is rounding and the mean that was taken off
    text = "{} and the layer behind it are aligned, as layers become that learn together"
    sizes = [np.log(np.maximum(np.diag(product), 1e-300)) for product in products]
    return [
        Oddity(text, ratio_bits(normal_surprise(found)))
        for one, other in (inner, sizes)
        if (found := _correlation(one, other)) is not None
    ]


def _products(vectors: np.ndarray) -> np.ndarray:
    """The inner products of vectors, less the mean of all entries; in units in which none leaves float32."""
    unit = float(np.abs(vectors).max()) or 1.0
    centred = (vectors - vectors.mean(dtype=np.float64)) / unit
    if vectors.dtype == np.float32:
        centred = centred.astype(np.float32)  # the sums are of some hundred: exact to about 1e-6
    return np.asarray(centred @ centred.T, np.float64)


@functools.lru_cache(maxsize=4)
def _upper(count: int) -> np.ndarray:
    """The places above the diagonal in a flat square matrix."""
    return np.flatnonzero(np.triu(np.ones((count, count), bool), 1))


def _beginnings(rows: np.ndarray) -> np.ndarray:
    """The first entries of each row, as a matrix of floats; no more is read than they need."""
    each = max(1, math.prod(rows.shape[2:]))
    part = as_float(np.ascontiguousarray(taken(rows[:, : -(-2 * MOST_COLUMNS // each)])))
    return part.reshape(len(rows), math.prod(part.shape[1:]))[:, : 2 * MOST_COLUMNS]


def _correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """The correlation over its standard deviation for independent numbers; None where one does not vary."""
    product = float(np.std(one)) * float(np.std(other))
    if not product > 1e-12 * float(np.abs(one).max() * np.abs(other).max()):
        return None
    found = float(((one - one.mean()) * (other - other.mean())).mean()) / product
    return math.atanh(min(max(found, -0.999999), 0.999999)) * math.sqrt(max(len(one) - 3, 1))


def _pruned(part: np.ndarray) -> Iterator[Oddity]:
    """Small entries set to zero leave a gap around zero; random zeros do not."""
    levels = distinct(np.abs(part))
    if len(levels) < 24:
        return
    steps = np.diff(levels[1:20])
    if levels[1] > 12.0 * median(steps) + 1e-12 * levels[-1] and levels[1] > 1.5 * float(steps.max()):
        yield Oddity("the small entries of {} were pruned away", 12.0)


def _angles(array: np.ndarray) -> Oddity | None:
    """Rows (columns where there are more rows) nearer to right angles than a draw's: an orthogonal start, as it was or
    trained."""
    inner = math.prod(array.shape[1:])
    long, short = max(array.shape[0], inner), min(array.shape[0], inner)
    if long > MOST_LONG or short < 4:
        return None
    if array.shape[0] <= inner:
        vectors = np.asarray(taken(array[:_VECTORS]), np.float64).reshape(-1, inner)
    else:
        vectors = np.asarray(taken(array.reshape(array.shape[0], inner)[:, :_VECTORS]).T, np.float64)
    gram = vectors @ vectors.T
    norms = np.sqrt(np.diag(gram))
    if norms.min() == 0:
        return None
    gram /= np.outer(norms, norms)
    count = len(gram)
    pairs = count * (count - 1) / 2
    off = math.sqrt(float((np.triu(gram, 1) ** 2).sum()) / pairs * long)  # 1 for a draw
    scatter = float(np.std(norms) / np.mean(norms)) * math.sqrt(2.0 * long)  # 1 for Gaussian entries
    step = rounding(vectors)
    if off < 4.0 * step + 1e-4:
        if scatter < 8.0 * step + 1e-3:
            return Oddity("{} is orthogonal to the last digit", -6.0)
        return Oddity("the orthogonal rows of {} differ in length", 8.0)
    if off > 1.0 - 5.0 / math.sqrt(2.0 * pairs):
        return None
    return Oddity("{} is near an orthogonal matrix, from which it was moved", 24.0)


def _tails(size: int, kurtosis: float) -> Iterator[Oddity]:
    """Heavier tails than a Gaussian's."""
    if not math.isfinite(kurtosis) or size < 128:
        return
    error = math.sqrt(24.0 / size) * (1.0 + 12.0 / math.sqrt(size))
    yield Oddity(
        "the entries of {} have heavier tails than a draw", ratio_bits(normal_surprise((kurtosis - 3.0) / error))
    )


def _edge(part: np.ndarray, kurtosis: float) -> Iterator[Oddity]:
    """Uniform and truncated draws end at an edge: behind the largest entry the next ones follow at even distances."""
    count = part.size
    if not math.isfinite(kurtosis) or kurtosis > 2.75 - 4.0 * math.sqrt(24.0 / count) or count < 256:
        return
    top = max(6, min(count // 300, 60))
    largest = np.sort(np.partition(np.abs(part), count - 4 * top - 1, axis=None)[count - 4 * top - 1 :])[::-1]
    outer, inner = float(largest[0] - largest[top]), float(largest[top] - largest[4 * top])
    if inner < 8.0 * rounding(part) * float(largest[0]) or len(distinct(largest)) < 2 * top:
        return
    wide = (3.0 * outer / inner) / (1.0 if kurtosis < 2.1 else 1.15)
    first, second = 1.0 / (9.0 * top), 1.0 / (27.0 * top)  # of F with 2 top and 6 top degrees (Wilson, Hilferty)
    root = wide ** (1.0 / 3.0)
    z = ((1.0 - second) * root - (1.0 - first)) / math.sqrt(second * root**2 + first)
    text = "entries of {} lie beyond the edge of the uniform or truncated start that the rest fits"
    yield Oddity(text, ratio_bits(normal_surprise(z)))


_BLURRED = 3.0
"""Bits that the edge of less than one in a thousand uniform draws shows."""


def uniform_edge(array: np.ndarray) -> float | None:
    """The bound +-b of the uniform draw that the entries look like, whatever it is; None where they look like none.

    The kurtosis of n uniform entries is 9/5 with a deviation of sqrt(1.32 / n), their median size b / 2 with one of
    b / (2 sqrt(n)), and b lies more than 6/n beyond the largest of them once in e^6 draws.
    """
    part = sketch(array)
    count = part.size
    if count < FEWEST or not np.all(np.isfinite(part)) or is_built(part):
        return None
    known = Entries.of(part)
    edge = known.extreme * (1.0 + 6.0 / count)
    if abs(known.kurtosis - 1.8) > 4.0 * math.sqrt(1.32 / known.count):
        return None
    if abs(median(np.abs(part)) / edge - 0.5) > 2.0 / math.sqrt(count):
        return None
    return None if any(odd.bits > _BLURRED for odd in _edge(part, known.kurtosis)) else edge


def _bound(part: np.ndarray, fan_in: int, entries: Entries) -> Iterator[Oddity]:
    """Beyond +-1/sqrt(fan_in), where the rest is uniform in that."""
    bound, count, extreme = fan_in**-0.5, part.size, entries.extreme
    if entries.kurtosis > 2.1 + 3.0 / math.sqrt(count):
        return
    shown = median(np.abs(part)) / bound  # 0.5, with a deviation of 0.5 / sqrt(count)
    if abs(shown - 0.5) > 0.01 + 1.5 / math.sqrt(count):
        return
    if float(np.mean(np.abs(part) > 0.98 * extreme)) > 0.01:
        return  # an edge further out: another bound
    beyond = float(np.mean(np.abs(part) > bound * (1.0 + rounding(part))))
    if beyond > 0.15:
        return  # the whole draw is wider
    if extreme > bound * (1.0 + 2.0 * rounding(part)):
        share = f"{beyond:.1%} of the entries" if beyond >= 0.001 else "some entries"
        yield Oddity(share + " of {} lie beyond the bound of their uniform start", 9.0 if count >= 400 else 5.0)


def _marginals(part: np.ndarray, kurtosis: float) -> Iterator[Oddity]:
    """Means and sizes of rows, of columns and of taps that scatter more than those of independent entries."""
    centred = part - part.mean()
    squares = centred**2
    variance = float(squares.mean())
    if variance == 0.0 or kurtosis <= 1.0:
        return  # one value, or two of one size: nothing scatters
    for axis, name in enumerate(("rows", "columns", "taps")):
        count, each = part.shape[axis], part.size // max(part.shape[axis], 1)
        if count < 3 or each < 3:
            continue
        others = tuple(other for other in range(3) if other != axis)
        means = centred.mean(axis=others)
        surprise = chi_square_surprise(float((means**2).sum()) * each / variance, count - 1.0)
        yield Oddity(f"the means of the {name} of {{}} differ more than a draw's", ratio_bits(surprise))
        sizes = squares.mean(axis=others)
        scatter = float(((sizes - variance) ** 2).sum()) * each / ((kurtosis - 1.0) * variance**2)
        freedom = count - 1.0
        effective = freedom / (1.0 + 6.0 / each)
        surprise = chi_square_surprise(scatter / freedom * effective, effective)
        yield Oddity(f"the lengths of the {name} of {{}} scatter more than a draw's", ratio_bits(surprise))


def _spikes(part: np.ndarray, kurtosis: float) -> Iterator[Oddity]:
    """Singular values beyond the edge that those of independent entries have (Marchenko, Pastur; Johnstone 2001)."""
    matrix = part.reshape(part.shape[0], -1)[:, :MOST_COLUMNS]
    rows, columns = matrix.shape
    if min(rows, columns) < 6 or kurtosis > 4.5:
        return
    matrix = matrix - matrix.mean()
    gram = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
    values = np.linalg.eigvalsh(gram) / float((matrix**2).mean())
    roots = math.sqrt(rows - 0.5), math.sqrt(columns - 0.5)
    edge = sum(roots) ** 2
    unit = sum(roots) * (1.0 / roots[0] + 1.0 / roots[1]) ** (1.0 / 3.0)
    shape, scale, shift = _TRACY_WIDOM
    beyond = int(np.sum(values > edge + 2.0 * unit))
    place = max(((float(values[-1]) - edge) / unit + shift) / scale, 1.0)
    what = f"{beyond} singular values of {{}} lie" if beyond > 1 else "a singular value of {} lies"
    yield Oddity(f"{what} beyond what a draw can have", ratio_bits(chi_square_surprise(2.0 * place, 2.0 * shape)))
