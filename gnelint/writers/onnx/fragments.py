"""What is put into a model: the nodes of operations in the standard operators that the model's opset has.

Fragments are built with onnx-graphsurgeon, which sees to attributes and constants; it is loaded when one is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx

from gnelint.onnxfile.types import numpy_dtype
from gnelint.records import dataclass


@dataclass(frozen=True)
class Fragment:
    """Nodes and the constants they read, named for the model they go into."""

    nodes: tuple[onnx.NodeProto, ...]
    constants: Mapping[str, np.ndarray]


class Sketch:
    """Writes a fragment, one operation after the other; values are told by their names.

    Attributes:
        version: of the standard operators.
    """

    def __init__(self, name: str, version: int, dtype: str, unique: Callable[[str], str]) -> None:
        """A fragment without nodes.

        Args:
            name: of the last node; all other names are made of it.
            dtype: of numbers.
            unique: gives a name that is not taken.
        """
        self.version = version
        self._name, self._dtype, self._unique = name, numpy_dtype(dtype), unique
        self._nodes: list[tuple[str, list[str], str, dict[str, Any]]] = []
        self._constants: dict[str, np.ndarray] = {}

    def op(self, op_type: str, *inputs: str | float, **attributes: Any) -> str:
        """A node with one output; numbers among the inputs become constants. The output's name."""
        names = [name if isinstance(name, str) else self.constant(name) for name in inputs]
        output = self._unique(f"{self._name}/{op_type}_output")
        self._nodes.append((op_type, names, output, attributes))
        return output

    def constant(self, number: float | np.ndarray) -> str:
        """A constant of the fragment's type, or an array as it is. Its name."""
        array = number if isinstance(number, np.ndarray) else np.array(number, self._dtype)
        name = self._unique(f"{self._name}/constant")
        self._constants[name] = array
        return name

    def finished(self, result: str, output: str) -> Fragment:
        """The fragment; `result`, what its last node writes, is called `output`."""
        import onnx_graphsurgeon as gs

        tensors: dict[str, Any] = {name: gs.Constant(name, array) for name, array in self._constants.items()}

        def tensor(name: str) -> Any:
            name = output if name == result else name
            return tensors.setdefault(name, gs.Variable(name))

        nodes = []
        for op_type, inputs, written, attributes in self._nodes:
            name = self._name if written == result else self._unique(f"{self._name}/{op_type}")
            nodes.append(gs.Node(op_type, name, dict(attributes), [tensor(i) for i in inputs], [tensor(written)]))
        graph = gs.Graph(nodes=nodes, opset=self.version, outputs=[tensor(output)])
        exported = gs.export_onnx(graph, do_type_check=False)
        return Fragment(tuple(exported.graph.node), self._constants)


def mean_over(sketch: Sketch, x: str, axes: tuple[int, ...]) -> str:
    """The mean over axes, which are kept."""
    if sketch.version < 18:
        return sketch.op("ReduceMean", x, axes=list(axes), keepdims=1)
    return sketch.op("ReduceMean", x, sketch.constant(np.array(axes, np.int64)), keepdims=1)


def centred(sketch: Sketch, weight: str, axes: tuple[int, ...]) -> str:
    """w - E w over axes."""
    return sketch.op("Sub", weight, mean_over(sketch, weight, axes))


def second_moment_norm(
    sketch: Sketch, x: str, scale: str, bias: str, rank: int, epsilon: float | str, like: bool = False
) -> str:
    """x / (sqrt(E x^2) + epsilon) scale + bias, E over all axes but the second (arXiv 2001.00254).

    Args:
        rank: of x.
        epsilon: a number, or the name of a value that holds it.
        like: let the scale and the bias have the type of x.
    """
    axes = tuple(axis for axis in range(rank) if axis != 1)
    root = sketch.op("Sqrt", mean_over(sketch, sketch.op("Mul", x, x), axes))
    normalised = sketch.op("Div", x, sketch.op("Add", root, epsilon))
    return affine(sketch, normalised, scale, bias, rank, x if like else "")


def affine(sketch: Sketch, x: str, scale: str, bias: str, rank: int, like: str = "") -> str:
    """x scale + bias, both with one number a channel, in the type of the value `like` if one is named."""
    shape = (-1, *(1,) * (rank - 2))
    operands = [sketch.op("CastLike", name, like) if like else name for name in (scale, bias)]
    if rank > 2:
        wide = sketch.constant(np.array(shape, np.int64))
        operands = [sketch.op("Reshape", name, wide) for name in operands]
    return sketch.op("Add", sketch.op("Mul", x, operands[0]), operands[1])
