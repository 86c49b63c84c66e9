"""ONNX networks of any number of nodes, without torch: each is one way in which graphs grow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 8


class Draft:
    """A model that is written node by node; every operation returns the name of what it computes."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def constant(self, numbers: object, kind: type = np.float32) -> str:
        """A stored tensor."""
        name = f"t{len(self._tensors)}"
        self._tensors.append(numpy_helper.from_array(np.asarray(numbers, kind), name))
        return name

    def weight(self, *shape: int) -> str:
        """One drawn as He does."""
        fan = np.prod(shape[1:])
        return self.constant(self._random.standard_normal(shape) * (2.0 / fan) ** 0.5)

    def put(self, op: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        """A node; of several outputs the first."""
        number = len(self._nodes)
        names = [f"v{number}_{place}" for place in range(outputs)]
        self._nodes.append(helper.make_node(op, list(inputs), names, name=f"{op.lower()}{number}", **attributes))
        return names[0]

    def linear(self, value: str) -> str:
        """A square layer."""
        return self.put("Gemm", value, self.weight(WIDTH, WIDTH), transB=1)

    def layer(self, value: str) -> str:
        """One with its activation."""
        return self.put("Relu", self.linear(value))

    def save(self, path: Path, outputs: Sequence[str], shape: Sequence[int]) -> None:
        """The model as a file."""
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))]
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self._nodes, "large", inputs, values, self._tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, str(path))


def _chain(draft: Draft, count: int) -> list[str]:
    value = "x"
    for _ in range(count):
        value = draft.layer(value)
    return [value]


def _residual(draft: Draft, count: int) -> list[str]:
    value = "x"
    for _ in range(count):
        value = draft.put("Add", value, draft.linear(draft.layer(value)))
    return [value]


def _normalised(draft: Draft, count: int) -> list[str]:
    value = "x"
    for _ in range(count):
        scale, bias = draft.constant(np.ones(WIDTH)), draft.constant(np.zeros(WIDTH))
        normalised = draft.put("LayerNormalization", value, scale, bias, axis=-1)
        value = draft.put("Add", value, draft.linear(draft.layer(normalised)))
    return [value]


def _convolutions(draft: Draft, count: int) -> list[str]:
    value = "x"
    for _ in range(count):
        kernel = draft.weight(WIDTH, WIDTH, 3, 3)
        value = draft.put("Relu", draft.put("Conv", value, kernel, kernel_shape=[3, 3], pads=[1] * 4))
    return [value]


def _forks(draft: Draft, count: int) -> list[str]:
    """One value, no layer before it, that every branch reads."""
    root = draft.put("Tanh", "x")
    value = draft.linear(root)
    for _ in range(count):
        value = draft.put("Add", value, draft.layer(root))
    return [value]


def _tree(draft: Draft, count: int) -> list[str]:
    """Branches that are added up two by two."""
    values = [draft.layer("x") for _ in range(count)]
    while len(values) > 1:
        pairs = [values[place : place + 2] for place in range(0, len(values), 2)]
        values = [draft.put("Add", *pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return values


def _nested(draft: Draft, count: int) -> list[str]:
    """Skips one inside the other, as in a U-Net."""
    value, kept = "x", []
    for _ in range(count // 2):
        value = draft.layer(value)
        kept.append(value)
    while kept:
        value = draft.layer(draft.put("Add", value, kept.pop()))
    return [value]


def _factors(draft: Draft, count: int) -> list[str]:
    value = draft.linear("x")
    for _ in range(count):
        value = draft.put("Mul", value, draft.constant(1.001))
    return [value]


def _outputs(draft: Draft, count: int) -> list[str]:
    value, found = "x", []
    for _ in range(count):
        value = draft.layer(value)
        found.append(draft.linear(value))
    return found


def _zeros(draft: Draft, count: int) -> list[str]:
    """Layers that pass no gradient at all."""
    value = "x"
    for _ in range(count):
        value = draft.put("Relu", draft.put("Gemm", value, draft.constant(np.zeros((WIDTH, WIDTH))), transB=1))
    return [value]


def _added(draft: Draft, count: int) -> list[str]:
    """One sum, written term by term."""
    root = draft.layer("x")
    value = draft.layer(root)
    for _ in range(count):
        value = draft.put("Add", value, root)
    return [value]


def _branches(draft: Draft, count: int) -> list[str]:
    """Layers beside each other that one sum reads."""
    return [draft.put("Sum", *(draft.layer("x") for _ in range(count)))]


KINDS: dict[str, Callable[[Draft, int], list[str]]] = {
    "chain": _chain,
    "residual": _residual,
    "normalised": _normalised,
    "convolutions": _convolutions,
    "forks": _forks,
    "tree": _tree,
    "nested": _nested,
    "factors": _factors,
    "outputs": _outputs,
    "zeros": _zeros,
    "added": _added,
    "branches": _branches,
}


def write(kind: str, count: int, path: Path) -> Path:
    """A network of `count` layers or blocks of a kind, as a file."""
    draft = Draft()
    outputs = KINDS[kind](draft, count)
    draft.save(path, outputs, (2, WIDTH, 8, 8) if kind == "convolutions" else (2, WIDTH))
    return path
