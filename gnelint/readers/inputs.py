"""What `--input` says: the shapes, names and types of the tensors that a model is fed."""

from __future__ import annotations

import re

from gnelint.errors import UsageError
from gnelint.records import dataclass

DTYPES = frozenset(
    {"float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16",
     "uint8", "bool", "complex64", "complex128"}
)  # fmt: skip
"""The types that an input may be declared with."""

ADVICE = "Write sizes with commas, a name and a type if needed: --input 8,3,32,32 or --input ids=8,16:int64"
MAX_ENTRIES = 1 << 40

# the sizes never hold "=" or ":", so the last of each separates, whatever the name holds
_PATTERN = re.compile(r"^(?:(?P<name>.+)=)?(?P<sizes>[^=:]*)(?::(?P<dtype>[^=:]*))?$")


@dataclass(frozen=True)
class InputSpec:
    """One tensor that the model is fed.

    Attributes:
        shape: its sizes, all positive; () is a scalar.
        name: the input's name; None means "by position".
        dtype: one of `DTYPES`; None leaves it to the model (float32 where the model does not say).
    """

    shape: tuple[int, ...]
    name: str | None = None
    dtype: str | None = None


def parse_input(text: str) -> InputSpec:
    """Read one `--input`: "8,3,32,32", "name=8,16" or "name=8,16:int64".

    Raises:
        UsageError: the text is not of this form; the message shows one that is.
    """
    subject = f"--input {text}"
    found = _PATTERN.match(text.strip())
    if found is None:
        raise UsageError(subject, "not understood", ADVICE)
    name, sizes, dtype = found["name"], found["sizes"], found["dtype"]
    if dtype is not None and dtype.strip() not in DTYPES:
        raise UsageError(subject, f'unknown data type "{dtype.strip()}"', f"Known types: {', '.join(sorted(DTYPES))}.")
    shape = tuple(_size(part, subject) for part in sizes.strip().rstrip(",").split(",")) if sizes.strip() else ()
    if not shape and name is None:
        raise UsageError(subject, "no sizes given", ADVICE)
    entries = 1
    for size in shape:
        entries *= size
    if entries > MAX_ENTRIES:
        raise UsageError(subject, f"{entries} entries are too many", "Give the shape of one batch.")
    return InputSpec(shape, name.strip() if name else None, dtype.strip() if dtype else None)


def _size(part: str, subject: str) -> int:
    text = part.strip()
    if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) == 0:
        raise UsageError(subject, f'"{text}" is not a positive size', ADVICE)
    return int(text)
