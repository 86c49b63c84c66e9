"""The tensors that a model stores, wherever it does, and how they are changed there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import onnx
from onnx import numpy_helper

from gnelint.errors import UnreadableError
from gnelint.fixes.edits import EditTensor
from gnelint.ir.graph import Parameter
from gnelint.onnxfile.bytes import Raw
from gnelint.onnxfile.file import CUT_FROM, ModelFile
from gnelint.onnxfile.nodes import bodies, is_constant, reads
from gnelint.onnxfile.scopes import MAX_DEPTH, Functions, Place, function_key
from gnelint.onnxfile.types import bits, dtype_name
from gnelint.onnxfile.weights import WeightReader
from gnelint.writers.base import CannotEditError
from gnelint.writers.onnx.draft import Draft

EXTERNAL = onnx.TensorProto.EXTERNAL
Readers = Mapping[str, Sequence[onnx.NodeProto]]
"""The nodes that read each name."""


class Store(ABC):
    """Where a tensor is stored.

    Attributes:
        readers: the nodes beside it that read it.
    """

    readers: Sequence[onnx.NodeProto]

    @abstractmethod
    def check(self, edit: EditTensor) -> None:
        """Whether the edit can be made.

        Raises:
            CannotEditError: it cannot be made here.
        """

    @abstractmethod
    def change(self, edit: EditTensor) -> None:
        """Make the edit.

        Raises:
            CannotEditError: it cannot be made here.
        """


@dataclass
class Chain:
    """A tensor's numbers after edits, computed anew whenever they are asked for: they may be large."""

    stored: Parameter
    edits: list[EditTensor] = field(default_factory=list)

    def numbers(self) -> np.ndarray:
        """The numbers by now."""
        array = self.stored.load()
        for edit in self.edits:
            array = edit.numbers(array)
        return array

    def add(self, edit: EditTensor) -> np.ndarray:
        """The numbers once this edit is made too.

        Raises:
            CannotEditError: they do not fit the type, or are no real numbers.
        """
        found = self.after(edit)
        self.edits.append(edit)
        return found

    def after(self, edit: EditTensor) -> np.ndarray:
        """What the numbers would be after an edit.

        Raises:
            CannotEditError: they do not fit the type, or are no real numbers.
        """
        if "float" not in self.stored.dtype:
            raise CannotEditError(f'"{edit.tensor}" holds {self.stored.dtype}, no real numbers')
        try:
            return edit.numbers(self.numbers())
        except OverflowError as error:
            raise CannotEditError(str(error)) from error

    def settle(self, numbers: np.ndarray) -> None:
        """These numbers are in the message now, from which the stored ones may have been read."""
        self.stored = replace(self.stored, load=lambda: numbers)
        self.edits.clear()


class ChainStore(Store):
    """A place whose numbers are a chain's."""

    chain: Chain

    def check(self, edit: EditTensor) -> None:
        self.chain.after(edit)


@dataclass
class TensorStore(ChainStore):
    """A tensor message: an initializer, or what a Constant node holds.

    Attributes:
        tensor: the message.
        raw: lays large data up to be written from outside of the message, None where it must hold its own.
    """

    tensor: onnx.TensorProto
    chain: Chain
    readers: Sequence[onnx.NodeProto]
    raw: Callable[[Raw], None] | None = None

    def change(self, edit: EditTensor) -> None:
        numbers = self.chain.add(edit)
        size = (numbers.size * bits(self.chain.stored.dtype) + 7) // 8
        outside = self.tensor.data_location == EXTERNAL
        typed = not outside and not self.tensor.HasField("raw_data") and not _is_cut(self.tensor, size)
        if self.raw is not None and size >= CUT_FROM and not typed:
            self.tensor.ClearField("raw_data")
            self._inside()
            self.raw(Raw(size, partial(_chunks, self.chain)))
            return
        if typed:
            _fill_typed(self.tensor, numbers)
        else:
            self._inside()
            self.tensor.raw_data = encoded(numbers)
        self.chain.settle(numbers)

    def _inside(self) -> None:
        self.tensor.ClearField("data_location")
        self.tensor.ClearField("external_data")


@dataclass
class AttributeStore(ChainStore):
    """A Constant node whose numbers are an attribute of their own."""

    attribute: onnx.AttributeProto
    chain: Chain
    readers: Sequence[onnx.NodeProto]

    def change(self, edit: EditTensor) -> None:
        numbers = self.chain.add(edit)
        self.chain.settle(numbers)
        if self.attribute.name == "value_float":
            self.attribute.f = float(numbers)
        else:
            self.attribute.floats[:] = numbers.reshape(-1).tolist()


@dataclass
class SparseStore(ChainStore):
    """A sparse tensor; it becomes a dense one where zeros change.

    Attributes:
        dense: puts a dense tensor in its place.
        is_dense: whether it has done so.
    """

    sparse: onnx.SparseTensorProto
    chain: Chain
    readers: Sequence[onnx.NodeProto]
    dense: Callable[[np.ndarray], None]
    is_dense: bool = False

    def change(self, edit: EditTensor) -> None:
        numbers = self.chain.add(edit)
        self.chain.settle(numbers)
        indices = numpy_helper.to_array(self.sparse.indices)
        flat = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), numbers.shape)
        others = np.ones(numbers.size, bool)
        others[flat] = False
        if self.is_dense or np.any(numbers.reshape(-1)[others]):
            self.is_dense = True
            self.dense(numbers)
            return
        values, name = self.sparse.values, self.sparse.values.name
        values.CopyFrom(numpy_helper.from_array(numbers.reshape(-1)[flat], name))


@dataclass
class SharedStore(Store):
    """A tensor that cannot be changed where it is."""

    reason: str
    readers: Sequence[onnx.NodeProto] = ()

    def check(self, edit: EditTensor) -> None:
        raise CannotEditError(self.reason)

    def change(self, edit: EditTensor) -> None:
        self.check(edit)


def encoded(numbers: np.ndarray) -> bytes:
    """Numbers as `raw_data`; several share a byte in types below 8 bits."""
    return bytes(numpy_helper.from_array(np.ascontiguousarray(numbers)).raw_data)


def _chunks(chain: Chain) -> Iterator[bytes | memoryview]:
    numbers = np.ascontiguousarray(chain.numbers())
    yield encoded(numbers) if bits(chain.stored.dtype) < 8 else numbers.reshape(-1).view(np.uint8).data


def _is_cut(tensor: onnx.TensorProto, size: int) -> bool:
    """Whether the message lacks its data: they were left in the file."""
    fields = ("float_data", "int32_data", "double_data", "int64_data", "uint64_data")
    return size > 0 and not any(len(getattr(tensor, name)) for name in fields)


def _fill_typed(tensor: onnx.TensorProto, numbers: np.ndarray) -> None:
    dtype, flat = dtype_name(tensor.data_type) or "", np.ascontiguousarray(numbers).reshape(-1)
    if dtype == "float32":
        tensor.float_data[:] = flat.tolist()
    elif dtype == "float64":
        tensor.double_data[:] = flat.tolist()
    elif bits(dtype) < 8:
        tensor.int32_data[:] = list(encoded(flat))
    else:  # 8 and 16 bits stand as the integers of the same bits
        tensor.int32_data[:] = flat.view(np.uint16 if bits(dtype) == 16 else np.uint8).tolist()


class Stores:
    """The places of a model's tensors, by the names that the graph gives them."""

    def __init__(self, file: ModelFile, draft: Draft) -> None:
        self._draft = draft
        self._weights = WeightReader(file)
        self._stores: dict[str, list[Store]] = defaultdict(list)
        self._functions = Functions(draft.model.functions)
        self._calls = Counter(self._called(draft.model))
        graph = draft.model.graph
        self._readers = _readers_in(draft.nodes)
        for index, tensor in enumerate(graph.initializer):
            readers = self._readers.get(tensor.name, ())
            chain = partial(self._weights.initializer, index)
            self._add(tensor.name, partial(self._initializer, tensor, chain, readers))
        self._sparse(graph, self._readers, draft.replace_sparse)
        self._nodes(draft.nodes, self._readers, Place({}), "")

    def find(self, name: str) -> Store:
        """Where the tensor of this name is.

        Raises:
            CannotEditError: it is not known, or several have the name.
        """
        found = self._stores.get(name, [])
        if len(found) != 1:
            number = "no" if not found else "more than one"
            raise CannotEditError(f'the file has {number} tensor "{name}" that can be edited')
        try:
            return found[0].made() if isinstance(found[0], _Later) else found[0]
        except UnreadableError as error:
            raise CannotEditError(error.problem) from error

    def _add(self, name: str, make: Callable[[], Store]) -> None:
        self._stores[name].append(_Later(make))

    def _initializer(
        self, tensor: onnx.TensorProto, stored: Callable[[], Parameter], readers: Sequence[onnx.NodeProto]
    ) -> Store:
        return TensorStore(tensor, Chain(stored()), readers, partial(self._draft.put_raw, tensor.name))

    def _sparse(
        self,
        graph: onnx.GraphProto,
        readers: Readers,
        dense: Callable[[str, np.ndarray], None],
    ) -> None:
        for sparse in graph.sparse_initializer:
            name = sparse.values.name
            own = readers.get(name, ())
            self._add(name, partial(self._sparse_place, sparse, name, own, partial(dense, name)))

    def _sparse_place(
        self,
        sparse: onnx.SparseTensorProto,
        name: str,
        readers: Sequence[onnx.NodeProto],
        dense: Callable[[np.ndarray], None],
    ) -> Store:
        return SparseStore(sparse, Chain(self._weights.sparse(sparse, name)), readers, dense)

    def _nodes(self, nodes: Sequence[onnx.NodeProto], readers: Readers, place: Place, shared: str) -> None:
        """The tensors of these nodes, of their bodies and of the functions they call.

        Args:
            place: where they are; the reader names tensors by it.
            shared: why nothing in here can be changed, "" if it can.
        """
        if place.depth > MAX_DEPTH:
            return
        for node in nodes:
            if is_constant(node):
                self._constant(node, readers, place.name(node.output[0]), shared)
            for body in bodies(node):
                inner = {**readers, **_readers_in(body.node)}
                self._body(body, inner, shared)
                within = place.in_branch(node, body) if node.op_type == "If" else place.in_body()
                self._nodes(body.node, inner, within, shared)
            function = self._functions.called_by(node)
            if function is not None:
                count = self._calls[function_key(function)]
                again = f'it stands inside the local function "{function.name}", which is called {count} times'
                why = shared or (again if count > 1 else "")
                self._nodes(function.node, _readers_in(function.node), place.in_function(node, function, {}), why)

    def _called(self, model: onnx.ModelProto) -> Iterator[tuple[str, str, str]]:
        """The function that each node of the model calls, once a call."""
        waiting = [*model.graph.node]
        for function in model.functions:
            waiting.extend(function.node)
        while waiting:
            node = waiting.pop()
            called = self._functions.called_by(node)
            if called is not None:
                yield function_key(called)
            for body in bodies(node):
                waiting.extend(body.node)

    def _body(self, body: onnx.GraphProto, readers: Readers, shared: str) -> None:
        for tensor in body.initializer:
            self._add(tensor.name, partial(self._inner, tensor, tensor.name, readers.get(tensor.name, ()), shared))
        for sparse in body.sparse_initializer:
            self._add(sparse.values.name, partial(SharedStore, "it is a sparse tensor inside a branch or loop"))

    def _inner(self, tensor: onnx.TensorProto, name: str, readers: Sequence[onnx.NodeProto], shared: str) -> Store:
        if shared:
            return SharedStore(shared)
        return TensorStore(tensor, Chain(self._weights.parameter(tensor, name)), readers)

    def _constant(self, node: onnx.NodeProto, readers: Readers, name: str, shared: str) -> None:
        own = readers.get(node.output[0], ())
        for attribute in node.attribute:
            if attribute.ref_attr_name:
                self._add(name, partial(SharedStore, "it is an attribute of a local function"))
            elif attribute.name == "value":
                self._add(name, partial(self._inner, attribute.t, name, own, shared))
            elif attribute.name == "sparse_value":
                self._add(name, partial(self._sparse_constant, attribute, name, own, shared))
            elif attribute.name in ("value_float", "value_floats"):
                self._add(name, partial(_attribute, attribute, name, own, shared))

    def _sparse_constant(
        self, attribute: onnx.AttributeProto, name: str, readers: Sequence[onnx.NodeProto], shared: str
    ) -> Store:
        if shared:
            return SharedStore(shared)
        return self._sparse_place(attribute.sparse_tensor, name, readers, partial(_dense_attribute, attribute))


@dataclass
class _Later(Store):
    """A place that is looked at when it is asked for: a model has many tensors of which few are edited."""

    make: Callable[[], Store]
    readers: Sequence[onnx.NodeProto] = ()
    _store: Store | None = None

    def made(self) -> Store:
        """The place itself."""
        if self._store is None:
            self._store = self.make()
        return self._store

    def check(self, edit: EditTensor) -> None:
        self.made().check(edit)

    def change(self, edit: EditTensor) -> None:
        self.made().change(edit)


def _attribute(attribute: onnx.AttributeProto, name: str, readers: Sequence[onnx.NodeProto], shared: str) -> Store:
    if shared:
        return SharedStore(shared)
    numbers = np.array(attribute.f if attribute.name == "value_float" else attribute.floats, np.float32)
    stored = Parameter(name, numbers.shape, "float32", lambda: numbers)
    return AttributeStore(attribute, Chain(stored), readers)


def _dense_attribute(attribute: onnx.AttributeProto, numbers: np.ndarray) -> None:
    attribute.ClearField("sparse_tensor")
    attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
    attribute.t.CopyFrom(numpy_helper.from_array(numbers))


def _readers_in(nodes: Sequence[onnx.NodeProto]) -> dict[str, list[onnx.NodeProto]]:
    found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in nodes:
        for name in reads(node):
            found[name].append(node)
    return found
