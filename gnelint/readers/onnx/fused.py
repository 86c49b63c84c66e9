"""A layer and its activation that ONNX Runtime's optimiser made one operator of, as the two that they were."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper

_DOMAIN = "com.microsoft"
_VERSION = 17
"""Opset that the parts are written in."""
_LAYERS = {"FusedConv": ("", "Conv"), "FusedGemm": ("", "Gemm"), "FusedMatMulActivation": (_DOMAIN, "FusedMatMul")}
"""By the fused operator: the layer in front of the activation."""
_PARAMETERS = {"LeakyRelu": ("alpha",), "Elu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Clip": ("min", "max")}
"""The parameters of an activation, in the order that `activation_params` lists them in."""
_OWN = ("activation", "leaky_relu_alpha")


def parts_of_fused(node: onnx.NodeProto) -> onnx.FunctionProto | None:
    """A function of the layer, the summand (of a convolution) and the activation; None for other operators."""
    layer = _LAYERS.get(node.op_type) if node.domain == _DOMAIN else None
    attributes = {} if layer is None else {each.name: helper.get_attribute_value(each) for each in node.attribute}
    activation = attributes.get("activation", b"")
    if layer is None or not isinstance(activation, bytes):
        return None
    names = [f"in{index}" if name else "" for index, name in enumerate(node.input)]
    summand = names.pop() if node.op_type == "FusedConv" and len(names) > 3 else ""
    made = onnx.NodeProto(op_type=layer[1], domain=layer[0], name="layer", input=names, output=["made"])
    made.attribute.extend(each for each in node.attribute if not each.name.startswith(_OWN))
    nodes = [made]
    if summand:
        nodes.append(helper.make_node("Add", ["made", summand], ["summed"], name="sum"))
    if activation:
        nodes.extend(_activation(activation.decode(errors="replace"), _given(attributes), nodes[-1].output[0]))
    return helper.make_function(
        _DOMAIN,
        node.op_type,
        [f"in{index}" for index in range(len(node.input))],
        [nodes[-1].output[0]],
        nodes,
        [helper.make_opsetid("", _VERSION), helper.make_opsetid(_DOMAIN, 1)],
    )


def _activation(name: str, given: Sequence[float], x: str) -> list[onnx.NodeProto]:
    values = dict(zip(_PARAMETERS.get(name, ()), given, strict=False))
    if name != "Clip":
        return [helper.make_node(name, [x], ["activated"], name="activation", **values)]
    bounds = [helper.make_node("Constant", [], [bound], value_float=value) for bound, value in values.items()]
    return [*bounds, helper.make_node(name, [x, *values], ["activated"], name="activation")]


def _given(attributes: dict[str, object]) -> Sequence[float]:
    """The activation's parameters: a list for convolutions, attributes of their own for products."""
    listed = attributes.get("activation_params")
    if isinstance(listed, (list, tuple)):
        return [float(value) for value in listed]
    found = (attributes.get(name) for name in ("activation_alpha", "activation_beta", "activation_gamma"))
    values = [float(value) for value in found if isinstance(value, (int, float))]
    leaky = attributes.get("leaky_relu_alpha")
    return values or ([float(leaky)] if isinstance(leaky, (int, float)) else [])
