"""Runs an ONNX model on torch operators, so that autograd can differentiate it.

Weights are leaf tensors wherever the file stores them. Values are named as the ONNX reader names them in the graph, so
what is measured can be laid beside what is predicted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import onnx
from torch import Tensor

from gnelint.errors import GnelintError, ModelError, UnreadableError
from gnelint.ir.graph import Parameter
from gnelint.measure.distributed import Team
from gnelint.measure.onnx_on_torch.call import Call, Settings
from gnelint.measure.onnx_on_torch.table import CannotRunError, Datum, Kernel, find_kernel
from gnelint.measure.onnx_on_torch.tensors import NarrowIntegers, parameter_to_torch, type_proto
from gnelint.measure.program import Watch, is_for_caller
from gnelint.measure.sharding import LEAST_SIZE, Operation, ShardedNetwork, is_large
from gnelint.onnxfile.file import ModelFile, open_model
from gnelint.onnxfile.nodes import (
    bodies,
    definition,
    domain_of,
    imports,
    in_order,
    is_constant,
    own_name,
    reads,
    schema_of,
    with_attributes,
)
from gnelint.onnxfile.scopes import MAX_DEPTH, Functions, Place, Scope, function_key, function_scope
from gnelint.onnxfile.weights import WeightReader
from gnelint.readers.onnx.reader import opset_versions
from gnelint.records import dataclass

_CONSTANTS = frozenset({"Constant", "ConstantOfShape", "DequantizeLinear"})
"""Operators by which a file writes weights down; what they make of constants is a leaf."""


_SHAPES = frozenset({"Shape", "Size"})
"""Operators that read nothing but a shape."""


@dataclass(frozen=True)
class _Plan:
    """The order in which a body's nodes run, and what can be forgotten after each."""

    order: Sequence[int]
    dead: Mapping[int, tuple[str, ...]]


@dataclass(frozen=True)
class Part:
    """Some nodes of the main graph.

    Attributes:
        run: takes data for the values that were said to be given, for those of `reads` and `shapes`, and a watch.
        reads: names of the model's inputs that they read besides.
        shapes: names of values of which they read the shape alone.
    """

    run: Callable[[Mapping[str, Datum], Watch], None]
    reads: frozenset[str]
    shapes: frozenset[str]


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
        self._sharded_names: frozenset[str] = frozenset()
        self._model = file.proto
        self._path = str(file.path)
        self._versions = versions
        self._settings = settings
        self._functions = Functions(file.proto.functions)
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
            if not is_constant(node) and not self._can_run(node, versions):
                found[f"{domain_of(node)}.{node.op_type}".lstrip(".")] = None
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
        sharded = () if self._sharded is None else self._sharded.parameters()
        return [tensor for tensor in (*self._leaves.values(), *sharded) if tensor.requires_grad]

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
        self._sharded_names = frozenset(large)

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
        scope: Scope[Datum] = Scope()
        try:
            for name, datum in feeds.items():
                scope.bind(name, self._shown(name, self._settings.placed(datum)))
            stored = {each.name: partial(self._weights.initializer, i) for i, each in enumerate(graph.initializer)}
            self._bind_constants(graph, scope, stored)
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
        return {name: scope.find(name) for name in outputs}

    @property
    def values(self) -> frozenset[str]:
        """Names of the main graph's values."""
        graph = self._model.graph
        written = (name for node in graph.node for name in node.output if name)
        return frozenset(written).union(info.name for info in graph.input)

    def part(self, fed: Collection[str], wanted: Collection[str]) -> Part:
        """What runs the nodes of the main graph that lead from some of its values to others.

        Args:
            fed: names of the values that are given.
            wanted: names of those that are asked for.
        """
        graph = self._model.graph
        makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
        needed: set[int] = set()
        shown: set[str] = set()
        waiting = list(wanted)
        while waiting:
            name = waiting.pop()
            index = None if name in fed else makers.get(name)
            if index is None or index in needed:
                continue
            needed.add(index)
            (shown.update if graph.node[index].op_type in _SHAPES else waiting.extend)(reads(graph.node[index]))
        nodes = [graph.node[index] for index in sorted(needed)]
        read = {name for node in nodes for name in reads(node)}
        made = {name for node in nodes for name in node.output}
        stored = {
            each.name: partial(self._weights.initializer, i)
            for i, each in enumerate(graph.initializer)
            if each.name in read and each.name not in fed
        }
        known = made.union(stored, fed, (tensor.values.name for tensor in graph.sparse_initializer))
        plan = _plan(nodes, [*wanted])

        def run(feeds: Mapping[str, Datum], watch: Watch) -> None:
            self._watch = watch
            scope: Scope[Datum] = Scope()
            try:
                for name, datum in feeds.items():
                    scope.bind(name, self._settings.placed(datum))
                self._bind_constants(graph, scope, stored)
                self._nodes(nodes, scope, Place(self._versions), plan)
            except (UnreadableError, CannotRunError) as error:
                raise ModelError(self._path, str(error)) from error
            finally:
                self._watch = _unwatched

        return Part(run, frozenset(read - shown - known), frozenset((read & shown) - known))

    def _part(self, numbers: Sequence[int], data: Mapping[str, Datum], plan: _Plan) -> dict[str, Datum]:
        """Run the operations of these numbers in the plan on data by name; returns what they make and others read."""
        scope: Scope[Datum] = Scope()
        for name, datum in data.items():
            scope.bind(name, datum)
        part = _Plan([plan.order[number] for number in numbers], plan.dead)
        self._nodes(self._model.graph.node, scope, Place(self._versions), part)
        return {name: datum for name, datum in scope.own().items() if name not in data}

    def _bind_constants(
        self, graph: onnx.GraphProto, scope: Scope[Datum], dense: Mapping[str, Callable[[], Parameter]]
    ) -> None:
        """Bind a graph's constants, but for those that are fed or spread over processes.

        Args:
            dense: what reads each initializer that is not sparse.
        """
        makers = dict(dense)
        for sparse in graph.sparse_initializer:
            makers[sparse.values.name] = partial(self._weights.sparse, sparse, sparse.values.name)
        fed = scope.own()
        for name, make in makers.items():
            if name not in fed and name not in self._sharded_names:
                scope.bind(name, self._leaf(name, make))

    def _leaf(self, name: str, make: Callable[[], Parameter]) -> Datum:
        """A tensor that the model stores: the same datum each time."""
        if name not in self._stored:
            self._store(name, parameter_to_torch(make()))
        return self._stored[name]

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

    def _nodes(self, nodes: Sequence[onnx.NodeProto], scope: Scope[Datum], place: Place, plan: _Plan) -> None:
        if place.depth > MAX_DEPTH:
            raise CannotRunError(f"bodies nested more than {MAX_DEPTH} deep")
        for index in plan.order:
            self._node(nodes[index], scope, place)
            scope.drop(plan.dead.get(index, ()))

    def _node(self, node: onnx.NodeProto, scope: Scope[Datum], place: Place) -> None:
        if is_constant(node):
            name = place.name(node.output[0])
            make = partial(self._weights.constant, node, place.attributes_of(node), name)
            scope.bind(node.output[0], self._leaf(name, make))
            return
        inputs = [scope.find(name) if name else None for name in node.input]
        function = self._functions.called_by(node)
        if function is not None:
            plan = self._plan(function_key(function), function.node, function.output)
            self._expand(node, function, inputs, scope, place, imports(function.opset_import), plan)
            return
        name = place.node_name(node)
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
                shown = self._kept(place.name(output), result) if constant else result
                scope.bind(output, self._shown(place.name(output), shown))

    def _call(self, node: onnx.NodeProto, name: str, scope: Scope[Datum], place: Place) -> tuple[Call, Kernel | None]:
        domain, version = domain_of(node), place.version(node)
        call = Call(
            node.op_type,
            domain,
            version,
            name,
            place.attributes_of(node),
            tuple(node.output),
            self._settings,
            lambda attribute, inputs: self._body(node, attribute, inputs, scope, place),
        )
        return call, find_kernel(domain, node.op_type, version)

    def _kept(self, name: str, result: Datum) -> Datum:
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
        scope: Scope[Datum],
        place: Place,
        versions: Mapping[str, int],
        plan: _Plan,
    ) -> None:
        """Run a function's body in place of its call."""
        inner = function_scope(function, inputs)
        self._nodes(function.node, inner, place.in_function(node, function, versions), plan)
        scope.take(node.output, inner, function.output, f'function "{function.name}"')

    def _defined(
        self, call: Call, node: onnx.NodeProto, inputs: Sequence[Datum], scope: Scope[Datum], place: Place
    ) -> None:
        """Run an operator without a kernel by the definition that the standard gives for it."""
        schema = schema_of(call.op_type, call.version, call.domain)
        types = [type_proto(datum) for datum in inputs]
        resolved = with_attributes(node, call.attributes)
        function = None if schema is None else definition(schema, call.version, resolved, types)
        if function is None:
            raise CannotRunError("no kernel for this operator")
        versions = {**place.versions, **imports(function.opset_import)}
        self._expand(node, function, inputs, scope, place, versions, _plan(function.node, function.output))

    def _body(
        self, node: onnx.NodeProto, attribute: str, inputs: Sequence[Datum], scope: Scope[Datum], place: Place
    ) -> tuple[Datum, ...]:
        """Run a branch or the body of a loop."""
        body = place.attributes_of(node)[attribute].g
        inner = Scope(scope)
        for info, datum in zip(body.input, inputs, strict=False):
            inner.bind(info.name, datum)
        stored = {each.name: partial(self._weights.parameter, each, each.name) for each in body.initializer}
        self._bind_constants(body, inner, stored)
        outputs = [info.name for info in body.output]
        plan = self._plan((place.prefix, own_name(node), attribute), body.node, outputs)
        within = place.in_branch(node, body) if node.op_type == "If" else place.in_body()
        self._nodes(body.node, inner, within, plan)
        return tuple(inner.find(name) for name in outputs)

    def _every_node(
        self, nodes: Sequence[onnx.NodeProto], versions: Mapping[str, int], depth: int = 0
    ) -> Iterator[tuple[onnx.NodeProto, Mapping[str, int]]]:
        """Every operation with the opsets in force there, functions entered."""
        if depth > MAX_DEPTH:
            return
        for node in nodes:
            function = self._functions.called_by(node)
            if function is not None:
                yield from self._every_node(function.node, imports(function.opset_import), depth + 1)
                continue
            yield node, versions
            for body in bodies(node):
                yield from self._every_node(body.node, versions, depth + 1)

    def _can_run(self, node: onnx.NodeProto, versions: Mapping[str, int]) -> bool:
        domain = domain_of(node)
        version = versions.get(domain, 1)
        if find_kernel(domain, node.op_type, version) is not None:
            return True
        schema = schema_of(node.op_type, version, domain)
        return schema is not None and (schema.has_function or schema.has_context_dependent_function)


def _unwatched(name: str, tensor: Tensor) -> Tensor:
    return tensor


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


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
