"""The normal distribution's functions against scipy and math."""

from __future__ import annotations

import math

import numpy as np
from scipy import special as reference

from gnelint.theory.gaussian.special import erf, erfc, log_normal_cdf, normal_cdf, normal_pdf

LINE = np.concatenate([np.linspace(-30, 30, 4001), [-0.5, 0.5, -4.0, 4.0, 0.0, 1e-300, -1e-9]])


def test_erf_and_erfc() -> None:
    np.testing.assert_allclose(erf(LINE), reference.erf(LINE), rtol=1e-14)
    np.testing.assert_allclose(erfc(LINE), reference.erfc(LINE), rtol=1e-13, atol=1e-300)
    np.testing.assert_allclose(erfc(LINE[:100]), [math.erfc(x) for x in LINE[:100]], rtol=1e-14)


def test_erfc_far_out_is_zero_and_not_nan() -> None:
    assert erfc(np.array([40.0, 1e10])).tolist() == [0.0, 0.0]
    assert erfc(np.array([-40.0, -1e10])).tolist() == [2.0, 2.0]


def test_normal_cdf_and_pdf() -> None:
    # a cubic through a table: 1e-13 absolutely, as documented
    np.testing.assert_allclose(normal_cdf(LINE), reference.ndtr(LINE), rtol=0, atol=1e-13)
    np.testing.assert_allclose(normal_pdf(LINE), np.exp(-(LINE**2) / 2) / math.sqrt(2 * math.pi), rtol=1e-15)
    assert normal_cdf(np.array([-np.inf, np.inf])).tolist() == [normal_cdf(np.array(-9.0)), normal_cdf(np.array(9.0))]


def test_log_normal_cdf_into_the_tail() -> None:
    line = np.concatenate([np.linspace(-29.9, 8, 500), [-30.1, -100.0, -1e4, -1e8]])
    np.testing.assert_allclose(log_normal_cdf(line), reference.log_ndtr(line), rtol=1e-9, atol=1e-15)
