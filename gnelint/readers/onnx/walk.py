"""The walk over a model's nodes: constants are folded, functions and decided branches entered, the rest lowered.

A name of the file stands for an operand in a scope: a constant, or a value of the graph being built. Functions and
bodies of control flow open scopes of their own, so that nothing is copied or renamed in the file's own messages.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx

from gnelint.budget import at_node
from gnelint.errors import UnreadableError
from gnelint.ir.graph import FLOATING, Graph, Parameter, Value
from gnelint.onnxfile.file import EXPORT_AGAIN, MisfitError
from gnelint.onnxfile.nodes import (
    definition,
    domain_of,
    imports,
    in_order,
    is_constant,
    own_name,
    schema_of,
    types_of,
    with_attributes,
)
from gnelint.onnxfile.scopes import MAX_DEPTH, Functions, Origin, Place, Scope, function_scope
from gnelint.onnxfile.types import dtype_code, tensor_shape, tensor_type
from gnelint.onnxfile.weights import WeightReader, literal
from gnelint.readers.emitter import CannotLowerError, Shape
from gnelint.readers.onnx.call import Call, Operand, OutputType
from gnelint.readers.onnx.emitter import Emitter
from gnelint.readers.onnx.fold import RANDOM, CannotFoldError, drawn, fold
from gnelint.readers.onnx.fused import parts_of_fused
from gnelint.readers.onnx.gaps import gap
from gnelint.readers.onnx.infer import InferenceFailedError, TypeInference, output_type
from gnelint.readers.onnx.integers import NOTE as ROUNDED
from gnelint.readers.onnx.integers import with_layers
from gnelint.readers.onnx.loops import MOST_NODES, counted_steps, unrolled
from gnelint.readers.onnx.ops.table import DECOMPOSED, LOWERINGS, shape_constant
from gnelint.readers.onnx.origin import folded_normalization, ignored_rules, location, metadata, scopes
from gnelint.readers.onnx.tables import with_real_tables
from gnelint.records import replace

MAX_NODES = 1_000_000
"""Operations in the largest model, functions expanded; more is a hostile file."""
MAX_GROWTH, FREE_GROWTH = 50, 20_000
"""How many operations each of the file's may become by functions that call functions, and how many in any case."""
MAX_RANK = 32
"""Axes of the tensor with the most of them: numpy, which computes on them, holds 64, and needs some more on the way."""
MAX_ENTRIES = 1 << 60
"""Entries of the largest tensor: beyond it they cannot even be counted in 64 bits on the way."""
MAX_WINDOW = (1 << 31) - 1
_WINDOWS = frozenset({"kernel_shape", "strides", "dilations", "pads", "output_padding", "output_shape", "group",
                      "blocksize", "hidden_size", "num_outputs", "num_heads", "num_groups"})  # fmt: skip
"""Attributes that are sizes: operators compute with them in 32 or 64 bits, and do not look whether the result fits."""

FOLDED_NOTE = (
    "The exporter folded normalisation into the convolutions before it (the model was exported for inference): what is "
    "analysed has no such normalisation; export with optimize=False, or in training mode, to keep it."
)
_CODES = frozenset({"int4", "uint4", "int8", "uint8", "int16", "uint16"})
"""Types that numbers are quantised to."""
_SAME_TYPE = frozenset({"GroupNormalization", "MeanVarianceNormalization", "SimplifiedLayerNormalization"})
"""Operators without an inference rule whose output is as their input."""


class Capture(Scope[Operand]):
    """The scope around a body that is read as a graph of its own: values it reads become that graph's inputs."""

    def __init__(self, outer: Scope[Operand], emitter: Emitter) -> None:
        super().__init__(outer)
        self._emitter = emitter
        self.captured: dict[str, Value] = {}

    def find(self, name: str) -> Operand | None:
        """The operand; a value of the enclosing graph is declared as an input."""
        found = super().find(name)
        if isinstance(found, Value) and found.name not in self.captured:
            self.captured[found.name] = found
            self._emitter.add_input(found)
        return found


class Walker:
    """Reads the nodes of one model into one emitter (bodies of control flow get their own).

    Attributes:
        visited: operations read so far.
        cut_short: whether a loop was left as it is because it has too many steps.
    """

    def __init__(self, model: onnx.ModelProto, weights: WeightReader, sizes: Mapping[str, int], training: bool) -> None:
        self.emitter = Emitter(training)
        self.types = TypeInference(model.ir_version or 3)
        own = ignored_rules(metadata(model))
        self.ignores: dict[str, tuple[str, ...]] = {"": own} if own else {}
        self._deciding: set[str] = set()
        self._operators: dict[str, str] = {}
        self._functions = Functions(model.functions)
        self.weights = weights
        self._sizes = sizes
        self._training = training
        self.visited = 0
        self.cut_short = False
        self._steps_left = MOST_NODES
        written = len(model.graph.node) + sum(len(function.node) for function in model.functions)
        self._most = min(MAX_NODES, FREE_GROWTH + MAX_GROWTH * written)
        self._tensors: dict[str, object] = {tensor.name: tensor for tensor in model.graph.initializer}

    def constants(self, graph: onnx.GraphProto, scope: Scope[Operand], where: str) -> None:
        """Bind the initializers of a body; those of the main graph are bound by `read`.

        Args:
            where: which body this is, for people.
        """
        for tensor in graph.initializer:
            scope.bind(tensor.name, self.weights.parameter(tensor, self._tensor_name(tensor.name, tensor, where)))
        self.sparse_constants(graph, scope)

    def _tensor_name(self, name: str, held: object, where: str) -> str:
        """What a body's tensor is called in the graph: another body, or the main graph, may have one of this name.

        Args:
            held: the message that holds the tensor, an initializer or a Constant node.
            where: which body this is, for people.
        """
        wanted, count = name, 1
        while self._tensors.setdefault(wanted, held) is not held:
            wanted = f"{name} ({where})" if count == 1 else f"{name} ({where}, {count})"
            count += 1
        return wanted

    def sparse_constants(self, graph: onnx.GraphProto, scope: Scope[Operand]) -> None:
        """Bind the sparse initializers."""
        for sparse in graph.sparse_initializer:
            scope.bind(sparse.values.name, self.weights.sparse(sparse, sparse.values.name))

    def graph_nodes(self, graph: onnx.GraphProto, scope: Scope[Operand], place: Place) -> None:
        """Read the nodes of the graph or of a body."""
        found = with_layers(graph, place.versions.get("", 1))
        if found.operators:
            self._operators.update(found.operators)
            self.emitter.notes[ROUNDED] = None
        self.nodes(with_real_tables(graph, found.nodes), scope, place)

    def nodes(self, nodes: Sequence[onnx.NodeProto], scope: Scope[Operand], place: Place) -> None:
        """Read nodes in an order in which they can run."""
        if place.depth > MAX_DEPTH:
            raise UnreadableError(
                f"functions or bodies are nested more than {MAX_DEPTH} deep (does one call itself?)", "Export it again."
            )
        found = scopes(nodes)
        for index in in_order(nodes):
            self.visited += 1
            if self.visited > self._most:
                raise UnreadableError(
                    f'more than {self._most} operations once functions are expanded, at node "{place.prefix}"',
                    "Export the model without functions that call functions.",
                )
            self._node(nodes[index], scope, place, found.get(index, ""))

    def _node(self, node: onnx.NodeProto, scope: Scope[Operand], place: Place, module: str) -> None:
        domain = domain_of(node)
        inputs = tuple(self._resolve(name, node, scope) for name in node.input)
        attributes = place.attributes_of(node)
        _check_windows(node, attributes)
        origin = self._origin(node, place, module)
        at_node(origin.name, node.op_type)
        function = self._functions.called_by(node) or parts_of_fused(node)
        if function is not None:
            self._expand(node, function, inputs, scope, place, origin, imports(function.opset_import))
            return
        if not node.output:
            raise UnreadableError(f'node "{origin.name}" ({node.op_type}) has no output', EXPORT_AGAIN)
        if is_constant(node):
            name = self._tensor_name(place.name(node.output[0]), node, own_name(node))
            scope.bind(node.output[0], self.weights.constant(node, attributes, name))
            return
        if folded_normalization(node):
            self.emitter.notes[FOLDED_NOTE] = None
        version = place.version(node)
        call = Call(node.op_type, domain, version, inputs, attributes, (), tuple(node.output), origin)
        if any(attribute.type == onnx.AttributeProto.GRAPH for attribute in attributes.values()):
            self._control_flow(node, call, scope, place)
            return
        call = replace(call, outputs=self._infer(node, call, place))
        for output in call.outputs:
            check_shape(f'node "{origin.name}" ({node.op_type}) writes a tensor', output.shape)
        results = self._constant_results(call, place) or self._lowered(node, self._in_reals(call), scope, place)
        if results is not None:
            self._bind(node, results, call, scope, place)

    def _resolve(self, name: str, node: onnx.NodeProto, scope: Scope[Operand]) -> Operand | None:
        if not name:
            return None
        found = scope.find(name)
        if found is None:
            raise UnreadableError(
                f'node "{node.name or node.op_type}" ({node.op_type}) reads "{name}", which nothing produces',
                "Export the model again.",
            )
        return found

    def _origin(self, node: onnx.NodeProto, place: Place, module: str) -> Origin:
        name, outer = place.node_name(node), place.origin
        scope = ".".join(part for part in (outer.scope, module) if part) if place.prefix else module
        op = self._operators.get(node.output[0], "") if self._operators and node.output else ""
        if not node.metadata_props:
            return Origin(name, scope, outer.location, op)
        found = metadata(node)
        rules = ignored_rules(found)
        if rules:
            self.ignores[name] = rules
        return Origin(name, scope, location(found), op)

    def _infer(self, node: onnx.NodeProto, call: Call, place: Place) -> tuple[OutputType, ...]:
        found: Mapping[str, onnx.TypeProto] = {}
        if call.op_type in _SAME_TYPE and call.inputs and call.inputs[0] is not None:
            first = call.inputs[0]
            return (OutputType(first.shape, first.dtype),)
        plain = self.types.plain(call)
        if plain is not None:
            return (plain,)
        last = call.inputs[-1] if call.inputs else None
        if call.domain == "com.microsoft" and call.op_type.startswith(("QLinear", "QGemm")) and last is not None:
            declared = place.declared.get(node.output[0])
            shape = None if declared is None else output_type(declared, None, self._sizes).shape
            return (OutputType(shape, last.dtype),)  # the zero point of what is written
        schema = schema_of(call.op_type, call.version, call.domain)
        if schema is not None and not schema.deprecated:
            if call.attributes and any(attribute.ref_attr_name for attribute in node.attribute):
                node = with_attributes(node, call.attributes)
            try:
                found = self.types.infer(node, schema, call.inputs, place.versions)
            except InferenceFailedError as error:
                if all(isinstance(operand, Parameter) for operand in call.inputs):
                    return tuple(OutputType(None, None) for _ in node.output)  # running it tells more
                raise MisfitError(
                    f'node "{call.origin.name}" ({call.op_type}) does not fit its inputs {_shapes(call)}: {error}',
                    _remedy(call),
                    gap(call),
                ) from error
        return tuple(output_type(found.get(name), place.declared.get(name), self._sizes) for name in node.output)

    def _constant_results(self, call: Call, place: Place) -> tuple[Operand, ...] | None:
        """The outputs if they are constants."""
        names = tuple(place.name(name) or f"{call.origin.name}_unused" for name in call.output_names)
        known = shape_constant(call, names[0]) if names else None
        if known is not None:
            return (known,)
        call = _as_cast(call)
        if any(isinstance(operand, Value) for operand in call.inputs) or call.domain != "":
            return None
        if call.op_type in RANDOM:
            noise = drawn(call, names[0]) if names else None
            return None if noise is None else (noise,)
        try:
            return fold(call, names, place.versions)
        except CannotFoldError:
            return None

    def _in_reals(self, call: Call) -> Call:
        """The call with results in the type that quantised operands are carried in: codes that move mean the same."""
        reals: dict[str | None, str] = {}
        for operand in call.inputs:
            special = self.types.special.get(operand.name) if isinstance(operand, Value) else None
            if special is not None and operand is not None and operand.dtype in FLOATING:
                reals[output_type(special, None, self._sizes).dtype] = operand.dtype
        outputs = (
            replace(output, dtype=reals[output.dtype]) if output.dtype in _CODES and output.dtype in reals else output
            for output in call.outputs
        )
        return replace(call, outputs=tuple(outputs)) if reals else call

    def _lowered(
        self, node: onnx.NodeProto, call: Call, scope: Scope[Operand], place: Place
    ) -> Sequence[Operand | None] | None:
        """The outputs of the nodes that the operation becomes; None if it was expanded into its definition."""
        key = f"{call.domain}.{call.op_type}" if call.domain else call.op_type
        lowering = LOWERINGS.get(key)
        reason = ""
        if lowering is not None:
            self.emitter.begin(call)
            try:
                return lowering(call, self.emitter)
            except CannotLowerError as error:
                reason = str(error)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                raise UnreadableError(
                    f'node "{call.origin.name}" ({call.op_type}) has attributes or inputs of the wrong kind ({error})',
                    "Check the model with onnx.checker.",
                ) from error
        if key in DECOMPOSED:
            function = self._definition(node, call)
            if function is not None:
                versions = {**place.versions, **imports(function.opset_import)}
                self._expand(node, function, call.inputs, scope, place, call.origin, versions)
                return None
        self.emitter.begin(call)
        return self.emitter.unmodelled(call, call.inputs, reason)

    def _definition(self, node: onnx.NodeProto, call: Call) -> onnx.FunctionProto | None:
        """The operator's own definition in terms of simpler ones, if the standard has one."""
        schema = schema_of(call.op_type, call.version, call.domain)
        if schema is None:
            return None
        types = [onnx.TypeProto() if operand is None else self.types.proto(operand) for operand in call.inputs]
        return definition(schema, call.version, with_attributes(node, call.attributes), types)

    def _bind(
        self, node: onnx.NodeProto, results: Sequence[Operand | None], call: Call, scope: Scope[Operand], place: Place
    ) -> None:
        if self.emitter.is_open:
            results = self.emitter.finish(results, [place.name(name) for name in node.output])
        for index, (name, result) in enumerate(zip(node.output, results, strict=False)):
            if not name or result is None:
                continue
            scope.bind(name, result)
            if index < len(call.outputs) and isinstance(result, Value):
                self._remember(result, call.outputs[index])

    def _remember(self, value: Value, output: OutputType) -> None:
        """Keep a type that a plain shape and data type do not tell (sequences; integers read as reals)."""
        if output.proto is not None:
            self.types.special[value.name] = output.proto
        elif output.dtype is not None and output.dtype != value.dtype:
            self.types.special[value.name] = tensor_type(output.shape or value.shape, output.dtype)

    def _expand(
        self,
        node: onnx.NodeProto,
        function: onnx.FunctionProto,
        inputs: Sequence[Operand | None],
        scope: Scope[Operand],
        place: Place,
        origin: Origin,
        versions: Mapping[str, int],
    ) -> None:
        """Read a function's body in place of its call."""
        inner: Scope[Operand] = function_scope(function, inputs)
        declared = {info.name: info.type for info in function.value_info}
        within = replace(place.in_function(node, function, versions, origin), declared=declared)
        self.nodes(_without_missing(function, inner), inner, within)
        scope.take(node.output, inner, function.output, f'function "{function.name}"')

    def _control_flow(self, node: onnx.NodeProto, call: Call, scope: Scope[Operand], place: Place) -> None:
        """Enter a branch that is decided, by a constant or as the only one that fits; read the bodies of all else
        as graphs of their own."""
        condition = call.input(0)
        if call.op_type == "If" and not call.domain and isinstance(condition, Parameter) and condition.size == 1:
            taken = call.attributes.get("then_branch" if bool(condition.array().reshape(-1)[0]) else "else_branch")
            if taken is not None:
                self._enter(node, taken.g, scope, place, call.origin)
                return
        steps = None if call.domain else counted_steps(call, scope)
        if steps and self._affords(steps * max(len(call.attributes["body"].g.node), 1)):
            self._unroll(node, call, steps, scope, place)
            return
        captured, fitting = self._bodies(node, call, scope, place)
        if fitting is not None:
            self._deciding.update(operand.name for operand in call.inputs if isinstance(operand, Value))
            self._enter(node, fitting, scope, place, call.origin)
            return
        outputs = tuple(output_type(None, place.declared.get(name), self._sizes) for name in node.output)
        call = replace(call, outputs=_body_outputs(call, outputs))
        self.emitter.begin(call)
        own = [operand for operand in call.inputs if isinstance(operand, Value)]
        more = [value for name, value in captured.items() if value not in own]
        results = self.emitter.unmodelled(call, [*call.inputs, *more], "control flow")
        self._bind(node, results, call, scope, place)

    def _affords(self, nodes: int) -> bool:
        """Whether the steps of one more loop can be read, which is then counted."""
        fits = nodes <= self._steps_left
        self._steps_left -= nodes if fits else 0
        self.cut_short |= not fits
        return fits

    def _unroll(self, node: onnx.NodeProto, call: Call, steps: int, scope: Scope[Operand], place: Place) -> None:
        """Read a Loop or a Scan as its steps, behind each other: their nodes are called after it and the step."""
        plan, version = unrolled(call, node.output), place.versions.get("", 1)
        outer = Scope(scope)
        self.nodes(plan.slices(node.input, steps), outer, place)
        carried: list[Operand | None] = list(call.inputs[plan.first : plan.first + plan.carried])
        gathered: list[list[str]] = [[] for _ in range(plan.gathered)]
        for step in range(steps):
            prefix = f"{call.origin.name}/{step}/"
            numbers = (literal(f"{prefix}step", np.array(step)), literal(f"{prefix}condition", np.array(True)))
            slices = [outer.find(name) for name in plan.sliced(step, steps)]
            given = (*numbers, *carried) if plan.counts else (*carried, *slices)
            within = replace(place.in_body(), prefix=prefix)
            inner = self._inside(plan.body, given, scope, within, call.origin.name)
            results = [inner.find(info.name) for info in plan.body.output]
            condition = results.pop(0) if plan.counts else None
            carried = results[: plan.carried]
            for index, result in enumerate(results[plan.carried :]):
                gathered[index].append(f"{prefix}{index}")
                outer.bind(gathered[index][-1], result)
            if isinstance(condition, Parameter) and not bool(condition.array().reshape(-1)[0]):
                break
        last = [f"{call.origin.name}/last/{index}" for index in range(len(carried))]
        for name, operand in zip(last, carried, strict=True):
            outer.bind(name, operand)
        self.nodes(plan.ends(last, gathered, version), outer, place)
        scope.take(node.output, outer, node.output, f'loop "{call.origin.name}"')

    def _inside(
        self, body: onnx.GraphProto, given: Sequence[Operand | None], scope: Scope[Operand], place: Place, name: str
    ) -> Scope[Operand]:
        """Read a body in place of its node, given its inputs; what its names stand for."""
        inner = Scope(scope)
        for info, operand in zip(body.input, given, strict=False):  # a branch has none
            inner.bind(info.name, operand)
        self.constants(body, inner, name)
        self.graph_nodes(body, inner, replace(place, declared={**place.declared, **types_of(body)}))
        return inner

    def _bodies(
        self, node: onnx.NodeProto, call: Call, scope: Scope[Operand], place: Place
    ) -> tuple[Mapping[str, Value], onnx.GraphProto | None]:
        """Read the bodies of undecided control flow; the values of the graph around them that they read.

        Of two branches one may be meant for other sizes of the input (another sampling rate): it is left out, and said,
        and the other one, which is then the only one that can run, is what comes second.
        """
        captured: dict[str, Value] = {}
        bodies = {
            name: attribute.g
            for name, attribute in call.attributes.items()
            if attribute.type == onnx.AttributeProto.GRAPH
        }
        misfits: list[MisfitError] = []
        for name, graph in sorted(bodies.items(), reverse=True):  # what a condition asks for comes before what else
            where = f"{call.origin.name}/{name}"
            try:
                body, read = self._body(graph, scope, place, where)
            except MisfitError as error:
                misfits.append(error)
                if len(misfits) == len(bodies):
                    raise misfits[0] from error
                self.emitter.notes[f"{where} does not fit these sizes and was left out."] = None
            else:
                self.emitter.subgraphs[where] = body
                captured.update(read)
        if not misfits:
            return captured, None
        (fitting,) = (name for name in bodies if f"{call.origin.name}/{name}" in self.emitter.subgraphs)
        del self.emitter.subgraphs[f"{call.origin.name}/{fitting}"]
        return captured, bodies[fitting]

    def _enter(
        self, node: onnx.NodeProto, body: onnx.GraphProto, scope: Scope[Operand], place: Place, origin: Origin
    ) -> None:
        """Read a branch in place of its node."""
        inner = self._inside(body, (), scope, place.in_branch(node, body), origin.name)
        scope.take(node.output, inner, [info.name for info in body.output], f'a branch of "{origin.name}"')

    def _body(
        self, body: onnx.GraphProto, scope: Scope[Operand], place: Place, name: str
    ) -> tuple[Graph, Mapping[str, Value]]:
        """A body as a graph of its own, and the values of the enclosing graph that it reads."""
        outside = self.emitter
        self.emitter = Emitter(self._training)
        try:
            capture = Capture(scope, self.emitter)
            inner = Scope(capture)
            formal = []
            for info in body.input:
                found = output_type(info.type, None, self._sizes)
                formal.append(Value(info.name, found.shape, found.dtype))
                self.emitter.add_input(formal[-1])
                inner.bind(info.name, formal[-1])
            self.constants(body, inner, name)
            self.graph_nodes(body, inner, replace(place.in_body(), declared=types_of(body)))
            inputs = (*formal, *capture.captured.values())
            graph = self.graph(name, inputs, [(info.name, inner.find(info.name)) for info in body.output], ())
            return graph, capture.captured
        finally:
            self.emitter = outside

    def graph(
        self, name: str, inputs: Iterable[Value], outputs: Iterable[tuple[str, Operand | None]], notes: Sequence[str]
    ) -> Graph:
        """What the emitter has collected. Outputs that are constants are named in a note and left out."""
        emitter = self.emitter
        found: list[str] = []
        fixed: list[str] = []
        returned: set[str] = set()
        for output_name, operand in outputs:
            if operand is None:
                raise UnreadableError(f'output "{output_name}" is written by no node', "Export the model again.")
            if isinstance(operand, Parameter):
                fixed.append(output_name)
                returned.update(leaf.name for leaf in operand.leaves)
            elif operand.name not in found:
                found.append(operand.name)
        constant = (f"Output {', '.join(fixed)} does not depend on the input.",) if fixed else ()
        return Graph(
            name=name,
            source="onnx",
            training=self._training,
            nodes=emitter.without_unread_sequences(found),
            inputs=tuple(value.name for value in inputs),
            outputs=tuple(found),
            values=emitter.values,
            notes=(*notes, *emitter.notes, *constant),
            subgraphs=emitter.subgraphs,
            deciding=frozenset(self._deciding),
            ignores=self.ignores,
            data_files=self.weights.data_files,
            returned=frozenset(returned),
        )


def check_shape(what: str, shape: Shape | None) -> None:
    """Refuse a tensor that no machine could hold, before anything is computed of it.

    Raises:
        UnreadableError: it has too many axes or entries.
    """
    if shape is None:
        return
    if len(shape) > MAX_RANK:
        raise UnreadableError(f"{what} of {len(shape)} axes, more than the {MAX_RANK} that are read", EXPORT_AGAIN)
    if math.prod(size for size in shape if isinstance(size, int)) > MAX_ENTRIES:
        shown = " x ".join(map(str, shape))
        raise UnreadableError(f"{what} of {shown} entries, more than any machine holds (2^60)", "Check its sizes.")


def _check_windows(node: onnx.NodeProto, attributes: Mapping[str, onnx.AttributeProto]) -> None:
    for name in _WINDOWS.intersection(attributes):
        given = attributes[name]
        if any(abs(size) > MAX_WINDOW for size in (given.i, *given.ints)):
            problem = f'node "{own_name(node)}" ({node.op_type}) has {name} beyond 2^31, larger than any tensor'
            raise UnreadableError(problem, EXPORT_AGAIN)


def _without_missing(function: onnx.FunctionProto, inner: Scope[Operand]) -> Sequence[onnx.NodeProto]:
    """The body's nodes, with inputs that the call leaves out left out in them too."""
    missing = {name for name in function.input if inner.find(name) is None}
    if not missing:
        return list(function.node)
    nodes = []
    for node in function.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(copy.input):
            if name in missing:
                copy.input[index] = ""
        nodes.append(copy)
    return nodes


def _as_cast(call: Call) -> Call:
    """CastLike reads nothing but the type of its second operand."""
    if call.op_type != "CastLike" or call.domain or call.dtype is None:
        return call
    to = onnx.AttributeProto(name="to", type=onnx.AttributeProto.INT, i=dtype_code(call.dtype))
    return replace(call, op_type="Cast", inputs=call.inputs[:1], attributes={"to": to})


def _body_outputs(call: Call, declared: tuple[OutputType, ...]) -> tuple[OutputType, ...]:
    """Types of an If's outputs from its branch, where the file declares none."""
    branch = call.attributes.get("then_branch")
    if branch is None:
        return declared
    found = []
    for output, info in zip(declared, branch.g.output, strict=False):
        own = output_type(info.type, None, {})
        plain = tensor_shape(info.type)
        known = plain is not None and all(isinstance(size, int) for size in plain)
        found.append(
            output
            if output.dtype is not None or output.proto is not None
            else own
            if known
            else replace(own, shape=None)
        )
    return tuple(found)


def _remedy(call: Call) -> str:
    """What to do about an operator that does not fit its inputs."""
    types = {operand.dtype for operand in call.inputs if operand is not None and operand.dtype in FLOATING}
    if len(types) < 2:
        return "Check the shapes, or fix symbolic sizes with --input."
    return (
        f"It mixes {' and '.join(sorted(map(str, types)))}: cast them where the network is built and export it again."
    )


def _shapes(call: Call) -> str:
    shapes = ["-" if operand is None else str(operand.shape) for operand in call.inputs]
    return ", ".join(shapes)
