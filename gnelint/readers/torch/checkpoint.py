"""Checkpoints laid over modules, tensor by tensor from the memory map; nothing but tensors is unpickled."""

from __future__ import annotations

import json
import mmap
import re
import struct
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from gnelint.errors import ModelError
from gnelint.readers.target import as_one_file
from gnelint.records import dataclass

_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_LONGEST_HEADER = 100_000_000
_INSIDE = ("state_dict", "model_state_dict", "model", "module", "net")
"""Where training loops keep the state dict among other things."""
_SHOWN = 3
_RESIDENT = 1 << 28
"""Bytes of a file that stay in memory once they were read."""


class empty_on_meta(TorchFunctionMode):  # type: ignore[misc]  # noqa: N801  # torch is not typed; used like a function
    """Within this context memory that is to be filled later, as parameters are, is not allocated.

    What is computed right away, such as tables of frequencies, has its numbers.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = dict(kwargs or {})
        if func is torch.empty and keywords.get("device") is None:
            keywords["device"] = "meta"
        return func(*args, **keywords)


@dataclass(frozen=True)
class Laid:
    """A checkpoint over a module.

    Attributes:
        notes: what fits, and which names are on one side only.
        read: what gives a tensor of a mapped file to be read, by the module's name: others that were read a while ago
            then leave the memory.
    """

    notes: tuple[str, ...]
    read: Mapping[str, Callable[[], torch.Tensor]]


def lay_over(module: torch.nn.Module, path: Path, name: str) -> Laid:
    """Put the tensors of a checkpoint in the place of the module's.

    Raises:
        ModelError: the file is no checkpoint, or none of its names or shapes fit.
    """
    resident = _Resident()
    state = _without_prefix(_read(path, name, resident), module)
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for key, tensor in state.items():
        if key in own and own[key].shape != tensor.shape:
            problem = f"{key} has shape {tuple(tensor.shape)} in {path} and {tuple(own[key].shape)} in the module"
            raise ModelError(
                name, problem, "Build the module as it was when it was saved: path/file.py:Net(width=128)."
            )
    fitting = {key: tensor for key, tensor in state.items() if key in own}
    if not fitting:
        raise ModelError(
            name, f"no name of {path} is one of the module's", f"It has {_listed(own)}; the file {_listed(state)}."
        )
    _in_type_of(module, fitting, own)
    module.load_state_dict(fitting, strict=False, assign=True)
    missing = [key for key in module.state_dict() if key not in fitting]
    left = [key for key in state if key not in own]
    notes = [f"{len(fitting)} tensors are those of {path}"]
    notes += [f"{len(missing)} names of the module are not in {path}: {_listed(missing)}"] if missing else []
    notes += [f"{len(left)} names of {path} are not in the module: {_listed(left)}"] if left else []
    read = {key: partial(resident.read, t.data_ptr()) for key, t in fitting.items() if resident.knows(t)}
    return Laid(tuple(notes), read)


def _listed(names: Any) -> str:
    shown = list(names)[:_SHOWN]
    return ", ".join(shown) + (", ..." if len(names) > _SHOWN else "")


_WRAPPER = re.compile(r"(?<![^.])_(?:orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.")
"""What torch.compile, fully sharded training and activation checkpointing put into the names of what they wrap."""


def _without_prefix(state: dict[str, torch.Tensor], module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors under the module's own names: wrappers put a prefix before all of them, heads come and go."""
    own = {*dict(module.named_parameters()), *dict(module.named_buffers())}
    if not any(_WRAPPER.search(key) for key in own):
        state = {_WRAPPER.sub("", key): tensor for key, tensor in state.items()}
    best, most = state, sum(key in own for key in state)
    segments = zip(*(key.split(".")[:-1] for key in state), strict=False)
    shared = [found[0] for found in takewhile(lambda found: len(set(found)) == 1, segments)]  # a wrapper in another
    prefixes = {key.partition(".")[0] + "." for key in state}
    prefixes |= {".".join(shared[:end]) + "." for end in range(2, len(shared) + 1)}
    for prefix in sorted(prefixes):
        for candidate in (
            {key.removeprefix(prefix): tensor for key, tensor in state.items()},
            {f"{prefix}{key}": tensor for key, tensor in state.items()},
        ):
            fits = sum(key in own for key in candidate)
            if fits > most:
                best, most = candidate, fits
    for prefix in sorted({key.partition(".")[0] + "." for key in own}):
        candidate = {f"{prefix}{key}": tensor for key, tensor in state.items()}
        fits = sum(key in own for key in candidate)
        if fits > most:
            best, most = candidate, fits
    return best


def _in_type_of(module: torch.nn.Module, state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> None:
    """Have the module in the floating type of the checkpoint, where that has one."""
    types = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    mine = {own[key].dtype for key, tensor in state.items() if tensor.is_floating_point()}
    if len(types) == 1 and types != mine:
        module.to(types.pop())


# --- files ------------------------------------------------------------------------------------------------------------


class _Resident:
    """The numbers of files that are in memory: what was read a while ago is dropped, and comes back from the file where
    it is read again."""

    def __init__(self) -> None:
        self._tensors: dict[int, tuple[mmap.mmap, int, torch.Tensor]] = {}
        self._read: deque[int] = deque()
        self._bytes = 0

    def add(self, tensor: torch.Tensor, memory: mmap.mmap, start: int) -> None:
        """Say where the numbers of a tensor are."""
        self._tensors[tensor.data_ptr()] = (memory, start, tensor)

    def knows(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is a view on a file."""
        return tensor.data_ptr() in self._tensors

    def read(self, at: int) -> torch.Tensor:
        """The tensor at an address, which is about to be read."""
        tensor = self._tensors[at][2]
        self._read.append(at)
        self._bytes += tensor.nbytes
        while self._bytes > _RESIDENT and len(self._read) > 1:
            memory, start, old = self._tensors[self._read.popleft()]
            self._bytes -= old.nbytes
            ahead = start % mmap.PAGESIZE
            memory.madvise(mmap.MADV_DONTNEED, start - ahead, old.nbytes + ahead)
        return tensor


_FILES = "Pass --weights FILE.pt, FILE.safetensors or an index.json."


def _read(path: Path, name: str, resident: _Resident) -> dict[str, torch.Tensor]:
    """The tensors of a file; where they are is said to `resident`."""
    if path.is_dir():
        raise ModelError(name, f"{path} is a directory", as_one_file(path) or _FILES)
    if not path.is_file():
        raise ModelError(name, f"there is no file {path}", _FILES)
    if path.suffix == ".json":
        return _sharded(path, name, resident)
    if path.suffix == ".safetensors":
        return _safetensors(path, name, resident)
    return _pickled(path, name)


def _sharded(path: Path, name: str, resident: _Resident) -> dict[str, torch.Tensor]:
    try:
        files = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        advice = "Pass the index that save_pretrained wrote, *.index.json."
        raise ModelError(name, f"{path} is no index of a sharded checkpoint", advice) from None
    found: dict[str, torch.Tensor] = {}
    for file in files:
        if Path(file).name != file:
            raise ModelError(name, f"{path} points outside of its directory: {file}")
        found.update(_read(path.parent / file, name, resident))
    return found


def _safetensors(path: Path, name: str, resident: _Resident) -> dict[str, torch.Tensor]:
    """Tensors that are views on the file."""
    damaged = ModelError(name, f"{path} is no safetensors file, or only a part of one", "Download it again.")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
            raise damaged
        try:
            entries = json.loads(file.read(length))
        except ValueError:
            raise damaged from None
        if not isinstance(entries, dict):
            raise damaged
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    found = {}
    for key, entry in entries.items():
        if key == "__metadata__":
            continue
        try:
            dtype, shape, (start, end) = _TYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
            count = torch.Size(shape).numel()
            if not 0 <= start <= end <= size - 8 - length or count * dtype.itemsize != end - start:
                raise damaged
        except (KeyError, TypeError, ValueError):
            raise damaged from None
        at = 8 + length + start
        flat = torch.frombuffer(memory, dtype=dtype, count=count, offset=at) if count else None
        found[key] = torch.empty(shape, dtype=dtype) if flat is None else flat.reshape(shape)
        if count:
            resident.add(found[key], memory, at)
    return found


def _pickled(path: Path, name: str) -> dict[str, torch.Tensor]:
    try:
        found = _loaded(path)
    except Exception as error:
        problem, advice = f"{path} is no checkpoint that torch can load", "Save model.state_dict() with torch.save."
        said = str(error)
        if "TorchScript" in said or "torch.jit" in said:
            problem, advice = (
                f"{path} is a TorchScript archive",
                "Save model.state_dict() of the module it was made of.",
            )
        elif "Unsupported global" in said or "GLOBAL" in said:
            problem = f"{path} holds more than tensors, such as a pickled module, which is code and is not run"
        raise ModelError(name, problem, advice) from error
    for key in _INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    tensors = _tensors(found)
    if not tensors and isinstance(found, Mapping):  # under a name of the writer's own, such as "ema"
        tensors = max(map(_tensors, found.values()), key=len, default={})
    if not tensors:
        raise ModelError(name, f"{path} holds no state dict", "Save model.state_dict() with torch.save.")
    return tensors


def _tensors(found: Any) -> dict[str, torch.Tensor]:
    """The named tensors that a mapping holds itself."""
    named = found.items() if isinstance(found, Mapping) else ()
    return {str(key): tensor for key, tensor in named if isinstance(tensor, torch.Tensor)}


def _loaded(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of an archive of TorchScript before it refuses it
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            return torch.load(path, map_location="cpu", weights_only=True)
