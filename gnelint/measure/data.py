"""What a network is run on: drawn from the distribution that the analysis assumes, or the user's own batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnelint.errors import GnelintError, UsageError
from gnelint.ir.graph import Graph, Node, Value
from gnelint.measure.program import Program

Batch = Mapping[str, Tensor]
"""A tensor for each input of a network, by name."""

_TRANSPARENT = frozenset({"identity", "reshape", "expand", "slice", "transpose", "concat"})
"""Operations that hand row numbers on as they are."""


def drawn(program: Program, seed: int) -> Batch:
    """A batch as the analysis assumes it: floating inputs from N(0, 1), row numbers uniform over the table they read.

    Integers and booleans that the model brought along are used as they are; other integers are ones.

    Raises:
        UsageError: the size of an input is not known.
    """
    generator = torch.Generator().manual_seed(seed)
    return {
        name: drawn_input(program.graph, program.graph.values[name], program.examples.get(name), generator)
        for name in program.graph.inputs
    }


def drawn_input(graph: Graph, value: Value, example: Tensor | None, generator: torch.Generator) -> Tensor:
    """A datum for one input."""
    if example is not None and not example.is_floating_point():
        return example
    shape = value.concrete_shape if example is None else tuple(example.shape)
    if shape is None:
        raise UsageError(
            graph.name, f'the size of input "{value.name}" is not known', f"Give it: --input {value.name}=8,3,32,32"
        )
    dtype: torch.dtype = getattr(torch, value.dtype or "float32")
    if dtype.is_complex or dtype.is_floating_point:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    rows = _rows(graph, value.name)
    if dtype is torch.bool or rows is None:
        return torch.ones(shape, dtype=dtype)
    return torch.randint(rows, shape, generator=generator).to(dtype)


def _rows(graph: Graph, name: str) -> int | None:
    """Row numbers that an input of integers can hold: the rows of the smallest table that it picks from.

    Also where numbers are counted from the end when negative, as Keras looks up, `where(ids < 0, ids + rows, ids)` or
    the sum of what two masks leave; a number that is added leaves so many fewer. None if it picks from no table.
    """
    found: list[int] = []
    pending, seen = [(name, 0)], set[str]()
    while pending:
        current, added = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        for node in graph.consumers.get(current, ()):
            if node.op == "embedding":
                found.append(node.parameters["weight"].shape[0] - added)
            elif node.op == "gather" and len(node.inputs) > 1 and node.inputs[1] == current:
                found.extend(rows - added for rows in _picked_sizes(graph, node))
            elif node.op == "bias" and "bias" in node.parameters:
                pending.append((node.outputs[0], added + int(node.parameters["bias"].array().max())))
            elif node.op in _TRANSPARENT or _chooses(graph, node, current):
                pending.extend((output, added) for output in node.outputs)
    return min((rows for rows in found if rows > 0), default=None)


def _chooses(graph: Graph, node: Node, current: str) -> bool:
    """Whether a node hands a value on or leaves it out, entry by entry."""
    if node.op == "where":
        return current in node.inputs[1:]
    if node.op == "mul":
        return any(name != current and _is_mask(graph, name) for name in node.present_inputs)
    return node.op == "add" and all(_is_masked(graph, name) for name in node.present_inputs)


def _is_masked(graph: Graph, name: str) -> bool:
    producer = graph.producers.get(name)
    return producer is not None and producer.op == "mul" and any(_is_mask(graph, e) for e in producer.present_inputs)


def _is_mask(graph: Graph, name: str) -> bool:
    """Whether a value was truth, and was only cast or moved since."""
    producer = graph.producers.get(name)
    while producer is not None and producer.op in _TRANSPARENT and graph.values[name].dtype != "bool":
        name = producer.present_inputs[0]
        producer = graph.producers.get(name)
    return graph.values[name].dtype == "bool"


def _picked_sizes(graph: Graph, node: Node) -> Iterator[int]:
    table = graph.values[node.inputs[0] or ""].concrete_shape
    if table:
        yield table[node.attribute("axis")]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` file by name.

    Raises:
        UsageError: the file cannot be read.
    """
    subject, advice = f"--data {path}", "Write it with numpy.savez(path, input=array)."
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except OSError as error:
        raise UsageError(subject, f"cannot be read ({error.strerror or 'not a file of numpy'})", advice) from error
    except Exception as error:  # zipfile's, numpy's and pickle's own errors for what is not an archive of arrays
        raise UsageError(subject, "is no .npz file of arrays", advice) from error


def fitted(arrays: Any, program: Program, subject: str) -> Batch:
    """Data of any of the forms a user may give, as a batch: a mapping by name, a sequence in order, one array.

    Raises:
        UsageError: they do not fit the network's inputs.
    """
    names = program.graph.inputs
    if isinstance(arrays, Mapping):
        given = dict(arrays)
        if len(given) == 1 and len(names) == 1:
            given = {names[0]: next(iter(given.values()))}
    elif isinstance(arrays, (list, tuple)):
        given = dict(zip(names, arrays, strict=False))
    else:
        given = {names[0]: arrays}
    missing = [name for name in names if name not in given]
    if missing:
        have = ", ".join(given) or "nothing"
        raise UsageError(
            subject, f"has no array for input {', '.join(missing)} (it has {have})", "Name arrays as inputs."
        )
    return {name: _fits(given[name], program.graph.values[name], subject) for name in names}


def _fits(array: Any, value: Value, subject: str) -> Tensor:
    tensor = array.detach().cpu() if isinstance(array, Tensor) else torch.from_numpy(np.ascontiguousarray(array))
    shape = value.concrete_shape
    wanted = getattr(torch, value.dtype or "float32")
    if shape and tensor.shape[1:] == shape[1:] and len(tensor.shape) == len(shape):
        tensor = tensor[: shape[0]]  # the batch that the graph was read with
    if shape is not None and tuple(tensor.shape) != shape:
        raise UsageError(
            subject,
            f'the array for input "{value.name}" has shape {tuple(tensor.shape)}, not {shape}',
            "Give the shape of the data with --input, so that the network is read with it.",
        )
    if tensor.is_floating_point() != wanted.is_floating_point:
        raise UsageError(subject, f'input "{value.name}" takes {value.dtype}, not {tensor.dtype}', "Convert the array.")
    return tensor.to(wanted)


def batches(source: Callable[[], Iterable[Any]] | Iterable[Any], program: Program, subject: str) -> Iterator[Batch]:
    """A user's batches (a function that returns them, or the batches themselves), again from the start at the end.

    Raises:
        UsageError: there are none, they do not fit, or the function raised.
    """
    for _ in itertools.count():
        try:
            found = source() if callable(source) else source
            single = isinstance(found, (Tensor, np.ndarray, Mapping))
            given: Sequence[Any] = [found] if single else list(found)
        except GnelintError:
            raise
        except Exception as error:
            raise UsageError(subject, f"raised {type(error).__name__}: {error}", "Fix the function.") from error
        if not given:
            raise UsageError(subject, "gave no batch", "Return at least one.")
        for batch in given:
            yield fitted(batch, program, subject)
