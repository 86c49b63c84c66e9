"""What the user typed behind `gnelint check`, resolved to model files and Python objects.

torch is loaded only to read a target that needs it.
"""

from __future__ import annotations

import ast
import difflib
import glob
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gnelint.errors import ModelError, UsageError

TargetKind = Literal["onnx", "pt2", "python"]

FORMS = "A target is a .onnx or .pt2 file, a directory or glob of these, package.module:name or path/file.py:name."
MODEL_SUFFIXES: dict[str, TargetKind] = {".onnx": "onnx", ".pt2": "pt2"}
WEIGHT_SUFFIXES = frozenset({".pt", ".pth", ".ckpt", ".safetensors", ".bin"})
MAX_LISTED = 6


@dataclass(frozen=True)
class Target:
    """One model to read.

    Attributes:
        text: what it is called in reports: the user's own words, or the file that a directory or glob led to.
        kind: the world it comes from.
        path: the model file, or the Python file of a `path/file.py:name` target.
        module: the dotted module of a `package.module:name` target.
        attribute: what stands behind the colon, a dotted name; None for files.
    """

    text: str
    kind: TargetKind
    path: Path | None = None
    module: str | None = None
    attribute: str | None = None


def resolve(text: str) -> tuple[Target, ...]:
    """The models that a target names, in sorted order; at least one.

    Raises:
        UsageError: the text has none of the forms that a target can have.
        ModelError: it has one, but there is no such file, or no model file in the directory.
    """
    if not text.strip():
        raise UsageError("TARGET", "is empty", FORMS)
    path = Path(text)
    if path.is_dir():
        return _in_directory(text, path)
    if path.is_file():
        return (_file(text, path),)
    if glob.has_magic(text):
        return _matching(text)
    if ":" in text:
        return (_python(text),)
    raise _missing(text, path)


def source_file(target: Target) -> str:
    """The model or Python file of a target that has been read in this process; "" if it is not known."""
    if target.path is not None:
        return str(target.path)
    return getattr(sys.modules.get(target.module or ""), "__file__", None) or ""


def suggestion(wanted: str, known: Iterable[str]) -> str:
    """ "Did you mean ...?" for the closest names, or "" if none is close."""
    close = difflib.get_close_matches(wanted, sorted(known), n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(close)}?" if close else ""


def _in_directory(text: str, path: Path) -> tuple[Target, ...]:
    found = sorted(
        file
        for file in path.rglob("*")
        if file.suffix in MODEL_SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not found:
        raise ModelError(text, "no .onnx or .pt2 file in this directory", FORMS)
    return tuple(_file(str(file), file) for file in found)


def _matching(text: str) -> tuple[Target, ...]:
    matches = sorted(Path(found) for found in glob.glob(text, recursive=True))
    found = [file for file in matches if file.suffix in MODEL_SUFFIXES and file.is_file()]
    if not found:
        problem = f"{len(matches)} files match, none of them .onnx or .pt2" if matches else "no file matches"
        raise ModelError(text, problem, FORMS)
    return tuple(_file(str(file), file) for file in found)


def _file(text: str, path: Path) -> Target:
    suffix = path.suffix.lower()
    if suffix in MODEL_SUFFIXES:
        return Target(text, MODEL_SUFFIXES[suffix], path=path)
    if suffix == ".py":
        names = _defined_names(path)
        example = f"{text}:{names[0] if names else 'name'}"
        listed = f"; it defines {', '.join(names[:MAX_LISTED])}" if names else ""
        raise UsageError(text, "which module of this file?", f"Name it behind a colon, as in {example}{listed}.")
    if suffix in WEIGHT_SUFFIXES:
        advice = "Point at the code that builds it, package.module:name, or export it to .onnx or .pt2."
        raise UsageError(text, "a file of weights holds no network", advice)
    raise UsageError(text, "not a model file", FORMS)


def _python(text: str) -> Target:
    place, _, attribute = text.rpartition(":")
    if not attribute or not all(part.isidentifier() for part in attribute.split(".")):
        problem = f'"{attribute}" behind the colon is not a name' if attribute else "no name behind the colon"
        raise UsageError(text, problem, "Write package.module:name or path/file.py:name; calls are not evaluated.")
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            raise _missing(place, path)
        return Target(text, "python", path=path, attribute=attribute)
    if not place or not all(part.isidentifier() for part in place.split(".")):
        raise UsageError(text, f'"{place}" is neither a Python file nor a module', FORMS)
    return Target(text, "python", module=place, attribute=attribute)


def _missing(text: str, path: Path) -> ModelError | UsageError:
    looks_like_path = path.suffix in {*MODEL_SUFFIXES, ".py"} or "/" in text
    if not looks_like_path and all(part.isidentifier() for part in text.split(".")) and "." in text:
        return UsageError(text, "no such file; a Python target needs a name behind a colon", f"As in {text}:model.")
    siblings = []
    if path.parent.is_dir():
        readable = {*MODEL_SUFFIXES, ".py"}
        siblings = [str(path.parent / file.name) for file in path.parent.iterdir() if file.suffix in readable]
    hint = suggestion(str(path), siblings)
    if not hint and not path.parent.is_dir():
        hint = f"There is no directory {path.parent}."
    return ModelError(text, "no such file", hint or FORMS)


def _defined_names(path: Path) -> list[str]:
    """Classes, functions and variables at the top of a Python file, in order, private ones left out."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError):
        return []
    names: list[str] = []
    for statement in tree.body:
        if isinstance(statement, (ast.ClassDef, ast.FunctionDef)):
            names.append(statement.name)
        elif isinstance(statement, ast.Assign):
            names.extend(found.id for found in statement.targets if isinstance(found, ast.Name))
    return [name for name in names if not name.startswith("_")]
