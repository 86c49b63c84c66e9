"""The canonical nodes of an ONNX graph, named after the file's as soon as an operation is lowered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence

import numpy as np

from gnelint.ir.graph import UNMODELLED, Graph, Node, Parameter, Value
from gnelint.onnxfile.weights import literal
from gnelint.ops import VOCABULARY
from gnelint.readers import emitter
from gnelint.readers.emitter import Draft, Shape
from gnelint.readers.onnx.call import Call, Operand
from gnelint.readers.onnx.fold import reshaped
from gnelint.records import replace


class Emitter(emitter.Emitter[Value, Parameter]):
    """Collects the canonical nodes of one graph.

    Attributes:
        training: whether normalisation uses batch statistics.
        nodes: in the order of the model.
        subgraphs: bodies of control flow, by "node name/attribute".
        sequences: the tensors in each value that is a sequence of known ones.
    """

    def __init__(self, training: bool = True) -> None:
        super().__init__()
        self.training = training
        self.nodes: list[Node] = []
        self.subgraphs: dict[str, Graph] = {}
        self.sequences: dict[str, tuple[Value, ...]] = {}
        self._names: set[str] = set()
        self._value_names: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._call: Call | None = None

    def value(self, name: str, shape: Shape | None, dtype: str | None) -> Value:
        return Value(name, shape, dtype)

    def parameter(self, constant: Parameter | float, dtype: str | None = None) -> Parameter:
        if isinstance(constant, Parameter):
            return constant
        return literal(f"constant {constant:g}", np.array(constant, np.float32))

    def reshaped(self, constant: Parameter, shape: tuple[int, ...]) -> Parameter:
        return reshaped(constant, shape)

    def permuted(self, constant: Parameter, perm: Sequence[int]) -> Parameter:
        return constant.permuted(perm)

    def number(self, constant: Parameter | float) -> float | None:
        """The value of a constant without axes that is written in the model, None for a tensor."""
        if not isinstance(constant, Parameter):
            return float(constant)
        if constant.shape != () or constant.provenance != "data":
            return None
        value = constant.array()
        return None if value.dtype.kind == "c" or value.dtype == object else float(value)

    def add_input(self, value: Value) -> None:
        """Declare a value that the caller feeds."""
        self.values[value.name] = value
        self._value_names.add(value.name)

    @property
    def is_open(self) -> bool:
        """Whether an operation is being lowered."""
        return self._call is not None

    def begin(self, call: Call) -> None:
        """Start lowering an operation: what is emitted now stands for it."""
        self._call = call
        self.take()

    def unmodelled(self, call: Call, inputs: Sequence[Operand | None], reason: str) -> tuple[Value, ...]:
        """One node that says what could not be lowered; constants are its parameters."""
        self.drop()
        flows = [operand.name if isinstance(operand, Value) else None for operand in inputs]
        constants = {f"input{i}": operand for i, operand in enumerate(inputs) if isinstance(operand, Parameter)}
        while flows and flows[-1] is None:
            flows.pop()
        found = tuple(self.new_value(output.shape, output.dtype) for output in call.outputs)
        outputs = tuple(value.name for value in found)
        self._drafts.append(Draft(UNMODELLED, tuple(flows), outputs, constants, {"reason": reason} if reason else {}))
        return found

    def sequence(self, call: Call, x: Value, parts: Sequence[Value]) -> Value:
        """A value that holds the parts of `x`, for whatever takes it as one; the vocabulary has no sequences."""
        output = call.outputs[0]
        found = self.new_value(output.shape, output.dtype)
        self._drafts.insert(0, Draft(UNMODELLED, (x.name,), (found.name,), {}, {"reason": "a sequence of tensors"}))
        self.sequences[found.name] = tuple(parts)
        return found

    def without_unread_sequences(self, outputs: Collection[str]) -> tuple[Node, ...]:
        """The nodes without those that hold a sequence that nothing takes as one."""
        read = {name for node in self.nodes for name in node.present_inputs}.union(outputs)
        unread = {name for name in self.sequences if name not in read}
        for name in unread:
            del self.values[name]
        return tuple(node for node in self.nodes if unread.isdisjoint(node.outputs))

    def finish(self, results: Sequence[Operand | None], names: Sequence[str]) -> tuple[Operand | None, ...]:
        """Close the operation: its nodes and the values in `results` get their names.

        Args:
            results: its outputs, in order.
            names: what the model calls them.
        """
        call, self._call = self._call, None
        assert call is not None
        drafts = self.take()
        renamed = self._value_names_of(call, drafts, results, names)
        main = _main(drafts)
        for index, draft in enumerate(drafts):
            wanted = call.origin.name if index == main else f"{call.origin.name}/{draft.op}"
            self.nodes.append(
                Node(
                    name=self._unique(wanted, self._names),
                    op=draft.op,
                    inputs=tuple(None if name is None else renamed.get(name, name) for name in draft.inputs),
                    outputs=tuple(renamed[name] for name in draft.outputs),
                    parameters=draft.parameters,
                    attributes=draft.attributes,
                    source_op=call.origin.op or f"{call.domain}.{call.op_type}".lstrip("."),
                    scope=call.origin.scope,
                    location=call.origin.location,
                )
            )
        for old, new in renamed.items():
            self.values[new] = replace(self.values.pop(old), name=new)
        for old in renamed.keys() & self.sequences.keys():
            parts = self.sequences.pop(old)
            self.sequences[renamed[old]] = tuple(self.values[renamed.get(part.name, part.name)] for part in parts)
        return tuple(
            self.values[renamed[result.name]] if isinstance(result, Value) and result.name in renamed else result
            for result in results
        )

    def _value_names_of(
        self, call: Call, drafts: Sequence[Draft], results: Sequence[Operand | None], names: Sequence[str]
    ) -> dict[str, str]:
        """What the values that the drafts write are called, by their temporary names; results first."""
        written = {name: draft.op for draft in drafts for name in draft.outputs}
        found: dict[str, str] = {}
        for result, name in zip(results, names, strict=False):
            if isinstance(result, Value) and result.name in written and result.name not in found:
                found[result.name] = self._unique(name or f"{call.origin.name}_unused", self._value_names)
        for name, op in written.items():
            if name not in found:
                found[name] = self._unique(f"{call.origin.name}/{op}_output", self._value_names)
        return found

    def _unique(self, wanted: str, taken: set[str]) -> str:
        name = wanted
        while name in taken:
            self._counts[wanted] += 1
            name = f"{wanted}_{self._counts[wanted]}"
        taken.add(name)
        return name


def _main(drafts: Sequence[Draft]) -> int:
    """Which of an operation's nodes carries its name: the one with the weights, else the last."""
    for index, draft in enumerate(drafts):
        family = VOCABULARY[draft.op].family if draft.op in VOCABULARY else ""
        if family in ("linear", "normalization", "recurrent") and draft.op not in ("bias", "scale"):
            return index
    return len(drafts) - 1


Results = Sequence[Operand | None]
"""What a lowering returns: the operation's outputs in order."""

Lowering = Callable[[Call, Emitter], Results]
"""Writes the canonical nodes of one operation; raises CannotLowerError where the vocabulary has none for it."""
