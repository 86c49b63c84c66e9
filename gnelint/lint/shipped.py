"""The rules that ship, parsed once a user: reading their YAML takes longer than checking a small network.

What was parsed is kept as JSON in the user's cache directory, under checksums of the files' bytes: they guard against
another version of the rules, not against people. A copy that somebody else could have written is not read. Which line
a key stands on is asked for errors alone, and read from the file then.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gnelint.files import is_own, user_directory, write_whole
from gnelint.lint.document import Document
from gnelint.lint.document import Path as KeyPath
from gnelint.records import cached_property, dataclass

_FORM = b"data\n"
"""What a copy holds of each file: copies of another form have another name."""

_KEPT = 4
"""Copies for as many versions of the rules stay; the oldest go first."""


def shipped_documents(files: Sequence[Path]) -> list[Document]:
    """The documents in rule files of gnelint's own."""
    texts = [file.read_bytes() for file in files]
    copy = _copy_of(files, texts)
    found = None if copy is None else _read(copy)
    if found is None:
        from gnelint.lint.yaml_marks import parse  # slow to import

        documents = [parse(text.decode(), str(file)) for file, text in zip(files, texts, strict=True)]
        if copy is not None:
            _keep(copy, [each.data for each in documents])
        return documents
    return [
        Document(str(file), data, _Lines(str(file), text, "lines"), _Lines(str(file), text, "text_lines"))
        for file, text, data in zip(files, texts, found, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class _Lines(Mapping[KeyPath, int]):
    """Lines of a rule file, read when somebody asks.

    Attributes:
        file, text: the file, and what is in it.
        kind: which attribute of a document this is.
    """

    file: str
    text: bytes
    kind: str

    @cached_property
    def _found(self) -> Mapping[KeyPath, int]:
        from gnelint.lint.yaml_marks import parse  # slow to import

        lines: Mapping[KeyPath, int] = getattr(parse(self.text.decode(), self.file), self.kind)
        return lines

    def __getitem__(self, path: KeyPath) -> int:
        return self._found[path]

    def __iter__(self) -> Iterator[KeyPath]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def _copy_of(files: Sequence[Path], texts: Sequence[bytes]) -> Path | None:
    """Where the copy of these files is kept, None for a user without a directory."""
    whole = _FORM + b"".join(
        f"{file.name} {len(text)}\n".encode() + text for file, text in zip(files, texts, strict=True)
    )
    directory = user_directory()
    mark = f"{len(whole):08x}{zlib.adler32(whole):08x}{zlib.crc32(whole):08x}"  # a hash has to open OpenSSL, 3 ms
    return None if directory is None else directory / f"rules-{mark}.json"


def _read(copy: Path) -> list[Any] | None:
    try:
        if not (is_own(copy.parent) and is_own(copy)):
            return None
        found: list[Any] = json.loads(copy.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _keep(copy: Path, found: list[Any]) -> None:
    """Write the copy for the next time, if the directory is there to be written."""
    with contextlib.suppress(OSError):
        copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(copy, json.dumps(found))
        copies = sorted(copy.parent.glob("rules-*.json"), key=lambda file: file.stat().st_mtime_ns)
        for file in copies[:-_KEPT]:
            file.unlink()
