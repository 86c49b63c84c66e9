"""Normalisations written out with reductions and reshapes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gnelint.fusion.statistics import (
    Root,
    axes_of,
    centred,
    divisor,
    entries,
    inverse,
    mean_of,
    plus_epsilon,
    variance,
)
from gnelint.ir.graph import Mapped, Node, Parameter
from gnelint.ir.rewriter import Rewriter
from gnelint.ops import VOCABULARY
from gnelint.records import dataclass

NEGLIGIBLE = 1e-6
"""Share of eps^2 that a second epsilon under the root may have: it is there for the derivative of the root at 0."""


@dataclass(frozen=True)
class _Norm:
    """A recognised core: factor * op(x)."""

    op: str
    x: str
    attributes: Mapping[str, Any]
    factor: float = 1.0


def fuse_normalizations(rewriter: Rewriter) -> None:
    """Replace every written-out normalisation, and take its scale and bias in where their shapes are its own.

        layer_norm          (x - mean) / sqrt(mean((x - mean)^2) + eps), over any axes; var as mean x^2 - mean^2 too
        instance_norm       the same over the spatial axes of images
        batch_norm          the same over all axes but the channel's: batch statistics, so `training`
        group_norm          reshape (N, G, ..), layer or instance norm behind the second axis, reshape back
        rms_norm            x / sqrt(mean(x^2) + eps)
        second_moment_norm  x / (sqrt(mean(x^2)) + eps) over all axes but the channel's, eps outside of the root; what
                            keeps the mean from zero is negligible against eps
        l1_norm             (x - mean) / (mean |x - mean| + eps)
        l2_normalize        x / max(||x||, eps), x / sqrt(sum x^2 + eps)

    Quotients may be products with 1/sqrt or a power of -1/2. An epsilon outside of the root where the operation has it
    inside is squared: the two agree as long as it is small against the root itself.
    """
    for node in rewriter:
        if node.op in ("div", "mul"):
            found = _core(rewriter, node)
            if found is not None:
                _absorb_affine(rewriter, _write(rewriter, node, found))
        elif node.op == "reshape":
            grouped = _group_norm(rewriter, node)
            if grouped is not None:
                _absorb_affine(rewriter, grouped)


def _core(rewriter: Rewriter, node: Node) -> _Norm | None:
    if len(node.present_inputs) != 2:
        return None
    first, second = node.present_inputs
    if node.op == "div":
        return _quotient(rewriter, first, divisor(rewriter, second), second)
    for x, other in ((first, second), (second, first)):
        root = inverse(rewriter, other)
        if root is not None:
            found = _quotient(rewriter, x, root, None)
            if found is not None:
                return found
        reciprocal = rewriter.source(other, "reciprocal")
        if reciprocal is not None:
            found = _quotient(rewriter, x, None, reciprocal.inputs[0])
            if found is not None:
                return found
    return None


def _quotient(rewriter: Rewriter, x: str, root: Root | None, plain: str | None) -> _Norm | None:
    """What x divided by a root (or by a plain value, for the L1 norm) is."""
    if root is None:
        return None if plain is None else _l1_norm(rewriter, x, plain)
    if root.norm is not None:
        if not rewriter.same(root.norm.x, x):
            return None
        count = entries(rewriter, x, root.norm.axes)
        factor = root.factor * root.norm.factor
        return _by_norm(x, root.norm.axes, count, factor, max(root.added, root.floor))
    inside = plus_epsilon(rewriter, root.inside)
    if inside is None:
        return None
    value, epsilon = inside
    outside = max(root.added, root.floor)
    squares = variance(rewriter, value)
    middle = centred(rewriter, x)
    if squares is not None and middle is not None:
        if not rewriter.same(squares.x, middle.x) or squares.axes != middle.axes or squares.factor <= 0.0:
            return None
        op, attributes = _centred_kind(rewriter, middle.x, middle.axes)
        factor = root.factor * math.sqrt(squares.factor)
        epsilon = max(epsilon / squares.factor, (outside / factor) ** 2)
        return _Norm(op, middle.x, {**attributes, "epsilon": epsilon}, 1.0 / factor)
    return _uncentred(rewriter, x, root, value, epsilon, outside)


def _uncentred(
    rewriter: Rewriter, x: str, root: Root, value: str | None, epsilon: float, outside: float
) -> _Norm | None:
    moment = mean_of(rewriter, value, "pow", 2.0)
    if moment is None or not rewriter.same(moment.x, x) or moment.factor <= 0.0:
        return None
    rank = rewriter.rank(x) or 0
    factor = root.factor * math.sqrt(moment.factor)
    by_channel = rank > 1 and moment.axes == _all_but_channel(rank)
    if by_channel and outside and epsilon <= NEGLIGIBLE * (outside / factor) ** 2:
        attributes = {"training": True, "epsilon": outside / factor}
        return _Norm("second_moment_norm", x, attributes, 1.0 / factor)
    count = entries(rewriter, x, moment.axes)
    if count is not None and math.isclose(moment.factor, count, rel_tol=1e-6) and count > 1:
        found = _by_norm(x, moment.axes, count, root.factor, max(outside, root.factor * math.sqrt(epsilon)))
    else:
        whole = max(epsilon / moment.factor, (outside / factor) ** 2)
        found = _Norm("rms_norm", x, {"axes": moment.axes, "epsilon": whole}, 1.0 / factor)
    return replace(found, attributes={**found.attributes, "exposed": True}) if epsilon == 0.0 else found


def _by_norm(x: str, axes: tuple[int, ...], count: int | None, factor: float, epsilon: float) -> _Norm:
    """x / (factor * ||x||): an RMS norm if the factor makes the norm a root mean square."""
    if count is not None and count > 1 and math.isclose(factor, count**-0.5, rel_tol=1e-5):
        return _Norm("rms_norm", x, {"axes": axes, "epsilon": epsilon**2})
    return _Norm("l2_normalize", x, {"axes": axes, "epsilon": epsilon / factor}, 1.0 / factor)


def _l1_norm(rewriter: Rewriter, x: str, plain: str) -> _Norm | None:
    inside = plus_epsilon(rewriter, plain)
    middle = centred(rewriter, x)
    if inside is None or middle is None:
        return None
    distance = mean_of(rewriter, inside[0], "abs")
    if distance is None or distance.factor <= 0.0:
        return None
    inner = centred(rewriter, distance.x)
    if inner is None or not rewriter.same(inner.x, middle.x) or not (inner.axes == middle.axes == distance.axes):
        return None
    attributes = {"axes": middle.axes, "epsilon": inside[1] / distance.factor}
    return _Norm("l1_norm", middle.x, attributes, 1.0 / distance.factor)


def _centred_kind(rewriter: Rewriter, x: str, axes: tuple[int, ...]) -> tuple[str, dict[str, Any]]:
    rank = rewriter.rank(x) or 0
    if rank > 1 and axes == _all_but_channel(rank):
        return "batch_norm", {"training": True}
    if rank >= 4 and axes == tuple(range(2, rank)):
        return "instance_norm", {}
    return "layer_norm", {"axes": axes}


def _all_but_channel(rank: int) -> tuple[int, ...]:
    return tuple(axis for axis in range(rank) if axis != 1)


def _write(rewriter: Rewriter, last: Node, norm: _Norm) -> Node:
    """Put the composite in the place of `last`; a factor that the operation does not have stands behind it."""
    if math.isclose(norm.factor, 1.0, rel_tol=1e-6):
        return rewriter.replace(last, norm.op, (norm.x,), norm.op, norm.attributes)
    inner = f"{last.name}/{norm.op}"
    value = replace(rewriter.value(last.outputs[0]), name=f"{last.outputs[0]}/{norm.op}")
    node = replace(
        last,
        name=inner,
        op=norm.op,
        inputs=(norm.x,),
        outputs=(value.name,),
        attributes=norm.attributes,
        source_op=norm.op,
        sources=(last.name,),
    )
    rewriter.insert(node, value, last)
    return rewriter.replace(last, "scale", (value.name,), norm.op, {"factor": norm.factor})


def _group_norm(rewriter: Rewriter, last: Node) -> Node | None:
    """reshape (N, C, *S) -> (N, G, ...), normalise behind the second axis, reshape back; the affine comes after it."""
    norm = rewriter.source(last.inputs[0], "instance_norm", "layer_norm")
    first = rewriter.source(norm.inputs[0], "reshape") if norm is not None else None
    if norm is None or first is None or not _is_plain(norm):
        return None
    x = first.inputs[0]
    shape, split, back = rewriter.shape(x), rewriter.shape(first.outputs[0]), rewriter.shape(last.outputs[0])
    if shape is None or split is None or back is None or len(back) != len(shape) or min(len(shape), len(split)) < 3:
        return None
    if norm.op == "layer_norm" and axes_of(rewriter, norm.inputs[0], norm.attribute("axes")) != tuple(
        range(2, len(split))
    ):
        return None
    channels, groups = shape[1], split[1]
    if not isinstance(channels, int) or not isinstance(groups, int) or channels % groups or not _agree(shape, back):
        return None
    if not _agree(shape[:1], split[:1]):
        return None
    attributes = {"epsilon": norm.attribute("epsilon")}
    if groups == channels:
        return rewriter.replace(last, "instance_norm", (x,), "instance_norm", attributes)
    return rewriter.replace(last, "group_norm", (x,), "group_norm", {**attributes, "groups": groups})


def _agree(first: tuple[int | str, ...], second: tuple[int | str, ...]) -> bool:
    """Whether no two sizes that are numbers differ."""
    return all(a == b for a, b in zip(first, second, strict=True) if isinstance(a, int) and isinstance(b, int))


def _is_plain(norm: Node) -> bool:
    """Whether the scale is all ones and the bias all zeros, as exporters fill them in."""
    for role, number in (("scale", 1.0), ("bias", 0.0)):
        parameter = norm.parameters.get(role)
        if parameter is not None and (parameter.provenance == "initializer" or not np.all(parameter.array() == number)):
            return False
    return True


def _absorb_affine(rewriter: Rewriter, norm: Node) -> None:
    """Take the scale and the bias right behind a composite into it."""
    for role in ("scale", "bias"):
        if role not in VOCABULARY[norm.op].parameters or norm.op == "scale":
            continue
        node = rewriter.next_of(norm.outputs[0], role)
        if node is None or node.attribute("factor") != 1.0 or (role == "scale" and node.attribute("reciprocal")):
            continue
        own = _own_parameter(rewriter, norm, node.parameters.get(role))
        if own is None:
            continue
        parameters = {**norm.parameters, role: own}
        norm = rewriter.replace(node, norm.op, norm.inputs, norm.source_op, norm.attributes, parameters)


def _own_parameter(rewriter: Rewriter, norm: Node, parameter: Parameter | None) -> Parameter | None:
    """The parameter in the normalisation's own shape; None if it does not vary along the right axes alone.

    That is (C,) for a normalisation that has channels. For one that has axes the shape broadcasts against the input.
    """
    shape = rewriter.shape(norm.inputs[0])
    if parameter is None or shape is None or len(parameter.shape) > len(shape):
        return None
    axes = norm.attributes.get("axes", (1,))
    padded = (1,) * (len(shape) - len(parameter.shape)) + parameter.shape
    if any(size != (shape[axis] if axis in axes else 1) for axis, size in enumerate(padded)):
        return None
    return reshaped(parameter, padded[min(axes) :] if "axes" in norm.attributes else padded[1:2])


def reshaped(parameter: Parameter, shape: tuple[int, ...]) -> Parameter:
    """The same numbers in the same order under another shape."""
    if parameter.shape == shape:
        return parameter
    return replace(parameter, shape=shape, permutation=None, load=Mapped(parameter, lambda array: array.reshape(shape)))
