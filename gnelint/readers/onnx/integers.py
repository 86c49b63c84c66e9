"""Layers that were quantised dynamically, as the layers that they stand for.

What is done to y = W x in 8 bits takes six nodes and more: x is rounded over its own range, the product is one of
integers, a bias is put in their units, and the result is brought back by the product of both scales. Together they are
the layer itself but for the rounding, through which training passes the gradient straight:

    q, s, z = DynamicQuantizeLinear(x);  Cast(ConvInteger(q, w, z, w_z)) * (s * w_s)  ->  Conv(x, (w - w_z) * w_s)

and so for MatMulInteger, of a constant or of another value that was rounded. What is not written so is left as it is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import onnx
from onnx import helper

from gnelint.onnxfile.nodes import bodies, domain_of, reads
from gnelint.records import dataclass

NOTE = "Rounding to 8 bits on the way into layers is left out (straight-through gradient)."
_PRODUCTS = {"ConvInteger": "Conv", "MatMulInteger": "MatMul"}
_MOVED = frozenset({"Reshape", "Unsqueeze", "Squeeze", "Identity", "Cast", "Floor", "Round"})
"""What a bias in integers goes through."""
_BY_AXIS = 13
"""The opset from which a tensor has a scale for each of its columns."""


@dataclass(frozen=True)
class Layers:
    """A graph's nodes, some of them replaced.

    Attributes:
        nodes: all of them.
        operators: what the file calls the layers that were put together, by the names of their outputs.
    """

    nodes: Sequence[onnx.NodeProto]
    operators: Mapping[str, str]


def with_layers(graph: onnx.GraphProto, version: int) -> Layers:
    """The nodes of a graph or body, in the standard opset of this version, with layers in place of their roundings."""
    nodes = list(graph.node)
    if not any(node.op_type in _PRODUCTS for node in nodes):
        return Layers(nodes, {})
    return _Search(graph, nodes, version).layers()


@dataclass(frozen=True)
class _Rounded:
    """A tensor in integers.

    Attributes:
        real: the name of the tensor that they stand for.
        scale: that of its scale.
        made: what makes the real tensor, where it is not there.
        used: the nodes that the layer does without.
    """

    real: str
    scale: str
    made: tuple[onnx.NodeProto, ...] = ()
    used: tuple[int, ...] = ()


class _Search:
    """Looks for the products of one graph."""

    def __init__(self, graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto], version: int) -> None:
        self._nodes, self._version = nodes, version
        self._constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        for node in nodes:
            if node.op_type == "Constant" and not domain_of(node) and len(node.output) == 1:
                self._constants[node.output[0]] = _dims_of_constant(node)
        self._makers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
        self._readers: dict[str, list[int]] = {}
        for index, node in enumerate(nodes):
            for name in node.input:
                self._readers.setdefault(name, []).append(index)
        self._kept = {info.name for info in graph.output} | {
            name for node in nodes if any(bodies(node)) for name in reads(node)
        }
        self._names = {*self._makers, *self._constants, *(info.name for info in graph.input)}

    def layers(self) -> Layers:
        """The nodes with all layers that were found; what only made integers for these is gone."""
        placed: dict[int, Sequence[onnx.NodeProto]] = {}
        operators: dict[str, str] = {}
        spare: set[int] = set()
        for index, node in enumerate(self._nodes):
            if node.op_type in _PRODUCTS and not domain_of(node):
                found = self._layer(index, node)
                if found is not None:
                    placed[index], used = found
                    operators[placed[index][-1].output[0]] = node.op_type
                    spare.update(used)
        gone = self._unread(spare, placed)
        written = [
            each for index, node in enumerate(self._nodes) if index not in gone for each in placed.get(index, (node,))
        ]
        return Layers(written, operators)

    def _layer(self, index: int, node: onnx.NodeProto) -> tuple[Sequence[onnx.NodeProto], Collection[int]] | None:
        """The nodes in place of a product of integers, and those that it does without."""
        inputs = [*node.input, "", ""][:4]
        left = self._rounded(inputs[0], inputs[2])
        if left is None:
            return None
        current, used = node.output[0], [index]
        bias: str | None = None
        behind = self._reader(current)
        if behind is not None and self._nodes[behind].op_type == "Add":
            used.append(behind)
            bias = self._other(behind, current)
            current = self._nodes[behind].output[0]
            behind = self._reader(current)
        if behind is None or self._nodes[behind].op_type != "Cast":
            return None
        cast = self._nodes[behind].output[0]
        last = self._reader(cast)
        if last is None or self._nodes[last].op_type != "Mul":
            return None
        scales = self._product(self._other(last, cast))
        if scales is None or left.scale not in scales:
            return None
        scale = scales[1] if scales[0] == left.scale else scales[0]
        right = self._rounded(inputs[1], inputs[3]) or self._codes(node, inputs[1], scale, inputs[3])
        if right is None or right.scale != scale:
            return None
        added = () if bias is None else self._bias(bias, {left.scale, scale})
        if added is None:
            return None
        used += [behind, last, *left.used, *right.used, *self._behind(self._other(last, cast)), *self._behind(bias)]
        made = self._written(node, left, right, added, self._nodes[last].output[0])
        return made, used

    def _rounded(self, codes: str, zero: str) -> _Rounded | None:
        """The value whose integers these are."""
        index = self._makers.get(codes)
        node = None if index is None else self._nodes[index]
        if index is None or node is None or node.op_type != "DynamicQuantizeLinear" or domain_of(node):
            return None
        if len(node.output) != 3 or node.output[0] != codes or node.output[2] != zero or not node.input:
            return None
        return _Rounded(node.input[0], node.output[1], (), (index,))

    def _codes(self, node: onnx.NodeProto, codes: str, scale: str, zero: str) -> _Rounded | None:
        """A constant tensor of integers, decoded."""
        if not {codes, scale} <= self._constants.keys() or (zero and zero not in self._constants):
            return None
        shape, each = self._constants[codes], math.prod(self._constants[scale])
        attributes: dict[str, Any] = {}
        if each > 1:  # a scale of each column, which the product is multiplied by along its last axis
            fits = node.op_type == "MatMulInteger" and len(shape) == 2 and self._constants[scale] == shape[1:]
            if not fits or self._version < _BY_AXIS or (zero and self._constants[zero] != shape[1:]):
                return None
            attributes["axis"] = 1
        real = self._new(f"{codes}_decoded")
        inputs = [codes, scale, zero] if zero else [codes, scale]
        made = helper.make_node("DequantizeLinear", inputs, [real], real, **attributes)
        return _Rounded(real, scale, (made,))

    def _bias(self, name: str, scales: Collection[str]) -> tuple[str, ...] | None:
        """The bias that was divided by these scales and rounded."""
        for index in self._behind(name):
            node = self._nodes[index]
            if node.op_type == "Div":
                parts = self._product(node.input[1]) if len(node.input) == 2 else None
                known = parts is not None and set(parts) == set(scales) and node.input[0] in self._constants
                return (node.input[0],) if known else None
            if node.op_type not in _MOVED:
                return None
        return None

    def _behind(self, name: str | None) -> list[int]:
        """The nodes that make a value, by their first inputs, the last first."""
        found: list[int] = []
        while name in self._makers and len(found) < 8:
            index = self._makers[name]
            if index in found or not self._nodes[index].input:
                break
            found.append(index)
            name = self._nodes[index].input[0]
            if self._nodes[index].op_type == "Div":
                found += self._behind(self._nodes[index].input[1])
                break
            if self._nodes[index].op_type not in _MOVED:
                break
        return found

    def _product(self, name: str | None) -> tuple[str, str] | None:
        """The factors of a value."""
        index = self._makers.get(name or "")
        node = None if index is None else self._nodes[index]
        if node is None or node.op_type != "Mul" or domain_of(node) or len(node.input) != 2:
            return None
        return node.input[0], node.input[1]

    def _reader(self, name: str) -> int | None:
        """The only node that reads a value."""
        readers = self._readers.get(name, [])
        alone = len(readers) == 1 and name not in self._kept and not domain_of(self._nodes[readers[0]])
        return readers[0] if alone and self._nodes[readers[0]].output else None

    def _other(self, index: int, name: str) -> str | None:
        """The other one of two operands."""
        inputs = list(self._nodes[index].input)
        if len(inputs) != 2 or inputs[0] == inputs[1]:
            return None
        other: str = inputs[1] if inputs[0] == name else inputs[0]
        return other

    def _written(
        self, node: onnx.NodeProto, left: _Rounded, right: _Rounded, bias: Sequence[str], output: str
    ) -> list[onnx.NodeProto]:
        """The layer under the product's name, with the output of the last node."""
        layer = onnx.NodeProto()
        layer.CopyFrom(node)
        del layer.input[:], layer.output[:]
        layer.op_type = _PRODUCTS[node.op_type]
        inside = bool(bias) and layer.op_type == "Conv"
        layer.input.extend([left.real, right.real, *(bias if inside else ())])
        if inside or not bias:
            layer.output.append(output)
            return [*right.made, layer]
        layer.output.append(self._new(f"{output}_product"))
        added = helper.make_node("Add", [layer.output[0], *bias], [output], self._new(f"{layer.name}_bias"))
        return [*right.made, layer, added]

    def _new(self, wanted: str) -> str:
        """A name that the file does not have."""
        name = wanted
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name

    def _unread(self, spare: Collection[int], placed: Mapping[int, Sequence[onnx.NodeProto]]) -> set[int]:
        """Of these nodes those that nothing reads any more."""
        gone: set[int] = set()
        reads = Counter(name for index, node in enumerate(self._nodes) if index not in placed for name in node.input)
        reads.update(name for nodes in placed.values() for node in nodes for name in node.input)
        written = {name for nodes in placed.values() for node in nodes for name in node.output}
        waiting = [index for index in spare if index not in placed]
        while waiting:
            node = self._nodes[index := waiting.pop()]
            if index in gone or any(
                (reads[name] or name in self._kept) and name not in written for name in node.output
            ):
                continue
            gone.add(index)
            reads.subtract(node.input)
            waiting += [self._makers[name] for name in node.input if self._makers.get(name) in spare]
            waiting = [each for each in waiting if each not in placed]
        return gone


def _dims_of_constant(node: onnx.NodeProto) -> tuple[int, ...]:
    for attribute in node.attribute:
        if attribute.name == "value":
            return tuple(attribute.t.dims)
        if attribute.name in ("value_floats", "value_ints"):
            return (max(len(attribute.floats), len(attribute.ints)),)
    return ()
