"""The targets that an editor's user has told the server of: the only code that is ever run."""

from __future__ import annotations

import ast
import shlex
from pathlib import Path

from gnelint.errors import UsageError
from gnelint.files import read_text
from gnelint.records import dataclass


@dataclass(frozen=True)
class Told:
    """A target with its options, as on the command line.

    Attributes:
        words: the target, then options of `gnelint check` that `gnelint fix` takes as well.
    """

    words: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Told:
        """What stands in a setting, as "train.py:make_model --input 8,3,32,32".

        Raises:
            UsageError: it does not begin with a target in Python.
        """
        try:
            words = shlex.split(text)
        except ValueError:
            words = []
        if not words or words[0].startswith("-") or ":" not in words[0]:
            raise UsageError(text, "names no Python target", "As in train.py:make_model --input 8,3,32,32.")
        return cls(tuple(words))

    @property
    def target(self) -> str:
        """Without its options."""
        return self.words[0]

    def file(self, root: Path) -> Path | None:
        """The Python file that it names, None where it is not below `root`: a library's, or one not yet written."""
        place, _, _ = self.target.partition("(")[0].rpartition(":")
        inside = Path(place) if place.endswith(".py") else Path(*place.split("."))
        choices = [inside] if place.endswith(".py") else [inside.with_suffix(".py"), inside / "__init__.py"]
        return next((root / choice for choice in choices if (root / choice).is_file()), None)

    def line(self, root: Path) -> int:
        """The line, from 1, where the file defines it; 1 if it is not seen there."""
        file = self.file(root)
        name = self.target.partition("(")[0].rpartition(":")[2].partition(".")[0]
        try:
            tree = ast.parse("" if file is None else read_text(file))
        except (OSError, SyntaxError, ValueError):
            return 1
        for statement in tree.body:
            named = isinstance(statement, (ast.FunctionDef, ast.ClassDef)) and statement.name == name
            assigned = isinstance(statement, ast.Assign) and any(
                isinstance(target, ast.Name) and target.id == name for target in statement.targets
            )
            if named or assigned:
                return statement.lineno
        return 1
