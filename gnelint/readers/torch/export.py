"""Tracing a module without leaving a mark on it, and saying clearly why a module cannot be traced."""

from __future__ import annotations

import contextlib
import logging
import random
import sys
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import StringIO
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram

from gnelint.errors import ModelError
from gnelint.readers.torch.graph import knows
from gnelint.readers.torch.names import is_user_code

KEPT_WHOLE = frozenset({"_weight_norm", "_weight_norm_interface"})
"""Composites that the lowering table lacks and that are not taken apart: weight normalisation is folded into the weight
and named after what it is."""


@dataclass(frozen=True)
class Exported:
    """A module as a functional program.

    Attributes:
        program: the program.
        called: names of the parameters that something reads in it, whether or not an output depends on them.
        notes: what a person should know about how it was obtained.
    """

    program: ExportedProgram
    called: frozenset[str]
    notes: tuple[str, ...] = ()


def export_module(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str, training: bool
) -> Exported:
    """The module as a functional program.

    Raises:
        ModelError: neither torch.export nor torch.fx can trace it.
    """
    # torch prints the half-traced program when it fails, to either stream: the error says what matters in one line
    with untouched(module), quietly(), contextlib.redirect_stdout(StringIO()), contextlib.redirect_stderr(StringIO()):
        set_mode(module, training)
        try:
            program = torch.export.export(module, args, kwargs, strict=False)
            return Exported(decomposed(_detached(program)), called(program))
        except Exception as error:
            failure = error
        try:
            traced = fx.symbolic_trace(module)
            program = torch.export.export(traced, args, kwargs, strict=False)
            found = Exported(decomposed(_detached(program)), called(program))
        except Exception:
            raise ModelError(name, f"cannot be traced: {cause(failure)}", _advice(failure)) from failure
    return replace(found, notes=(f"torch.export failed ({_one_line(failure)}); traced with torch.fx instead",))


def called(program: ExportedProgram) -> frozenset[str]:
    """Names of the stored tensors that something in a program reads, before what is not needed is taken out."""
    read = {node.name for node in program.graph.nodes if node.op == "placeholder" and node.users}
    return frozenset(str(spec.target) for spec in program.graph_signature.input_specs if spec.arg.name in read)


def _detached(program: ExportedProgram) -> ExportedProgram:
    """What is computed under `no_grad`, detached: taken apart, the program would forget under which it was."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if getattr(node.target, "__name__", "") != "wrap_with_set_grad_enabled" or node.args[0] is not False:
            continue
        for part in list(node.users):
            if isinstance(part.meta.get("val"), torch.Tensor) and part.meta["val"].is_floating_point():
                with graph.inserting_after(part):
                    detached = graph.call_function(torch.ops.aten.detach.default, (part,))
                detached.meta = dict(part.meta)
                part.replace_all_uses_with(detached, delete_user_cb=lambda user, own=detached: user is not own)
    return program


def decomposed(program: ExportedProgram) -> ExportedProgram:
    """The functional form: no writes in place; composites that the lowering table knows are kept whole."""
    table = {
        operation: rule
        for operation, rule in torch.export.default_decompositions().items()
        if not knows(operation) and _bare_name(operation) not in KEPT_WHOLE
    }
    return program.run_decompositions(table)


def _bare_name(operation: Any) -> str:
    return str(operation.overloadpacket.__name__)


def set_mode(module: torch.nn.Module, training: bool) -> None:
    """Evaluation mode for all, or training mode unless the module as a whole is in it already."""
    if not training:
        module.eval()
    elif not module.training:
        module.train()


@contextlib.contextmanager
def untouched(module: torch.nn.Module) -> Iterator[None]:
    """Put back, afterwards, every submodule's attributes and flags and the state of the random generators."""
    attributes = [(part, dict(part.__dict__)) for part in module.modules()]
    registries = [
        (registry, dict(registry))
        for _, saved in attributes
        for registry in (saved["_parameters"], saved["_buffers"], saved["_modules"])
    ]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.backends.mha.set_fastpath_enabled(False)  # one fused operation hides a whole encoder layer
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        for registry, entries in registries:
            registry.clear()
            registry.update(entries)
        for part, saved in attributes:
            part.__dict__.clear()
            part.__dict__.update(saved)


_LOGGERS = ("torch", "torch.__trace")
"""torch's own, and the one of its structured trace, which has a level of its own."""


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """What user code prints goes to standard error; warnings and log lines of the tracer go nowhere."""
    loggers = {name: logging.getLogger(name) for name in _LOGGERS}
    levels = {name: logger.level for name, logger in loggers.items()}
    for logger in loggers.values():
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, logger in loggers.items():
            logger.setLevel(levels[name])


def cause(error: BaseException) -> str:
    """One line: the exception's type, the first line of its message, and the user's line that it came from."""
    frame = _user_frame(error)
    place = f" ({frame.filename}:{frame.lineno})" if frame is not None else ""
    return f"{_one_line(error)}{place}"


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


def _user_frame(error: BaseException) -> traceback.FrameSummary | None:
    """The innermost frame that is neither torch's nor the standard library's nor ours."""
    if isinstance(error, SyntaxError) and error.filename:
        return traceback.FrameSummary(error.filename, error.lineno, "")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if is_user_code(frame.filename):
            return frame
    return None


def _advice(error: BaseException) -> str:
    text = str(error)
    if "data-dependent" in text or "GuardOnDataDependent" in type(error).__name__:
        return "Its control flow depends on the values of tensors; point gnelint at a part without it."
    if "Long, Int" in text or ("indices" in text and "Float" in text):
        return "An input of integers is needed: --input 8,16:int64."
    if isinstance(error, RuntimeError):
        return "Check the shapes and types of its inputs (--input 8,3,32,32)."
    return "Run the module on such inputs by itself, or export it with torch.export and check the .pt2 file."
