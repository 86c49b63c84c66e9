"""Lowerings of the normalisations and of the statistics they are written out with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from gnelint.readers.emitter import CannotLowerError
from gnelint.readers.lowering import add
from gnelint.readers.torch.emitter import Call, Emitter, Flow, Operand, parameter

Lowering = Callable[[Emitter, Call], Any]


def _batch_norm(em: Emitter, call: Call) -> Any:
    x = em.flow(call["input"])
    weights = {
        role: parameter(call.get(name))
        for role, name in (("scale", "weight"), ("bias", "bias"), ("running_mean", "running_mean"),
                           ("running_var", "running_var"))
    }  # fmt: skip
    operation = str(call.node.target)
    frozen = "no_training" in operation or "no_update" in operation
    training = not frozen and bool(call.get("training", True))
    if weights["running_var"] is None:
        training = True
    eps = float(call["eps"])
    if training and x.shape[0] == 1 and weights["running_var"] is None and weights["scale"] is None:
        # instance norm as ATen writes it: samples and channels folded into the channel axis of a batch of one
        found = em.emit("instance_norm", [x], call.shape, epsilon=eps)
    else:
        found = em.emit("batch_norm", [x], call.shape, parameters=weights, epsilon=eps, training=training)
    if len(call.outputs) == 1:
        return found
    if "functional" in operation:  # the last two are the running statistics, which a second call of the module reads
        return (found, *(None for _ in call.outputs[3:]), call["running_mean"], call["running_var"])
    return (found, *(None for _ in call.outputs[1:]))


def _instance_norm(em: Emitter, call: Call) -> Operand:
    weights = {"scale": parameter(call["weight"]), "bias": parameter(call["bias"])}
    weights |= {name: parameter(call[name]) for name in ("running_mean", "running_var")}
    if call["use_input_stats"]:
        return em.emit("instance_norm", [call["input"]], call.shape, parameters=weights, epsilon=float(call["eps"]))
    return em.emit(
        "batch_norm", [call["input"]], call.shape, parameters=weights, epsilon=float(call["eps"]), training=False
    )


def _group_norm(em: Emitter, call: Call) -> Any:
    groups = call["num_groups"] if "num_groups" in call.arguments else call["group"]
    weights = {"scale": parameter(call["weight"]), "bias": parameter(call["bias"])}
    found = em.emit(
        "group_norm", [call["input"]], call.shape, parameters=weights, groups=int(groups), epsilon=float(call["eps"])
    )
    return found if len(call.outputs) == 1 else (found, None, None)


def _layer_norm(em: Emitter, call: Call) -> Any:
    weights = {"scale": parameter(call["weight"]), "bias": parameter(call["bias"])}
    found = em.emit(
        "layer_norm", [call["input"]], call.shape, parameters=weights, axes=_last(call), epsilon=float(call["eps"])
    )
    return found if len(call.outputs) == 1 else (found, None, None)


def _rms_norm(em: Emitter, call: Call) -> Any:
    eps = call["eps"]
    if eps is None:
        eps = torch.finfo(getattr(torch, call.dtype)).eps
    weights = {"scale": parameter(call["weight"])}
    found = em.emit("rms_norm", [call["input"]], call.shape, parameters=weights, axes=_last(call), epsilon=float(eps))
    return found if len(call.outputs) == 1 else (found, None)


def _second_moment_norm(em: Emitter, call: Call) -> Any:
    """The operator of `gnelint.nn`, with what it does besides."""
    weights = {"scale": parameter(call["weight"]), "bias": parameter(call["bias"])}
    found: Operand = em.emit(
        "second_moment_norm",
        [call["x"]],
        call.shape,
        parameters=weights,
        epsilon=float(call["eps"]),
        training=True,
    )
    if call["residual"] is not None:
        found = add(em, found, call["residual"], call.shape)
    if call["relu"]:
        found = em.emit("relu", [found], call.shape)
    return found, None


def _last(call: Call) -> tuple[int, ...]:
    rank = len(call.shape)
    return tuple(range(rank - len(call["normalized_shape"]), rank))


def reduced_axes(call: Call, rank: int, name: str = "dim") -> tuple[int, ...]:
    """The axes that a reduction runs over, counted from 0; all of them where none is named."""
    dims = call.get(name)
    if dims is None or (isinstance(dims, (list, tuple)) and len(dims) == 0):
        return tuple(range(rank))
    return tuple(sorted(dim % max(rank, 1) for dim in ([dims] if isinstance(dims, int) else dims)))


def _variance(em: Emitter, x: Flow, call: Call) -> tuple[Operand, Operand]:
    """The mean and the variance along the call's axes, both with these axes kept."""
    axes = reduced_axes(call, len(x.shape))
    sizes = [x.shape[axis] for axis in axes]
    if not all(isinstance(size, int) for size in sizes):
        raise CannotLowerError("a variance over a symbolic number of entries")
    count = math.prod(int(size) for size in sizes)
    correction = call.get("correction")
    if "unbiased" in call.arguments:
        correction = int(bool(call["unbiased"]))
    correction = 1.0 if correction is None else float(correction)
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
    mean = em.emit("reduce_mean", [x], kept, axes=axes, keepdims=True)
    squares = em.emit("pow", [em.emit("sub", [x, mean], x.shape)], x.shape, exponent=2.0)
    variance = em.emit("reduce_mean", [squares], kept, axes=axes, keepdims=True)
    # of one value the unbiased variance is 0/0, which rules speak of
    return mean, em.scale(variance, count / (count - correction) if count > correction else math.inf)


def _moments(root: bool, with_mean: bool) -> Lowering:
    def lower(em: Emitter, call: Call) -> Any:
        x = em.flow(call["self"])
        mean, statistic = _variance(em, x, call)
        if root:
            statistic = em.emit("sqrt", [statistic], statistic.shape)
        statistic = em.reshape(statistic, call.shape)
        return (statistic, em.reshape(mean, call.shape)) if with_mean else statistic

    return lower


NORMALIZATION_OPS: Mapping[str, Lowering] = {
    **dict.fromkeys(("batch_norm", "native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm",
                     "_native_batch_norm_legit", "_native_batch_norm_legit_functional",
                     "_native_batch_norm_legit_no_training", "_batch_norm_with_update",
                     "_batch_norm_with_update_functional", "_batch_norm_no_update"), _batch_norm),
    "instance_norm": _instance_norm,
    **dict.fromkeys(("group_norm", "native_group_norm"), _group_norm),
    **dict.fromkeys(("layer_norm", "native_layer_norm"), _layer_norm),
    **dict.fromkeys(("rms_norm", "_fused_rms_norm"), _rms_norm),
    "second_moment_norm": _second_moment_norm,
    "var": _moments(root=False, with_mean=False),
    "std": _moments(root=True, with_mean=False),
    "var_mean": _moments(root=False, with_mean=True),
    "std_mean": _moments(root=True, with_mean=True),
}  # fmt: skip
