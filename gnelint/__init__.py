"""gnelint checks what every block of a neural network does to the gradient, before the network is trained."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gnelint.api import Analysis, FixPlan, VerifyResult, check, fix, plan_fixes, verify
    from gnelint.errors import GradientNormError
    from gnelint.output.schema import report_schema

__all__ = [
    "Analysis",
    "FixPlan",
    "GradientNormError",
    "VerifyResult",
    "__version__",
    "check",
    "fix",
    "plan_fixes",
    "report_schema",
    "verify",
]

__version__ = "0.1.0"

_HOMES = {
    "Analysis": "gnelint.api",
    "FixPlan": "gnelint.api",
    "GradientNormError": "gnelint.errors",
    "VerifyResult": "gnelint.api",
    "check": "gnelint.api",
    "fix": "gnelint.api",
    "plan_fixes": "gnelint.api",
    "report_schema": "gnelint.output.schema",
    "verify": "gnelint.api",
}


def __getattr__(name: str) -> Any:
    """Load the interface when it is asked for: `gnelint --help` and the readers need none of it."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
