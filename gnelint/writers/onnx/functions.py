"""Operations that ONNX lacks, as local functions of the model: domain `gnelint`, bodies in standard operators."""

from __future__ import annotations

import onnx
from onnx import helper, numpy_helper

from gnelint.writers.onnx.draft import Draft
from gnelint.writers.onnx.fragments import Sketch, second_moment_norm

DOMAIN = "gnelint"
CAST_LIKE_FROM = 15
FLOAT_CONSTANTS_FROM = 12


def call_second_moment_norm(
    draft: Draft, name: str, inputs: tuple[str, str, str], output: str, rank: int, dtype: str, epsilon: float
) -> onnx.NodeProto | None:
    """A call of the local function that normalises by the second moment, which the model gets if it lacks it.

    Args:
        inputs: x, scale and bias.
        rank, dtype: of x.

    Returns:
        None if the model's opset cannot hold the function.
    """
    if draft.version < (FLOAT_CONSTANTS_FROM if dtype == "float32" else CAST_LIKE_FROM):
        return None
    function = _second_moment_norm(draft.version, rank)
    if not draft.add_function(function):
        return None
    return helper.make_node(function.name, list(inputs), [output], name=name, domain=DOMAIN, epsilon=epsilon)


def _second_moment_norm(version: int, rank: int) -> onnx.FunctionProto:
    taken = {"x", "scale", "bias", "y", "number"}

    def unique(wanted: str) -> str:
        short, count = wanted.rpartition("/")[2].removesuffix("_output").lower(), 0
        name = short
        while name in taken:
            count += 1
            name = f"{short}_{count}"
        taken.add(name)
        return name

    any_type = version >= CAST_LIKE_FROM
    sketch = Sketch("norm", version, "float32", unique)
    epsilon = sketch.op("CastLike", "number", "x") if any_type else "number"
    result = second_moment_norm(sketch, "x", "scale", "bias", rank, epsilon, like=any_type)
    fragment = sketch.finished(result, "y")
    number = onnx.NodeProto(op_type="Constant", output=["number"], name="number")
    number.attribute.add(name="value_float", ref_attr_name="epsilon", type=onnx.AttributeProto.FLOAT)
    constants = [
        helper.make_node("Constant", [], [name], name=name, value=numpy_helper.from_array(array))
        for name, array in fragment.constants.items()
    ]
    return helper.make_function(
        DOMAIN,
        "SecondMomentNorm" if rank == 2 else f"SecondMomentNorm{rank - 2}d",
        ["x", "scale", "bias"],
        ["y"],
        [number, *constants, *fragment.nodes],
        [helper.make_opsetid("", version)],
        ["epsilon"],
        doc_string="y = x / (sqrt(mean(x^2)) + epsilon) * scale + bias, the mean over all axes but the second: second "
        "moment normalisation, arXiv 2001.00254.",
    )
