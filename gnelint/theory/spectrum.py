"""How phi and its variance compose: the multiplication, addition and concatenation theorems and the shallow-network
bound.

phi(J J^T) = E tr(J J^T) / m for a Jacobian J of m outputs; its variance is tr((J J^T)^2)/m - phi^2. Source: arXiv
2001.00254, with the corrections of theory 2.1 to 2.6 (measured there).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gnelint.records import dataclass

_SMALLEST, _LARGEST = 1e-140, 1e140
"""A phi beyond these has a square that floating point no longer holds: variances relative to it are not known."""


def _held(phi: float) -> bool:
    """Whether floating point holds the square of a phi."""
    return phi == 0 or _SMALLEST <= phi <= _LARGEST


@dataclass(frozen=True)
class Structure:
    """What neighbours must know of a map beyond its spectrum, where they are not free of each other.

    Attributes:
        everywhere: whether it is the same map at every position (a kernel, a scale for each channel).
        coherence: ((E d)^2 / E d^2)^2 of a diagonal map d: what it leaves of that sameness. 1 for any other.
        averages: whether it averages over positions: sameness then survives, the rest averages out.
        rows: energy of each output channel relative to their mean, None where it is not followed. A normalisation
            undoes what the kernel before it did to them.
        counted: relative variance of what was before that it undoes (a pooling passes the masks of winners only).
    """

    everywhere: bool = False
    coherence: float = 1.0
    averages: bool = False
    rows: np.ndarray | None = None
    counted: float = 0.0


PLAIN = Structure()


@dataclass(frozen=True)
class Spectrum:
    """First two moments of the squared singular values of a Jacobian.

    Attributes:
        phi: E tr(J J^T) / m.
        variance: phi_2 - phi^2; None where no formula gives it.
        outputs: m, the length of the output.
        structure: of this map by itself, as `then` of `serial`.
        coherent: the part of the relative variance that is the same at every position.
        direct: share of its energy that has met no map that mixes entries yet (all of the identity's).
        diagonal: how J^T J leans on the diagonal map D^2 that branches from one value begin with (the same mask): its
            energy share there times the relative standard deviation of D^2.
        weighted: as `then` of `serial`: whether it mixes entries.
    """

    phi: float
    variance: float | None
    outputs: int
    structure: Structure = PLAIN
    coherent: float = 0.0
    direct: float = 1.0
    diagonal: float = 0.0
    weighted: bool = False

    @property
    def relative_variance(self) -> float | None:
        """variance / phi^2; None if it is not known or cannot be held, 0 for a map that is zero."""
        if self.variance is None or not _held(self.phi):
            return None
        return self.variance / self.phi**2 if self.phi > 0 else 0.0


def identity(outputs: int) -> Spectrum:
    """The identity on a tensor of this many entries."""
    return Spectrum(1.0, 0.0, outputs)


def serial(first: Spectrum, then: Spectrum) -> Spectrum:
    """Multiplication theorem: `then` behind `first`.

        phi = phi_1 phi_2,   variance / phi^2 = (m / m_1) c_1 + c_2,   c = variance / phi^2 of each

    Assumes independent, asymptotically free neighbours (a Gaussian or Haar weight between diagonal factors is enough).
    Three are not, and are corrected for (`Structure`): an average over positions does not dilute what is the same at
    all of them; a normalisation undoes the row norms of the kernel before it, in phi too (small rows are scaled up, not
    the average one); a maximum passes the masks of winners.
    """
    rows, undone, together = _joined_rows(first.structure.rows, then.structure.rows)
    phi = first.phi * then.phi * together
    c1, c2 = first.relative_variance, then.relative_variance
    if c1 is None or c2 is None or first.outputs == 0 or phi > _LARGEST:
        return Spectrum(phi, None, then.outputs)
    ratio = then.outputs / first.outputs
    own = then.structure
    kept = 1.0 if own.averages else ratio * own.coherence
    coherent = min(first.coherent, c1) * kept
    relative = ratio * c1 + c2
    if own.averages:
        relative += (1.0 - ratio) * min(first.coherent, c1)
    counted = ratio * min(own.counted, c1)
    relative = max(relative - undone - counted, 0.0)
    coherent += c2 - undone if own.everywhere else 0.0
    return Spectrum(
        phi,
        phi**2 * relative,
        then.outputs,
        Structure(rows=rows),
        max(coherent, 0.0),
        0.0 if then.weighted else first.direct,
        first.diagonal if then.weighted else math.sqrt(first.diagonal**2 + first.direct**2 * c2),
    )


def _joined_rows(first: np.ndarray | None, then: np.ndarray | None) -> tuple[np.ndarray | None, float, float]:
    """Row energies behind both, by how much their variance is less than the sum of the two variances, and E r_1 r_2:
    phi over the product of the two."""
    if first is None or then is None or first.shape != then.shape:
        return then, 0.0, 1.0
    rows = first * then
    mean = float(rows.mean())
    if mean <= 0:
        return None, 0.0, 1.0
    rows = rows / mean
    return rows, float(np.var(first) + np.var(then) - np.var(rows)), mean


def parallel(branches: Sequence[Spectrum], inputs: int) -> Spectrum:
    """Addition theorem: the sum of branches that read one tensor of `inputs` entries.

        phi = sum phi_i,   variance = sum variance_i + (m / n) (phi^2 - sum phi_i^2)

    Assumes independent branches of which at most one has a non-zero mean Jacobian (the shortcut).
    """
    phi = math.fsum(branch.phi for branch in branches)
    outputs = branches[0].outputs
    variances = [branch.variance for branch in branches]
    if any(variance is None for variance in variances) or inputs == 0 or phi * outputs > _LARGEST:
        return Spectrum(phi, None, outputs)
    crossed = phi**2 - math.fsum(branch.phi**2 for branch in branches)
    own = math.fsum(variance for variance in variances if variance is not None)
    variance = max(own + outputs / inputs * crossed, 0.0)
    coherent = math.fsum(branch.coherent * branch.phi**2 for branch in branches)
    return Spectrum(
        phi,
        variance,
        outputs,
        coherent=coherent / phi**2 if phi >= _SMALLEST else 0.0,
        direct=_average([branch.direct for branch in branches], [branch.phi for branch in branches]),
        diagonal=_average([branch.diagonal for branch in branches], [branch.phi for branch in branches]),
    )


def _average(values: Sequence[float], weights: Sequence[float]) -> float:
    total = math.fsum(weights)
    return math.fsum(v * w for v, w in zip(values, weights, strict=True)) / total if total > 0 else 0.0


def concatenated(branches: Sequence[Spectrum], inputs: int) -> Spectrum:
    """Branches that read one tensor of n entries, laid side by side: phi is the average weighted by length, exactly.

        phi_2 = [ sum_i m_i phi_2i + (1/n) sum_{i != j} (m_i phi_i)(m_j phi_j)(1 + d_ij) ] / m

    ||J_i J_j^T||^2 = tr(J_i^T J_i J_j^T J_j) of branches whose J^T J are free; d_ij = d_i d_j is how
    both lean on a diagonal map that they begin with (the same normalisation and mask before the first weight). For one
    identity beside a branch it is the dense connection's rule.
    """
    outputs = sum(branch.outputs for branch in branches)
    if outputs == 0:
        return Spectrum(0.0, None, 0)
    totals = [branch.outputs * branch.phi for branch in branches]
    phi = math.fsum(totals) / outputs
    variances = [branch.variance for branch in branches]
    if any(variance is None for variance in variances) or inputs == 0 or phi * outputs > _LARGEST:
        return Spectrum(phi, None, outputs)
    own = math.fsum(b.outputs * (v + b.phi**2) for b, v in zip(branches, variances, strict=True) if v is not None)
    crossed = math.fsum(totals) ** 2 - math.fsum(total**2 for total in totals)
    leaning = [total * branch.diagonal for total, branch in zip(totals, branches, strict=True)]
    covariance = math.fsum(leaning) ** 2 - math.fsum(lean**2 for lean in leaning)
    second = (own + (crossed + covariance) / inputs) / outputs
    coherent = math.fsum(b.outputs * b.coherent * b.phi**2 for b in branches) / outputs
    return Spectrum(
        phi,
        max(second - phi**2, 0.0),
        outputs,
        coherent=coherent / phi**2 if phi >= _SMALLEST else 0.0,
        direct=_average([branch.direct for branch in branches], totals),
        diagonal=_average([branch.diagonal for branch in branches], totals),
    )
