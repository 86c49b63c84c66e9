"""Functions of functions of one value: regions of the graph that map one value entry by entry.

Whatever elementary operations compute of one value, in a row or along paths that meet again, is one function of it. Its
moments and its derivative are averaged on the grid of that value's own distribution (theory.fields.law); an activation
of the user's own needs nothing else. One operation by itself keeps its closed form. Source: theory 3.3.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from gnelint.ir.graph import Node
from gnelint.ops import VOCABULARY
from gnelint.theory.fields.cells import Axes, Axis, counts, refine, resample, squeeze_constant, total_average
from gnelint.theory.fields.field import Effect
from gnelint.theory.fields.gradient import Gradient, Ray, gradient_of
from gnelint.theory.fields.law import MOST, Law, root_axes, root_law
from gnelint.theory.fields.moments import Moments, Trace, grids_of
from gnelint.theory.gaussian.dual import DUAL, Dual
from gnelint.theory.gaussian.quadrature import POINTS

_SUMS = frozenset({"add", "sub", "mean"})
_KEPT = frozenset({"dropout", "expand", "reshape"})
"""What these write is what they read; a reshape, where the shape stays."""
_LINEAR = _SUMS | _KEPT | {"bias", "scale", "identity", "stop_gradient", "slice"}
_AFFINE = frozenset({"bias", "scale", "identity", "reshape"})
"""Of what is known in closed form so are these; a grid would know no more of them, at a hundred times the cost."""
_SCALAR = (
    _LINEAR
    | {"straight_through", "compare", "logical"}
    | {name for name, operation in VOCABULARY.items() if operation.function is not None}
)
_NEGLIGIBLE = 1e-4
"""Share of a sum's energy below which a summand is a constant beside the others: branches that start at zero."""


class Operation(Protocol):
    """What is asked of a component with one output."""

    @property
    def node(self) -> Node:
        """The node with its attributes and parameters."""

    @property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each output."""

    def parted(self, inputs: Sequence[Moments | None], y: Moments, g: Gradient) -> tuple[Gradient | None, ...]:
        """Gradient at every input, by the component's own formula."""


def trace_of(component: Operation, inputs: Sequence[Moments | None]) -> Trace | None:
    """How the output comes of one value; None where it is no function of a single one."""
    operands = [x for x in inputs if x is not None]
    if component.node.op not in _SCALAR or len(operands) < len(inputs):
        return None
    if component.node.op == "dropout" and not component.node.attribute("inverted"):
        return None
    if component.node.op == "reshape" and operands[0].shape != component.output_shapes[0]:
        return None
    roots = [x if x.trace is None else x.trace.root for x in operands]
    vary = [bool(x.variance.any()) for x in operands]
    if component.node.op in _SUMS and any(vary):  # beside others a small one is a constant
        most = max(x.total_second for x in operands)
        vary = [own and x.total_second > _NEGLIGIBLE * most for own, x in zip(vary, operands, strict=True)]
    some = [root for root, varies in zip(roots, vary, strict=True) if varies]
    some = some or [x.trace.root for x in operands if x.trace is not None]
    if not some or any(root is not some[0] for root in some) or not _fits(component, some[0], operands):
        return None
    live = tuple(root is some[0] for root in roots)
    behind = any(own and x.trace is not None and not x.trace.linear for own, x in zip(live, operands, strict=True))

    def find(grid: int) -> Law:
        return _applied(component, _laws(component, operands, live, grid))

    known = component.node.op in _AFFINE and not any(x.trace is not None and x.trace.composed for x in operands)
    composed = sum(live) > 1 or (behind and not known)
    return Trace(some[0], find, live, composed, component.node.op in _LINEAR and not behind)


def moments_of(trace: Trace) -> Moments | None:
    """Moments of a value by its law; None where an average is not finite."""
    if trace.grid is None:
        return None
    found = replace(trace.law(trace.grid).moments(), trace=trace)
    return found if np.isfinite(found.second).all() else None


def pulled_back(
    component: Operation, inputs: Sequence[Moments | None], y: Moments, g: Gradient, alone: bool = False
) -> tuple[Gradient | None, ...]:
    """The gradient at every input.

    Args:
        component, inputs, y, g: as `Component.backward` has them.
        alone: whether each input is held apart from what else depends on the same root.
    """
    operands = [x for x in inputs if x is not None]
    trace = y.trace
    assert trace is not None
    rays = [
        replace(ray, trace=trace, passed=_ones(trace)) if ray.trace is None else ray
        for ray in g.rays or (Ray(replace(g, rays=())),)
    ]
    found: list[Gradient | None] = []
    for index, x in enumerate(operands):
        if not trace.live[index]:
            found.append(component.parted(inputs, y, g)[index])
            continue
        arrived = x.trace is None and not alone
        own = [
            replace(ray, passed=_passed(component, operands, trace.live, index, ray), arrived=arrived) for ray in rays
        ]
        if all(ray.known for ray in own):
            found.append(gradient_of(own, x.shape))
        else:
            moved = component.parted(inputs, y, g)[index]
            found.append(None if moved is None else replace(moved, rays=tuple(own)))
    return tuple(found)


def slope_powers(
    component: Operation, inputs: Sequence[Moments | None], y: Moments
) -> tuple[float, float, float] | None:
    """E[(E_cell d)^2], E d^2 and E d^4 of the derivative d of an output by its one input, by that input's own law.

    None where the output is not known by its law.
    """
    operands = [x for x in inputs if x is not None]
    trace = y.trace
    if trace is None or not trace.composed or trace.grid is None or len(operands) != 1 or not trace.live[0]:
        return None
    if component.node.op == "slice":
        return None
    law = _applied(component, [_held(law, True) for law in _laws(component, operands, trace.live, trace.grid)])
    square = law.number.slope**2
    means = law.mean(law.number.slope) ** 2, law.mean(square), law.mean(square**2)
    first, second, fourth = (total_average(mean, law.axes) for mean in means)
    return (first, second, fourth) if np.isfinite(fourth) else None


def _ones(trace: Trace) -> np.ndarray:
    assert trace.grid is not None
    return np.ones_like(trace.law(trace.grid).number.value)


def _passed(
    component: Operation, operands: Sequence[Moments], live: Sequence[bool], index: int, ray: Ray
) -> np.ndarray | None:
    """The ray's amplitude at one input."""
    if ray.passed is None or component.node.op == "slice":
        return None
    assert ray.trace is not None
    assert ray.trace.grid is not None
    laws = _laws(component, operands, live, ray.trace.grid)
    law = _applied(component, [_held(other, place == index) for place, other in enumerate(laws)])
    target = ray.law().axes
    if any(own.size not in (1, axis.size) for own, axis in zip(law.axes, target, strict=True)):
        return None
    law = law.on(refine(_broadcast(law.axes, [axis.size for axis in target]), target))
    return np.asarray(ray.passed * law.number.slope) if law.axes == target else None


def _held(law: Law, free: bool) -> Law:
    """The law as that of the variable itself, or of a constant."""
    return law.of(Dual(law.number.value, np.full_like(law.number.value, float(free))))


def _fits(component: Operation, root: Moments, operands: Sequence[Moments]) -> bool:
    """Whether the output has the root's entries, each perhaps with several constants, and cells enough."""
    shape = component.output_shapes[0]
    if len(shape) != len(root.shape) or any(a not in (1, b) for a, b in zip(root.shape, shape, strict=True)):
        return False
    if component.node.op == "slice":
        rank = len(shape)
        if any(root.shape[axis % rank] > 1 for axis in component.node.attribute("axes")):
            return False
    elif any(len(x.shape) > len(shape) for x in operands):
        return False
    own = [root_axes(root) if (x if x.trace is None else x.trace.root) is root else x.axes for x in operands]
    axes = refine(*(_broadcast(each, shape) for each in own), *(a for a, _ in _parameters(component).values()))
    return bool(np.prod(counts(axes)) * grids_of(root)[0] * POINTS <= MOST)


def _broadcast(axes: Axes, shape: Sequence[int]) -> Axes:
    """The axes broadcast to a shape, pooled where sizes do not fit (a slice's)."""
    wide = (Axis(1),) * (len(shape) - len(axes)) + tuple(axes)
    return tuple(axis if axis.size == size else Axis(size) for axis, size in zip(wide, shape, strict=True))


def _parameters(component: Operation) -> dict[str, tuple[Axes, np.ndarray]]:
    """The constants of a node on the cells that they need."""
    numbers = getattr(component, "numbers", {})
    held = {name: np.asarray(p.array(), dtype=np.float64) for name, p in component.node.parameters.items()}
    held |= {name: number for name, number in numbers.items() if isinstance(number, np.ndarray)}
    shape, found = component.output_shapes[0], {}
    for name, array in held.items():
        array = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
        axes = tuple(Axis(n) if array.shape[i] == 1 else Axis.full(n) for i, n in enumerate(shape))
        axes, (array,) = squeeze_constant(axes, [array])
        found[name] = (axes, array)
    return found


def _laws(component: Operation, operands: Sequence[Moments], live: Sequence[bool], grid: int) -> list[Law]:
    """The laws of the operands on common cells, of those that are not live as constants."""
    known = [_own_law(x, grid) if alive else None for x, alive in zip(operands, live, strict=True)]
    if component.node.op == "slice":
        return [law for law in known if law is not None]
    shape = component.output_shapes[0]
    axes = refine(
        *(_broadcast(x.axes if law is None else law.axes, shape) for x, law in zip(operands, known, strict=True)),
        *(axes for axes, _ in _parameters(component).values()),
    )
    some = next(law for law in known if law is not None).on(axes)
    found = []
    for x, law in zip(operands, known, strict=True):
        if law is not None:
            found.append(law.on(axes))
            continue
        mean = x.flattened().with_rank(len(shape))
        value = resample(mean.mean, _broadcast(mean.axes, shape), axes)[..., None]
        found.append(some.of(Dual(value, np.zeros(1))))
    return found


def _own_law(x: Moments, grid: int) -> Law:
    return root_law(x, grid) if x.trace is None else x.trace.law(grid)


def _applied(component: Operation, laws: Sequence[Law]) -> Law:
    """The operation at the points of its operands' laws."""
    node, first = component.node, laws[0]
    numbers: dict[str, Any] = {name: node.attribute(name) for name in VOCABULARY[node.op].attributes}
    numbers |= {
        name: resample(array, axes, first.axes)[..., None] for name, (axes, array) in _parameters(component).items()
    }
    x, *rest = (law.number for law in laws)
    with np.errstate(all="ignore"):
        if node.op == "slice":
            return _sliced(component, first)
        if node.op == "stop_gradient":
            return first.of(Dual(x.value, np.zeros(1)))
        if node.op == "straight_through":
            return first.of(Dual(x.value, rest[0].slope))
        if node.op in _KEPT:
            return first
        if node.op == "compare":
            return first.of(_COMPARED[node.attribute("kind")](x.value, rest[0].value).astype(np.float64))
        if node.op == "logical":
            return first.of(_LOGICAL[node.attribute("kind")](*(law.number.value != 0 for law in laws)).astype(float))
        function = VOCABULARY[node.op].function
        assert function is not None
        return first.of(function.value(DUAL, x, *rest, **numbers))


def _sliced(component: Operation, law: Law) -> Law:
    """A slice along axes on which the root is repeated."""
    node, root = component.node, law.root
    value, slope = law.number.value, law.number.slope
    names = ("axes", "starts", "ends", "steps")
    for axis, start, end, step in zip(*(node.attribute(name) for name in names), strict=True):
        index, size = axis % len(root.shape), root.shape[axis]
        picked = np.arange(size)[slice(start, end, step)]
        cells = np.searchsorted(root.axes[index].starts, picked, side="right") - 1
        value, slope = (np.take(a, cells, axis=index) for a in (value, slope))
        axes = tuple(Axis.full(len(picked)) if i == index else a for i, a in enumerate(root.axes))
        root = root.behind(Effect.RECUT, [np.take(a, cells, axis=index) for a in root.arrays()], axes)
    return Law(root, law.weights, Dual(value, slope))


_COMPARED = {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal}
_LOGICAL = {"not": np.logical_not, "and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
