"""Python targets: import what `package.module:name` points at, make the module and its inputs, and read it."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.export import ExportedProgram

from gnelint.errors import GnelintError, ModelError
from gnelint.ir.graph import Graph
from gnelint.readers.inputs import InputSpec
from gnelint.readers.target import MAX_LISTED, Target, suggestion
from gnelint.readers.torch.export import cause, quietly
from gnelint.readers.torch.initializers import InitializerRecorder
from gnelint.readers.torch.reader import Traced, trace_exported, trace_module


def read_python(target: Target, *, training: bool, inputs: Sequence[InputSpec] = ()) -> Graph:
    """Read the module that a Python target names, as `trace_python` does, for the graph alone."""
    return trace_python(target, training=training, inputs=inputs).graph


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
        target: the imports of the module's file start from where it is.
    """

    name: str
    found: torch.nn.Module | ExportedProgram
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: Sequence[InputSpec]
    recorder: InitializerRecorder | None
    target: Target | None = None

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
            )


def load_python(target: Target, inputs: Sequence[InputSpec] = ()) -> Loaded:
    """Import and build what a Python target names.

    Raises:
        ModelError: it cannot be imported or built, or its inputs are not known.
    """
    recorder = InitializerRecorder()
    with importable(target):
        with recorder:
            found = load_object(target)
        if isinstance(found, ExportedProgram):
            return Loaded(target.text, found, (), {}, inputs, None, target)
        with recorder:
            module, own_inputs = build(found, target)
        args, kwargs = example_inputs(module, own_inputs, inputs, target.text)
        return Loaded(target.text, module, args, kwargs, inputs, recorder, target)


@contextlib.contextmanager
def importable(target: Target) -> Iterator[None]:
    """The directory that the target's own imports start from is on the path while it is read."""
    place = str(target.path.resolve().parent) if target.path is not None else os.getcwd()
    sys.path.insert(0, place)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(place)


def load_object(target: Target) -> Any:
    """Import the target's module or file and look its attribute up.

    Raises:
        ModelError: there is no such module or attribute, or importing it raised.
    """
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
        return _import_file(target.path)
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
        raise ModelError(target.text, f"{problem} {cause(error)}", "Fix it, or point at something else.") from error


def build(found: Any, target: Target) -> tuple[torch.nn.Module, Any]:
    """The module that an object stands for, and the example inputs it brought along (None if it brought none).

    Raises:
        ModelError: the object is no module and makes none, needs arguments, or raised.
    """
    if isinstance(found, torch.jit.ScriptModule):
        problem = "is a TorchScript module, which cannot be traced"
        raise ModelError(target.text, problem, "Point at the module it was made of.")
    if callable(found) and not isinstance(found, torch.nn.Module):
        missing = _required_parameters(found)
        if missing:
            raise ModelError(
                target.text,
                f"needs arguments ({', '.join(missing)})",
                "Point at a function without arguments that returns the module.",
            )
        found = _guarded(target, "calling it raised", found)
    own_inputs = None
    if isinstance(found, (tuple, list)) and len(found) == 2 and isinstance(found[0], torch.nn.Module):
        found, own_inputs = found
    if not isinstance(found, torch.nn.Module):
        raise ModelError(
            target.text,
            f"gives a {type(found).__name__}, not a torch.nn.Module",
            "Point at a module, a module class, or a function that returns a module or (module, example_inputs).",
        )
    return found, own_inputs


def _required_parameters(function: Any) -> list[str]:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return []
    return _required(signature)


def _required(signature: inspect.Signature) -> list[str]:
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in signature.parameters.values() if p.default is p.empty and p.kind in named]


def example_inputs(
    module: torch.nn.Module, own: Any, specs: Sequence[InputSpec], name: str
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Arguments to trace with: made from the specs if there are any, else the target's own.

    Floating ones are drawn from N(0, 1), integers are valid row numbers of every embedding table, booleans are True.

    Raises:
        ModelError: neither says what the inputs are, or a spec names no argument of `forward`.
    """
    signature = inspect.signature(module.forward)
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    if specs:
        return (), _named_inputs(module, signature, specs, name, device)
    if own is not None:
        if isinstance(own, Mapping):
            return (), {key: _moved(value, device) for key, value in own.items()}
        values = own if isinstance(own, (tuple, list)) else (own,)
        return tuple(_moved(value, device) for value in values), {}
    missing = _required(signature)
    if missing or any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values()):
        taken = f" (forward takes {', '.join(missing)})" if missing else ""
        raise ModelError(
            name,
            f"the shapes of its inputs are not known{taken}",
            f"Pass one --input each, such as --input {_guess(module)}; name=8,16:int64 names and types one.",
        )
    return (), {}


def _moved(value: Any, device: torch.device) -> Any:
    """On the meta device if the module is there: nothing else can be traced with it."""
    return value.to(device) if isinstance(value, torch.Tensor) and device.type == "meta" else value


def _named_inputs(
    module: torch.nn.Module, signature: inspect.Signature, specs: Sequence[InputSpec], name: str, device: torch.device
) -> dict[str, torch.Tensor]:
    names = [p.name for p in signature.parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    catch_all = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    taken = {spec.name for spec in specs if spec.name is not None}
    free = iter([found for found in names if found not in taken])
    made: dict[str, torch.Tensor] = {}
    for spec in specs:
        key = spec.name if spec.name is not None else next(free, None)
        if key is None or (key not in names and not catch_all):
            problem = f'forward takes no "{key}"' if key is not None else "more --input than forward takes arguments"
            raise ModelError(name, problem, suggestion(key or "", names) or f"It takes {', '.join(names)}.")
        made[key] = _tensor(spec, module, device)
    missing = [found for found in _required(signature) if found not in made]
    if missing:
        example = f"--input {missing[0]}=8,16"
        raise ModelError(name, f"no --input for {', '.join(missing)}", f"Pass one each, as in {example}.")
    return made


def _tensor(spec: InputSpec, module: torch.nn.Module, device: torch.device) -> torch.Tensor:
    floating = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    dtype = floating if spec.dtype is None else getattr(torch, spec.dtype)
    if dtype is torch.bool:
        return torch.ones(spec.shape, dtype=dtype, device=device)
    if dtype.is_floating_point or dtype.is_complex:
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(spec.shape, generator=generator, dtype=torch.float32) if device.type != "meta" else None
        return torch.empty(spec.shape, dtype=dtype, device=device) if drawn is None else drawn.to(device, dtype)
    rows = [part.num_embeddings for part in module.modules() if isinstance(part, torch.nn.Embedding)]
    count = 1
    for size in spec.shape:
        count *= size
    return (torch.arange(count) % min([*rows, 100])).reshape(spec.shape).to(device, dtype)


def _guess(module: torch.nn.Module) -> str:
    """A shape that fits the first layer, to show the form of the option."""
    for part in module.modules():
        if isinstance(part, torch.nn.modules.conv._ConvNd):
            return ",".join(map(str, (8, part.in_channels, *(32,) * (part.weight.dim() - 2))))
        if isinstance(part, torch.nn.Linear):
            return f"8,{part.in_features}"
        if isinstance(part, torch.nn.Embedding):
            return "8,16:int64"
    return "8,3,32,32"
