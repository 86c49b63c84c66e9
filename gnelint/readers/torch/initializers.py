"""Initialisers of tensors that have no numbers: recorded while a module is built on the meta device.

A model of any size can be built under `torch.device("meta")`; its constructors still call `normal_`, `uniform_`,
`fill_` and the like, or make tensors of others (`torch.randn(n) * 0.02`, the logarithm of a range) and put them where
they belong. Each such write is kept with the part of the storage it goes to. Where they say the law of all entries that
law stands for the numbers. Replaying the writes of one, from a fixed seed, gives the numbers that this
tensor would have started with (other draws of the same distribution).
"""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, wraps
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils._pytree import tree_leaves, tree_map_only

from gnelint.ir.laws import Law
from gnelint.records import dataclass

SEED = 0

NEGLIGIBLE = 1e-3
"""Share of a tensor's entries that may be written by themselves (the row of the padding) without changing its law."""

SKIP_META = ("_no_grad_trunc_normal_", "orthogonal_", "dirac_", "sparse_")
"""Initialisers that return at once from a meta tensor, so that no write of theirs would be seen."""


@dataclass(frozen=True)
class Earlier:
    """A tensor without numbers as it was after so many writes to its storage."""

    tensor: torch.Tensor
    writes: int


@dataclass(frozen=True)
class Write:
    """One operation that writes (a view of) a storage; `arguments` are those behind the tensor itself.

    Attributes:
        makes: whether what it writes is what the operation returns; else it works in place.
    """

    operation: Any
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    makes: bool = False


class InitializerRecorder(TorchDispatchMode):  # type: ignore[misc]  # torch is not typed here
    """Within this context every write to a meta tensor is recorded.

    A write that takes another meta tensor can be replayed where that one can; what is made of several results of one
    operation cannot, and stays without numbers.
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
        elif isinstance(result, torch.Tensor) and result.is_meta and not _is_empty(func) and not _shares(result, args):
            self.record(func, result, args, keywords, makes=True)
        return result

    def record(
        self,
        func: Any,
        target: torch.Tensor,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        *,
        makes: bool = False,
    ) -> None:
        """Keep one write to a meta tensor."""
        key = storage_key(target)
        self._alive.append(target.detach())
        keywords = {name: value for name, value in keywords.items() if name not in _WHERE}
        read = [leaf for leaf in tree_leaves((arguments, keywords)) if isinstance(leaf, torch.Tensor) and leaf.is_meta]
        shapes = _name(func).endswith(_LIKE)
        if not shapes and not all(map(self.knows, read)):
            self._lost.add(key)
            return
        given, named = tree_map_only(torch.Tensor, partial(self._earlier, shape=shapes), (arguments, keywords))
        write = Write(func, tuple(target.shape), target.stride(), target.storage_offset(), given, named, makes)
        self._writes[key].append(write)

    def _earlier(self, tensor: torch.Tensor, shape: bool) -> torch.Tensor | Earlier:
        """What stands for an operand; of one of which only the shape is read, zeros."""
        if not tensor.is_meta:
            return tensor
        return Earlier(tensor.detach(), 0 if shape else self._count(tensor))

    def _count(self, tensor: torch.Tensor) -> int:
        return len(self._writes.get(storage_key(tensor), ()))

    def knows(self, tensor: torch.Tensor) -> bool:
        """Whether every write to the tensor's storage was recorded, and there was one."""
        key = storage_key(tensor)
        return key in self._writes and key not in self._lost

    def law(self, tensor: torch.Tensor) -> Law | None:
        """The law of the entries of a tensor that `knows` is true of, None where they are not independent draws."""
        return self._law_after(tensor, self._count(tensor))

    def _law_after(self, tensor: torch.Tensor, writes: int) -> Law | None:
        found: Law | None = None
        entries = _entries(tensor)
        for write in self._writes[storage_key(tensor)][:writes]:
            size = math.prod(write.size)
            if size == entries:
                found = self._law_of(write, found)
            elif size > NEGLIGIBLE * entries:
                return None
        return found

    def _law_of(self, write: Write, before: Law | None) -> Law | None:
        """The law behind one write to a whole tensor; None where its entries depend on each other."""
        operands, name = write.arguments, _name(write.operation)
        first = operands[0] if operands else None
        if write.makes and name.removesuffix(_LIKE) in _MADE:
            return _MADE[name.removesuffix(_LIKE)]
        if write.makes and name.removesuffix(_LIKE) == "full":
            return Law.constant(float(operands[1]))
        if isinstance(first, Earlier):
            if math.prod(write.size) != _entries(first.tensor):
                return None
            of = self._law_after(first.tensor, first.writes)
            if name in ("copy_", "_to_copy", "clone"):
                return of
            return _moved(name, of, operands[1:], write.keywords) if write.makes else None
        if write.makes or any(isinstance(operand, Earlier) for operand in operands):
            return None
        return _law(write, before)

    def draw(self, tensor: torch.Tensor) -> torch.Tensor:
        """The numbers of a tensor that `knows` is true of; the same at every call."""
        return self._drawn(Earlier(tensor, self._count(tensor)))

    def _drawn(self, earlier: Earlier) -> torch.Tensor:
        tensor, key = earlier.tensor, storage_key(earlier.tensor)
        if earlier.writes == 0:
            return torch.zeros(tensor.shape, dtype=tensor.dtype)
        order = list(self._writes).index(key)
        with torch.no_grad(), seeded(SEED + order):
            flat = torch.zeros(_entries(tensor), dtype=tensor.dtype)
            for write in self._writes[key][: earlier.writes]:
                given, named = tree_map_only(Earlier, self._drawn, (write.arguments, write.keywords))
                view = flat.as_strided(write.size, write.stride, write.offset)
                if write.makes:
                    view.copy_(write.operation(*given, **named))
                else:
                    write.operation(view, *given, **named)
        return flat.as_strided(tuple(tensor.shape), tensor.stride(), tensor.storage_offset())


def _entries(tensor: torch.Tensor) -> int:
    """Of the tensor's storage."""
    count: int = tensor.untyped_storage().nbytes() // tensor.element_size()
    return count


def _is_empty(func: Any) -> bool:
    """Whether an operation hands out memory that is to be filled later."""
    return "empty" in _name(func)


def _shares(result: torch.Tensor, arguments: tuple[Any, ...]) -> bool:
    """Whether a result is a view of an operand."""
    key = storage_key(result)
    return any(storage_key(leaf) == key for leaf in tree_leaves(arguments) if isinstance(leaf, torch.Tensor))


def _name(operation: Any) -> str:
    return getattr(getattr(operation, "overloadpacket", operation), "__name__", "")


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
    name = _name(write.operation)
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
    return _moved(name.removesuffix("_"), before, write.arguments, write.keywords)


def _moved(name: str, law: Law | None, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Law | None:
    """The law of entries behind a sum or product with one number."""
    if law is None or len(arguments) != 1 or keywords or not isinstance(arguments[0], (int, float)):
        return None
    number = float(arguments[0])
    if name in ("mul", "div"):
        return law.scaled(number if name == "mul" else 1.0 / number)
    if name in ("add", "sub"):
        return law.shifted(number if name == "add" else -number)
    return None


_WHERE = ("generator", "device", "pin_memory", "layout")
"""Arguments that say where and how, not what."""
_LIKE = "_like"
"""What the names of operations end with that read nothing but the shape of a tensor."""
_MADE: Mapping[str, Law] = {
    "ones": Law.constant(1.0),
    "zeros": Law.constant(0.0),
    "randn": Law.gaussian(0.0, 1.0),
    "rand": Law.uniform(0.0, 1.0),
}
"""What operations make of nothing."""

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
