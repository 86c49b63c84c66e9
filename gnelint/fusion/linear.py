"""Linear maps whose bias stands in a node of its own."""

from __future__ import annotations

from gnelint.fusion.normalization import reshaped
from gnelint.ir.rewriter import Rewriter

_OUT_AXIS = {"linear": 0, "conv": 0, "conv_transpose": 1}
"""The axis of the weight that counts output channels."""


def fuse_linear(rewriter: Rewriter) -> None:
    """Take a bias of one number a channel into the linear map before it.

        linear, conv or conv_transpose without a bias, then bias of shape (out,) along the channel axis

    The map keeps its own name: it is the layer that people know.
    """
    for node in rewriter:
        if node.op != "bias" or node.attribute("factor") != 1.0:
            continue
        linear = rewriter.producer(node.inputs[0], *_OUT_AXIS)
        parameter = node.parameters.get("bias")
        if linear is None or parameter is None or "bias" in linear.parameters or "weight" not in linear.parameters:
            continue
        rank = rewriter.rank(linear.outputs[0])
        if rank is None or rewriter.sole_reader(linear.outputs[0]) is None or len(parameter.shape) > rank:
            continue
        out = linear.parameters["weight"].shape[_OUT_AXIS[linear.op]]
        if linear.op == "conv_transpose":
            out *= linear.attribute("groups")
        channel = rank - 1 if linear.op == "linear" else 1
        padded = (1,) * (rank - len(parameter.shape)) + parameter.shape
        if padded != tuple(out if axis == channel else 1 for axis in range(rank)):
            continue
        rewriter.extend(linear, node, {**linear.parameters, "bias": reshaped(parameter, (out,))})
