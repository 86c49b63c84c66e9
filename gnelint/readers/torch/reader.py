"""Reads PyTorch programs: modules (traced by torch.export, failing that by a run or torch.fx), programs, `.pt2` files.

Tracing sees shapes and types only; a module that cannot be traced so is run once on its example inputs. Afterwards it
is as it was before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from gnelint.errors import ModelError, UnreadableError
from gnelint.fusion import fuse
from gnelint.ir.graph import Beside, Graph
from gnelint.readers.inputs import InputSpec
from gnelint.readers.torch.export import cause, export_module, quietly
from gnelint.readers.torch.functional import functional
from gnelint.readers.torch.graph import Reading, lower_losses, lower_program, with_training
from gnelint.readers.torch.initializers import InitializerRecorder
from gnelint.readers.torch.names import named_by_modules
from gnelint.readers.torch.operands import refuse_integers
from gnelint.readers.torch.pt2.archive import load_program
from gnelint.readers.torch.registered import aliases, asks_for_more, unregistered
from gnelint.records import dataclass


@dataclass(frozen=True)
class Traced:
    """A PyTorch program beside the graph that was read from it.

    Attributes:
        graph: what is analysed.
        program: the functional program, which computes the same on the module's own parameters.
        operations: name of the program's operation that computes each value of the graph; values that only the lowering
            has are missing.
    """

    graph: Graph
    program: ExportedProgram
    operations: Mapping[str, str]


def read_module(
    module: torch.nn.Module,
    example_inputs: tuple[Any, ...],
    *,
    name: str,
    training: bool = True,
    example_kwargs: Mapping[str, Any] | None = None,
    recorder: InitializerRecorder | None = None,
    notes: Sequence[str] = (),
) -> Graph:
    """Read a module as `trace_module` does, for the graph alone."""
    return trace_module(
        module,
        example_inputs,
        name=name,
        training=training,
        example_kwargs=example_kwargs,
        recorder=recorder,
        notes=notes,
    ).graph


def trace_module(
    module: torch.nn.Module,
    example_inputs: tuple[Any, ...],
    *,
    name: str,
    training: bool = True,
    example_kwargs: Mapping[str, Any] | None = None,
    recorder: InitializerRecorder | None = None,
    notes: Sequence[str] = (),
    reads: Mapping[str, Callable[[], torch.Tensor]] = MappingProxyType({}),
) -> Traced:
    """Read a module as it runs on `example_inputs`; only their shapes and types matter.

    Parameters on the meta device are drawn from the initialisers that `recorder` saw while the module was built; those
    in `reads` are read through it.

    In training mode a module that is in it already is taken as it stands, so a normalisation that its owner froze with
    `eval()` stays frozen; one that is in evaluation mode as a whole is switched, for the reading only.

    Raises:
        ModelError: the module cannot be traced; the message has the cause and the user's line.
    """
    keywords = dict(example_kwargs or {})
    exported = export_module(module, example_inputs, keywords, name, training)
    refuse_integers(exported.program, name)
    reading = Reading(
        name,
        training,
        {},
        (*notes, *exported.notes),
        recorder,
        unregistered(module),
        exported.losses,
        reads,
        exported.held,
    )
    lowered = lower_program(exported.program, reading)
    classes = {path: type(part).__name__ for path, part in module.named_modules() if path}
    graph = replace(lowered.graph, aliases=aliases(module), classes=classes, lost=exported.lost)
    graph = replace(graph, slips=exported.slips, losses=_beside(exported.program, reading))
    graph = replace(graph, uncalled=frozenset(graph.unread).difference(exported.called))
    if asks_for_more(module, example_inputs, keywords):
        graph = replace(graph, unread=tuple(name for name in graph.unread if name in exported.called))
    return Traced(named_by_modules(_fused(graph)), exported.program, lowered.operations)


def _beside(program: ExportedProgram, reading: Reading) -> Beside | None:
    """What computes losses beside the outputs."""
    found = lower_losses(program, reading)
    if found is None:
        return None
    lowered, shared = found
    graph = named_by_modules(fuse(lowered.graph))
    return Beside(graph, frozenset(_own(graph, lowered.operations, shared)))


def _own(graph: Graph, operations: Mapping[str, str], shared: frozenset[str]) -> set[str]:
    """The nodes of operations that are not shared, and what the lowering alone put behind them."""
    own: set[str] = set()
    for node in graph.nodes:
        made = operations.get(node.outputs[0])
        sources = (graph.producers.get(name) for name in node.present_inputs)
        behind = made is None and any(source is not None and source.name in own for source in sources)
        if behind or not (made is None or made in shared):
            own.add(node.name)
    return own


def _fused(graph: Graph) -> Graph:
    """The fused graph; trained tensors whose layers turn out to reach no output are among its unread ones."""
    found = fuse(graph)
    trained = (leaf for parameter in graph.parameters() for leaf in parameter.leaves if leaf.trainable)
    used = found.returned.union(found.uses)
    lost = {leaf.name: leaf.shape for leaf in trained if leaf.name not in used}
    if not lost:
        return found
    return replace(found, unread=(*found.unread, *lost), unread_shapes={**found.unread_shapes, **lost})


def trace_exported(
    program: ExportedProgram, *, name: str, training: bool = True, inputs: Sequence[InputSpec] = ()
) -> Traced:
    """Read an exported program; `inputs` fix its symbolic dimensions, the others have the sizes that they were exported
    with, and a note says so.

    The mode is baked into the program at export. One without any batch statistics was exported in evaluation mode: in
    training mode its batch normalisations are read as using batch statistics, and a note says so.

    Raises:
        ModelError: the program is damaged, or an input spec does not fit it.
    """
    try:
        with quietly():
            program = functional(program)
    except Exception as error:
        raise ModelError(name, f"the exported program cannot be decomposed: {cause(error)}") from error
    fixed = _fixed_sizes(program, inputs, name)
    examples, notes = _example_sizes(program, fixed)
    lowered = lower_program(program, Reading(name, training, {**examples, **fixed}, notes))
    return Traced(named_by_modules(fuse(_in_mode(lowered.graph, training))), program, lowered.operations)


def read_pt2(path: Path | str, *, training: bool = True, inputs: Sequence[InputSpec] = ()) -> Graph:
    """Read a file as `trace_pt2` does, for the graph alone."""
    return trace_pt2(path, training=training, inputs=inputs).graph


def trace_pt2(path: Path | str, *, training: bool = True, inputs: Sequence[InputSpec] = ()) -> Traced:
    """Read a file that `torch.export.save` wrote.

    Raises:
        ModelError: there is no such file, or it is no exported program.
    """
    return trace_exported(load_pt2(Path(path)), name=str(path), training=training, inputs=inputs)


def load_pt2(path: Path) -> ExportedProgram:
    """The program in a file that `torch.export.save` wrote; nothing in the file is run.

    Raises:
        ModelError: there is no such file, it is no exported program, or reading it would run code.
    """
    name = str(path)
    if not path.is_file():
        raise ModelError(name, "no such file", "Give the path of a file written by torch.export.save.")
    try:
        with quietly():
            return load_program(path)
    except UnreadableError as error:
        raise ModelError(name, error.problem, error.advice) from error
    except Exception as error:
        raise ModelError(
            name,
            f"not a program that this torch ({torch.__version__}) can load: {cause(error)}",
            "Write it with torch.export.save(torch.export.export(model, args), path); weights alone are no network.",
        ) from error


def _in_mode(graph: Graph, training: bool) -> Graph:
    norms = [node for node in graph.nodes if node.op == "batch_norm"]
    live = [node for node in norms if node.attribute("training")]
    if not training:
        if live:
            note = "exported in training mode: batch normalisation is read with batch statistics in evaluation mode too"
            return _noted(graph, note)
        return graph
    if norms and not live:
        note = "exported in evaluation mode: batch normalisation is read as in training, with batch statistics"
        return _noted(with_training(graph), note)
    return graph


def _noted(graph: Graph, note: str) -> Graph:
    return replace(graph, notes=(*graph.notes, note))


def _user_inputs(program: ExportedProgram) -> list[fx.Node]:
    """The placeholders of the tensors that the program is called with."""
    return [
        node
        for node in program.graph.nodes
        if node.op == "placeholder"
        and node.name in program.graph_signature.user_inputs
        and isinstance(node.meta.get("val"), torch.Tensor)
    ]


def _example_sizes(program: ExportedProgram, fixed: Mapping[str, int]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Sizes of the symbols that nobody fixed, as the program was exported with them, and what is to be said of that."""
    sizes: dict[str, int] = {}
    notes: list[str] = []
    for node in _user_inputs(program):
        for axis, size in enumerate(node.meta["val"].shape):
            expression = None if isinstance(size, int) else size.node.expr
            if expression is None or not expression.is_Symbol or str(expression) in (*fixed, *sizes):
                continue
            if size.node.hint:
                found = sizes[str(expression)] = int(size.node.hint)
                notes.append(
                    f"size {axis} of input {node.name} was left open: {found} as it was exported with; set it with "
                    "--input"
                )
    return sizes, tuple(notes)


def _fixed_sizes(program: ExportedProgram, inputs: Sequence[InputSpec], name: str) -> dict[str, int]:
    """Sizes of the symbols in the program's input shapes, from the specs (by name, else by position)."""
    user_inputs = _user_inputs(program)
    by_name = {node.name: node for node in user_inputs}
    unnamed = iter(node for node in user_inputs if node.name not in {spec.name for spec in inputs})
    sizes: dict[str, int] = {}
    for spec in inputs:
        node = by_name.get(spec.name) if spec.name is not None else next(unnamed, None)
        wanted = ", ".join(f"{n}={tuple(n.meta['val'].shape)}" for n in user_inputs)
        misfit = ModelError(name, f"--input {_shown(spec)} fits no input of the program", f"It takes {wanted}.")
        if node is None or len(node.meta["val"].shape) != len(spec.shape):
            raise misfit
        for size, given in zip(node.meta["val"].shape, spec.shape, strict=True):
            expression = None if isinstance(size, int) else size.node.expr
            if expression is None:
                if size != given:
                    raise misfit
            elif expression.is_Symbol:
                sizes[str(expression)] = given
    return sizes


def _shown(spec: InputSpec) -> str:
    sizes = ",".join(str(size) for size in spec.shape)
    return f"{spec.name}={sizes}" if spec.name else sizes
