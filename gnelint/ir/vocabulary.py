"""The canonical operations: what readers lower to, what components model and what rule patterns name.

Conventions: images are (batch, channel, *space), `pads` are all begins then all ends over the spatial axes (ONNX),
axes are counted from 0 over the whole tensor, per-axis attributes have one entry a spatial axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any


@dataclass(frozen=True)
class Operation:
    """The signature of a canonical operation.

    Attributes:
        family: the group that a rule pattern may name instead of the operation, and the file of its component.
        inputs: names of the activation inputs; a trailing "*" takes any number, a trailing "?" may be left out.
        parameters: roles of constant operands; any may be absent unless the operation makes no sense without it.
        attributes: names with their defaults; `...` marks one without a default.
    """

    family: str
    inputs: tuple[str, ...] = ("x",)
    parameters: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)


def _conv(**more: Any) -> dict[str, Any]:
    return {"strides": ..., "pads": ..., "dilations": ..., "groups": 1, **more}


def _window(**more: Any) -> dict[str, Any]:
    return {"kernel": ..., "strides": ..., "pads": ..., "dilations": ..., **more}


VOCABULARY: dict[str, Operation] = {
    # linear: weight is (out, in) for linear (on the last axis), (out, in/groups, *kernel) for conv,
    # (in, out/groups, *kernel) for conv_transpose, (rows, width) for embedding.
    "linear": Operation("linear", ("x",), ("weight", "bias")),
    "conv": Operation("linear", ("x",), ("weight", "bias"), _conv()),
    "conv_transpose": Operation("linear", ("x",), ("weight", "bias"), _conv(output_padding=())),
    "embedding": Operation("linear", ("indices",), ("weight",)),
    # recurrent: one layer in one direction. x is (batch, time, in), the states are (batch, hidden), by default 0; y is
    # (batch, time, hidden), for lstm followed by the last carry where something reads it. weight is (gates * hidden,
    # in), recurrent (gates * hidden, hidden), rows gate by gate: input, forget, cell, output for lstm (coupled: the
    # forget gate is one minus the input gate), reset, update, new for gru (reset_after: the reset gate multiplies
    # U h + recurrent_bias; else it multiplies h)
    "lstm": Operation(
        "recurrent",
        ("x", "hidden?", "carry?"),
        ("weight", "recurrent", "bias", "recurrent_bias"),
        {"reverse": False, "coupled": False},
    ),
    "gru": Operation(
        "recurrent",
        ("x", "hidden?"),
        ("weight", "recurrent", "bias", "recurrent_bias"),
        {"reverse": False, "reset_after": True},
    ),
    "rnn": Operation(
        "recurrent",
        ("x", "hidden?"),
        ("weight", "recurrent", "bias", "recurrent_bias"),
        {"reverse": False, "activation": "tanh"},  # or relu
    ),
    # bias: x + factor * bias; scale: factor * x * scale, or factor * x / scale with reciprocal. The parameter has the
    # tensor's rank or less and broadcasts as in numpy; without the parameter only factor acts.
    "bias": Operation("linear", ("x",), ("bias",), {"factor": 1.0}),
    "scale": Operation("linear", ("x",), ("scale",), {"factor": 1.0, "reciprocal": False}),
    # activation: pointwise
    "relu": Operation("activation"),
    "leaky_relu": Operation("activation", attributes={"alpha": 0.01}),
    "prelu": Operation("activation", parameters=("slope",)),
    "elu": Operation("activation", attributes={"alpha": 1.0}),
    "selu": Operation("activation", attributes={"alpha": 1.6732632423543772, "gamma": 1.0507009873554805}),
    "celu": Operation("activation", attributes={"alpha": 1.0}),
    "gelu": Operation("activation", attributes={"approximate": "none"}),
    "silu": Operation("activation", attributes={"beta": 1.0}),  # x * sigmoid(beta x)
    "mish": Operation("activation"),
    "hardswish": Operation("activation"),
    "hardsigmoid": Operation("activation", attributes={"alpha": 1.0 / 6.0, "beta": 0.5}),
    "clip": Operation("activation", attributes={"min": None, "max": None}),  # hardtanh, relu6; None is no bound
    "tanh": Operation("activation"),
    "sigmoid": Operation("activation"),
    "softplus": Operation("activation", attributes={"beta": 1.0}),
    "softsign": Operation("activation"),
    "log_sigmoid": Operation("activation"),
    "thresholded_relu": Operation("activation", attributes={"alpha": 1.0}),
    "shrink": Operation("activation", attributes={"lambd": 0.5, "bias": 0.0}),
    # pointwise: smooth scalar functions that are not activations of a network by themselves
    "erf": Operation("pointwise"),
    "exp": Operation("pointwise"),
    "log": Operation("pointwise"),
    "sqrt": Operation("pointwise"),
    "reciprocal": Operation("pointwise"),
    "abs": Operation("pointwise"),
    "pow": Operation("pointwise", attributes={"exponent": ...}),
    "sin": Operation("pointwise"),
    "cos": Operation("pointwise"),
    "tan": Operation("pointwise"),
    "asin": Operation("pointwise"),
    "acos": Operation("pointwise"),
    "atan": Operation("pointwise"),
    "sinh": Operation("pointwise"),
    "cosh": Operation("pointwise"),
    "asinh": Operation("pointwise"),
    "acosh": Operation("pointwise"),
    "atanh": Operation("pointwise"),
    "step": Operation("pointwise", attributes={"kind": ...}),  # floor, ceil, round, sign: the gradient is zero
    # normalization: axes are the normalised ones
    "batch_norm": Operation(
        "normalization", ("x",), ("scale", "bias", "running_mean", "running_var"), {"epsilon": 1e-5, "training": ...}
    ),
    "layer_norm": Operation("normalization", ("x",), ("scale", "bias"), {"axes": ..., "epsilon": 1e-5}),
    "group_norm": Operation("normalization", ("x",), ("scale", "bias"), {"groups": ..., "epsilon": 1e-5}),
    # an instance normalisation that keeps running statistics for evaluation has them as parameters; they are not read
    "instance_norm": Operation(
        "normalization", ("x",), ("scale", "bias", "running_mean", "running_var"), {"epsilon": 1e-5}
    ),
    "rms_norm": Operation("normalization", ("x",), ("scale",), {"axes": ..., "epsilon": 1e-5}),
    "second_moment_norm": Operation(
        "normalization", ("x",), ("scale", "bias", "running_second_moment"), {"epsilon": 1e-5, "training": ...}
    ),
    "l1_norm": Operation("normalization", ("x",), ("scale", "bias"), {"axes": ..., "epsilon": 1e-5}),
    "l2_normalize": Operation("normalization", attributes={"axes": ..., "epsilon": 1e-12}),
    "local_response_norm": Operation(
        "normalization", attributes={"size": ..., "alpha": 1e-4, "beta": 0.75, "bias": 1.0}
    ),
    # pooling
    "max_pool": Operation("pooling", attributes=_window()),
    "avg_pool": Operation("pooling", attributes=_window(count_include_pad=False)),
    "lp_pool": Operation("pooling", attributes=_window(p=2)),
    "global_avg_pool": Operation("pooling"),
    "global_max_pool": Operation("pooling"),
    "global_lp_pool": Operation("pooling", attributes={"p": 2}),
    "adaptive_avg_pool": Operation("pooling", attributes={"output_size": ...}),
    "adaptive_max_pool": Operation("pooling", attributes={"output_size": ...}),
    # attention: query (B, H, T, d) or (B, T, H*d) when packed; key and value likewise with kv_heads; scale None is
    # 1/sqrt(d). scale 1.0 leaves the product as it is. A mask (a parameter where it is constant, else an input) is what
    # is added to the logits, or where a key is seen; it broadcasts to (B, H, queries, keys).
    # top: only so many of the largest logits of a row count, the others are hidden; None for all. Where it is not
    # renormalised, all count in the sum and the others' probabilities are set to 0 afterwards
    "softmax": Operation("attention", parameters=("mask",), attributes={"axis": -1, "top": None, "renormalised": True}),
    "log_softmax": Operation("attention", attributes={"axis": -1}),
    "attention": Operation(
        "attention",
        ("query", "key", "value", "mask?"),
        ("mask",),
        {"scale": None, "causal": False, "packed": False, "heads": None, "kv_heads": None},
    ),
    "matmul": Operation("attention", ("a", "b"), (), {"transpose_a": False, "transpose_b": False, "factor": 1.0}),
    # combine: operands broadcast as in numpy
    "add": Operation("combine", ("x*",)),
    "sub": Operation("combine", ("a", "b")),
    "mul": Operation("combine", ("a", "b")),
    "div": Operation("combine", ("a", "b")),
    "mean": Operation("combine", ("x*",)),
    "maximum": Operation("combine", ("x*",)),
    "minimum": Operation("combine", ("x*",)),
    "concat": Operation("combine", ("x*",), (), {"axis": ...}),
    "where": Operation("combine", ("condition", "a", "b")),
    # selection: which entries are taken. top_k writes the values and their indices; top_mask is where the k largest (or
    # smallest) of a row stand, or with hidden where they do not; one_hot puts its classes on a new axis; compare
    # is a < b, a <= b, a > b or a >= b; logical joins masks by not, and, or, xor; scatter writes updates over entries
    # of x, one for each index along the axis
    "top_k": Operation("selection", attributes={"axis": -1, "k": ..., "largest": True}),
    "top_mask": Operation("selection", attributes={"axis": -1, "k": ..., "largest": True, "hidden": False}),
    "one_hot": Operation("selection", ("indices",), attributes={"axis": -1}),
    "compare": Operation("selection", ("a", "b"), attributes={"kind": ...}),
    "logical": Operation("selection", ("x*",), attributes={"kind": ...}),
    "scatter": Operation("selection", ("x", "indices", "updates"), attributes={"axis": ...}),
    # constant: a tensor of the model where no parameter role is foreseen (a class token that is concatenated, a mask)
    "constant": Operation("combine", (), ("value",)),
    # shape: data movement; the output's shape is the value's. gather takes constant indices as a parameter or an input.
    "identity": Operation("shape"),
    # dropout that divides by 1 - p is neutral in the analysis; not inverted it is a mask that removes a share p, with
    # one number for all indices of the axes `alike`
    "dropout": Operation("shape", attributes={"p": 0.5, "inverted": True, "alike": (), "alpha": False}),
    "reshape": Operation("shape"),
    "transpose": Operation("shape", attributes={"perm": ...}),
    "slice": Operation("shape", attributes={"axes": ..., "starts": ..., "ends": ..., "steps": ...}),
    "split": Operation("shape", attributes={"axis": ..., "sizes": ...}),
    "gather": Operation("shape", ("x", "indices?"), ("indices",), {"axis": 0}),
    "pad": Operation("shape", attributes={"pads": ..., "mode": "constant", "value": 0.0}),  # pads over all axes
    # nearest, linear or cubic, by the value's shape; where an output's centre lies: half_pixel, align_corners or
    # asymmetric; cubic is the coefficient of the cubic kernel
    "upsample": Operation(
        "shape",
        attributes={"mode": "nearest", "coordinates": "half_pixel", "antialias": False, "cubic": -0.75},
    ),
    "expand": Operation("shape"),  # numpy broadcasting to the output's shape
    "tile": Operation("shape"),
    "roll": Operation("shape", attributes={"axes": ..., "shifts": ...}),
    "flip": Operation("shape", attributes={"axes": ...}),
    "depth_to_space": Operation("shape", attributes={"block": ..., "mode": "DCR"}),
    "space_to_depth": Operation("shape", attributes={"block": ...}),
    "unfold": Operation("shape", attributes=_window()),  # (N, C, *S) -> (N, C*prod(kernel), positions)
    "fold": Operation("shape", attributes=_window()),  # its transpose: windows are added up where they overlap
    # reduction
    "reduce_mean": Operation("reduction", attributes={"axes": ..., "keepdims": True}),
    "reduce_sum": Operation("reduction", attributes={"axes": ..., "keepdims": True}),
    "reduce_max": Operation("reduction", attributes={"axes": ..., "keepdims": True}),
    "reduce_min": Operation("reduction", attributes={"axes": ..., "keepdims": True}),
    "reduce_l2": Operation("reduction", attributes={"axes": ..., "keepdims": True}),
    "cumsum": Operation("reduction", attributes={"axis": ..., "reverse": False, "exclusive": False}),
}


@cache
def families() -> Mapping[str, frozenset[str]]:
    """The operations of each family, by the family's name."""
    found: dict[str, set[str]] = {}
    for name, operation in VOCABULARY.items():
        found.setdefault(operation.family, set()).add(name)
    return {family: frozenset(names) for family, names in found.items()}


def default_attribute(op: str, name: str) -> Any:
    """The default of an attribute.

    Raises:
        KeyError: the operation has no such attribute, or it has no default and the reader left it out.
    """
    value = VOCABULARY[op].attributes[name]
    if value is ...:
        raise KeyError(f"{op} needs the attribute {name}")
    return value
