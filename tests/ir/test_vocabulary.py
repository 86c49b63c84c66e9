"""Every canonical operation has a component, and every component a test that holds it against something."""

from __future__ import annotations

import pytest

from gnelint.components import component_class
from gnelint.ops import VOCABULARY
from tests.components import (
    test_activation,
    test_attention,
    test_combine,
    test_convolution,
    test_linear,
    test_normalization,
    test_pooling,
    test_recurrent,
    test_selection,
    test_shape,
)

MODULES = (
    test_activation,
    test_attention,
    test_combine,
    test_convolution,
    test_linear,
    test_normalization,
    test_pooling,
    test_recurrent,
    test_selection,
    test_shape,
)
TESTED = {case.op for module in MODULES for case in module.CASES} | {
    op for module in MODULES for op in getattr(module, "OWN", ())
}


@pytest.mark.parametrize("op", VOCABULARY)
def test_has_a_component(op: str) -> None:
    assert component_class(op) is not None


@pytest.mark.parametrize("op", VOCABULARY)
def test_has_a_case(op: str) -> None:
    assert op in TESTED


def test_components_are_of_the_vocabulary() -> None:
    assert component_class("no such operation") is None
    assert set(VOCABULARY) >= TESTED


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_wider_tolerance_says_where_it_comes_from(module: object) -> None:
    for case in module.CASES:  # type: ignore[attr-defined]
        loose = (
            getattr(case, "tolerance", 0.0) > 1e-6
            or getattr(case, "draws", 0) > 0
            or getattr(case, "together", 0.0) is None
        )
        assert case.because or not loose, case.id
