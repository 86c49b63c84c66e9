"""Loops whose steps can be counted before the network runs: they are read as so many steps behind each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx
from onnx import helper

from gnelint.ir.graph import Parameter
from gnelint.onnxfile.nodes import in_order
from gnelint.onnxfile.scopes import Scope
from gnelint.readers.onnx.call import Call, Operand
from gnelint.readers.onnx.fold import RANDOM
from gnelint.records import dataclass

MOST_NODES = 8_000
"""Operations that the steps of a model's loops may become together: 128 steps of two cells of 30."""
_SCAN = 9
"""Opset from which on a Scan is of one sequence, not of a batch of them."""
_AXES_AS_INPUT = 13
"""Opset from which on Unsqueeze takes its axes as an input."""


def counted_steps(call: Call, scope: Scope[Operand]) -> int | None:
    """How often the body of a Loop or a Scan runs at most; None where the values of tensors decide, where sequences of
    tensors are carried, and of anything else.

    Args:
        call: the operation.
        scope: around it.
    """
    if call.op_type not in ("Loop", "Scan") or (call.op_type == "Scan" and call.version < _SCAN):
        return None
    body = call.attributes["body"].g
    if any(info.type.WhichOneof("value") not in (None, "tensor_type") for info in (*body.input, *body.output)):
        return None
    if len(call.inputs) != len(body.input):
        return None
    return _turns(call, body, scope) if call.op_type == "Loop" else _slices(call)


def _slices(call: Call) -> int | None:
    """Along the axes that a Scan reads; None where they are not known."""
    plan = unrolled(call, ())
    shapes = [() if operand is None else operand.shape or () for operand in call.inputs[plan.carried :]]
    read = zip(shapes, plan.axes, strict=True)
    sizes = {shape[axis] if -len(shape) <= axis < len(shape) else None for shape, axis in read}
    size = sizes.pop() if len(sizes) == 1 else None
    return size if isinstance(size, int) else None


def _turns(call: Call, body: onnx.GraphProto, scope: Scope[Operand]) -> int | None:
    most = call.input(0)
    if not isinstance(most, Parameter) or most.size != 1 or not _decides_itself(body, call, scope):
        return None
    condition = call.input(1)
    if condition is not None and not (isinstance(condition, Parameter) and condition.size == 1):
        return None
    steps = int(most.array().reshape(-1)[0])
    return steps if condition is None or bool(condition.array().reshape(-1)[0]) else 0


def _decides_itself(body: onnx.GraphProto, call: Call, scope: Scope[Operand]) -> bool:
    """Whether the condition that the body computes depends on constants and counters alone."""
    carried = list(zip([info.name for info in body.input[2:]], call.inputs[2:], strict=True))
    counters = {name for name, operand in carried if isinstance(operand, Parameter)}
    while True:
        known = counters | {info.name for info in body.input[:2]} | {tensor.name for tensor in body.initializer}
        for index in in_order(body.node):
            node = body.node[index]
            if _is_computed(node) and all(
                not name or name in known or _is_constant(name, scope) for name in node.input
            ):
                known.update(node.output)
        kept = {name for (name, _), info in zip(carried, body.output[1:], strict=False) if info.name in known}
        if counters <= kept:
            return body.output[0].name in known or _is_constant(body.output[0].name, scope)
        counters &= kept


def _is_computed(node: onnx.NodeProto) -> bool:
    graphs = any(attribute.type == onnx.AttributeProto.GRAPH for attribute in node.attribute)
    return not node.domain and not graphs and node.op_type not in RANDOM


def _is_constant(name: str, scope: Scope[Operand]) -> bool:
    return isinstance(scope.find(name), Parameter)


@dataclass(frozen=True)
class Unrolled:
    """How a Loop or a Scan is written as its steps.

    Attributes:
        name: of the operation.
        body: what each step runs.
        outputs: of the operation, "" for one left out.
        counts: whether the body is given the step's number and a condition, and says whether to go on: a Loop.
        first, carried: which of the operation's inputs is the first that the steps hand on, and how many they are.
        gathered: outputs that hold what every step gives.
        axes, backwards: of the inputs that are read slice by slice, and whether from the end.
        new_axes, turned: of the gathered outputs, and whether they are written from the end.
    """

    name: str
    body: onnx.GraphProto
    outputs: Sequence[str]
    counts: bool
    first: int
    carried: int
    gathered: int
    axes: tuple[int, ...]
    backwards: tuple[bool, ...]
    new_axes: tuple[int, ...]
    turned: tuple[bool, ...]

    def sliced(self, step: int, steps: int) -> list[str]:
        """Names of what a step reads, as `slices` writes them."""
        places = [steps - 1 - step if back else step for back in self.backwards]
        return [f"{self.name}/slice/{index}/{place}" for index, place in enumerate(places)]

    def slices(self, inputs: Sequence[str], steps: int) -> list[onnx.NodeProto]:
        """Nodes that cut the inputs into slices."""
        nodes = []
        for index, (name, axis) in enumerate(zip(inputs[self.carried :], self.axes, strict=False)):
            for step in range(steps):
                out = f"{self.name}/slice/{index}/{step}"
                place = helper.make_tensor("place", onnx.TensorProto.INT64, [], [step])
                nodes.append(helper.make_node("Constant", [], [f"{out}/place"], value=place))
                nodes.append(helper.make_node("Gather", [name, f"{out}/place"], [out], name=out, axis=axis))
        return nodes

    def ends(self, carried: Sequence[str], gathered: Sequence[Sequence[str]], version: int) -> list[onnx.NodeProto]:
        """Nodes that write the outputs: the last of what is carried, and what each step gives along a new axis.

        Args:
            carried: names of the last values of what is carried.
            gathered: names of what each step gives, for each of the other outputs.
            version: of the opset.
        """
        nodes = [helper.make_node("Identity", [name], [output], name=output)
                 for output, name in zip(self.outputs, carried, strict=False) if output]  # fmt: skip
        for index, (output, names) in enumerate(zip(self.outputs[self.carried :], gathered, strict=False)):
            if output:
                names = names[::-1] if self.turned[index] else names
                nodes += _stacked(output, names, self.new_axes[index], version)
        return nodes


def _stacked(output: str, names: Sequence[str], axis: int, version: int) -> Iterator[onnx.NodeProto]:
    apart = [f"{output}/{name}" for name in names]
    as_input = version >= _AXES_AS_INPUT
    if as_input:
        axes = helper.make_tensor("axes", onnx.TensorProto.INT64, [1], [axis])
        yield helper.make_node("Constant", [], [f"{output}/axes"], value=axes)
    for name, one in zip(names, apart, strict=True):
        inputs, attributes = ([name, f"{output}/axes"], {}) if as_input else ([name], {"axes": [axis]})
        yield helper.make_node("Unsqueeze", inputs, [one], name=one, **attributes)
    yield helper.make_node("Concat", apart, [output], name=output, axis=axis)


def unrolled(call: Call, outputs: Sequence[str]) -> Unrolled:
    """The plan of a Loop or a Scan with these outputs."""
    body = call.attributes["body"].g
    if call.op_type == "Loop":
        carried = len(call.inputs) - 2
        gathered = len(body.output) - 1 - carried
        return Unrolled(
            call.origin.name, body, outputs, True, 2, carried, gathered, (), (), (0,) * gathered, (False,) * gathered
        )
    read = call.attributes["num_scan_inputs"].i
    carried = len(call.inputs) - read
    gathered = len(body.output) - carried

    def said(name: str, count: int) -> tuple[int, ...]:
        given = call.attributes.get(name)
        return tuple(given.ints) if given is not None else (0,) * count

    return Unrolled(
        call.origin.name, body, outputs, False, 0, carried, gathered,
        said("scan_input_axes", read), tuple(map(bool, said("scan_input_directions", read))),
        said("scan_output_axes", gathered), tuple(map(bool, said("scan_output_directions", gathered))),
    )  # fmt: skip
