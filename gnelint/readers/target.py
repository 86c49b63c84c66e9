"""What the user typed behind `gnelint check`, resolved to model files and Python objects.

torch is loaded only to read a target that needs it.
"""

from __future__ import annotations

import ast
import glob
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from gnelint.errors import ModelError, UsageError
from gnelint.records import dataclass
from gnelint.words import close

TargetKind = Literal["onnx", "pt2", "python"]

FORMS = (
    "A target is a .onnx or .pt2 file, a directory or glob of these, package.module:name, path/file.py:name, "
    "path/file.py:Net(depth=20), hf:ID_OR_DIRECTORY, timm:NAME or torchvision:NAME."
)
LIBRARIES = ("hf", "timm", "torchvision")
"""What stands before the colon of a design that a library builds."""
MODEL_SUFFIXES: dict[str, TargetKind] = {".onnx": "onnx", ".pt2": "pt2"}
WEIGHT_SUFFIXES = frozenset({".pt", ".pth", ".ckpt", ".safetensors", ".bin"})
_KERAS = ("a Keras file", "python -m tf2onnx.convert --keras {} --output model.onnx")
_PICKLE = ("a pickle, which is code and is not run", "point at the code that builds the network, package.module:name")
ELSEWHERE = {
    **dict.fromkeys((".h5", ".hdf5", ".keras"), _KERAS),
    ".pb": ("a TensorFlow graph", "python -m tf2onnx.convert --saved-model DIRECTORY --output model.onnx"),
    ".tflite": ("a TFLite file", "python -m tf2onnx.convert --tflite {} --output model.onnx"),
    ".msgpack": ("weights of Flax", "write the function with jax2onnx (to_onnx) and check the .onnx file"),
    ".ort": ("ONNX Runtime's own format", "check the .onnx file that it was made of"),
    ".mlmodel": ("a Core ML file", "check the network that it was converted from"),
    **dict.fromkeys((".pkl", ".pickle", ".joblib"), _PICKLE),
    ".gguf": ("quantised weights without a network", "check the network that they were made of, as in hf:ID"),
}
"""Formats of other worlds: what a file of this suffix is, and the way from it to something that can be read."""
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
        call: what stands in parentheses behind the attribute, None without them.
        library: the library that builds a design by its name, which `attribute` is.
        weights: a checkpoint to lay over the module.
        meta: whether the module is built without numbers.
    """

    text: str
    kind: TargetKind
    path: Path | None = None
    module: str | None = None
    attribute: str | None = None
    call: str | None = None
    library: str | None = None
    weights: Path | None = None
    meta: bool = False


_ENTRY = re.compile(r"""([^:\[\]]+\.py|[\w.]+):(\w[\w.]*\[(?:-?\d+|'[^']*'|"[^"]*")\].*)""")
"""An entry of a list or a dict behind the colon, as Python writes it: nets["small"], blocks[0]."""


def resolve(text: str) -> tuple[Target, ...]:
    """The models that a target names, in sorted order; at least one.

    Raises:
        UsageError: the text has none of the forms that a target can have.
        ModelError: it has one, but there is no such file, or no model file in the directory.
    """
    if not text.strip():
        raise UsageError("TARGET", "is empty", FORMS)
    library, colon, name = text.partition(":")
    if colon and library in LIBRARIES and not Path(text).exists():
        if not name:
            raise UsageError(text, "no name behind the colon", f"As in {library}:{_EXAMPLES[library]}.")
        return (Target(text, "python", attribute=name, library=library),)
    path = Path(text)
    if path.is_dir():
        return _in_directory(text, path)
    if path.is_file():
        return (_file(text, path),)
    if text.endswith(")") and ":" in text.partition("(")[0]:
        return (_python(text),)
    if (entry := _ENTRY.fullmatch(text)) is not None:
        advice = f"Write a function that returns {entry[2]} and name it: {entry[1]}:network."
        raise UsageError(text, "nothing is evaluated behind the colon", advice)
    if glob.has_magic(text):
        return _matching(text)
    if ":" in text:
        return (_python(text),)
    if os.path.lexists(path):
        raise _no_file(text, path)
    raise _missing(text, path)


def _no_file(text: str, path: Path) -> ModelError:
    """What is there under the name, but cannot be read as a file."""
    if path.is_symlink() and not path.exists():
        return ModelError(
            text, f"is a link to {os.readlink(path)}, which is not there", "Mend the link, or name the file."
        )
    return ModelError(text, "is no regular file", "Name a file on a disk; copy a stream or device into one first.")


_EXAMPLES = {"hf": "bert-base-uncased", "timm": "resnet50", "torchvision": "resnet50"}


def source_file(target: Target) -> str:
    """The model or Python file of a target that has been read in this process; "" if it is not known."""
    if target.path is not None:
        return str(target.path)
    return getattr(sys.modules.get(target.module or ""), "__file__", None) or ""


def suggestion(wanted: str, known: Iterable[str]) -> str:
    """ "Did you mean ...?" for the closest names, or "" if none is close."""
    found = close(wanted, sorted(known), most=3)
    return f"Did you mean {' or '.join(found)}?" if found else ""


def _in_directory(text: str, path: Path) -> tuple[Target, ...]:
    found = sorted(
        file
        for file in path.rglob("*")
        if file.suffix in MODEL_SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not found and (path / "saved_model.pb").is_file():
        advice = f"Convert it: python -m tf2onnx.convert --saved-model {text} --output model.onnx"
        raise ModelError(text, "a SavedModel of TensorFlow", advice)
    if not found and (path / "config.json").is_file():
        raise ModelError(text, "a directory of transformers", f"Check the design that it configures: hf:{text}")
    if not found and (way := as_one_file(path)) is not None:
        raise ModelError(text, "a checkpoint of torch.distributed, which holds no network", way)
    if not found and any((path / name).exists() for name in _ORBAX):
        advice = "Write the function with jax2onnx (to_onnx) and check the .onnx file."
        raise ModelError(text, "a checkpoint of JAX, which holds no network", advice)
    if not found:
        raise ModelError(text, "no .onnx or .pt2 file in this directory", FORMS)
    return tuple(_file(str(file), file) for file in found)


def as_one_file(path: Path) -> str | None:
    """The way from a checkpoint that torch.distributed wrote to one file, None where a directory is something else."""
    if not (path / ".metadata").is_file():
        return None
    command = f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} weights.pt"
    return f"Make one file of it, {command}, and pass --weights weights.pt."


_ORBAX = ("_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt")
"""Files that Orbax writes into a checkpoint's directory."""


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
        if not names:
            problem = "has no class, function or variable at its top that could be a network"
            raise UsageError(text, problem, "Name the file that does, and the network in it: path/file.py:name.")
        example = f"{text}:{names[0]}"
        listed = f"; it defines {', '.join(names[:MAX_LISTED])}"
        raise UsageError(text, "which module of this file?", f"Name it behind a colon, as in {example}{listed}.")
    if path.name.endswith(".index.json"):
        raise UsageError(text, _NO_NETWORK, _WITH_WEIGHTS.format(text))
    if suffix in WEIGHT_SUFFIXES:
        problem = _weights_kind(path)
        raise UsageError(text, problem, _WITH_WEIGHTS.format(text) if problem == _NO_NETWORK else _STATE_DICT)
    if suffix in ELSEWHERE:
        what, way = ELSEWHERE[suffix]
        raise UsageError(text, what, f"The way here: {way.format(text)}.")
    raise UsageError(text, "not a model file", FORMS)


_WITH_WEIGHTS = "Point at the code that builds the network, package.module:name, and pass --weights {}."


_STATE_DICT = (
    "Point at the code that builds the network, package.module:name; for its weights, save its state_dict() with "
    "torch.save and pass --weights FILE."
)
_NO_NETWORK = "a file of weights holds no network"


def _weights_kind(path: Path) -> str:
    """What a file of weights is; nothing in it is unpickled."""
    import zipfile

    if not zipfile.is_zipfile(path):
        return _NO_NETWORK
    with zipfile.ZipFile(path) as archive:
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        if "constants.pkl" in names or any(name.startswith("code/") for name in names):
            return "a TorchScript archive, whose program cannot be traced"
        pickled = _pickled_class(archive.read(names["data.pkl"])) if "data.pkl" in names else None
    if pickled is not None:
        return f"a pickled module ({pickled}), which is code and is not run"
    return _NO_NETWORK


def _pickled_class(pickled: bytes) -> str | None:
    """The class of the object in a pickle, None where it is a collection; nothing is unpickled."""
    import pickletools

    try:
        first = next(found for found in pickletools.genops(pickled) if found[0].name not in ("PROTO", "FRAME"))
    except (ValueError, StopIteration):
        return None
    place, _, name = str(first[1]).partition(" ")
    return f"{place}.{name}" if first[0].name == "GLOBAL" and place not in ("collections", "torch._utils") else None


def _python(text: str) -> Target:
    head, parenthesis, arguments = text.partition("(")
    place, _, attribute = head.rpartition(":")
    call = None
    if parenthesis:
        call = arguments.removesuffix(")")
        if not text.endswith(")") or literal_call(call) is None:
            advice = "Write literals, as in path/file.py:Net(depth=20, width=128); nothing else is evaluated."
            raise UsageError(text, "the arguments are not understood", advice)
    if not attribute or not all(part.isidentifier() for part in attribute.split(".")):
        problem = f'"{attribute}" behind the colon is not a name' if attribute else "no name behind the colon"
        raise UsageError(text, problem, "Write package.module:name or path/file.py:name.")
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            raise _missing(place, path)
        return Target(text, "python", path=path, attribute=attribute, call=call)
    if Path(place).is_file() and Path(place).suffix.lower() != ".py":
        file = _file(place, Path(place))  # or it says what the file is
        raise UsageError(text, f"{place} is a file of one network, which has no name in it", f"Write {file.text}.")
    source = Path(place).with_suffix(".py") if Path(place).suffix.startswith(".py") else None
    if source is not None and source.is_file():
        raise UsageError(text, f"there is no {place}", f"Did you mean {source}:{attribute}?")
    if not place or not all(part.isidentifier() for part in place.split(".")):
        raise UsageError(text, f'"{place}" is neither a Python file nor a module', FORMS)
    return Target(text, "python", module=place, attribute=attribute, call=call)


def literal_call(arguments: str) -> tuple[list[Any], dict[str, Any]] | None:
    """The values of the arguments of a call, None where one of them is no literal."""
    try:
        call = ast.parse(f"f({arguments})", mode="eval").body
        if not isinstance(call, ast.Call) or any(keyword.arg is None for keyword in call.keywords):
            return None
        named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg}
        return [ast.literal_eval(value) for value in call.args], named
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


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


_NO_NETWORKS = (ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.JoinedStr, ast.BinOp)
"""What gives numbers, texts and collections."""


def _defined_names(path: Path) -> list[str]:
    """Classes, functions and variables at the top of a Python file that may be networks, in order, private ones left
    out.

    Raises:
        UsageError: the file is no Python, or cannot be read.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except OSError as error:
        raise UsageError(str(path), f"cannot be read ({error.strerror})", "") from None
    except (SyntaxError, ValueError) as error:
        line = f"line {error.lineno}: " if isinstance(error, SyntaxError) and error.lineno else ""
        told = error.msg if isinstance(error, SyntaxError) else str(error)
        raise UsageError(str(path), f"is no valid Python ({line}{told})", "Mend it first.") from None
    names: list[str] = []
    for statement in tree.body:
        if isinstance(statement, (ast.ClassDef, ast.FunctionDef)):
            names.append(statement.name)
        elif isinstance(statement, ast.Assign) and not isinstance(statement.value, _NO_NETWORKS):
            names.extend(found.id for found in statement.targets if isinstance(found, ast.Name))
    return [name for name in names if not name.startswith("_")]
