"""gnelint checks what every block of a neural network does to the gradient, before the network is trained."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gnelint.version import __version__

if TYPE_CHECKING:
    from gnelint.api import FixPlan, VerifyResult, check, fix, monitor, plan_fixes, verify
    from gnelint.app.checking import Analysis
    from gnelint.errors import GradientNormError
    from gnelint.output.schema import report_schema
    from gnelint.settings.schema import config_schema
    from gnelint.writers.onnx.graphsurgeon import to_graphsurgeon

__all__ = [
    "Analysis",
    "FixPlan",
    "GradientNormError",
    "VerifyResult",
    "__version__",
    "check",
    "config_schema",
    "fix",
    "monitor",
    "plan_fixes",
    "report_schema",
    "to_graphsurgeon",
    "verify",
]

_HOMES = {
    "Analysis": "gnelint.app.checking",
    "FixPlan": "gnelint.api",
    "GradientNormError": "gnelint.errors",
    "VerifyResult": "gnelint.api",
    "check": "gnelint.api",
    "config_schema": "gnelint.settings.schema",
    "fix": "gnelint.api",
    "monitor": "gnelint.api",
    "plan_fixes": "gnelint.api",
    "report_schema": "gnelint.output.schema",
    "to_graphsurgeon": "gnelint.writers.onnx.graphsurgeon",
    "verify": "gnelint.api",
}


def __getattr__(name: str) -> Any:
    """Load the interface when it is asked for: `gnelint --help` and the readers need none of it."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What there is, also what is not loaded yet."""
    return sorted({*globals(), *__all__})
