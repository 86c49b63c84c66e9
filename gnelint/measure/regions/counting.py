"""How many multiplications a computation takes, and operations: `torch.utils.flop_counter` without what compiles.

Its own counter is wrapped such that its first operation loads `torch._dynamo`, which takes longer than most regions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Counting(TorchDispatchMode):  # type: ignore[misc]  # torch does not type it
    """Counts, while it is entered, the operations of what torch has a formula for: two for each product.

    Attributes:
        operations: of numbers.
        calls: of torch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.calls = 0.0, 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """As torch's documentation of dispatch modes has it: no frame of ours is compiled anyway."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        formula = flop_registry.get(getattr(func, "_overloadpacket", None))
        if formula is None and hasattr(func, "decompose"):
            with self:
                found = func.decompose(*args, **given)
            if found is not NotImplemented:
                return found
        found = func(*args, **given)
        self.calls += 1
        if formula is not None:
            self.operations += formula(*args, **given, out_val=found)
        return found
