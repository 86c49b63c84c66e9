"""Reads an ONNX file into the graph.

The steps: open the file without its weights, fix the input shapes, walk the nodes (fold what depends on constants
alone, expand functions, lower the rest), join biases to their linear maps, recognise written-out operations.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import defs

from gnelint.budget import too_much_memory
from gnelint.errors import GnelintError, ModelError, UnreadableError
from gnelint.fusion import fuse
from gnelint.ir.graph import Graph
from gnelint.onnxfile.file import ModelFile, open_model
from gnelint.onnxfile.nodes import imports, reads, types_of
from gnelint.onnxfile.scopes import Place, Scope
from gnelint.onnxfile.weights import WeightReader
from gnelint.readers.inputs import InputSpec
from gnelint.readers.onnx.call import Operand
from gnelint.readers.onnx.fitting import Attempt, Fitting
from gnelint.readers.onnx.inputs import BoundInputs, bind, sentence
from gnelint.readers.onnx.mixing import with_program_constants
from gnelint.readers.onnx.walk import Walker, check_shape

MAX_MESSAGE = 600


def read(path: Path, *, training: bool = True, inputs: tuple[InputSpec, ...] = ()) -> Graph:
    """The network in an ONNX file as a graph of canonical operations; weights stay in the file until asked for.

    Args:
        path: the file; external data are looked for beside it.
        training: whether normalisation is read with batch statistics, whatever mode the file was exported in.
        inputs: shapes that fix symbolic sizes, by name or in the order of the model's inputs.

    Raises:
        ModelError: the file is missing, damaged, hostile or no ONNX model, or its nodes contradict each other.
        UsageError: `inputs` do not fit the model's inputs.
    """
    try:
        return _read(path, training, inputs)
    except UnreadableError as error:
        raise ModelError(str(path), _one_line(error.problem), error.advice) from error
    except GnelintError:
        raise
    except RecursionError as error:
        raise ModelError(str(path), "is nested too deeply to be read", "Export the model again.") from error
    except MemoryError as error:
        raise ModelError(str(path), *too_much_memory()) from error
    except Exception as error:  # a damaged file can break any assumption; a person still gets one line
        problem = f"cannot be read ({type(error).__name__}: {error})"
        raise ModelError(str(path), _one_line(problem), "Check it with onnx.checker.") from error


def _one_line(text: str) -> str:
    """Names in a file can hold anything: what cannot be printed is escaped, what is endless is cut."""
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text[:MAX_MESSAGE])
    return shown if len(text) <= MAX_MESSAGE else f"{shown}..."


def _read(path: Path, training: bool, specs: tuple[InputSpec, ...]) -> Graph:
    file = open_model(path, trees=False)
    versions = opset_versions(file.proto)
    graph = file.proto.graph
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {sparse.values.name for sparse in graph.sparse_initializer}
    declared = [info for info in graph.input if info.name not in constants]  # old files list their weights as inputs

    def attempt(bound: BoundInputs) -> Attempt:
        walker = Walker(file.proto, WeightReader(file), bound.sizes, training)
        try:
            graph = _walk(path, file, walker, versions, bound)
        except UnreadableError as error:
            return Attempt(bound, walker.visited, problem=error)
        return Attempt(bound, walker.visited, graph, cut_short=walker.cut_short)

    return Fitting(lambda sizes: bind(declared, specs, sizes), attempt).fitted()


def _walk(path: Path, file: ModelFile, walker: Walker, versions: dict[str, int], bound: BoundInputs) -> Graph:
    weights = walker.weights
    walker.types.special.update(bound.special)
    scope: Scope[Operand] = Scope()
    read = _read_names(file.proto.graph)
    for index, tensor in enumerate(file.proto.graph.initializer):
        if tensor.name in read:  # a file may hold a million others
            scope.bind(tensor.name, weights.initializer(index))
    walker.sparse_constants(file.proto.graph, scope)
    for value in bound.values:
        check_shape(f'input "{value.name}" is a tensor', value.shape)
        walker.emitter.add_input(value)
        scope.bind(value.name, value)
    walker.graph_nodes(file.proto.graph, scope, Place(versions, declared=types_of(file.proto.graph)))
    outputs = [(info.name, scope.find(info.name)) for info in file.proto.graph.output]
    read_graph = fuse(walker.graph(str(path), bound.values, outputs, sentence(bound)))
    return read_graph if weights.kinds_recorded else with_program_constants(read_graph)


def _read_names(graph: onnx.GraphProto) -> set[str]:
    """The names that something in the graph reads, or that it hands out."""
    found = {info.name for info in graph.output}
    for node in graph.node:
        found |= reads(node)
    return found


def opset_versions(model: onnx.ModelProto) -> dict[str, int]:
    """Opset versions by domain; a file without any is from before they existed."""
    versions = imports(model.opset_import)
    newest = defs.onnx_opset_version()
    version = versions.setdefault("", 1)
    if version > newest:
        raise UnreadableError(
            f"uses opset {version}; the installed onnx {onnx.__version__} knows up to {newest}",
            "Upgrade onnx, or export with a lower opset_version.",
        )
    if version < 1:
        raise UnreadableError(f"has the impossible opset version {version}", "Export the model again.")
    return versions
