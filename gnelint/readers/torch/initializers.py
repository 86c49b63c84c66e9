"""Initialisers of tensors that have no numbers: recorded while a module is built on the meta device.

A model of any size can be built under `torch.device("meta")`; its constructors still call `normal_`, `uniform_`,
`fill_` and the like. Each such write is kept with the part of the storage it goes to. Where they say the law of all
entries that law stands for the numbers. Replaying the writes of one, from a fixed seed, gives the numbers that this
tensor would have started with (other draws of the same distribution).
"""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from gnelint.ir.laws import Law
from gnelint.records import dataclass

SEED = 0

NEGLIGIBLE = 1e-3
"""Share of a tensor's entries that may be written by themselves (the row of the padding) without changing its law."""

SKIP_META = ("_no_grad_trunc_normal_", "orthogonal_", "dirac_", "sparse_")
"""Initialisers that return at once from a meta tensor, so that no write of theirs would be seen."""


@dataclass(frozen=True)
class Write:
    """One in-place operation on (a view of) a storage; `arguments` are those behind the tensor itself."""

    operation: Any
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]


class InitializerRecorder(TorchDispatchMode):  # type: ignore[misc]  # torch is not typed here
    """Within this context every write to a meta tensor is recorded.

    A write that takes another meta tensor (`copy_` of something computed) cannot be replayed: what depends on it stays
    without numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self._writes: dict[int, list[Write]] = defaultdict(list)
        self._lost: set[int] = set()
        self._alive: list[torch.Tensor] = []  # a storage that is freed could give its address to another one

    def __enter__(self) -> InitializerRecorder:
        super().__enter__()
        self._originals = {name: getattr(torch.nn.init, name) for name in SKIP_META if hasattr(torch.nn.init, name)}
        for name, original in self._originals.items():
            setattr(torch.nn.init, name, _noting(original))
        return self

    def __exit__(self, *exception: Any) -> None:
        for name, original in self._originals.items():
            setattr(torch.nn.init, name, original)
        super().__exit__(*exception)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        keywords = dict(kwargs or {})
        result = func(*args, **keywords)
        if args and func._schema.is_mutable and isinstance(args[0], torch.Tensor) and args[0].is_meta:
            self.record(func, args[0], args[1:], keywords)
        return result

    def record(self, func: Any, target: torch.Tensor, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Keep one write to a meta tensor."""
        key = storage_key(target)
        self._alive.append(target.detach())
        if any(isinstance(value, torch.Tensor) and value.is_meta for value in (*arguments, *keywords.values())):
            self._lost.add(key)
            return
        keywords.pop("generator", None)
        write = Write(func, tuple(target.shape), target.stride(), target.storage_offset(), arguments, keywords)
        self._writes[key].append(write)

    def knows(self, tensor: torch.Tensor) -> bool:
        """Whether every write to the tensor's storage was recorded, and there was one."""
        key = storage_key(tensor)
        return key in self._writes and key not in self._lost

    def law(self, tensor: torch.Tensor) -> Law | None:
        """The law of the entries of a tensor that `knows` is true of, None where they are not independent draws."""
        found: Law | None = None
        entries = tensor.untyped_storage().nbytes() // tensor.element_size()
        for write in self._writes[storage_key(tensor)]:
            size = math.prod(write.size)
            if size == entries:
                found = _law(write, found)
            elif size > NEGLIGIBLE * entries:
                return None
        return found

    def draw(self, tensor: torch.Tensor) -> torch.Tensor:
        """The numbers of a tensor that `knows` is true of; the same at every call."""
        key = storage_key(tensor)
        entries = tensor.untyped_storage().nbytes() // tensor.element_size()
        order = list(self._writes).index(key)
        with torch.no_grad(), seeded(SEED + order):
            flat = torch.zeros(entries, dtype=tensor.dtype)
            for write in self._writes[key]:
                view = flat.as_strided(write.size, write.stride, write.offset)
                write.operation(view, *write.arguments, **write.keywords)
        return flat.as_strided(tuple(tensor.shape), tensor.stride(), tensor.storage_offset())


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draws of the processor start from a seed, and the state of its generator is put back behind them.

    `torch.manual_seed` would also seed other devices, and note where it was called from, at a millisecond a call.
    """
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _law(write: Write, before: Law | None) -> Law | None:
    """The law behind one write to a whole tensor; None for an initialiser whose entries depend on each other."""
    name = getattr(getattr(write.operation, "overloadpacket", write.operation), "__name__", "")
    numbers = [*write.arguments, *write.keywords.values()]
    if not all(isinstance(number, (int, float)) or number is None for number in numbers):
        return None
    given = {**_DEFAULTS.get(name, {}), **dict(zip(_DEFAULTS.get(name, {}), write.arguments, strict=False))}
    given |= {key: value for key, value in write.keywords.items() if key in given}
    if name == "zero_":
        return Law.constant(0.0)
    if name == "fill_":
        return Law.constant(float(numbers[0]))
    if name == "normal_":
        return Law.gaussian(given["mean"], given["std"])
    if name == "uniform_":
        return Law.uniform(given["from"], given["to"])
    if name == "_no_grad_trunc_normal_":
        return Law.truncated_gaussian(given["mean"], given["std"], given["a"], given["b"])
    if before is not None and len(numbers) == 1:
        if name in ("mul_", "div_"):
            return before.scaled(numbers[0] if name == "mul_" else 1.0 / numbers[0])
        if name in ("add_", "sub_"):
            return before.shifted(numbers[0] if name == "add_" else -numbers[0])
    return None


_DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "normal_": {"mean": 0.0, "std": 1.0},
    "uniform_": {"from": 0.0, "to": 1.0},
    "_no_grad_trunc_normal_": {"mean": 0.0, "std": 1.0, "a": -2.0, "b": 2.0},
}
"""What initialisers that draw take, in this order."""


def _noting(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The initialiser, telling the recorder active at the call: user code may have imported it by name."""

    @wraps(original)
    def initialize(tensor: torch.Tensor, *arguments: Any, **keywords: Any) -> torch.Tensor:
        modes = [mode for mode in _get_current_dispatch_mode_stack() if isinstance(mode, InitializerRecorder)]
        if not tensor.is_meta or not modes:
            return original(tensor, *arguments, **keywords)
        modes[-1].record(original, tensor, arguments, keywords)
        return tensor

    return initialize


def storage_key(tensor: torch.Tensor) -> int:
    """The same for all views of one storage, also where the storage holds no numbers."""
    key: int = tensor.untyped_storage()._cdata
    return key
