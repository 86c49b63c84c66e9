"""Serialising a model whose large weights are not in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import onnx

from gnelint.onnxfile.wire import BYTES, GRAPH, INITIALIZER, RAW_DATA, field_head, fields
from gnelint.records import dataclass

CHUNK = 1 << 22
"""Bytes copied at a time."""
MAX_MESSAGE = (1 << 31) - 1
"""Bytes of the largest message that protobuf parses."""


@dataclass(frozen=True)
class Raw:
    """The `raw_data` of a tensor that is not in its message.

    Attributes:
        size: in bytes.
        chunks: the bytes in order, made when they are written.
    """

    size: int
    chunks: Callable[[], Iterable[bytes | memoryview]]


def stretch(path: Path, start: int, end: int) -> Iterator[bytes]:
    """The bytes of a file from `start` to `end`, a chunk at a time.

    Raises:
        OSError: it cannot be read, or is shorter by now.
    """
    with path.open("rb") as file:
        file.seek(start)
        while start < end:
            chunk = file.read(min(CHUNK, end - start))
            if not chunk:
                raise OSError(0, f"{path} became shorter while it was read")
            start += len(chunk)
            yield chunk


class Message:
    """A model with the raw data of some initializers put in as it is written.

    Attributes:
        size: bytes of the whole.
    """

    def __init__(self, model: onnx.ModelProto, raws: Mapping[int, Raw]) -> None:
        """Lay the message out.

        Args:
            model: the model; the initializers in `raws` have no data.
            raws: their data, by their index in the main graph.
        """
        self._parts: list[bytes | Raw] = []
        data = memoryview(model.SerializeToString())
        for number, kind, start, body, end in fields(data, 0, len(data)):
            if number == GRAPH and kind == BYTES:
                inside = _graph(data, body, end, raws)
                self._parts += [field_head(GRAPH, _size(inside)), *inside]
            else:
                self._parts.append(bytes(data[start:end]))
        self.size = _size(self._parts)

    def write(self, file: BinaryIO) -> None:
        """Write it.

        Raises:
            OSError: the disk refuses.
        """
        for part in self._parts:
            if isinstance(part, Raw):
                for chunk in part.chunks():
                    file.write(chunk)
            else:
                file.write(part)


def _graph(data: memoryview, start: int, end: int, raws: Mapping[int, Raw]) -> list[bytes | Raw]:
    parts: list[bytes | Raw] = []
    index = -1
    for number, kind, field_start, body, field_end in fields(data, start, end):
        if number == INITIALIZER and kind == BYTES:
            index += 1
            raw = raws.get(index)
            if raw is not None:
                inside = field_head(RAW_DATA, raw.size)
                length = field_end - body + len(inside) + raw.size
                parts += [field_head(INITIALIZER, length), bytes(data[body:field_end]), inside, raw]
                continue
        parts.append(bytes(data[field_start:field_end]))
    return parts


def _size(parts: Iterable[bytes | Raw]) -> int:
    return sum(part.size if isinstance(part, Raw) else len(part) for part in parts)
