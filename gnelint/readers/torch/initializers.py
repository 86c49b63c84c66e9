"""Initialisers of tensors that have no numbers: recorded while a module is built on the meta device, run when asked.

A model of any size can be built under `torch.device("meta")`; its constructors still call `normal_`, `uniform_`,
`fill_` and the like. Each such write is kept with the part of the storage it goes to. Replaying the writes of one, from
a fixed seed, gives the numbers that this tensor would have started with (other draws of the same distribution).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

SEED = 0

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

    def draw(self, tensor: torch.Tensor) -> torch.Tensor:
        """The numbers of a tensor that `knows` is true of; the same at every call."""
        key = storage_key(tensor)
        entries = tensor.untyped_storage().nbytes() // tensor.element_size()
        order = list(self._writes).index(key)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED + order)
            flat = torch.zeros(entries, dtype=tensor.dtype)
            for write in self._writes[key]:
                view = flat.as_strided(write.size, write.stride, write.offset)
                write.operation(view, *write.arguments, **write.keywords)
        return flat.as_strided(tuple(tensor.shape), tensor.stride(), tensor.storage_offset())


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
