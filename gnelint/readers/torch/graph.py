"""From an exported program to the graph: what is constant is kept as parameters, the rest is lowered op by op."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils._pytree import tree_leaves

from gnelint.errors import ModelError
from gnelint.ir.graph import UNMODELLED, Dim, Graph, Node, Parameter, TensorKind, Value
from gnelint.nn.operators import NAMESPACE
from gnelint.readers.emitter import CannotLowerError, Shape
from gnelint.readers.torch.constants import Constant, ConstantFolder, dtype_name
from gnelint.readers.torch.emitter import Call, Emitter, Flow
from gnelint.readers.torch.held import identity
from gnelint.readers.torch.initializers import InitializerRecorder
from gnelint.readers.torch.names import Step, label, user_location
from gnelint.readers.torch.operations import operation_name
from gnelint.readers.torch.ops.complex import Complex, is_complex
from gnelint.readers.torch.ops.table import COMPLEX_AWARE, LOWERINGS, Lowering
from gnelint.records import dataclass

_NAMESPACES = ("aten", "prims", "transformers", NAMESPACE)
"""Of the operators whose names the lowering table has."""
_PATTERNS = frozenset({torch.bool, torch.int64, torch.int32, torch.int16, torch.int8})
"""Types of inputs that say where, not how much."""


@dataclass(frozen=True)
class Reading:
    """How a program is to be read.

    Attributes:
        name: what the user calls the model.
        training: whether normalisation uses batch statistics.
        sizes: what the symbolic dimensions that were fixed stand for, by symbol.
        notes: what a person should know already before the graph is read.
        recorder: saw the module being built, so it can stand in for the numbers of meta tensors.
        unregistered: parameters of layers that the module does not know of, by the path at which it keeps them.
        losses: positions of the program's outputs that are losses: the analysis starts at the others.
        reads: what gives a stored tensor to be read, by its name, where that is not the tensor itself.
        held: names of the program's constants that are parameters of the module (readers.torch.held).
    """

    name: str
    training: bool
    sizes: Mapping[str, int]
    notes: tuple[str, ...] = ()
    recorder: InitializerRecorder | None = None
    unregistered: Mapping[str, torch.Tensor] = field(default_factory=dict)
    losses: frozenset[int] = frozenset()
    reads: Mapping[str, Callable[[], torch.Tensor]] = field(default_factory=dict)
    held: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Lowered:
    """A graph beside the program that it was lowered from.

    Attributes:
        graph: the canonical operations.
        operations: name of the traced operation that computes each value of the graph; values that only the lowering
            has are missing.
    """

    graph: Graph
    operations: Mapping[str, str]


def lower_program(program: ExportedProgram, reading: Reading) -> Lowered:
    """Lower a functional program (one that `run_decompositions` returned).

    Raises:
        ModelError: the program has no output that depends on its input.
    """
    lowerer = _Lowerer(program, reading)
    lowerer.run()
    return lowerer.graph()


def lower_losses(program: ExportedProgram, reading: Reading) -> tuple[Lowered, frozenset[str]] | None:
    """Lower what losses beside the outputs depend on, where they are the outputs; and what the operations are called
    that the program's outputs depend on.

    None where there are no such losses, or none that depends on an input.
    """
    kinds = [spec.kind for spec in program.graph_signature.output_specs]
    places = frozenset(range(kinds.count(OutputKind.USER_OUTPUT)))
    if not reading.losses or not reading.losses < places:
        return None
    shared = needed(_returned(program, lambda at: at not in reading.losses))
    try:
        lowered = lower_program(program, replace(reading, losses=places - reading.losses))
    except ModelError:
        return None
    return lowered, frozenset(node.name for node in shared)


def knows(target: Any) -> bool:
    """Whether the lowering table covers an operation (one of its uses at least)."""
    return _lowering(target) is not None


def _lowering(target: Any) -> Lowering | None:
    if not isinstance(target, torch._ops.OpOverload) or target.namespace not in _NAMESPACES:
        return None
    name = operation_name(target)
    return LOWERINGS.get(f"{name}.{target._overloadname}", LOWERINGS.get(name))


class _Lowerer:
    """Walks the fx graph once; `_results` holds what every traced operation has become."""

    def __init__(self, program: ExportedProgram, reading: Reading) -> None:
        self._program = program
        self._reading = reading
        self._folder = ConstantFolder()
        self._examples = ConstantFolder()
        self._emitter = Emitter()
        self._as_given: dict[str, None] = {}
        self._sizes = dict(reading.sizes)
        self._steps: list[Step] = []
        self._results: dict[fx.Node, Any] = {}
        self._inputs: dict[str, str] = {}
        self._live = set(needed(_returned(program, lambda at: at not in reading.losses)))
        self._trained: dict[str, tuple[int, ...]] = {}
        self._stored_as: dict[str, str] = {}

    def run(self) -> None:
        """Read the inputs and parameters, then lower every operation that an output depends on."""
        self._read_placeholders()
        for node in self._program.graph.nodes:
            if node.op == "get_attr" and isinstance(tensor := _attribute(self._program, node.target), torch.Tensor):
                node.meta.setdefault("val", tensor)
                self._folder.add_leaf(node, str(node.target), tensor, "constant")
                self._examples.add_leaf(node, str(node.target), tensor, "constant")
            elif node.op == "call_function" and node in self._live:
                self._examples.fold(node)
                if not self._folder.fold(node):
                    self._results[node] = self._lower(node)

    def _read_placeholders(self) -> None:
        placeholders = {node.name: node for node in self._program.graph.nodes if node.op == "placeholder"}
        tied: dict[tuple[Any, ...], str] = {}
        examples = iter(given for given in tree_leaves(self._program.example_inputs) if isinstance(given, torch.Tensor))
        unknown = {identity(tensor): name for name, tensor in self._reading.unregistered.items()}
        for spec in self._program.graph_signature.input_specs:
            node = placeholders[spec.arg.name]
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
                tensor = _stored_tensor(self._program, str(spec.target))
                kept = unknown.get(identity(tensor)) if spec.kind is InputKind.CONSTANT_TENSOR else None
                kind = _kind(spec.kind, tensor) if kept is None else "unregistered"
                kind = "parameter" if str(spec.target) in self._reading.held else kind
                name = tied.setdefault(identity(tensor), kept or str(spec.target))
                read = self._reading.reads.get(str(spec.target))
                self._folder.add_leaf(node, name, tensor, kind, self._reading.recorder, read)
                self._stored_as[node.name] = name
                if kind == "parameter":
                    self._trained[name] = tuple(tensor.shape)
                elif kind != "frozen":
                    self._examples.add_leaf(node, name, tensor, kind, self._reading.recorder)
            elif isinstance(node.meta.get("val"), torch.Tensor):
                flow = self._emitter.new_value(*self._described(node.meta["val"]))
                self._results[node] = flow
                self._inputs[flow.name] = node.name
                given = next(examples, None)
                if isinstance(given, torch.Tensor) and given.dtype in _PATTERNS and not given.is_meta:
                    self._examples.add_leaf(node, node.name, given, "constant")

    def _described(self, tensor: torch.Tensor) -> tuple[Shape, str]:
        return tuple(self._dimension(size) for size in tensor.shape), dtype_name(tensor.dtype)

    def _dimension(self, size: Any) -> Dim:
        if isinstance(size, int):
            return size
        expression = size.node.expr
        known = {symbol: self._sizes.get(str(symbol), symbol) for symbol in expression.free_symbols}
        found = expression.subs(known)
        return int(found) if found.is_Integer else str(found)

    def _learn_sizes(self, traced: Sequence[Any], found: Shape) -> None:
        """What tracing did not know, such as how much a mask keeps, and a lowering does."""
        for size, known in zip(traced, found, strict=False):
            if not isinstance(size, int) and isinstance(known, int) and size.node.expr.is_Symbol:
                self._sizes.setdefault(str(size.node.expr), known)

    def _operand(self, node: fx.Node) -> Any:
        if node in self._results:
            return self._results[node]
        return self._folder.constant(node)

    def _pattern(self, node: fx.Node) -> Constant | None:
        """What the example inputs make of a tensor that depends on integers and booleans alone: a mask, indices."""
        if node not in self._results:
            return None
        found = self._examples.constant(node)
        if found is not None:
            self._as_given.update(
                dict.fromkeys(leaf.name for leaf in found.stored if leaf.name in self._inputs.values())
            )
        return found

    def _lower(self, node: fx.Node) -> Any:
        if operation_name(node.target) == "getitem":
            whole = self._operand(node.args[0])
            return whole[node.args[1]] if isinstance(whole, (tuple, list)) else None
        value = node.meta.get("val")
        tensors = value if isinstance(value, (list, tuple)) else (value,)
        outputs = tuple(self._described(t) if isinstance(t, torch.Tensor) else None for t in tensors)
        if not any(outputs):
            return None  # a size or an assertion: nothing flows through it
        lowering = _lowering(node.target)
        try:
            if lowering is None:
                raise CannotLowerError("the vocabulary has no such operation")
            arguments = self._arguments(node)
            if operation_name(node.target) not in COMPLEX_AWARE and any(map(is_complex, tree_leaves(arguments))):
                raise CannotLowerError("complex numbers")
            result: Any = lowering(self._emitter, Call(node, arguments, outputs))
        except CannotLowerError:
            self._emitter.drop()
            result = self._unmodelled(node, outputs)
        self._steps += [Step(draft, node) for draft in self._emitter.take()]
        if isinstance(result, Flow) and isinstance(value, torch.Tensor):
            self._learn_sizes(value.shape, result.shape)
        return tuple(result) if isinstance(result, (tuple, list)) else result

    def _arguments(self, node: fx.Node) -> dict[str, Any]:
        """The arguments by the schema's names, defaults filled in, nodes replaced by what they have become.

        Where values meet a mask or indices that the inputs give, these are as the example inputs have them.
        """
        meets = any(
            isinstance(self._results.get(source), Flow) and not self._examples.knows(source)
            for source in node.all_input_nodes
        )

        def converted(argument: Any) -> Any:
            if isinstance(argument, fx.Node):
                value = argument.meta.get("val")
                if isinstance(value, torch.Tensor):
                    operand = (self._pattern(argument) if meets else None) or self._operand(argument)
                    if operand is None:
                        raise CannotLowerError("an operand that is no tensor of the graph")
                    return operand
                if isinstance(value, torch.SymInt):
                    return self._dimension(value)
                raise CannotLowerError("a number that depends on the network's input")
            if isinstance(argument, (list, tuple)):
                return [converted(entry) for entry in argument]
            return argument

        schema = node.target._schema.arguments
        given = dict(zip((argument.name for argument in schema), node.args, strict=False)) | dict(node.kwargs)
        for name, argument in given.items():
            if isinstance(argument, fx.Node) and isinstance(converted(argument), str):
                raise CannotLowerError(f"{name} depends on a symbolic size")
        return {
            argument.name: converted(given[argument.name]) if argument.name in given else argument.default_value
            for argument in schema
        }

    def _unmodelled(self, node: fx.Node, outputs: Sequence[tuple[Shape, str] | None]) -> Any:
        """Every tensor it reads is an input or a parameter, every tensor it returns an output."""
        operands = {source.name: self._operand(source) for source in node.all_input_nodes}
        flows = [
            flow
            for operand in operands.values()
            for flow in (operand.flows if isinstance(operand, Complex) else (operand,))
            if isinstance(flow, Flow)
        ]
        parameters: dict[str, Parameter | None] = {
            role: operand.parameter() for role, operand in operands.items() if isinstance(operand, Constant)
        }
        written = [output for output in outputs if output is not None]
        values = iter(self._emitter.emit_many(UNMODELLED, flows, written, parameters))
        results = tuple(None if output is None else next(values) for output in outputs)
        return results if isinstance(node.meta["val"], (list, tuple)) else results[0]

    def graph(self) -> Lowered:
        """The nodes with their names; only those that an output depends on."""
        outputs = list(dict.fromkeys(flow.name for flow in self._output_flows()))
        if not outputs:
            raise ModelError(
                self._reading.name,
                "no output depends on the network's input",
                "Check that the forward method uses its arguments and returns a tensor.",
            )
        steps = self._read_steps(set(outputs))
        labels = label(steps)
        value_names = dict(self._inputs)
        for step, found in zip(steps, labels, strict=True):
            written = step.draft.outputs
            for position, temporary in enumerate(written):
                name = found.name if len(written) == 1 else f"{found.name}:{position}"
                value_names[temporary] = f"{name}:out" if name in self._inputs.values() else name
        nodes = tuple(
            Node(
                name=found.name,
                op=step.draft.op,
                inputs=tuple(None if name is None else value_names[name] for name in step.draft.inputs),
                outputs=tuple(value_names[name] for name in step.draft.outputs),
                parameters=step.draft.parameters,
                attributes=step.draft.attributes,
                source_op=str(step.origin.target),
                scope=found.scope,
                location=user_location(step.origin.meta.get("stack_trace")),
            )
            for step, found in zip(steps, labels, strict=True)
        )
        flows = ((name, self._emitter.values[temporary]) for temporary, name in value_names.items())
        graph = Graph(
            name=self._reading.name,
            source="torch",
            training=self._reading.training,
            nodes=nodes,
            inputs=tuple(self._inputs.values()),
            outputs=tuple(value_names[name] for name in outputs),
            values={name: Value(name, flow.shape, flow.dtype) for name, flow in flows},
            notes=(*self._reading.notes, *self._emitter.notes, *self._pattern_note(), *_placeholder_note(nodes)),
            returned=frozenset(leaf.name for constant in self._returned_constants() for leaf in constant.stored),
            returned_entries=sum(
                math.prod(constant.shape) for constant in self._returned_constants() if constant.kind == "parameter"
            ),
            deciding=frozenset(self._as_given),
        )
        used = graph.returned.union(graph.uses, self._read_by_losses())
        unread = {name: shape for name, shape in self._trained.items() if name not in used}
        graph = replace(
            graph,
            unread=tuple(unread),
            unread_shapes=unread,
            in_losses=frozenset(self._read_by_losses(passes=_passes_gradient)),
            loss_inputs=frozenset(self._inputs.values()).intersection(node.name for node in self._before_losses()),
        )
        return Lowered(graph, self._operations(value_names))

    def _pattern_note(self) -> tuple[str, ...]:
        if not self._as_given:
            return ()
        return (f"masks and indices that {', '.join(self._as_given)} decide are those of the example inputs",)

    def _operations(self, value_names: Mapping[str, str]) -> dict[str, str]:
        """The first traced operation whose result each named value is."""
        found: dict[str, str] = {}
        for traced, result in self._results.items():
            if isinstance(result, Flow) and result.name in value_names:
                found.setdefault(value_names[result.name], traced.name)
        return found

    def _output_flows(self) -> list[Flow]:
        operands = self._output_operands()
        parts = [operand.flows if isinstance(operand, Complex) else (operand,) for operand in operands]
        return [flow for own in parts for flow in own if isinstance(flow, Flow)]

    def _returned_constants(self) -> list[Constant]:
        return [operand for operand in self._output_operands() if isinstance(operand, Constant)]

    def _output_operands(self) -> list[Any]:
        losses = self._reading.losses
        return [self._operand(node) for node in _returned(self._program, lambda at: at not in losses)]

    def _read_by_losses(self, passes: Callable[[fx.Node], bool] = lambda node: True) -> set[str]:
        """The stored tensors that losses beside the outputs depend on, not before nodes that do not pass."""
        nodes = self._before_losses(passes)
        return {self._stored_as[node.name] for node in nodes if node.name in self._stored_as}

    def _before_losses(self, passes: Callable[[fx.Node], bool] = lambda node: True) -> set[fx.Node]:
        """The operations and inputs that losses beside the outputs depend on."""
        return set(needed(_returned(self._program, self._reading.losses.__contains__), passes))

    def _read_steps(self, needed: set[str]) -> list[Step]:
        """The steps that the needed values depend on, in order."""
        kept = []
        for step in reversed(self._steps):
            if any(name in needed for name in step.draft.outputs):
                needed.update(name for name in step.draft.inputs if name is not None)
                kept.append(step)
        return kept[::-1]


def _placeholder_note(nodes: Sequence[Node]) -> tuple[str, ...]:
    missing = {p.name for node in nodes for p in node.parameters.values() if p.provenance == "placeholder"}
    if not missing:
        return ()
    return (f"{len(missing)} parameters are on the meta device and hold no numbers; zeros stand in for them",)


def _returned(program: ExportedProgram, wanted: Callable[[int], bool]) -> list[fx.Node]:
    """What a program returns to its caller at the wanted positions: no updates of running statistics."""
    specs = program.graph_signature.output_specs
    own = [
        node
        for node, spec in zip(program.graph.output_node().args[0], specs, strict=True)
        if spec.kind is OutputKind.USER_OUTPUT
    ]
    return [node for at, node in enumerate(own) if isinstance(node, fx.Node) and wanted(at)]


def needed(results: Iterable[fx.Node], passes: Callable[[fx.Node], bool] = lambda node: True) -> Iterator[fx.Node]:
    """The nodes that results depend on, themselves among them; those before one that does not pass are left out."""
    seen: set[fx.Node] = set()
    waiting = list(results)
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            if passes(node):
                waiting.extend(node.all_input_nodes)
            yield node


def _passes_gradient(node: fx.Node) -> bool:
    """Whether a gradient can go on through an operation: what it gives is floating and not detached."""
    value = node.meta.get("val")
    whole = isinstance(value, torch.Tensor) and not value.is_floating_point()
    return not whole and (node.op != "call_function" or operation_name(node.target) != "detach")


def _kind(declared: InputKind, tensor: torch.Tensor) -> TensorKind:
    if declared is InputKind.PARAMETER:
        return "parameter" if tensor.requires_grad else "frozen"
    return "buffer" if declared is InputKind.BUFFER else "constant"


def _stored_tensor(program: ExportedProgram, name: str) -> torch.Tensor:
    found = program.state_dict.get(name)
    tensor: torch.Tensor = program.constants[name] if found is None else found
    return tensor


def _attribute(program: ExportedProgram, path: Any) -> Any:
    found: Any = program.graph_module
    for part in str(path).split("."):
        found = getattr(found, part, None)
    return found


def with_training(graph: Graph) -> Graph:
    """The graph with every batch normalisation on batch statistics (a program exported in evaluation mode)."""
    nodes = tuple(
        replace(node, attributes={**node.attributes, "training": True}) if node.op == "batch_norm" else node
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes)
