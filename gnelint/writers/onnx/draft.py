"""A model being edited: the user's own message, with its nodes and initializers at hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from gnelint.onnxfile.bytes import Raw, stretch
from gnelint.onnxfile.file import ModelFile
from gnelint.onnxfile.nodes import bodies, own_name, reads
from gnelint.onnxfile.types import dtype_name
from gnelint.readers.onnx.reader import opset_versions
from gnelint.writers.base import CannotEditError

FUNCTIONS_FROM = 8
"""The IR version from which models have local functions."""

OVERRIDES_FROM = 4
"""The IR version from which an initializer that is listed as an input is a default that the caller may override."""


class Draft:
    """The message of one model while edits are made; `finished` puts nodes and initializers back into it.

    Attributes:
        model: the user's message, edited in place.
        nodes: of the main graph, in order.
        raws: data of initializers that are not in the message, by name.
        changed: the names of those among them that hold new numbers.
        version: of the standard operators.
    """

    def __init__(self, file: ModelFile) -> None:
        self.model = file.proto
        graph = self.model.graph
        self.version = opset_versions(self.model)[""]
        self.nodes: list[onnx.NodeProto] = list(graph.node)
        self.raws: dict[str, Raw] = {}
        for index, (start, end) in file.cuts.items():
            self.raws[graph.initializer[index].name] = kept(file, start, end)
        self.changed: set[str] = set()
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._changed = False
        self._gone: set[str] = set()
        self._producers: dict[str, onnx.NodeProto] = {}
        self._readers: dict[str, dict[int, onnx.NodeProto]] = defaultdict(dict)
        self._reads: dict[int, set[str]] = {}
        self._named: dict[str, dict[int, onnx.NodeProto]] = defaultdict(dict)
        for node in self.nodes:
            self._enter(node)
        self._aliases: dict[str, str] = {}
        self._taken: set[str] | None = None

    # --- what there is

    def initializer(self, name: str) -> onnx.TensorProto | None:
        """The main graph's initializer of this name."""
        return self._initializers.get(name)

    def value(self, name: str) -> str:
        """What the file calls a value of the graph by now."""
        return self._aliases.get(name, name)

    def is_constant(self, value: str) -> bool:
        """Whether the file stores the value as an initializer."""
        return value in self._initializers or any(
            sparse.values.name == value for sparse in self.model.graph.sparse_initializer
        )

    def producer(self, value: str) -> onnx.NodeProto | None:
        """The node of the main graph that writes a value."""
        return self._producers.get(value)

    def readers(self, value: str) -> list[onnx.NodeProto]:
        """The nodes of the main graph that read a value, in bodies of their own too."""
        return list(self._readers[value].values())

    def is_output(self, value: str) -> bool:
        """Whether the model returns the value."""
        return any(info.name == value for info in self.model.graph.output)

    def is_input(self, value: str) -> bool:
        """Whether the caller feeds the value."""
        return any(info.name == value for info in self.model.graph.input)

    def is_fed(self, value: str) -> bool:
        """Whether the caller feeds the value, or may feed another one than the file stores.

        Before IR version 4 every initializer is listed as an input, which says nothing.
        """
        return self.is_input(value) and (value not in self._initializers or self.model.ir_version >= OVERRIDES_FROM)

    def named(self, name: str) -> onnx.NodeProto | None:
        """The node of the main graph that the reader calls so; None if there is none, or several."""
        found = self._named[name]
        return next(iter(found.values())) if len(found) == 1 else None

    def unique(self, wanted: str) -> str:
        """A name that no node or value of the model has yet."""
        if self._taken is None:
            self._taken = set(_names(self.model.graph))
        name, count = wanted, 0
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name

    # --- edits

    def add_initializer(self, name: str, array: np.ndarray) -> None:
        """A new initializer; its name is one that `unique` gave."""
        tensor = numpy_helper.from_array(np.asarray(array, order="C"), name)
        self._initializers[name] = tensor
        self._changed = True
        if self.model.ir_version < OVERRIDES_FROM and not self.is_input(name):
            info = onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims))
            self.model.graph.input.append(info)

    def put_raw(self, name: str, raw: Raw) -> None:
        """New data of an initializer, made when they are written."""
        self.raws[name] = raw
        self.changed.add(name)

    def replace_sparse(self, name: str, array: np.ndarray) -> None:
        """A dense initializer in the place of a sparse one."""
        sparse = self.model.graph.sparse_initializer
        kept_ones = [tensor for tensor in sparse if tensor.values.name != name]
        del sparse[:]
        sparse.extend(kept_ones)
        self.add_initializer(name, array)

    def add_function(self, function: onnx.FunctionProto) -> bool:
        """A new local function; whether the model has it now (another one may have its name)."""
        for own in self.model.functions:
            if (own.domain, own.name, own.overload) == (function.domain, function.name, function.overload):
                return bool(own == function)
        self.model.functions.append(function)
        if all(opset.domain != function.domain for opset in self.model.opset_import):
            self.model.opset_import.append(onnx.helper.make_opsetid(function.domain, 1))
        self.model.ir_version = max(self.model.ir_version, FUNCTIONS_FROM)
        return True

    def insert_before(self, place: onnx.NodeProto, nodes: Sequence[onnx.NodeProto]) -> None:
        """New nodes in front of one."""
        self._insert(self._index(place), nodes)

    def insert_behind(self, place: onnx.NodeProto | None, nodes: Sequence[onnx.NodeProto]) -> None:
        """New nodes behind one, or in front of all."""
        self._insert(0 if place is None else self._index(place) + 1, nodes)

    def replace_node(self, old: onnx.NodeProto, nodes: Sequence[onnx.NodeProto]) -> None:
        """New nodes in the place of one; what fed it alone goes too."""
        index = self._index(old)
        self._remove(old)
        self._insert(index, nodes)
        self.sweep(old.input)

    def redirect(self, old: str, new: str, but: Iterable[onnx.NodeProto] = ()) -> None:
        """Let all that reads one value read another; the model's outputs stay."""
        kept_ones = {id(node) for node in but}
        for node in self.readers(old):
            if id(node) not in kept_ones:
                self._leave(node)
                _redirect(node, old, new)
                self._enter(node)

    def set_input(self, node: onnx.NodeProto, index: int, value: str) -> None:
        """Let a node read another value at one place."""
        self._leave(node)
        node.input.extend([""] * (index + 1 - len(node.input)))
        node.input[index] = value
        self._enter(node)

    def rename_output(self, node: onnx.NodeProto, old: str, new: str) -> None:
        """Let a node write another value; the readers of the old one stay as they are."""
        self._leave(node)
        for index, name in enumerate(node.output):
            if name == old:
                node.output[index] = new
        self._enter(node)

    def rename(self, names: Mapping[str, str]) -> None:
        """Values of these names are found under other ones from now on."""
        before = {old: names.get(new, new) for old, new in self._aliases.items()}
        self._aliases = {**names, **before}

    def drop_input(self, node: onnx.NodeProto, index: int) -> None:
        """Leave an optional input out; what fed it alone goes too."""
        name = node.input[index]
        self._leave(node)
        node.input[index] = ""
        while node.input and not node.input[-1]:
            del node.input[-1]
        self._enter(node)
        self.sweep([name])

    def bypass(self, node: onnx.NodeProto, x: str) -> None:
        """Take a node with one output away: its readers read `x`."""
        y = node.output[0]
        if not self.is_output(y):
            if len(self.readers(x)) == 1 and not self.is_output(x):
                self.rename({y: x})
            self.redirect(y, x, but=[node])
            self._forget([y])
            self.replace_node(node, [])
            return
        before = self.producer(x)
        if before is None or self.is_output(x) or self._captured(x):
            copy = onnx.helper.make_node("Identity", [x], [y], name=self.unique(f"{own_name(node)}/identity"))
            self.replace_node(node, [copy])
            return
        self._forget([x])
        self.rename({x: y})
        self.rename_output(before, x, y)  # the interface keeps its name
        self.redirect(x, y, but=[node])
        self.replace_node(node, [])

    def sweep(self, values: Iterable[str]) -> None:
        """Take away what only an edit made useless: nodes whose outputs nothing reads, initializers nothing reads."""
        waiting = [value for value in values if value]
        while waiting:
            value = waiting.pop()
            if self.is_output(value) or self._readers[value]:
                continue
            node = self.producer(value)
            if node is not None:
                others = [name for name in node.output if name and name != value]
                if any(self.is_output(name) or self.readers(name) for name in others):
                    continue
                self._remove(node)
                self._forget(node.output)
                waiting.extend(reads(node))
            elif value in self._initializers:
                self._drop_initializer(value)
            else:
                self._drop_sparse(value)

    def finished(self) -> dict[int, Raw]:
        """Put nodes and initializers back into the message; the data that it lacks, by the initializer's index."""
        graph = self.model.graph
        self._tidy()
        if self._changed:
            _refill(graph.node, self.nodes)
            _refill(graph.initializer, list(self._initializers.values()))
        return {i: self.raws[t.name] for i, t in enumerate(graph.initializer) if t.name in self.raws}

    def _drop_initializer(self, name: str) -> None:
        del self._initializers[name]
        self.raws.pop(name, None)
        self._forget([name])
        self._drop_input(name)
        self._changed = True

    def _drop_sparse(self, name: str) -> None:
        sparse = self.model.graph.sparse_initializer
        left = [tensor for tensor in sparse if tensor.values.name != name]
        if len(left) != len(sparse):
            _refill(sparse, left)
            self._forget([name])
            self._drop_input(name)

    def _drop_input(self, name: str) -> None:
        """Files of IR version 3 list initializers as inputs."""
        inputs = self.model.graph.input
        left = [info for info in inputs if info.name != name]
        if len(left) != len(inputs):
            _refill(inputs, left)

    def _forget(self, values: Iterable[str]) -> None:
        """What the graph says of these values is to be removed: they are gone."""
        self._gone.update(values)

    def _tidy(self) -> None:
        if not self._gone:
            return
        graph = self.model.graph
        infos = [info for info in graph.value_info if info.name not in self._gone]
        if len(infos) != len(graph.value_info):
            _refill(graph.value_info, infos)
        notes = [note for note in graph.quantization_annotation if note.tensor_name not in self._gone]
        if len(notes) != len(graph.quantization_annotation):
            _refill(graph.quantization_annotation, notes)

    def _insert(self, index: int, nodes: Sequence[onnx.NodeProto]) -> None:
        self.nodes[index:index] = nodes
        self._changed = True
        for node in nodes:
            self._enter(node)

    def _remove(self, node: onnx.NodeProto) -> None:
        del self.nodes[self._index(node)]
        self._changed = True
        self._leave(node)

    def _enter(self, node: onnx.NodeProto) -> None:
        """Note what a node reads and writes."""
        self._reads[id(node)] = reads(node)
        for name in self._reads[id(node)]:
            self._readers[name][id(node)] = node
        self._producers.update((name, node) for name in node.output if name)
        self._named[own_name(node)][id(node)] = node

    def _leave(self, node: onnx.NodeProto) -> None:
        """Forget it, before the node goes or changes."""
        for name in self._reads.pop(id(node)):
            del self._readers[name][id(node)]
        for name in node.output:
            if self._producers.get(name) is node:
                del self._producers[name]
        self._named[own_name(node)].pop(id(node), None)

    def _captured(self, value: str) -> bool:
        return any(value not in node.input for node in self.readers(value))

    def _index(self, node: onnx.NodeProto) -> int:
        return next(index for index, other in enumerate(self.nodes) if other is node)


def kept(file: ModelFile, start: int, end: int) -> Raw:
    """Bytes of the user's file as they are."""
    return Raw(end - start, lambda: stretch(file.path, start, end))


def _redirect(node: onnx.NodeProto, old: str, new: str) -> None:
    for index, name in enumerate(node.input):
        if name == old:
            node.input[index] = new
    for body in bodies(node):
        written = {name for inner in body.node for name in inner.output}
        own = {info.name for info in body.input} | {tensor.name for tensor in body.initializer}
        if old in written | own:
            continue
        for inner in body.node:
            _redirect(inner, old, new)
        for info in body.output:
            if info.name == old:
                info.name = new


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (info.name for info in (*graph.input, *graph.output, *graph.value_info))
    yield from (tensor.name for tensor in graph.initializer)
    yield from (tensor.values.name for tensor in graph.sparse_initializer)
    for node in graph.node:
        yield node.name
        yield from node.input
        yield from node.output
        for body in bodies(node):
            yield from _names(body)


def _refill(field: object, entries: Sequence[object]) -> None:
    """Other entries in a repeated field of messages."""
    del field[:]  # type: ignore[attr-defined]
    field.extend(entries)  # type: ignore[attr-defined]


def value_dtype(draft: Draft, value: str, known: str | None) -> str:
    """The data type of a value.

    Raises:
        CannotEditError: it is not known.
    """
    if known is not None:
        return known
    graph = draft.model.graph
    for info in (*graph.input, *graph.output, *graph.value_info):
        if info.name == value and info.type.HasField("tensor_type"):
            name = dtype_name(info.type.tensor_type.elem_type)
            if name is not None:
                return name
    raise CannotEditError(f'the data type of "{value}" is not known')
