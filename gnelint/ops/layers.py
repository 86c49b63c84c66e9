"""Layers: linear maps, recurrences, normalisations, pooling, attention.

weight is (out, in) for linear (on the last axis), (out, in/groups, *kernel) for conv, (in, out/groups, *kernel) for
conv_transpose, (rows, width) for embedding. The parameters of bias and scale have the tensor's rank or less and
broadcast as in numpy; without them only factor acts.

A recurrent layer runs in one direction. x is (batch, time, in), the states are (batch, hidden), by default 0; y is
(batch, time, hidden), for lstm followed by the last carry where something reads it. weight is (gates * hidden, in),
recurrent (gates * hidden, hidden), rows gate by gate: input, forget, cell, output for lstm (coupled: the forget gate is
one minus the input gate; peephole, (3 * hidden), multiplies the carry into the pre-activations of the input gate and
the forget gate and the new carry into the output gate's), reset, update, new for gru (reset_after: the reset gate
multiplies U h + recurrent_bias; else it multiplies h).

Axes of a normalisation are the normalised ones; running statistics of an instance normalisation are not read.

Attention: query is (B, H, T, d) or (B, T, H*d) when packed; key and value likewise with kv_heads; scale None is
1/sqrt(d), 1.0 leaves the product as it is; with a softcap c a scaled product x becomes c tanh(x / c). A mask (a
parameter where it is constant, else an input) is what is added to the logits, or where a key is seen; it broadcasts to
(B, H, queries, keys). top of a softmax: only so many of the largest logits of a row count, the others are hidden; None
for all. Where it is not renormalised, all count in the sum and the others' probabilities are set to 0 afterwards.
"""

from __future__ import annotations

from typing import Any

from gnelint.ops.record import Joined, OnnxForm, Operation

_CONV = {"strides": ..., "pads": ..., "dilations": ..., "groups": 1}
_STATES, _GATED = ("x", "hidden?"), ("weight", "recurrent", "bias", "recurrent_bias")
_AFFINE, _RUNNING = ("scale", "bias"), ("scale", "bias", "running_mean", "running_var")
_OVER_AXES = {"axes": ..., "epsilon": 1e-5}
# exposed: written out as the root of a sum of squares with no epsilon under the root, whose derivative at 0 is infinite
_BY_ROOT = {**_OVER_AXES, "exposed": False}
_WINDOW = {"kernel": ..., "strides": ..., "pads": ..., "dilations": ...}


def _scale(xp: Any, x: Any, factor: float, reciprocal: bool, scale: Any = 1.0) -> Any:
    return factor * (x / scale if reciprocal else x * scale)


RECORDS = (
    Operation("linear", "linear", "W x + b along the last axis.", parameters=("weight", "bias")),
    Operation("conv", "linear", "A convolution.", parameters=("weight", "bias"), attributes=_CONV),
    Operation("conv_transpose", "linear", "The transpose of a convolution.", parameters=("weight", "bias"),
              attributes={**_CONV, "output_padding": ()}),
    Operation("embedding", "linear", "Rows of a table.", ("indices",), ("weight",)),
    Operation("bias", "linear", "x + factor bias.", parameters=("bias",), attributes={"factor": 1.0},
              function=Joined(lambda xp, x, factor, bias=0.0: x + factor * bias)),
    Operation("scale", "linear", "factor x scale, or factor x / scale with reciprocal.", parameters=("scale",),
              attributes={"factor": 1.0, "reciprocal": False}, function=Joined(_scale)),
    Operation("lstm", "recurrent", "A long short-term memory.", ("x", "hidden?", "carry?"), (*_GATED, "peephole"),
              {"reverse": False, "coupled": False}),
    Operation("gru", "recurrent", "A gated recurrent unit.", _STATES, _GATED, {"reverse": False, "reset_after": True}),
    Operation("rnn", "recurrent", "tanh or relu of W x + U h + b.", _STATES, _GATED,
              {"reverse": False, "activation": "tanh"}),
    Operation("batch_norm", "normalization", "Over all axes but the second.", parameters=_RUNNING,
              attributes={"epsilon": 1e-5, "training": ...}),
    Operation("layer_norm", "normalization", "Over axes of a sample.", parameters=_AFFINE, attributes=_OVER_AXES),
    Operation("group_norm", "normalization", "Over groups of channels and all positions.", parameters=_AFFINE,
              attributes={"groups": ..., "epsilon": 1e-5}),
    Operation("instance_norm", "normalization", "Over the positions of a channel.", parameters=_RUNNING,
              attributes={"epsilon": 1e-5}),
    Operation("rms_norm", "normalization", "By the root of the second moment over axes of a sample.",
              parameters=("scale",), attributes=_BY_ROOT),
    Operation("second_moment_norm", "normalization", "By the root of a channel's second moment (arXiv 2001.00254).",
              parameters=(*_AFFINE, "running_second_moment"), attributes={"epsilon": 1e-5, "training": ...}),
    Operation("l1_norm", "normalization", "Centred, by the mean absolute deviation.", parameters=_AFFINE,
              attributes=_OVER_AXES),
    Operation("l2_normalize", "normalization", "By the Euclidean norm.",
              attributes={"axes": ..., "epsilon": 1e-12, "exposed": False}),
    Operation("local_response_norm", "normalization", "By the energy of neighbouring channels.",
              attributes={"size": ..., "alpha": 1e-4, "beta": 0.75, "bias": 1.0},
              onnx=(OnnxForm("LRN", attributes={name: name for name in ("size", "alpha", "beta", "bias")},
                             defaults={"size": 1}),)),
    Operation("max_pool", "pooling", "The largest of a window.", attributes=_WINDOW),
    Operation("avg_pool", "pooling", "The mean of a window.", attributes={**_WINDOW, "count_include_pad": False}),
    Operation("lp_pool", "pooling", "The p-norm of a window.", attributes={**_WINDOW, "p": 2}),
    Operation("global_avg_pool", "pooling", "The mean of a channel.", onnx=(OnnxForm("GlobalAveragePool"),)),
    Operation("global_max_pool", "pooling", "The largest of a channel.", onnx=(OnnxForm("GlobalMaxPool"),)),
    Operation("global_lp_pool", "pooling", "The p-norm of a channel.", attributes={"p": 2},
              onnx=(OnnxForm("GlobalLpPool", attributes={"p": "p"}),)),
    Operation("adaptive_avg_pool", "pooling", "Means over a grid of windows.", attributes={"output_size": ...}),
    Operation("adaptive_max_pool", "pooling", "The largest over a grid of windows.", attributes={"output_size": ...}),
    Operation("softmax", "attention", "e^x over its sum along an axis.", parameters=("mask",),
              attributes={"axis": -1, "top": None, "renormalised": True}),
    Operation("log_softmax", "attention", "The logarithm of softmax.", attributes={"axis": -1}),
    Operation("attention", "attention", "softmax(scale Q K^T + mask) V, head by head.",
              ("query", "key", "value", "mask?"), ("mask",),
              {"scale": None, "softcap": None, "causal": False, "packed": False, "heads": None, "kv_heads": None}),
    Operation("matmul", "attention", "factor A B of two activations.", ("a", "b"),
              attributes={"transpose_a": False, "transpose_b": False, "factor": 1.0}),
    Operation("unfold", "shape", "Windows (N, C, *S) -> (N, C*prod(kernel), positions).", attributes=_WINDOW),
    Operation("fold", "shape", "The transpose of unfold: windows are added up where they overlap.", attributes=_WINDOW),
)  # fmt: skip
