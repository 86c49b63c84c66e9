"""Tracing a module without leaving a mark on it, and saying clearly why a module cannot be traced."""

from __future__ import annotations

import contextlib
import functools
import logging
import random
import re
import sys
import traceback
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, get_proxy_mode

from gnelint.budget import at
from gnelint.errors import ModelError
from gnelint.ir.graph import Slips
from gnelint.readers.torch.by_examples import program_of_examples
from gnelint.readers.torch.functional import functional
from gnelint.readers.torch.held import held_elsewhere
from gnelint.readers.torch.lost import lost_results
from gnelint.readers.torch.memories import forget
from gnelint.readers.torch.names import is_user_code
from gnelint.readers.torch.outputs import Returned, without_caches
from gnelint.readers.torch.own_backward import own_backwards
from gnelint.readers.torch.slips import slips, unheard_backwards
from gnelint.readers.torch.stand_ins import stand_ins
from gnelint.records import dataclass


@dataclass(frozen=True)
class Exported:
    """A module as a functional program.

    Attributes:
        program: the program.
        called: names of the parameters that something reads in it, whether or not an output depends on them.
        losses: positions of outputs that are losses beside others.
        lost: results that a statement computes and does not keep.
        slips: other things that the code gets wrong where no operation tells.
        notes: what a person should know about how it was obtained.
        held: names of constants that are parameters of the module.
    """

    program: ExportedProgram
    called: frozenset[str]
    losses: frozenset[int] = frozenset()
    lost: tuple[str, ...] = ()
    slips: Slips = Slips()
    notes: tuple[str, ...] = ()
    held: frozenset[str] = frozenset()


def export_module(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str, training: bool
) -> Exported:
    """The module as a functional program.

    A branch on the values of tensors is taken as the example inputs have it, and named.

    Raises:
        ModelError: neither torch.export nor torch.fx can trace it.
    """
    at("exporting it")
    # torch prints the half-traced program when it fails, to either stream: the error says what matters in one line
    with (
        untouched(module),
        quietly(),
        contextlib.redirect_stdout(StringIO()),
        contextlib.redirect_stderr(StringIO()),
        without_caches(module) as cached,
        central_draws(),
        without_inference(),
        placed_parts(),
        caught_errors(),
        own_gradients() as asked,
        stand_ins(module, args, kwargs) as given,
    ):
        set_mode(module, training)
        returned = Returned()
        module.forward = returned.collecting(module.forward)
        entered = _noting_calls(unheard_backwards(module))

        def done(program: ExportedProgram, *more: str) -> Exported:
            given.put_back(program)
            read, lost = called(program), lost_results(program)
            wrong = replace(slips(program), unheard=tuple(entered))
            notes = (*cached, *returned.notes, *more)
            held = held_elsewhere(program, module, given.args, given.kwargs)
            return Exported(functional(program), read, returned.losses, lost, wrong, notes, held)

        try:
            program = _program(module, given.args, given.kwargs)
            if not asked and not _is_mapped(program):
                return done(program)
            failure: Exception = ModelError(name, *_OWN_GRADIENTS)
        except Exception as error:
            failure = error
        if given.real is None and not asked and not isinstance(failure, ModelError):
            try:
                program = _program_of_examples(module, given.args, given.kwargs)
                if not asked and not _is_mapped(program):
                    return done(program, _by_examples(failure))
            except Exception as error:
                if _is_data_dependent(failure) and not _is_data_dependent(error):
                    failure = error  # behind the branch something else is wrong
        if given.real is None:
            with contextlib.suppress(Exception):
                note = _BELOW if asked or isinstance(failure, ModelError) else _by_examples(failure)
                return done(_program_of_examples(module, given.args, given.kwargs, below=True), note)
        if asked:
            raise ModelError(name, *_OWN_GRADIENTS)
        try:
            program = torch.export.export(fx.symbolic_trace(module), given.args, given.kwargs, strict=False)
            return done(program, f"torch.export failed ({_one_line(failure)}); traced with torch.fx instead")
        except Exception:
            raise ModelError(name, f"cannot be traced: {cause(failure)}", advice(failure)) from failure


def _noting_calls(parts: Mapping[str, torch.nn.Module]) -> dict[str, None]:
    """Names of those of these parts that are called from here on, in that order; `untouched` puts them back."""
    entered: dict[str, None] = {}

    def noting(name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def noted(*args: Any, **kwargs: Any) -> Any:
            entered[name] = None
            return forward(*args, **kwargs)

        return noted

    for name, part in parts.items():
        if not isinstance(part, torch.jit.ScriptModule):
            part.forward = noting(name, part.forward)
    return entered


def _is_data_dependent(error: BaseException) -> bool:
    return "data-dependent" in str(error) or "DataDependent" in type(error).__name__


def _by_examples(error: BaseException) -> str:
    """What is said of a module that was run to be traced: the line whose way depends on the values of tensors."""
    if not _is_data_dependent(error):
        return f"torch.export failed ({_one_line(error)}); traced by running it on the example inputs instead"
    frame = _user_frame(error)
    place = f"{Path(frame.filename).name}:{frame.lineno}: " if frame is not None else ""
    return f"{place}what depends on the values of tensors is taken as the example inputs have it"


_BELOW = "takes gradients or maps functions in forward: traced by running it on the example inputs, below autograd"


def _is_mapped(program: ExportedProgram) -> bool:
    """Whether functions are mapped in it (torch.vmap): what they compute has other sizes than it says."""
    return any(getattr(node.target, "__name__", "") == "_add_batch_dim" for node in program.graph.nodes)


_OWN_GRADIENTS = (
    "takes gradients of its own in forward (torch.autograd.grad, torch.func), which could not be followed",
    "Point at the part that is differentiated, or at a function that returns (that part, inputs).",
)


@contextlib.contextmanager
def own_gradients() -> Iterator[list[str]]:
    """Notes down whether what runs here takes gradients itself: their operations are below what is traced."""
    asked: list[str] = []
    saved = torch.autograd.grad, torch.autograd.backward

    def noted(function: Any) -> Any:
        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            if get_proxy_mode() is not None:  # what is only tried beside the trace is no operation of the module
                asked.append(function.__name__)
            return function(*args, **kwargs)

        return called

    torch.autograd.grad, torch.autograd.backward = map(noted, saved)
    try:
        yield asked
    finally:
        torch.autograd.grad, torch.autograd.backward = saved


@contextlib.contextmanager
def without_inference() -> Iterator[None]:
    """`torch.inference_mode()` as `torch.no_grad()`, which a tracer records: neither has a gradient."""
    mode = torch.inference_mode
    saved = mode.__enter__, mode.__exit__

    def enter(self: Any) -> None:
        self.recorded_before = torch.is_grad_enabled()
        torch.set_grad_enabled(self.recorded_before and not self.mode)

    def leave(self: Any, *error: Any) -> None:
        torch.set_grad_enabled(self.recorded_before)

    mode.__enter__, mode.__exit__ = enter, leave
    try:
        yield
    finally:
        mode.__enter__, mode.__exit__ = saved


@contextlib.contextmanager
def placed_parts() -> Iterator[None]:
    """Parts that `forward` sends where they are, or casts to the type that they have, keep their tensors: torch puts
    others in their place, which are none of the network's parameters.

    Experts are called over by their network one by one so.
    """
    original = nn.Module._apply

    def placed(tensor: torch.Tensor, fn: Callable[[torch.Tensor], Any]) -> bool:
        with disable_proxy_modes_tracing():
            empty = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
            found = fn(empty)
        return isinstance(found, torch.Tensor) and (found.dtype, found.device) == (tensor.dtype, tensor.device)

    def apply(self: nn.Module, fn: Callable[[torch.Tensor], Any], recurse: bool = True) -> nn.Module:
        held = [*self.parameters(recurse), *self.buffers(recurse)]
        return self if all(placed(tensor, fn) for tensor in held) else original(self, fn, recurse)

    nn.Module._apply = apply
    try:
        yield
    finally:
        nn.Module._apply = original


@contextlib.contextmanager
def caught_errors() -> Iterator[None]:
    """A part that raises leaves the tracer's list of the parts that it is in, for a caller that catches the error."""
    original = fx.Tracer.call_module

    def call_module(self: fx.Tracer, *args: Any, **kwargs: Any) -> Any:
        entered = OrderedDict(self.module_stack)
        try:
            return original(self, *args, **kwargs)
        except BaseException:
            self.module_stack.clear()
            self.module_stack.update(entered)
            raise

    fx.Tracer.call_module = call_module
    try:
        yield
    finally:
        fx.Tracer.call_module = original


@contextlib.contextmanager
def central_draws() -> Iterator[None]:
    """Single numbers that are drawn are in the middle: a layer that is sometimes left out is there.

    Distributions do not look whether their parameters' numbers are right, which no tracer can follow.
    """

    def middle(low: float = 0.0, high: float = 1.0) -> float:
        return (low + high) / 2

    def rand(*size: Any, **options: Any) -> torch.Tensor:
        sizes = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
        if tuple(sizes) not in ((), (1,)) or "size" in options:
            return drawn(*size, **options)
        number = [0.5] if tuple(sizes) else 0.5  # a tracer that computes no tensors knows what a literal is
        return torch.tensor(
            number, dtype=options.get("dtype") or torch.get_default_dtype(), device=options.get("device")
        )

    def uniform(low: float = 0.0, high: float = 1.0, size: Any = None) -> Any:
        return middle(low, high) if size is None else numpy_uniform(low, high, size)

    def normal(mean: Any, std: Any = 1.0, *more: Any, **options: Any) -> torch.Tensor:
        if not isinstance(mean, torch.Tensor) or not isinstance(std, torch.Tensor):
            return drawn_normal(mean, std, *more, **options)
        mean, std = torch.broadcast_tensors(mean, std)  # torch's own looks at the numbers
        return (mean + std * torch.randn_like(mean)).detach()

    drawn, drawn_normal, numpy_uniform = torch.rand, torch.normal, np.random.uniform
    saved = [(torch, "rand", rand), (torch, "normal", normal), (np.random, "uniform", uniform),
             (random, "random", middle), (random, "uniform", middle),
             (torch.distributions.Distribution, "_validate_args", False)]  # fmt: skip
    originals = [(place, name, getattr(place, name)) for place, name, _ in saved]
    try:
        for place, name, own in saved:
            setattr(place, name, own)
        yield
    finally:
        for place, name, original in originals:
            setattr(place, name, original)


def _program(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ExportedProgram:
    with contextlib.suppress(Exception), _data_detaches(), own_backwards():
        return torch.export.export(module, args, kwargs, strict=False)
    return torch.export.export(module, args, kwargs, strict=False)


def _program_of_examples(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], below: bool = False
) -> ExportedProgram:
    with contextlib.suppress(Exception), _data_detaches(), own_backwards():
        return program_of_examples(module, args, kwargs, below)
    return program_of_examples(module, args, kwargs, below)


@contextlib.contextmanager
def _data_detaches() -> Iterator[None]:
    """`x.data` as `x.detach()`: the tracer takes the first for a number of the program, or for x itself.

    As a property of the class: a mode that is asked at each look at a tensor takes a quarter of a trace's time.
    """
    stored = torch.Tensor.data
    torch.Tensor.data = property(torch.Tensor.detach, stored.__set__, stored.__delete__)
    try:
        yield
    finally:
        del torch.Tensor.data  # what is inherited is there again


def called(program: ExportedProgram) -> frozenset[str]:
    """Names of the stored tensors that something in a program reads, before what is not needed is taken out."""
    read = {node.name for node in program.graph.nodes if node.op == "placeholder" and node.users}
    return frozenset(str(spec.target) for spec in program.graph_signature.input_specs if spec.arg.name in read)


def set_mode(module: torch.nn.Module, training: bool) -> None:
    """Evaluation mode for all, or training mode unless the module as a whole is in it already."""
    if not training:
        module.eval()
    elif not module.training:
        module.train()


@contextlib.contextmanager
def untouched(module: torch.nn.Module) -> Iterator[None]:
    """Put back, afterwards, every submodule's attributes and flags, what collections in them hold, and the state of the
    random generators; what its functions remember of their calls is cleared before and behind."""
    # what a scripted part holds is its own program's, and nothing of ours writes there
    parts = [part for part in module.modules() if not isinstance(part, torch.jit.ScriptModule)]
    attributes = [(part, dict(part.__dict__)) for part in parts]
    # not its tensors, submodules and hooks alone: code installs hooks when first called, or notes down what it saw
    collections = [
        (held, _shallow(held)) for _, saved in attributes for held in saved.values() if type(held) in _COLLECTIONS
    ]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    forget(module)
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad(), _uncompiled():
            torch.backends.mha.set_fastpath_enabled(False)  # one fused operation hides a whole encoder layer
            yield
    finally:
        forget(module)
        torch.backends.mha.set_fastpath_enabled(fast_path)
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        for held, entries in collections:
            held.clear()
            (held.extend if isinstance(held, list | deque) else held.update)(entries)
        for part, saved in attributes:
            part.__dict__.clear()
            part.__dict__.update(saved)


def _uncompiled() -> contextlib.AbstractContextManager[Any]:
    """What was given to `torch.compile` runs as it was written."""
    compiled = "torch._dynamo" in sys.modules  # nobody can have compiled anything before
    return torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext()


_COLLECTIONS = frozenset((dict, OrderedDict, list, set, deque))


def _shallow(held: Any) -> Any:
    """The entries of a collection, in a plain one of their own."""
    return dict(held) if isinstance(held, dict) else set(held) if isinstance(held, set) else list(held)


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


_INTEGERS = (
    re.compile(r"Input type \((?:torch\.\w*LongTensor|long int|int)\)"),
    re.compile(r"(?i)\b(?:not implemented for|got|but found) '?(?:long|int)\b"),
    re.compile(r"must be either a floating point or complex dtype. Got: (?:torch\.)?u?int"),
    re.compile(r"(?:Long|Int) != (?:Float|Half|Double|BFloat16)"),
)
"""What torch says of integers where floating-point numbers are wanted."""


_NO_DEVICE = re.compile(r"not (?:compiled|linked) with|(?i:no cuda gpus?|found no nvidia driver|invalid device)")
"""What torch says where a device is asked for that is not there."""


def device_advice(said: str) -> str | None:
    """What to do where an error says that a device is not there, None where it says something else."""
    way = "Take the device from its parameters or an argument, or run gnelint where there is such a device."
    return way if _NO_DEVICE.search(said) else None


def advice(error: BaseException) -> str:
    """What to do about an error of a module that is run or traced."""
    text = str(error)
    if (way := device_advice(text)) is not None:
        return way
    if _is_data_dependent(error):
        return "Its way depends on the values of tensors, on example inputs too; point gnelint at a part without it."
    if "too many positional arguments" in text:
        return "Give as many inputs as forward takes; of a batch of data and labels, the data alone."
    if "Long, Int" in text or ("indices" in text and "Float" in text):
        return "An input of integers is needed: --input 8,16:int64."
    if any(each.search(text) for each in _INTEGERS):
        return "An input of floating-point numbers is needed: --input 8,3,32,32."
    if isinstance(error, RuntimeError):
        return "Check the shapes and types of its inputs (--input 8,3,32,32)."
    return "Run the module on such inputs by itself, or export it with torch.export and check the .pt2 file."
