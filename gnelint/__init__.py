"""gnelint checks what every block of a neural network does to the gradient, before the network is trained."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gnelint.api import Analysis, VerifyResult, check, verify
    from gnelint.errors import GradientNormError

__all__ = ["Analysis", "GradientNormError", "VerifyResult", "__version__", "check", "verify"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load the interface when it is asked for: `gnelint --help` and the readers need none of it."""
    if name in ("check", "verify", "Analysis", "GradientNormError", "VerifyResult"):
        from gnelint import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
