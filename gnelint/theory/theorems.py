"""How phi and its variance compose: the multiplication, addition and concatenation theorems and the shallow-network
bound.

phi(J J^T) = E tr(J J^T) / m for a Jacobian J of m outputs; its variance is tr((J J^T)^2)/m - phi^2. Source: arXiv
2001.00254, section "theorems", with the corrections of the theory of components, sections 2.1 to 2.5 (measured there).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spectrum:
    """First two moments of the squared singular values of a Jacobian.

    Attributes:
        phi: E tr(J J^T) / m.
        variance: phi_2 - phi^2; None where no formula gives it.
        outputs: m, the length of the output.
    """

    phi: float
    variance: float | None
    outputs: int

    @property
    def relative_variance(self) -> float | None:
        """variance / phi^2; None if it is not known, 0 for a map that is zero."""
        if self.variance is None:
            return None
        return self.variance / self.phi**2 if self.phi > 0 else 0.0


def identity(outputs: int) -> Spectrum:
    """The identity on a tensor of this many entries."""
    return Spectrum(1.0, 0.0, outputs)


def serial(first: Spectrum, then: Spectrum) -> Spectrum:
    """Multiplication theorem: `then` behind `first`.

        phi = phi_1 phi_2,   variance / phi^2 = (m / m_1) c_1 + c_2,   c = variance / phi^2 of each

    Assumes independent, asymptotically free neighbours (a Gaussian or Haar weight between diagonal factors is enough).
    """
    phi = first.phi * then.phi
    c1, c2 = first.relative_variance, then.relative_variance
    if c1 is None or c2 is None or first.outputs == 0:
        return Spectrum(phi, None, then.outputs)
    return Spectrum(phi, phi**2 * (then.outputs / first.outputs * c1 + c2), then.outputs)


def parallel(branches: Sequence[Spectrum], inputs: int) -> Spectrum:
    """Addition theorem: the sum of branches that read one tensor of `inputs` entries.

        phi = sum phi_i,   variance = sum variance_i + (m / n) (phi^2 - sum phi_i^2)

    Assumes independent branches of which at most one has a non-zero mean Jacobian (the shortcut).
    """
    phi = math.fsum(branch.phi for branch in branches)
    outputs = branches[0].outputs
    variances = [branch.variance for branch in branches]
    if any(variance is None for variance in variances) or inputs == 0:
        return Spectrum(phi, None, outputs)
    crossed = phi**2 - math.fsum(branch.phi**2 for branch in branches)
    own = math.fsum(variance for variance in variances if variance is not None)
    return Spectrum(phi, max(own + outputs / inputs * crossed, 0.0), outputs)


def concatenated(branches: Sequence[Spectrum]) -> Spectrum:
    """Branches that read one tensor, laid side by side: phi is the average weighted by length, exactly.

    The variance is given for one identity among otherwise independent branches (dense connection) of d entries in all,
    c_0 old entries: (c_0 + 2 d phi_H + d (variance_H + phi_H^2)) / (c_0 + d) - phi^2; None in other cases.
    """
    outputs = sum(branch.outputs for branch in branches)
    if outputs == 0:
        return Spectrum(0.0, None, 0)
    phi = math.fsum(branch.outputs * branch.phi for branch in branches) / outputs
    old = [branch for branch in branches if branch.phi == 1.0 and branch.variance == 0.0]
    new = [branch for branch in branches if branch not in old]
    if len(old) == 1 and len(new) == 1 and new[0].variance is not None:
        c0, d, h = old[0].outputs, new[0].outputs, new[0]
        assert h.variance is not None
        second = (c0 + 2 * d * h.phi + d * (h.variance + h.phi**2)) / outputs
        return Spectrum(phi, max(second - phi**2, 0.0), outputs)
    return Spectrum(phi, None, outputs)


def shallow_network_tail(blocks: int, deviation: float, order: int) -> float:
    """Shallow-network bound: how far L blocks with |phi_i - 1| <= deviation can be from an expansion in `order`
    factors.

        sum_{k >= order} C(L, k) deviation^k

    Conservative: it ignores signs (theory of components, 2.5).
    """
    return math.fsum(math.comb(blocks, k) * deviation**k for k in range(order, blocks + 1))
