"""The protobuf wire format of an ONNX file, as far as large tensors are cut out of it and put in again."""

from __future__ import annotations

from collections.abc import Iterator

GRAPH, NODE, INITIALIZER, RAW_DATA = 7, 1, 5, 9
"""Field numbers of onnx.proto: in ModelProto, twice in GraphProto, in TensorProto."""
OP_TYPE, ATTRIBUTE, ATTRIBUTE_NAME = 4, 5, 1
"""The same of NodeProto, twice, and of AttributeProto."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types."""


class BrokenError(Exception):
    """The bytes are no sequence of protobuf fields."""


def fields(data: memoryview, position: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """(number, wire type, start, start of the content, end) of each field of the message data[position:end].

    Raises:
        BrokenError: it is no message.
    """
    while position < end:
        start = position
        key, position = _varint(data, position, end)
        kind = key & 7
        if kind == BYTES:
            length, body = _varint(data, position, end)
            position = body + length
        elif kind == VARINT:
            body = position
            _, position = _varint(data, position, end)
        elif kind in (FIXED64, FIXED32):
            body = position
            position += 8 if kind == FIXED64 else 4
        else:
            raise BrokenError
        if position > end or key < 8:  # there is no field 0: zeros are no message
            raise BrokenError
        yield key >> 3, kind, start, body, position


def _varint(data: memoryview, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
    raise BrokenError


def field_head(number: int, length: int) -> bytes:
    """What stands before the content of a field of bytes."""
    return _encoded(number << 3 | BYTES) + _encoded(length)


def _encoded(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
