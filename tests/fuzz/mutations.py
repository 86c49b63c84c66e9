"""Models changed at random, mostly so that they still parse: what is only noise is refused by the first reader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

EDGES = (-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 7, 255, 1024, 2**16, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1)
"""Sizes where arithmetic ends."""
NAMES = ("", "x", "y", "\x1b[31m", "a\nb", "::error::", '"""', "../../etc/passwd", "é" * 300, "\0", "x" * 5000)
FLOATS = (0.0, -0.0, 1e-45, 1e38, float("inf"), float("-inf"), float("nan"), -1.0, 0.5)

OPERATORS = ("Relu", "Tanh", "Gelu", "Softmax", "MatMul", "Add", "Mul", "Sub", "Div", "Conv", "MaxPool", "AveragePool",
             "GlobalAveragePool", "BatchNormalization", "LayerNormalization", "Reshape", "Transpose", "Concat", "Split",
             "Slice", "Gather", "Flatten", "Squeeze", "Unsqueeze", "Pad", "Resize", "ReduceMean", "Expand", "Tile",
             "Cast", "Identity", "Dropout", "Shape", "ConstantOfShape", "Range", "Where", "LSTM", "GRU", "Einsum",
             "Loop", "Scan", "If", "TopK", "ConvTranspose", "OneHot", "Attention", "StringSplit")  # fmt: skip


def seeds(random: Random) -> onnx.ModelProto:
    """A small valid network to change: layers of one width, a residual connection, a head; sizes differ."""
    width, depth = random.choice((1, 4, 8)), random.randint(1, 8)
    gain = random.choice((0.3, 1.0, 3.0))
    drawn = np.random.default_rng(random.getrandbits(32))
    on_maps = random.random() < 0.5
    shape = (width, width, 3, 3) if on_maps else (width, width)
    nodes, weights, last = [], [], "x"
    for k in range(depth):
        scale = gain * np.sqrt(2 / np.prod(shape[1:]))
        weights.append(numpy_helper.from_array((drawn.standard_normal(shape) * scale).astype(np.float32), f"w{k}"))
        layer = {"pads": [1] * 4, "kernel_shape": [3, 3]} if on_maps else {}
        nodes.append(
            helper.make_node("Conv" if on_maps else "MatMul", [last, f"w{k}"], [f"z{k}"], f"layer{k}", **layer)
        )
        nodes.append(helper.make_node(random.choice(OPERATORS[:3]), [f"z{k}"], [f"a{k}"], f"act{k}"))
        if random.random() < 0.4:
            nodes.append(helper.make_node("Add", [f"a{k}", last], [f"s{k}"], f"add{k}"))
        last = nodes[-1].output[0]
    size = [random.choice(("N", 4)), width, *([8, 8] if on_maps else [])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name in ("x", last)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def mutated(random: Random) -> bytes:
    """The bytes of one hostile file."""
    model = seeds(random)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        random.choice(CHANGES)(model, random)
    data = bytearray(model.SerializeToString())
    if random.random() < 0.15 and data:
        for _ in range(random.randint(1, 8)):
            data[random.randrange(len(data))] = random.getrandbits(8)
    if random.random() < 0.03:
        del data[random.randrange(len(data)) :]
    return bytes(data)


def _node(model: onnx.ModelProto, random: Random) -> onnx.NodeProto:
    return random.choice(model.graph.node) if model.graph.node else model.graph.node.add(op_type="Relu")


def _operator(model: onnx.ModelProto, random: Random) -> None:
    _node(model, random).op_type = random.choice(OPERATORS)


def _attribute(model: onnx.ModelProto, random: Random) -> None:
    node = _node(model, random)
    names = [*(each.name for each in node.attribute), "kernel_shape", "strides", "pads", "dilations", "axis", "axes",
             "group", "to", "perm", "epsilon", "hidden_size", "num_outputs", "equation", "keepdims"]  # fmt: skip
    name = random.choice(names)
    kept = [each for each in node.attribute if each.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
    edge = random.choice(EDGES)
    value: object = random.choice(
        (edge, [edge] * random.randint(1, 4), [random.choice(EDGES) for _ in range(3)], random.choice(FLOATS), "ij,jk")
    )
    node.attribute.append(helper.make_attribute(name, value))


def _wiring(model: onnx.ModelProto, random: Random) -> None:
    node = _node(model, random)
    known = [*(name for each in model.graph.node for name in (*each.input, *each.output)), *NAMES]
    side = random.choice((node.input, node.output))
    if side and random.random() < 0.7:
        side[random.randrange(len(side))] = random.choice(known)
    else:
        side.append(random.choice(known))


def _dimension(model: onnx.ModelProto, random: Random) -> None:
    info = random.choice([*model.graph.input, *model.graph.output])
    dims = info.type.tensor_type.shape.dim
    dim = random.choice(dims) if dims and random.random() < 0.8 else dims.add()
    if random.random() < 0.7:
        dim.dim_value = random.choice(EDGES)
    else:
        dim.dim_param = random.choice(NAMES)


def _weight(model: onnx.ModelProto, random: Random) -> None:
    if not model.graph.initializer:
        return
    tensor = random.choice(model.graph.initializer)
    kind = random.randrange(6)
    if kind == 0 and tensor.dims:
        tensor.dims[random.randrange(len(tensor.dims))] = random.choice(EDGES)
    elif kind == 1:
        tensor.data_type = random.randint(-1, 27)
    elif kind == 2:
        tensor.raw_data = tensor.raw_data[: random.randrange(len(tensor.raw_data) + 1)]
    elif kind == 3 and tensor.dims and len(tensor.raw_data) % 4 == 0:
        numbers = np.frombuffer(tensor.raw_data, np.float32).copy()
        numbers[random.randrange(max(len(numbers), 1)) :] = random.choice(FLOATS)
        tensor.raw_data = numbers.tobytes()
    elif kind == 4:
        tensor.data_location = TensorProto.EXTERNAL
        place = random.choice(("/dev/zero", "../x", "model.onnx", "", ".", "\0", "/etc/passwd"))
        for key, value in (("location", place), ("offset", str(random.choice(EDGES)))):
            tensor.external_data.add(key=key, value=value)
    else:
        tensor.name = random.choice(NAMES)


def _constants(model: onnx.ModelProto, random: Random) -> None:
    """A part that depends on constants alone, in front of a node."""
    size = [random.choice(EDGES) for _ in range(random.randint(1, 3))]
    model.graph.initializer.append(numpy_helper.from_array(np.array(size, np.int64), "size"))
    maker = random.choice(("ConstantOfShape", "Expand", "Tile", "Range", "Reshape", "OneHot", "Pad"))
    node = helper.make_node(maker, ["size"] * random.randint(1, 3), ["made"])
    model.graph.node.insert(0, node)
    target = _node(model, random)
    if target.input:
        target.input[random.randrange(len(target.input))] = "made"


def _structure(model: onnx.ModelProto, random: Random) -> None:
    nodes = model.graph.node
    kind = random.randrange(5)
    if kind == 0 and nodes:
        del nodes[random.randrange(len(nodes))]
    elif kind == 1 and nodes:
        nodes.append(random.choice(nodes))
    elif kind == 2:
        _node(model, random).name = random.choice(NAMES)
    elif kind == 3:
        last = nodes[-1].output[0] if nodes and nodes[-1].output else "x"
        for k in range(random.choice((10, 300))):
            nodes.add(op_type=random.choice(OPERATORS[:4]), input=[last], output=[f"more{k}"])
            last = f"more{k}"
    else:
        _nest(model, random)


def _nest(model: onnx.ModelProto, random: Random) -> None:
    """A function that calls itself or others, or a body of control flow."""
    if random.random() < 0.5:
        imports = [helper.make_opsetid("", 20), helper.make_opsetid("my", 1)]
        body = [helper.make_node("F", ["a"], ["b"], domain="my"), helper.make_node("Relu", ["b"], ["o"])]
        model.functions.append(helper.make_function("my", "F", ["a"], ["o"], body, imports))
        model.opset_import.append(helper.make_opsetid("my", 1))
        _node(model, random).CopyFrom(helper.make_node("F", ["x"], ["y"], domain="my"))
    else:
        inner = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "body", [], list(model.graph.output))
        _node(model, random).attribute.append(helper.make_attribute(random.choice(("body", "then_branch")), inner))


def _version(model: onnx.ModelProto, random: Random) -> None:
    if model.opset_import:
        model.opset_import[0].version = random.choice((-1, 0, 1, 7, 11, 13, 17, 21, 23, 99, 2**62))
    model.ir_version = random.choice((0, 3, 8, 10, 99))


CHANGES: Sequence[Callable[[onnx.ModelProto, Random], None]] = (
    _operator, _operator, _attribute, _attribute, _wiring, _dimension, _weight, _constants, _structure, _version,
)  # fmt: skip
