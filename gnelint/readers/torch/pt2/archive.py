"""The zip archive of a `.pt2` file: its program as JSON, its tensors as raw bytes, and nothing that is code.

`torch.export.load` unpickles sample inputs and weights, has sympy evaluate sizes, imports what tree structures name,
and loads compiled libraries. Here the members are read one by one; whatever would have to be run is refused, and the
sample inputs, which nothing depends on, are left out where they are no plain tensors.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch._export.serde import schema
from torch._export.serde.serialize import (
    _SERIALIZE_TO_TORCH_DTYPE,
    ExportedProgramDeserializer,
    _bytes_to_dataclass,
)
from torch.export import ExportedProgram

from gnelint.errors import UnreadableError
from gnelint.readers.torch.pt2.program import EXPORT_AGAIN, checked

MAX_PROGRAM = 1 << 29
"""Bytes of the largest program; its weights are apart."""

_TENSOR = re.compile(r"(weight|tensor)_\d+")


def load_program(path: Path) -> ExportedProgram:
    """The exported program in a `.pt2` file, without running anything out of it.

    Raises:
        UnreadableError: the file is damaged, or holds what can only be read by running it.
        Exception: it is no zip archive, or torch refuses the program.
    """
    with zipfile.ZipFile(path) as archive:
        return _Archive(archive).program()


class _Archive:
    """The members of one archive, by their names below its root."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._members: dict[str, zipfile.ZipInfo] = {}
        for info in archive.infolist():
            root, _, rest = info.filename.partition("/")
            self._members[rest or root] = info
        if any(name.startswith("data/aotinductor/") for name in self._members):
            problem = "holds a library that AOTInductor compiled, which can only be run"
            raise UnreadableError(problem, EXPORT_AGAIN)

    def program(self) -> ExportedProgram:
        """The program under the name that `torch.export.save` gives it, built by torch of what was checked."""
        name = "models/model.json" if "models/model.json" in self._members else "serialized_exported_program.json"
        if name not in self._members:
            raise UnreadableError("holds no exported program", EXPORT_AGAIN)
        text = self._read(name, MAX_PROGRAM)
        found = checked(_bytes_to_dataclass(schema.ExportedProgram, text))
        weights = self._tensors("weights", "serialized_state_dict.pt")
        constants = self._tensors("constants", "serialized_constants.pt")
        program = ExportedProgramDeserializer().deserialize(found, weights, constants, None)
        program._example_inputs = self._sample_inputs()
        return program

    def _read(self, name: str, most: int | None = None) -> bytes:
        """A member's bytes. One that is compressed could be any size; `torch.export.save` never compresses."""
        info = self._members.get(name)
        if info is None:
            raise UnreadableError(f'lacks its part "{name}"', EXPORT_AGAIN)
        stored = info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size
        if not stored or (most is not None and info.file_size > most):
            raise UnreadableError(
                f'its part "{name}" is compressed or too large, as torch never writes it', EXPORT_AGAIN
            )
        return self._archive.read(info)

    def _tensors(self, kind: str, oldest: str) -> dict[str, Any]:
        """The weights or the constants, by their qualified names.

        Args:
            kind: "weights" or "constants".
            oldest: where they stand in files of torch 2.7 and before.
        """
        for name in (f"data/{kind}/model.pt", oldest):
            if name in self._members:
                return dict(self._unpickled(name) or {})
        config = _bytes_to_dataclass(
            schema.PayloadConfig, self._read(f"data/{kind}/model_{kind}_config.json", MAX_PROGRAM)
        )
        storages: dict[str, bytearray] = {}
        return {name: self._tensor(f"data/{kind}/", name, meta, storages) for name, meta in config.config.items()}

    def _tensor(self, place: str, name: str, meta: schema.PayloadMeta, storages: dict[str, bytearray]) -> torch.Tensor:
        if not isinstance(meta.path_name, str) or not _TENSOR.fullmatch(meta.path_name):
            problem = f'"{name}" is stored as a Python object, which can only be read by running it; refused'
            raise UnreadableError(problem, "Export a module whose state is tensors.")
        path = place + meta.path_name
        if meta.use_pickle:
            found = self._unpickled(path)
            if not isinstance(found, torch.Tensor):
                raise UnreadableError(f'"{name}" is no tensor', EXPORT_AGAIN)
            return found
        if meta.tensor_meta is None:
            raise UnreadableError(f'tensor "{name}" has no type', EXPORT_AGAIN)
        if path not in storages:  # tensors that share their numbers are still one afterwards
            storages[path] = bytearray(self._read(path))
        tensor = _strided(storages[path], meta.tensor_meta, name)
        return torch.nn.Parameter(tensor, bool(meta.tensor_meta.requires_grad)) if meta.is_param else tensor

    def _unpickled(self, name: str) -> Any:
        """A pickle of tensors and plain containers; torch's reader for weights refuses everything else."""
        data = self._read(name)
        if not data:
            return None
        if data.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(data)) as inner:
                if any(info.compress_type != zipfile.ZIP_STORED for info in inner.infolist()):
                    raise UnreadableError(f'its part "{name}" is compressed, as torch never writes it', EXPORT_AGAIN)
        try:
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:
            problem = f'its part "{name}" holds more than tensors, which can only be read by running it; refused'
            raise UnreadableError(problem, EXPORT_AGAIN) from error

    def _sample_inputs(self) -> tuple[tuple[Any, ...], Mapping[str, Any]] | None:
        for name in ("data/sample_inputs/model.pt", "serialized_example_inputs.pt"):
            if name in self._members:
                try:
                    found = self._unpickled(name)
                except UnreadableError:
                    return None
                plain = isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], dict)
                return found if plain else None
        return None


def _strided(storage: bytearray, meta: schema.TensorMeta, name: str) -> torch.Tensor:
    """A tensor on the bytes of its storage.

    Raises:
        UnreadableError: it reaches beyond them.
    """
    dtype = _SERIALIZE_TO_TORCH_DTYPE.get(meta.dtype)
    numbers = [size.value for size in (*meta.sizes, *meta.strides, meta.storage_offset)]
    if dtype is None or not all(type(number) is int and number >= 0 for number in numbers):
        raise UnreadableError(f'tensor "{name}" has an impossible type or shape', EXPORT_AGAIN)
    sizes, strides, offset = numbers[: len(meta.sizes)], numbers[len(meta.sizes) : -1], numbers[-1]
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if math.prod(sizes) == 0:
        return torch.zeros(sizes, dtype=dtype)
    width = dtype.itemsize
    if (last + 1) * width > len(storage) or len(storage) % width:
        raise UnreadableError(f'tensor "{name}" needs {(last + 1) * width} bytes but has {len(storage)}', EXPORT_AGAIN)
    return torch.frombuffer(storage, dtype=dtype).as_strided(sizes, strides, offset)
