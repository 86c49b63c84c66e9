"""An ONNX file on disk: opened without its weights, told apart from everything that is not one.

The file is mapped into memory and its protobuf wire format walked once: the bytes of large inline weights are cut out
of what is parsed and remembered by their place in the file. A 100 MB model is parsed in the time of a 200 kB one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path

import numpy as np
import onnx

from gnelint.errors import UnreadableError
from gnelint.onnxfile.spelling import spell
from gnelint.onnxfile.wire import (
    ATTRIBUTE,
    ATTRIBUTE_NAME,
    BYTES,
    GRAPH,
    INITIALIZER,
    NODE,
    OP_TYPE,
    RAW_DATA,
    BrokenError,
    field_head,
    fields,
)
from gnelint.records import dataclass

CUT_FROM = 4096
"""Inline weights of at least so many bytes stay in the file."""

EXPORT_AGAIN = "Export the model again, or copy the file again."


@dataclass(frozen=True)
class Gap:
    """How far an operation's input is from what the operation takes.

    Attributes:
        entries: that the input has: along an axis, or in all.
        wanted: that the operation takes.
        exact: whether more than that do not fit either.
        others: axes besides that do not fit.
    """

    entries: int
    wanted: int
    exact: bool = True
    others: int = 0


class MisfitError(UnreadableError):
    """An operation does not fit the shapes of its inputs, which may be the fault of sizes that were assumed.

    Attributes:
        gap: how far it is from fitting, if that is known.
    """

    def __init__(self, problem: str, advice: str = "", gap: Gap | None = None) -> None:
        super().__init__(problem, advice)
        self.gap = gap


@dataclass(frozen=True)
class ModelFile:
    """A parsed model whose large inline weights are still in the file.

    Attributes:
        path: where it is.
        proto: the model; the `raw_data` of cut initializers is empty.
        content: the mapped file.
        cuts: byte range (start, end) of the main graph's cut initializers, by their index.
    """

    path: Path
    proto: onnx.ModelProto
    content: np.ndarray = field(repr=False)
    cuts: Mapping[int, tuple[int, int]]


def open_model(path: Path, *, trees: bool = True) -> ModelFile:
    """Map and parse a file.

    Args:
        path: the file.
        trees: whether the nodes of tree ensembles have all of their attributes; what only analyses needs none of the
            trees, which may be most of the file.

    Raises:
        UnreadableError: it is missing, empty, damaged, or no ONNX model.
    """
    content = _map(path)
    head = content[:4096].tobytes()
    stripped = _strip(content.data, trees)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content.tobytes() if stripped is None else stripped.content)
    except Exception as error:  # protobuf's implementations raise different classes, DecodeError only one of them
        known = _known_format(head)
        if known is None and stripped is None and _starts_like_a_model(head):
            raise UnreadableError(
                "the file is damaged or cut short (not a whole protobuf message)", EXPORT_AGAIN
            ) from error
        raise _not_onnx(known) from error
    if not proto.HasField("graph") or (proto.ir_version < 1 and not proto.opset_import):
        raise _not_onnx(_known_format(head))
    spell(proto)
    return ModelFile(path, proto, content, {} if stripped is None else stripped.cuts)


def _map(path: Path) -> np.ndarray:
    try:
        if path.is_dir():
            raise UnreadableError("is a directory", "Name a .onnx file in it.")
        if not path.exists():
            raise UnreadableError("no such file", "Check the path.")
        if path.stat().st_size == 0:
            raise UnreadableError("the file is empty", EXPORT_AGAIN)
        if not path.is_file():
            raise UnreadableError("is not a regular file", "Name a .onnx file.")
        return mapped(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UnreadableError(f"cannot be opened ({reason})", "Check the path and its permissions.") from error


def mapped(path: Path) -> np.ndarray:
    """The bytes of a file that is not empty, as a plain array: views of a `memmap` drag its bookkeeping along.

    Raises:
        OSError, ValueError: it cannot be mapped.
    """
    return np.asarray(np.memmap(path, np.uint8, "r"))


_FORMATS: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a zip archive (a PyTorch checkpoint or .pt2 file?)",
     "A torch.export file is read by its name in .pt2; weights alone are no network: use torch.onnx.export."),
    (b"\x80", "a Python pickle (a PyTorch checkpoint?)", "Export the model with torch.onnx.export."),
    (b"\x89HDF", "an HDF5 file (Keras?)", "Convert it with tf2onnx."),
    (b"GGUF", "a GGUF file", "It holds weights without a network: export the model with torch.onnx.export."),
    (b"version https://git-lfs", "a Git LFS pointer", "Fetch the file itself with: git lfs pull"),
    (b"\x1f\x8b", "a gzip archive", "Unpack it first."),
)  # fmt: skip


def _known_format(head: bytes) -> tuple[str, str] | None:
    for magic, name, advice in _FORMATS:
        if head.startswith(magic):
            return name, advice
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite file", "Convert it with tf2onnx."
    if head[8:9] == b"{" and head[4:8] == b"\0\0\0\0":
        return "a safetensors file", "It holds weights without a network: export the model with torch.onnx.export."
    if head.lstrip()[:1] == b"<":
        return "a web page or XML", "Download the model file itself."
    if all(byte >= 32 or byte in (9, 10, 13) for byte in head):
        return "a text file", "Name a .onnx file."
    return None


def _not_onnx(known: tuple[str, str] | None) -> UnreadableError:
    if known is None:
        return UnreadableError("is not an ONNX model", "Name a .onnx file.")
    return UnreadableError(f"is not an ONNX model but {known[0]}", known[1])


def _starts_like_a_model(head: bytes) -> bool:
    return len(head) < 2 or (head[0] == 0x08 and head[1] < 32)  # ir_version first, as every exporter writes it


@dataclass(frozen=True)
class _Stripped:
    content: bytes
    cuts: dict[int, tuple[int, int]]


def _strip(data: memoryview, trees: bool) -> _Stripped | None:
    """The model's bytes without large initializers; None if they are not laid out as expected."""
    cuts: dict[int, tuple[int, int]] = {}
    kept = _Kept(data, 0)
    graphs = 0
    try:
        for number, kind, start, body, end in fields(data, 0, len(data)):
            if number == GRAPH and kind == BYTES:
                graphs += 1
                kept.put(start, end, GRAPH, _strip_graph(data, body, end, cuts, trees))
    except BrokenError:
        return None
    return _Stripped(kept.upto(len(data)), cuts) if graphs == 1 else None


def _strip_graph(data: memoryview, start: int, end: int, cuts: dict[int, tuple[int, int]], trees: bool) -> bytes:
    kept = _Kept(data, start)
    index = -1
    for number, kind, field_start, body, field_end in fields(data, start, end):
        if number == INITIALIZER and kind == BYTES:
            index += 1
            if field_end - body >= CUT_FROM:
                kept.put(field_start, field_end, INITIALIZER, _strip_tensor(data, body, field_end, cuts, index))
        elif number == NODE and kind == BYTES and not trees and field_end - body >= _MANY_TREES:
            kept.put(field_start, field_end, NODE, _strip_trees(data, body, field_end))
    return kept.upto(end)


_MANY_TREES = 1 << 16
"""Bytes of a node that are worth a look whether it is a tree ensemble."""
_TREES = (b"nodes_", b"class_", b"target_")
"""How the attributes begin that hold the trees of TreeEnsembleClassifier and TreeEnsembleRegressor."""


def _strip_trees(data: memoryview, start: int, end: int) -> bytes:
    """A node, without the trees if it is an ensemble of them."""
    parts = list(fields(data, start, end))
    op_type = next((bytes(data[body:stop]) for number, _, _, body, stop in parts if number == OP_TYPE), b"")
    kept = _Kept(data, start)
    if op_type in (b"TreeEnsembleClassifier", b"TreeEnsembleRegressor"):
        for number, kind, field_start, body, field_end in parts:
            if number == ATTRIBUTE and kind == BYTES and _name_of(data, body, field_end).startswith(_TREES):
                kept.put(field_start, field_end)
    return kept.upto(end)


def _name_of(data: memoryview, start: int, end: int) -> bytes:
    """The name of an attribute, which every writer puts first."""
    number, kind, _, body, stop = next(fields(data, start, end), (0, 0, 0, 0, 0))
    return bytes(data[body:stop]) if (number, kind) == (ATTRIBUTE_NAME, BYTES) else b""


def _strip_tensor(data: memoryview, start: int, end: int, cuts: dict[int, tuple[int, int]], index: int) -> bytes:
    kept = _Kept(data, start)
    for number, kind, field_start, body, field_end in fields(data, start, end):
        if number == RAW_DATA and kind == BYTES and field_end - body >= CUT_FROM:
            cuts[index] = (body, field_end)
            kept.put(field_start, field_end)
    return kept.upto(end)


class _Kept:
    """The bytes of a message with some of its fields left out or replaced; what stays is copied in long stretches."""

    def __init__(self, data: memoryview, start: int) -> None:
        self._data = data
        self._start = start
        self._pieces: list[bytes] = []

    def put(self, start: int, end: int, number: int = 0, content: bytes | None = None) -> None:
        """Leave the field data[start:end] out, or put another content in its place."""
        self._pieces.append(bytes(self._data[self._start : start]))
        if content is not None:
            self._pieces += [field_head(number, len(content)), content]
        self._start = end

    def upto(self, end: int) -> bytes:
        """All of it, with what stays up to here."""
        return b"".join([*self._pieces, self._data[self._start : end]])
