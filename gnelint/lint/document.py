"""A parsed rule file: plain data, and where in the file each piece of it stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gnelint.errors import RuleError
from gnelint.records import dataclass

Path = tuple[str | int, ...]
"""Keys and indices from the top of the document to a value."""


@dataclass(frozen=True)
class Document:
    """A parsed file: plain data, and the line (from 1) where each key and each item stands.

    Attributes:
        text_lines: for a block scalar (`|` or `>`), the line of its first line of text.
    """

    file: str
    data: Any
    lines: Mapping[Path, int]
    text_lines: Mapping[Path, int]

    def line(self, path: Path) -> int:
        """The line of a value, or of the nearest thing around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def error(self, path: Path, problem: str, advice: str = "") -> RuleError:
        """The error for a value, naming file, line and key."""
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
        return RuleError(f"{self.file}:{self.line(path)}", f"{key}: {problem}" if key else problem, advice)
