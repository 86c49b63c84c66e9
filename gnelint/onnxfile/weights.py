"""The tensors of an ONNX model as lazy parameters: inline, in typed fields, sparse, or in files beside the model."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from gnelint.budget import allow
from gnelint.errors import UnreadableError
from gnelint.ir.graph import FLOATING, Parameter, TensorKind
from gnelint.ir.laws import Nothing
from gnelint.ir.mapped import LARGE, Handed
from gnelint.onnxfile.file import EXPORT_AGAIN, ModelFile, mapped
from gnelint.onnxfile.types import STRING, bits, dtype_name, numpy_dtype

MAX_ENTRIES = 1 << 40
"""Entries of the largest tensor that is believed; a petabyte of weights is a damaged or hostile file."""
MAX_DENSIFIED = 1 << 26
"""Entries of the largest sparse tensor that is written out densely."""

_EXTERNAL = onnx.TensorProto.EXTERNAL
_TYPED_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


class WeightReader:
    """Makes parameters of the tensors of one model; checks their place and size at once, reads numbers when asked."""

    def __init__(self, file: ModelFile) -> None:
        self._file = file
        self._mapped: dict[Path, np.ndarray] = {}
        self._handed = Handed()
        self._locations: dict[str, None] = {}
        self._kinds = _recorded_kinds(file.proto.graph)
        self._compared = {name for node in file.proto.graph.node if node.op_type in _COMPARES for name in node.input}

    @property
    def data_files(self) -> tuple[str, ...]:
        """The files beside the model that hold the tensors asked for so far, as the model names them."""
        return tuple(self._locations)

    @property
    def kinds_recorded(self) -> bool:
        """Whether the exporter wrote down which tensors are parameters."""
        return bool(self._kinds)

    def _in_a_file(self, stored: np.ndarray, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """`decode` of numbers in a mapped file, which the memory need not hold together with those of many others."""
        return decode(self._handed.out(stored), shape, dtype)

    def initializer(self, index: int) -> Parameter:
        """The main graph's initializer of this index."""
        tensor = self._file.proto.graph.initializer[index]
        cut = self._file.cuts.get(index)
        if cut is None:
            return self.parameter(tensor, tensor.name)
        shape, dtype = self._header(tensor, tensor.name)
        start, end = cut
        _check_size(tensor.name, shape, dtype, end - start)
        stored = self._file.content[start:end]
        load = partial(self._in_a_file, stored, shape, dtype)
        return Parameter(tensor.name, shape, dtype, load, kind=self._kind(tensor.name, dtype, shape))

    def parameter(self, tensor: onnx.TensorProto, name: str) -> Parameter:
        """Any tensor of the model, under this name.

        Raises:
            UnreadableError: it is damaged, or its data are missing, too short or outside the model's directory.
        """
        shape, dtype = self._header(tensor, name)
        if tensor.data_location == _EXTERNAL:
            load = self._external(tensor, name, shape, dtype)
        elif tensor.HasField("raw_data"):
            if dtype == STRING:
                raise UnreadableError(
                    f'tensor "{name}" holds text as raw bytes, which ONNX does not allow', EXPORT_AGAIN
                )
            raw = np.frombuffer(tensor.raw_data, np.uint8)
            _check_size(name, shape, dtype, raw.size)
            load = partial(decode, raw, shape, dtype)
        else:
            _check_typed(tensor, name, shape, dtype)
            load = partial(_typed, tensor, shape)
        return Parameter(name, shape, dtype, load, kind=self._kind(name, dtype, shape))

    def _kind(self, name: str, dtype: str, shape: tuple[int, ...]) -> TensorKind:
        """What the exporter recorded, else what is left open: integers are not trained.

        Where it recorded parameters, a single number without a record is its own, as the threshold of a softplus is; a
        tensor without one may be a weight that it has merged with the normalisation behind it. A single number that
        values are compared with is the program's, whatever else reads it: TensorFlow's exporter has one 0 for all.
        """
        own = math.prod(shape) == 1 and (self.kinds_recorded or name in self._compared)
        return self._kinds.get(name, "constant" if own or dtype not in FLOATING else "parameter")

    def sparse(self, tensor: onnx.SparseTensorProto, name: str) -> Parameter:
        """A sparse tensor as a dense parameter, written out when it is read."""
        values = self.parameter(tensor.values, name)
        indices = self.parameter(tensor.indices, f"{name} (indices)")
        shape = tuple(int(size) for size in tensor.dims)
        if any(size < 0 for size in shape) or math.prod(shape) > MAX_DENSIFIED:
            raise UnreadableError(f'sparse tensor "{name}" has shape {shape}, too large to write out', EXPORT_AGAIN)
        found = indices.array().astype(np.int64) if indices.size == 0 else indices.array()
        if len(values.shape) != 1 or found.shape not in ((values.size,), (values.size, len(shape))):
            raise UnreadableError(f'sparse tensor "{name}" has values and indices that do not match', EXPORT_AGAIN)
        sizes = math.prod(shape) if found.ndim == 1 else np.array(shape)
        if found.size and (found.min() < 0 or np.any(found >= sizes)):
            raise UnreadableError(f'sparse tensor "{name}" has indices outside its shape {shape}', EXPORT_AGAIN)
        load = partial(_densified, values, found, shape)
        return Parameter(name, shape, values.dtype, load, kind=values.kind)

    def constant(self, node: onnx.NodeProto, attributes: Mapping[str, onnx.AttributeProto], name: str) -> Parameter:
        """The tensor that a Constant node holds, in any of its forms, under this name.

        Args:
            node: the Constant node.
            attributes: of the node, references to a function's attributes resolved.

        Raises:
            UnreadableError: it holds none, or the tensor is damaged.
        """
        for key, attribute in attributes.items():
            if key == "value":
                found = self.parameter(attribute.t, name)
                # a single number in a node is the program's; whole tensors are weights of exporters that write them so
                return replace(found, kind="constant") if found.size <= 1 else found
            if key == "sparse_value":
                return self.sparse(attribute.sparse_tensor, name)
            if key in _PLAIN:
                field, dtype = _PLAIN[key]
                value = getattr(attribute, field)
                return literal(name, np.array(list(value) if key.endswith("s") else value, dtype))
        raise UnreadableError(f'Constant node "{node.name or node.output[0]}" holds no value', EXPORT_AGAIN)

    def _header(self, tensor: onnx.TensorProto, name: str) -> tuple[tuple[int, ...], str]:
        dtype = dtype_name(tensor.data_type)
        if dtype is None:
            raise UnreadableError(f'tensor "{name}" has the unknown data type {tensor.data_type}', "Upgrade onnx.")
        shape = tuple(tensor.dims)
        if any(size < 0 for size in shape) or math.prod(shape) > MAX_ENTRIES:
            raise UnreadableError(f'tensor "{name}" has the impossible shape {shape}', EXPORT_AGAIN)
        if tensor.HasField("segment"):
            raise UnreadableError(f'tensor "{name}" is stored in segments, which is not supported', EXPORT_AGAIN)
        return shape, dtype

    def _external(
        self, tensor: onnx.TensorProto, name: str, shape: tuple[int, ...], dtype: str
    ) -> Callable[[], np.ndarray]:
        """What reads a tensor whose numbers are in a file of their own."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        path = data_path(self._file.path, location, name)
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", -1))
        except ValueError:
            offset, length = -1, -1
        if offset < 0:
            raise UnreadableError(f'tensor "{name}" has a damaged offset or length of its external data', EXPORT_AGAIN)
        needed = stored_bytes(shape, dtype)
        if length >= 0:
            _check_size(name, shape, dtype, length)
        self._locations[location] = None
        if path not in self._mapped:
            allow(path)
            self._mapped[path] = mapped(path) if path.stat().st_size else np.zeros(0, np.uint8)
        content = self._mapped[path]
        if offset + needed > content.size:
            raise UnreadableError(
                f'tensor "{name}" needs bytes {offset} to {offset + needed} of external data "{location}", which has '
                f"{content.size}",
                "Copy the data file again: it is cut short.",
            )
        if needed >= LARGE and dtype in FLOATING and bits(dtype) >= 8 and is_hole(path, offset, offset + needed):
            return Nothing(shape, numpy_dtype(dtype))
        return partial(self._in_a_file, content[offset : offset + needed], shape, dtype)


_COMPARES = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})

_PLAIN: Mapping[str, tuple[str, type]] = {
    "value_float": ("f", np.float32),
    "value_floats": ("floats", np.float32),
    "value_int": ("i", np.int64),
    "value_ints": ("ints", np.int64),
    "value_string": ("s", object),
    "value_strings": ("strings", object),
}
"""The attributes by which a Constant node holds plain numbers or text: the field of the message, and the type."""


def literal(name: str, array: np.ndarray) -> Parameter:
    """A constant whose numbers are at hand."""
    dtype = STRING if array.dtype == object else array.dtype.name
    return Parameter(name, array.shape, dtype, lambda: array, kind="constant")


_INPUT_KIND = "pkg.torch.export.graph_signature.InputSpec.kind"
"""Where torch's exporter records, of the values it makes initializers of, what they were in the module."""
_EXPORTED: Mapping[str, TensorKind] = {"PARAMETER": "parameter", "BUFFER": "buffer", "CONSTANT_TENSOR": "constant"}


def _recorded_kinds(graph: onnx.GraphProto) -> dict[str, TensorKind]:
    """What an exporter says of the tensors, by their names; empty for one that says nothing."""
    found: dict[str, TensorKind] = {}
    for value in graph.value_info:
        for entry in value.metadata_props:
            if entry.key == _INPUT_KIND and entry.value in _EXPORTED:
                found[value.name] = _EXPORTED[entry.value]
    return found


def data_path(model: Path, location: str, name: str) -> Path:
    """The data file of a tensor.

    It is named by a path below the model's directory, and lies there once all links are followed. Where the model
    itself is a link, as in the cache of the Hugging Face hub (snapshots/REVISION/model.onnx -> ../../blobs/HASH), the
    data may also be a link into the directory where the model's own bytes lie. ONNX Runtime has the same two
    directories (its pull request 27374).

    Args:
        model: the model's file.
        location: what the tensor says where its data are.
        name: of the tensor.

    Raises:
        UnreadableError: it is missing or outside.
    """
    what = f'tensor "{name}" reads external data "{location}"'
    outside = UnreadableError(
        f"{what} outside the model's directory; refused",
        "Move the file next to the model, or export it again with save_as_external_data.",
    )
    if not location or "\0" in location:
        raise UnreadableError(f'tensor "{name}" says it is external but not in which file', EXPORT_AGAIN)
    if os.path.isabs(location) or location.startswith(("/", "\\")) or location[1:2] == ":":
        raise outside
    if os.path.normpath(location).split(os.sep, 1)[0] == os.pardir:
        raise outside
    directory = model.parent
    try:
        path = (directory / location).resolve()
        inside = any(path.is_relative_to(place) for place in (directory.resolve(), model.resolve().parent))
        found = path.is_file()
    except (OSError, RuntimeError) as error:
        raise UnreadableError(f"{what}, which cannot be opened ({error})", "Check the path.") from error
    if not inside:
        raise outside
    if not found and path.exists():
        raise UnreadableError(f"{what}, which is no regular file", EXPORT_AGAIN)
    if not found:
        raise UnreadableError(f"{what}, which is missing", f'Copy "{location}" into {directory.resolve()}.')
    return path


def is_hole(path: Path, start: int, end: int) -> bool:
    """Whether nobody has written to these bytes of a sparse file, where the system tells: all of them are 0."""
    if not hasattr(os, "SEEK_DATA"):
        return False
    with path.open("rb") as file:
        try:
            return os.lseek(file.fileno(), start, os.SEEK_DATA) >= end
        except OSError as error:
            return error.errno == errno.ENXIO  # there are no data behind


def stored_bytes(shape: tuple[int, ...], dtype: str) -> int:
    return (math.prod(shape) * bits(dtype) + 7) // 8


def _check_size(name: str, shape: tuple[int, ...], dtype: str, available: int) -> None:
    needed = stored_bytes(shape, dtype)
    if dtype == STRING or available != needed:
        raise UnreadableError(
            f'tensor "{name}" of shape {shape} and type {dtype} needs {needed} bytes but has {available}', EXPORT_AGAIN
        )


def _check_typed(tensor: onnx.TensorProto, name: str, shape: tuple[int, ...], dtype: str) -> None:
    """Typed fields hold an entry each (two for complex numbers, a byte of several for types below 8 bits)."""
    stored = max(len(getattr(tensor, field)) for field in _TYPED_FIELDS)
    entries = math.prod(shape)
    if dtype.startswith("complex"):
        entries *= 2
    elif 0 < bits(dtype) < 8:
        entries = stored_bytes(shape, dtype)
    if stored != entries:
        raise UnreadableError(f'tensor "{name}" of shape {shape} has {stored} entries stored', EXPORT_AGAIN)


def _typed(tensor: onnx.TensorProto, shape: tuple[int, ...]) -> np.ndarray:
    from onnx import numpy_helper

    return np.asarray(numpy_helper.to_array(tensor)).reshape(shape)


def decode(stored: np.ndarray, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Stored bytes as an array: a view, except for types of which a byte holds several."""
    width = bits(dtype)
    if width >= 8:
        return stored.view(numpy_dtype(dtype)).reshape(shape)
    entries = np.stack([(stored >> shift) & ((1 << width) - 1) for shift in range(0, 8, width)], axis=-1)
    flat = entries.reshape(-1)[: math.prod(shape)]
    if dtype.startswith("int"):
        sign = 1 << (width - 1)
        flat = (flat.astype(np.int8) ^ sign) - sign
    found = flat.view(numpy_dtype(dtype)) if dtype.startswith("float") else flat.astype(numpy_dtype(dtype))
    return found.reshape(shape)


def _densified(values: Parameter, indices: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    dense = np.zeros(shape, numpy_dtype(values.dtype))
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values.array()
    else:
        dense[tuple(indices.T)] = values.array()
    return dense
