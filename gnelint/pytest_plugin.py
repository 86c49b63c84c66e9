"""The pytest plugin: the fixture `assert_gradient_norm`, with which one line of a test gates a model.

pytest loads it wherever gnelint is installed, so nothing heavy is imported before a test asks for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from gnelint.errors import GnelintError

if TYPE_CHECKING:
    import torch

    from gnelint.app.checking import Analysis
    from gnelint.lint.severity import FailOn


class GradientNormAssertion(Protocol):
    """What the fixture gives, for the annotations of tests."""

    def __call__(
        self,
        model: str | Path | torch.nn.Module,
        example_inputs: Any = (),
        *,
        fail_on: FailOn = "error",
        **options: Any,
    ) -> Analysis:
        """Check a model as `gnelint.check` does with the same options, and fail the test if there are findings.

        Args:
            model: a `torch.nn.Module`, a model file, or the text of any other target.
            example_inputs: for a module: what its `forward` takes, a tuple if it is more than one.
            fail_on: the least severity that fails the test.
            options: of `gnelint.check`.

        Returns:
            The analysis, for further assertions.

        Raises:
            GradientNormError: there are such findings; the message lists them with what to do.
            ModelError, RuleError, UsageError: as `gnelint.check`.
        """


@pytest.fixture(scope="session")
def assert_gradient_norm() -> GradientNormAssertion:
    """Fail the test if a model does not keep its gradient's norm: assert_gradient_norm(model, example_inputs=(x,))."""
    return _assert_gradient_norm


def _assert_gradient_norm(
    model: str | Path | torch.nn.Module,
    example_inputs: Any = (),
    *,
    fail_on: FailOn = "error",
    **options: Any,
) -> Analysis:
    __tracebackhide__ = True  # the user's line is what failed
    from gnelint.api import check

    try:
        found = check(model, example_inputs, **options)
    except GnelintError as error:
        raise error.with_traceback(None) from None  # the message says it all; how gnelint came to it does not help
    found.raise_for_findings(fail_on)
    return found
