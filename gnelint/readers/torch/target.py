"""Python targets: import what `package.module:name` points at, make the module and its inputs, and read it."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.export import ExportedProgram

from gnelint.budget import at
from gnelint.errors import GnelintError, ModelError
from gnelint.readers.inputs import InputSpec
from gnelint.readers.target import MAX_LISTED, Target, literal_call, suggestion
from gnelint.readers.torch.arguments import arguments, required
from gnelint.readers.torch.checkpoint import Laid, empty_on_meta, lay_over
from gnelint.readers.torch.export import cause, device_advice, quietly
from gnelint.readers.torch.initializers import InitializerRecorder
from gnelint.readers.torch.libraries import from_library
from gnelint.readers.torch.reader import Traced, trace_exported, trace_module
from gnelint.readers.torch.wrapped import forwarding
from gnelint.records import dataclass


def trace_python(target: Target, *, training: bool, inputs: Sequence[InputSpec] = ()) -> Traced:
    """Read the module that a Python target names.

    Raises:
        ModelError: it cannot be imported, built or traced, or its inputs are not known.
    """
    return load_python(target, inputs).trace(training=training)


@dataclass(frozen=True)
class Loaded:
    """What a Python target names, built and ready to be traced.

    Attributes:
        name: the target's text.
        found: the module, or a program that was exported already.
        args, kwargs: what the module is traced with.
        inputs: shapes as the user gave them; they fix the symbolic sizes of an exported program.
        recorder: saw the module being built.
        notes: how it was built and what it is fed.
        target: the imports of the module's file start from where it is.
        reads: what gives the numbers of stored tensors, as in `Laid`.
    """

    name: str
    found: torch.nn.Module | ExportedProgram
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: Sequence[InputSpec]
    recorder: InitializerRecorder | None
    target: Target | None = None
    notes: tuple[str, ...] = ()
    reads: Mapping[str, Callable[[], torch.Tensor]] = field(default_factory=dict)

    def trace(self, *, training: bool) -> Traced:
        """Trace it.

        Raises:
            ModelError: it cannot be traced.
        """
        with importable(self.target) if self.target is not None else contextlib.nullcontext():
            if isinstance(self.found, ExportedProgram):
                return trace_exported(self.found, name=self.name, training=training, inputs=self.inputs)
            return trace_module(
                self.found,
                self.args,
                name=self.name,
                training=training,
                example_kwargs=self.kwargs,
                recorder=self.recorder,
                notes=self.notes,
                reads=self.reads,
            )


def load_python(target: Target, inputs: Sequence[InputSpec] = ()) -> Loaded:
    """Import and build what a Python target names.

    Raises:
        ModelError: it cannot be imported or built, or its inputs are not known.
    """
    at("building it")
    recorder = InitializerRecorder()
    with importable(target):
        with recorder:
            found = load_object(target)
        if isinstance(found, ExportedProgram):
            return Loaded(target.text, found, (), {}, inputs, None, target)
        without_numbers = empty_on_meta() if target.meta or target.weights is not None else contextlib.nullcontext()
        with recorder, without_numbers:
            built, own, keywords = build(found, target)
        laid = Laid((), {}) if target.weights is None else lay_over(built, target.weights, target.text)
        module, said = forwarding(built, target.text)
        given = arguments(module, own, inputs, target.text, keywords)
        notes = (*laid.notes, *said, *given.notes)
        return Loaded(target.text, module, given.args, given.kwargs, inputs, recorder, target, notes, laid.read)


@contextlib.contextmanager
def importable(target: Target) -> Iterator[None]:
    """The directories that the target's own imports start from are on the path while it is read: its own, the one in
    which gnelint runs, and the one that holds the file's package."""
    places = [os.getcwd()]
    if target.path is not None:
        root, _ = _in_package(target.path)
        places = [*dict.fromkeys((str(target.path.resolve().parent), os.getcwd(), str(root)))]
    sys.path[:0] = places
    try:
        yield
    finally:
        for place in places:
            with contextlib.suppress(ValueError):
                sys.path.remove(place)


def load_object(target: Target) -> Any:
    """Import the target's module or file and look its attribute up.

    Raises:
        ModelError: there is no such module or attribute, or importing it raised.
    """
    if target.library is not None:
        return _guarded(target, "building it raised", lambda: from_library(target))
    module = _guarded(target, "importing it raised", lambda: _import(target))
    found: Any = module
    for part in (target.attribute or "").split("."):
        if not hasattr(found, part):
            where = target.path if target.path is not None else target.module
            known = [name for name in vars(found) if not name.startswith("_")] if hasattr(found, "__dict__") else []
            raise ModelError(target.text, f'{where} has no "{part}"', suggestion(part, known) or _offered(found))
        found = getattr(found, part)
    return found


def _offered(module: Any) -> str:
    """The modules and module classes that the user could have meant."""
    names = [name for name, value in vars(module).items() if _is_network(value)] if hasattr(module, "__dict__") else []
    return f"It has {', '.join(names[:MAX_LISTED])}." if names else ""


def _is_network(value: Any) -> bool:
    return isinstance(value, torch.nn.Module) or (isinstance(value, type) and issubclass(value, torch.nn.Module))


def _import(target: Target) -> ModuleType:
    if target.path is not None:
        try:
            return _import_file(target.path)
        except ImportError as error:
            root, name = _in_package(target.path)
            if "relative import" not in str(error) or root == target.path.resolve().parent:
                raise
        return importlib.import_module(name)
    assert target.module is not None
    for parent in _parents(target.module):
        if importlib.util.find_spec(parent) is None:
            folder, _, leaf = parent.rpartition(".")
            hint = suggestion(leaf, _submodules(folder)) or "Run gnelint where it is found, or give path/file.py:name."
            raise ModelError(target.text, f"there is no Python module {parent}", hint)
    return importlib.import_module(target.module)


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _submodules(package: str) -> list[str]:
    """Names that could be imported from a package, or from the current directory for ""."""
    folders = getattr(sys.modules.get(package), "__path__", []) if package else [os.getcwd()]
    files = [file for folder in folders if Path(folder).is_dir() for file in Path(folder).iterdir()]
    return [file.stem for file in files if file.suffix == ".py" or (file / "__init__.py").is_file()]


def _in_package(path: Path) -> tuple[Path, str]:
    """The directory above the packages that a file is in, and its name as seen from there."""
    folder, parts = path.resolve().parent, [] if path.stem == "__init__" else [path.stem]
    while (folder / "__init__.py").is_file():
        folder, parts = folder.parent, [folder.name, *parts]
    return folder, ".".join(parts)


def _import_file(path: Path) -> ModuleType:
    name = f"_gnelint_target_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _guarded(target: Target, problem: str, action: Callable[[], Any]) -> Any:
    """Run user code; what it raises becomes one line with the cause and the user's line."""
    try:
        with quietly():
            return action()
    except GnelintError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(target.text, f"{problem} {cause(error)}", _way_out(error)) from error


def _way_out(error: BaseException) -> str:
    """What to do about an error of the user's code."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        name = error.name.partition(".")[0]
        return f"Run gnelint where {name} is found, or install it for the Python that runs gnelint ({sys.executable})."
    if (way := device_advice(str(error))) is not None:
        return way
    return "Fix it, or point at something else."


def build(found: Any, target: Target) -> tuple[torch.nn.Module, Any, Mapping[str, Any]]:
    """The module that an object stands for, and the inputs and keywords that it brought along (None, {} if none).

    Raises:
        ModelError: the object is no module and makes none, needs arguments, or raised.
    """
    refuse_untraceable(found, target.text)
    if callable(found) and not isinstance(found, torch.nn.Module):
        args, kwargs = (literal_call(target.call) if target.call is not None else None) or ([], {})
        missing = _required_parameters(found) if target.call is None else []
        if missing:
            written = ", ".join(f"{name}=..." for name in missing)
            raise ModelError(
                target.text,
                f"needs arguments ({', '.join(missing)})",
                f"Write them behind it, as literals: {target.text}({written}).",
            )
        maker = found
        _refuse_arguments(maker, args, kwargs, target)
        found = _guarded(target, "calling it raised", lambda: maker(*args, **kwargs))
        refuse_untraceable(found, target.text)
    own: Any = None
    keywords: Mapping[str, Any] = {}
    if isinstance(found, (tuple, list)) and len(found) in (2, 3) and isinstance(found[0], torch.nn.Module):
        own, keywords = found[1], found[2] if len(found) == 3 and found[2] is not None else {}
        if not isinstance(keywords, Mapping):
            raise ModelError(
                target.text,
                f"gives (module, inputs, {type(keywords).__name__}), where keywords belong in the third place",
                "Several inputs are a tuple: return (module, (x, y)).",
            )
        found = found[0]
        refuse_untraceable(found, target.text)
    if not isinstance(found, torch.nn.Module):
        raise ModelError(
            target.text,
            f"gives a {type(found).__name__}, not a torch.nn.Module",
            "Point at a module, a module class, or a function that returns a module, (module, inputs) or "
            "(module, inputs, kwargs).",
        )
    return found, own, keywords


def _refuse_arguments(maker: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], target: Target) -> None:
    """What a call would say of arguments that do not fit, with those that would.

    Raises:
        ModelError: they do not.
    """
    try:
        signature = inspect.signature(maker)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        shown = signature.replace(return_annotation=signature.empty)
        raise ModelError(target.text, f"the arguments do not fit: {error}", f"It takes {shown}.") from None


def refuse_untraceable(found: Any, name: str) -> None:
    """Scripted modules are programs of their own, and what quantised ones compute has no gradient.

    Raises:
        ModelError: it is one.
    """
    if isinstance(found, torch.jit.ScriptModule):
        raise ModelError(
            name, "is a TorchScript module, which cannot be traced", "Point at the module that it was made of."
        )
    parts = found.named_modules() if isinstance(found, torch.nn.Module) else ()
    quantised = next((path or type(part).__name__ for path, part in parts if _is_quantised(part)), None)
    if quantised is not None:
        raise ModelError(
            name,
            f"holds quantised layers ({quantised}), whose packed integers have no gradient",
            "Point at the floating-point module that it was made of.",
        )


def _is_quantised(part: torch.nn.Module) -> bool:
    """Whether it is a layer of quantised weights; operations that are only watched are functions of their own."""
    return ".quantized." in type(part).__module__ and "functional_modules" not in type(part).__module__


def _required_parameters(function: Any) -> list[str]:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return []
    return required(signature)
