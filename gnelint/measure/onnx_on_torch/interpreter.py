"""Runs an ONNX model on torch operators, so that autograd can differentiate it.

Weights are leaf tensors wherever the file stores them. Values are named as the ONNX reader names them in the graph, so
what is measured can be laid beside what is predicted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import torch
from onnx import defs
from torch import Tensor

from gnelint.errors import GnelintError, ModelError
from gnelint.measure.distributed import Team
from gnelint.measure.onnx_on_torch.call import Call, Settings
from gnelint.measure.onnx_on_torch.table import CannotRunError, Datum, Kernel, find_kernel
from gnelint.measure.onnx_on_torch.tensors import NarrowIntegers, parameter_to_torch, type_proto
from gnelint.measure.program import Watch, is_for_caller
from gnelint.measure.sharding import LEAST_SIZE, Operation, ShardedNetwork, is_large
from gnelint.onnxfile.file import ModelFile, UnreadableError, open_model
from gnelint.onnxfile.nodes import definition, imports, in_order, own_name, reads, resolved_attributes, with_attributes
from gnelint.onnxfile.weights import WeightReader
from gnelint.readers.onnx.emitter import Origin
from gnelint.readers.onnx.reader import opset_versions
from gnelint.readers.onnx.walk import Place, results_of

MAX_DEPTH = 64
"""Functions and bodies inside each other; more is a file that calls itself."""
_CONSTANTS = frozenset({"Constant", "ConstantOfShape", "DequantizeLinear"})
"""Operators by which a file writes weights down; what they make of constants is a leaf."""


class _Scope:
    """The data behind the names of one graph or function body; names of an enclosing graph are seen through."""

    def __init__(self, outer: _Scope | None = None) -> None:
        self._data: dict[str, Datum] = {}
        self._outer = outer

    def __contains__(self, name: str) -> bool:
        return name in self._data or (self._outer is not None and name in self._outer)

    def __getitem__(self, name: str) -> Datum:
        if name in self._data or self._outer is None:
            return self._data[name]
        return self._outer[name]

    def __setitem__(self, name: str, datum: Datum) -> None:
        self._data[name] = datum

    def own(self) -> dict[str, Datum]:
        """What was put into this scope, names of the enclosing one aside."""
        return dict(self._data)

    def drop(self, names: Sequence[str]) -> None:
        """Forget data that nothing reads any more."""
        for name in names:
            self._data.pop(name, None)


@dataclass(frozen=True)
class _Plan:
    """The order in which a body's nodes run, and what can be forgotten after each."""

    order: Sequence[int]
    dead: Mapping[int, tuple[str, ...]]


def open_interpreter(path: Path, settings: Settings) -> Interpreter:
    """Open a model to be run.

    Raises:
        ModelError: the file is missing, damaged or no ONNX model.
    """
    try:
        file = open_model(path)
        return Interpreter(file, opset_versions(file.proto), settings)
    except UnreadableError as error:
        raise ModelError(str(path), error.problem, error.advice) from error


class Interpreter:
    """An ONNX model as a function of tensors.

    Attributes:
        leaves: the floating weights that have been read, by their name in the graph.
        updated: the tensors that training changes.
    """

    def __init__(self, file: ModelFile, versions: Mapping[str, int], settings: Settings) -> None:
        self._leaves: dict[str, Tensor] = {}
        self._sharded: ShardedNetwork | None = None
        self._spread: frozenset[str] = frozenset()
        self._model = file.proto
        self._path = str(file.path)
        self._versions = versions
        self._settings = settings
        self._functions = {(f.domain, f.name, f.overload): f for f in file.proto.functions}
        self._weights = WeightReader(file)
        self._stored: dict[str, Datum] = {}
        self._constants: set[int] = set()  # identities of what is stored
        self._asked: frozenset[str] = frozenset()
        self._plans: dict[tuple[str, ...], _Plan] = {}
        self._watch: Watch = _unwatched

    def unsupported(self) -> tuple[str, ...]:
        """The operators that no kernel covers, each once, in the order of first use."""
        found: dict[str, None] = {}
        for node, versions in self._every_node(self._model.graph.node, self._versions):
            if node.op_type == "Constant" or self._can_run(node, versions):
                continue
            found[f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type] = None
        return tuple(found)

    def ask_gradients(self, names: frozenset[str]) -> None:
        """Have gradients recorded for the weights of these names, and no others; those not read yet included."""
        self._asked = names
        for name, leaf in self._leaves.items():
            leaf.requires_grad_(self._is_asked(name, leaf))
        if self._sharded is not None:
            self._sharded.ask_gradients(names)

    @property
    def leaves(self) -> Mapping[str, Tensor]:
        """The floating weights that have been read, by their name in the graph."""
        return self._leaves if self._sharded is None else {**self._leaves, **self._sharded.leaves}

    @property
    def updated(self) -> Sequence[Tensor]:
        """The tensors that training changes."""
        spread = () if self._sharded is None else self._sharded.parameters()
        return [tensor for tensor in (*self._leaves.values(), *spread) if tensor.requires_grad]

    def shard(self, team: Team) -> None:
        """Spread the large initializers over a team, each process of which calls this before the model runs."""
        graph = self._model.graph
        stored = {
            tensor.name: parameter_to_torch(self._weights.initializer(index))
            for index, tensor in enumerate(graph.initializer)
            if math.prod(tensor.dims) >= LEAST_SIZE
        }
        large = {name: datum for name, datum in stored.items() if is_large(datum)}
        outputs = [info.name for info in graph.output]
        known = {info.name for info in graph.input} | {tensor.name for tensor in graph.initializer}
        known |= {tensor.values.name for tensor in graph.sparse_initializer}
        operations = []
        for index in self._plan((), graph.node, outputs).order:
            node = graph.node[index]
            operations.append(
                Operation(tuple(name for name in reads(node) if name in known), tuple(filter(None, node.output)))
            )
            known.update(node.output)
        self._sharded = ShardedNetwork(operations, large, outputs, team, self._settings)
        self._spread = frozenset(large)

    def run(self, feeds: Mapping[str, Datum], watch: Watch | None = None) -> dict[str, Datum]:
        """Run the model.

        Args:
            feeds: a datum for each input, on any device; float32 tensors are taken in the run's own type.
            watch: is shown every floating tensor, and may put another in its place.

        Returns:
            The outputs by name, in the model's order.

        Raises:
            ModelError: an operator cannot be run; the message says which and why.
        """
        self._watch = watch or _unwatched
        graph = self._model.graph
        scope = _Scope()
        try:
            self._bind_main(graph, scope)
            for name, datum in feeds.items():
                scope[name] = self._shown(name, self._settings.placed(datum))
            outputs = [info.name for info in graph.output]
            plan = self._plan((), graph.node, outputs)
            if self._sharded is not None:
                return self._sharded.run(scope.own(), lambda numbers, data: self._part(numbers, data, plan))
            self._nodes(graph.node, scope, Place(self._versions), plan)
        except UnreadableError as error:
            raise ModelError(self._path, error.problem, error.advice) from error
        except CannotRunError as error:
            raise ModelError(self._path, f"not verifiable: {error}") from error
        finally:
            self._watch = _unwatched
        return {name: scope[name] for name in outputs}

    def _part(self, numbers: Sequence[int], data: Mapping[str, Datum], plan: _Plan) -> dict[str, Datum]:
        """Run the operations of these numbers in the plan on data by name; returns what they make and others read."""
        scope = _Scope()
        for name, datum in data.items():
            scope[name] = datum
        part = _Plan([plan.order[number] for number in numbers], plan.dead)
        self._nodes(self._model.graph.node, scope, Place(self._versions), part)
        return {name: datum for name, datum in scope.own().items() if name not in data}

    def _bind_main(self, graph: onnx.GraphProto, scope: _Scope) -> None:
        for index, tensor in enumerate(graph.initializer):
            if tensor.name in self._spread:
                continue
            if tensor.name not in self._stored:
                self._store(tensor.name, parameter_to_torch(self._weights.initializer(index)))
            scope[tensor.name] = self._stored[tensor.name]
        self._bind_sparse(graph, scope)

    def _bind_constants(self, graph: onnx.GraphProto, scope: _Scope) -> None:
        for tensor in graph.initializer:
            if tensor.name not in self._stored:
                self._store(tensor.name, parameter_to_torch(self._weights.parameter(tensor, tensor.name)))
            scope[tensor.name] = self._stored[tensor.name]
        self._bind_sparse(graph, scope)

    def _bind_sparse(self, graph: onnx.GraphProto, scope: _Scope) -> None:
        for sparse in graph.sparse_initializer:
            name = sparse.values.name
            if name not in self._stored:
                self._store(name, parameter_to_torch(self._weights.sparse(sparse, name)))
            scope[name] = self._stored[name]

    def _store(self, name: str, datum: Datum) -> None:
        placed = self._settings.placed(datum)
        self._stored[name] = placed
        self._constants.add(id(placed))
        if isinstance(placed, Tensor) and placed.is_floating_point():
            self._leaves[name] = placed.requires_grad_(self._is_asked(name, placed))

    def _is_asked(self, name: str, leaf: Tensor) -> bool:
        """Whether a weight's gradient is recorded; in eight bits it would come out as zero or infinite."""
        return name in self._asked and leaf.element_size() > 1

    def _plan(self, key: tuple[str, ...], nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> _Plan:
        """The plan of a body that runs more than once, by what it is called."""
        if key not in self._plans:
            self._plans[key] = _plan(nodes, outputs)
        return self._plans[key]

    def _nodes(self, nodes: Sequence[onnx.NodeProto], scope: _Scope, place: Place, plan: _Plan) -> None:
        if place.depth > MAX_DEPTH:
            raise CannotRunError(f"bodies nested more than {MAX_DEPTH} deep")
        for index in plan.order:
            self._node(nodes[index], scope, place)
            scope.drop(plan.dead.get(index, ()))

    def _node(self, node: onnx.NodeProto, scope: _Scope, place: Place) -> None:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            scope[node.output[0]] = self._constant(node, place)
            return
        inputs = [scope[name] if name else None for name in node.input]
        function = self._function(node)
        if function is not None:
            plan = self._plan((function.domain, function.name, function.overload), function.node, function.output)
            self._expand(node, function, inputs, scope, place, imports(function.opset_import), plan)
            return
        name = place.prefix + own_name(node)
        call, kernel = self._call(node, name, scope, place)
        try:
            if kernel is None:
                self._defined(call, node, inputs, scope, place)
                return
            results = kernel(call, *(self._wide(datum, node) for datum in inputs))
        except GnelintError:
            raise
        except Exception as error:  # torch refuses operands in many ways; a person gets one line
            if is_for_caller(error):
                raise
            reason = str(error) if isinstance(error, CannotRunError) else f"{type(error).__name__}: {error}"
            problem = f'not verifiable: node "{name}" ({call.op_type}) cannot be run ({_one_line(reason)})'
            raise ModelError(self._path, problem) from error
        results = results if isinstance(results, tuple) else (results,)
        constant = node.op_type in _CONSTANTS and all(id(datum) in self._constants for datum in inputs)
        for output, result in zip(node.output, results, strict=False):
            if output:
                shown = self._leaf(place.name(output), result) if constant else result
                scope[output] = self._shown(place.name(output), shown)

    def _function(self, node: onnx.NodeProto) -> onnx.FunctionProto | None:
        found = self._functions.get((node.domain, node.op_type, node.overload))
        if found is None and node.domain == "":
            found = self._functions.get(("ai.onnx", node.op_type, node.overload))
        return found

    def _call(self, node: onnx.NodeProto, name: str, scope: _Scope, place: Place) -> tuple[Call, Kernel | None]:
        domain = "" if node.domain == "ai.onnx" else node.domain
        version = place.versions.get(domain, 1)
        call = Call(
            node.op_type,
            domain,
            version,
            name,
            resolved_attributes(node, place.attributes),
            tuple(node.output),
            self._settings,
            lambda attribute, inputs: self._body(node, attribute, inputs, scope, place),
        )
        return call, find_kernel(domain, node.op_type, version)

    def _constant(self, node: onnx.NodeProto, place: Place) -> Datum:
        """The datum of a Constant node: the same leaf each time."""
        name = place.name(node.output[0])
        if name not in self._stored:
            given = resolved_attributes(node, place.attributes)
            key, attribute = next(iter(given.items()))
            if key == "value":
                datum = parameter_to_torch(self._weights.parameter(attribute.t, name))
            elif key == "sparse_value":
                datum = parameter_to_torch(self._weights.sparse(attribute.sparse_tensor, name))
            else:
                datum = _literal(key, attribute)
            self._store(name, datum)
        return self._stored[name]

    def _leaf(self, name: str, result: Datum) -> Datum:
        """What the file computes from constants alone, kept as the weight that it is."""
        if not isinstance(result, Tensor) or not result.is_floating_point():
            return result
        if name not in self._stored:
            self._store(name, result.detach())
        return self._stored[name]

    def _wide(self, datum: Datum, node: onnx.NodeProto) -> Datum:
        """Integers of fewer than eight bits as eight: to be multiplied by their scale, and for nothing else."""
        if not isinstance(datum, NarrowIntegers):
            return datum
        if node.op_type != "DequantizeLinear":
            raise CannotRunError(f"tensors of type {datum.dtype}")
        return datum.tensor.to(self._settings.device)

    def _shown(self, name: str, datum: Datum) -> Datum:
        if isinstance(datum, Tensor) and datum.is_floating_point():
            return self._watch(name, datum)
        return datum

    def _expand(
        self,
        node: onnx.NodeProto,
        function: onnx.FunctionProto,
        inputs: Sequence[Datum],
        scope: _Scope,
        place: Place,
        versions: Mapping[str, int],
        plan: _Plan,
    ) -> None:
        """Run a function's body in place of its call."""
        inner = _Scope()
        given = list(inputs) + [None] * (len(function.input) - len(inputs))
        for name, datum in zip(function.input, given, strict=False):
            inner[name] = datum
        defaults = {attribute.name: attribute for attribute in function.attribute_proto}
        name = place.prefix + own_name(node)
        self._nodes(
            function.node,
            inner,
            Place(
                versions,
                {**defaults, **resolved_attributes(node, place.attributes)},
                f"{name}/",
                place.depth + 1,
                {},
                Origin(name),
                results_of(node, function.output, place),
            ),
            plan,
        )
        for output, result in zip(node.output, function.output, strict=False):
            if output:
                scope[output] = inner[result]

    def _defined(self, call: Call, node: onnx.NodeProto, inputs: Sequence[Datum], scope: _Scope, place: Place) -> None:
        """Run an operator without a kernel by the definition that the standard gives for it."""
        schema = _schema(call.op_type, call.version, call.domain)
        types = [type_proto(datum) for datum in inputs]
        resolved = with_attributes(node, call.attributes)
        function = None if schema is None else definition(schema, call.version, resolved, types)
        if function is None:
            raise CannotRunError("no kernel for this operator")
        versions = {**place.versions, **imports(function.opset_import)}
        self._expand(node, function, inputs, scope, place, versions, _plan(function.node, function.output))

    def _body(
        self, node: onnx.NodeProto, attribute: str, inputs: Sequence[Datum], scope: _Scope, place: Place
    ) -> tuple[Datum, ...]:
        """Run a branch or the body of a loop."""
        body = resolved_attributes(node, place.attributes)[attribute].g
        inner = _Scope(scope)
        self._bind_constants(body, inner)
        for info, datum in zip(body.input, inputs, strict=False):
            inner[info.name] = datum
        outputs = [info.name for info in body.output]
        results = {**place.results, **results_of(node, outputs, place)} if node.op_type == "If" else {}
        plan = self._plan((place.prefix, own_name(node), attribute), body.node, outputs)
        self._nodes(body.node, inner, replace(place, depth=place.depth + 1, results=results), plan)
        return tuple(inner[name] for name in outputs)

    def _every_node(
        self, nodes: Sequence[onnx.NodeProto], versions: Mapping[str, int], depth: int = 0
    ) -> Iterator[tuple[onnx.NodeProto, Mapping[str, int]]]:
        """Every operation with the opsets in force there, functions entered."""
        if depth > MAX_DEPTH:
            return
        for node in nodes:
            function = self._function(node)
            if function is not None:
                yield from self._every_node(function.node, imports(function.opset_import), depth + 1)
                continue
            yield node, versions
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    yield from self._every_node(attribute.g.node, versions, depth + 1)

    def _can_run(self, node: onnx.NodeProto, versions: Mapping[str, int]) -> bool:
        domain = "" if node.domain == "ai.onnx" else node.domain
        version = versions.get(domain, 1)
        if find_kernel(domain, node.op_type, version) is not None:
            return True
        schema = _schema(node.op_type, version, domain)
        return schema is not None and (schema.has_function or schema.has_context_dependent_function)


def _unwatched(name: str, tensor: Tensor) -> Tensor:
    return tensor


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def _literal(key: str, attribute: onnx.AttributeProto) -> Datum:
    """The datum of a Constant that is no tensor."""
    import numpy as np

    if key in ("value_float", "value_floats"):
        return torch.tensor(attribute.f if key == "value_float" else list(attribute.floats), dtype=torch.float32)
    if key in ("value_int", "value_ints"):
        return torch.tensor(attribute.i if key == "value_int" else list(attribute.ints), dtype=torch.int64)
    return np.array(attribute.s if key == "value_string" else list(attribute.strings), dtype=object)


def _schema(op_type: str, version: int, domain: str) -> defs.OpSchema | None:
    try:
        return defs.get_schema(op_type, version, domain)
    except Exception:  # onnx's SchemaError: the operator is not onnx's own
        return None


def _plan(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> _Plan:
    """The order of a body's nodes; each value is dead after the last node that reads it."""
    order = in_order(nodes)
    last: dict[str, int] = {}
    made: set[str] = set()
    for index in order:
        for name in reads(nodes[index]):
            last[name] = index
        for name in nodes[index].output:
            made.add(name)
            last.setdefault(name, index)
    dead: dict[int, list[str]] = {}
    for name in made.difference(outputs):
        dead.setdefault(last[name], []).append(name)
    return _Plan(order, {index: tuple(names) for index, names in dead.items()})
