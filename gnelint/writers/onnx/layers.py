"""The actions that change layers, made on the nodes of an ONNX model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import helper

from gnelint.fixes.edits import (
    Action,
    Array,
    CentreFilters,
    Change,
    DropBias,
    EditTensor,
    InsertScale,
    InsertSecondMoment,
    SecondMoment,
    Substitute,
    Subtract,
)
from gnelint.ir.graph import Graph, Node
from gnelint.onnxfile.nodes import own_name
from gnelint.onnxfile.types import numpy_dtype
from gnelint.records import dataclass
from gnelint.writers.base import CannotEditError
from gnelint.writers.onnx.draft import Draft, value_dtype
from gnelint.writers.onnx.formulas import pointwise
from gnelint.writers.onnx.fragments import Fragment, Sketch, affine, centred, second_moment_norm
from gnelint.writers.onnx.functions import call_second_moment_norm
from gnelint.writers.onnx.store import Store, Stores

BROADCAST_FROM = 7
"""The opset from which operands broadcast as in numpy."""
GEMM_WITHOUT_C_FROM = 11

_BIASED = frozenset({"Conv", "ConvTranspose", "Gemm"})
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_ADDS = frozenset({"Add", "Sum"})
_MEAN = 3
"""Which input of a BatchNormalization is its running mean."""
_OUT_AXIS = {"Conv": 0, "ConvTranspose": 1}

Touched = Sequence[onnx.NodeProto]


@dataclass(frozen=True)
class Workbench:
    """What actions are made with.

    Attributes:
        draft: of the model.
        stores: the places of its tensors.
        graph: of the model as it is by now.
        inline: write operations that ONNX lacks out in standard ones.
    """

    draft: Draft
    stores: Stores
    graph: Graph
    inline: bool


def edit_layer(bench: Workbench, action: Action) -> Touched:
    """Make an action; the nodes that it changed or wrote.

    Raises:
        CannotEditError: it cannot be made, and nothing was changed.
    """
    make = _ACTIONS.get(type(action))
    if make is None:
        raise CannotEditError(f"an ONNX model has no place for it ({type(action).__name__})")
    return make(bench, action)


def _drop_bias(bench: Workbench, action: DropBias) -> Touched:
    """Both changes are looked at before one is made: half of them would be another function."""
    draft = bench.draft
    if action.norm:
        for name in action.tensors:
            if draft.is_fed(name):
                raise CannotEditError(f'"{name}" is an input of the model: what the caller feeds is not known')
    drop = _bias_dropper(draft, bench.graph.node(action.node))
    move = _mean_mover(bench, action) if action.norm else None
    touched = drop()
    return touched if move is None else [*touched, *move()]


def _bias_dropper(draft: Draft, node: Node) -> Callable[[], Touched]:
    for layer in (draft.named(node.name), draft.producer(draft.value(node.outputs[0]))):
        if layer is not None and layer.op_type in _BIASED and len(layer.input) > 2 and layer.input[2]:
            return partial(_drop_operand, draft, layer, node.parameters["bias"].dtype)
    added, x = _addition(draft, node)
    return partial(_drop_addition, draft, added, x)


def _drop_operand(draft: Draft, layer: onnx.NodeProto, dtype: str) -> Touched:
    if layer.op_type == "Gemm" and draft.version < GEMM_WITHOUT_C_FROM:
        _zero_bias(draft, layer, dtype)
    else:
        draft.drop_input(layer, 2)
    return [layer]


def _drop_addition(draft: Draft, added: onnx.NodeProto, x: str) -> Touched:
    before = draft.producer(x)
    draft.bypass(added, x)
    return [] if before is None else [before]


def _batch_norm(draft: Draft, node: Node) -> onnx.NodeProto:
    """The batch normalisation of the file that a node stands for, whose statistics nothing else reads.

    Raises:
        CannotEditError: there is none.
    """
    norm = draft.producer(draft.value(node.outputs[0]))
    if norm is None or norm.op_type != "BatchNormalization":
        raise CannotEditError(f'"{node.name}" is no BatchNormalization of the main graph')
    if any(draft.readers(name) or draft.is_output(name) for name in norm.output[1:] if name):
        raise CannotEditError(f'the running statistics that "{node.name}" writes are used')
    return norm


def _mean_mover(bench: Workbench, action: DropBias) -> Callable[[], Touched]:
    """Takes a bias out of the running mean that a normalisation reads; one that others read too stays as it is."""
    draft, node = bench.draft, bench.graph.node(action.norm)
    norm = _batch_norm(draft, node)
    mean = node.parameters["running_mean"]
    numbers = action.moved(mean.array())
    if not np.all(np.isfinite(numbers.astype(np.float64))):
        raise CannotEditError(f'a number of "{mean.name}" does not fit {mean.dtype} once changed')
    name = norm.input[_MEAN]
    tensor = draft.initializer(name)
    alone = tensor is not None and len(draft.readers(name)) == list(norm.input).count(name) == 1
    if alone and not draft.is_output(name):
        edit = EditTensor(name, Subtract(action.amounts, f"the bias of {action.node}"))
        place = bench.stores.find(name)
        place.check(edit)
        return partial(_move_mean, place, edit, norm)
    return partial(_give_mean, draft, norm, numbers)


def _move_mean(place: Store, edit: EditTensor, norm: onnx.NodeProto) -> Touched:
    place.change(edit)
    return [norm]


def _give_mean(draft: Draft, norm: onnx.NodeProto, numbers: Array) -> Touched:
    old = norm.input[_MEAN]
    name = draft.unique(f"{own_name(norm)}/running_mean")
    draft.add_initializer(name, numbers.reshape(-1))
    draft.set_input(norm, _MEAN, name)
    draft.sweep([old])
    return [norm]


def _zero_bias(draft: Draft, gemm: onnx.NodeProto, dtype: str) -> None:
    """Old products need their third operand: one zero, which `beta` leaves out as well."""
    name, old = draft.unique(f"{gemm.output[0]}/no_bias"), gemm.input[2]
    draft.add_initializer(name, np.zeros(1, numpy_dtype(dtype)))
    others = [attribute for attribute in gemm.attribute if attribute.name not in ("beta", "broadcast")]
    attributes = [helper.make_attribute("beta", 0.0)]
    if draft.version < BROADCAST_FROM:
        attributes.append(helper.make_attribute("broadcast", 1))
    del gemm.attribute[:]
    gemm.attribute.extend([*others, *attributes])
    draft.set_input(gemm, 2, name)
    draft.sweep([old])


def _addition(draft: Draft, node: Node) -> tuple[onnx.NodeProto, str]:
    """The node that adds the bias and what it adds it to; it writes the canonical node's output, copies apart."""
    added = draft.producer(draft.value(node.outputs[0]))
    while added is not None and added.op_type == "Identity":
        added = draft.producer(added.input[0])
    if added is None:
        raise CannotEditError(f'"{node.name}" stands in a function or branch of the model, which stays as it is')
    flows = [name for name in added.input if not _is_constant(draft, name)]
    subtracts = added.op_type == "Sub" and flows == [added.input[0]]
    if not (added.op_type in _ADDS or subtracts) or len(added.input) != 2 or len(flows) != 1:
        raise CannotEditError(f'no node adds the bias of "{node.name}" and nothing else')
    if node.op == "bias" and flows[0] != draft.value(node.inputs[0] or ""):
        raise CannotEditError(f'"{node.name}" does not only add a bias, it changes the shape')
    return added, flows[0]


def _is_constant(draft: Draft, value: str) -> bool:
    """Whether a value depends on nothing that the caller feeds."""
    waiting, seen = [value], set()
    while waiting:
        name = waiting.pop()
        if name in seen or not name or draft.is_constant(name):
            continue
        seen.add(name)
        node = draft.producer(name)
        if node is None:
            return False
        waiting.extend(node.input)
    return True


def _insert_scale(bench: Workbench, action: InsertScale) -> Touched:
    draft, value = bench.draft, bench.draft.value(action.value)
    dtype = value_dtype(draft, value, bench.graph.values[action.value].dtype)
    name = draft.unique(f"{action.value}/scale")
    factor = draft.unique(f"{name}_factor")
    node = helper.make_node("Mul", [value, factor], [name], name=name)
    if draft.version < BROADCAST_FROM:
        node.attribute.append(helper.make_attribute("broadcast", 1))
    follow(draft, value, [node], name)
    draft.add_initializer(factor, np.array(action.factor, numpy_dtype(dtype)))
    return [node]


def follow(draft: Draft, value: str, nodes: Sequence[onnx.NodeProto], result: str) -> None:
    """Put nodes that read a value and write `result` behind it: all that read the value read the result.

    An output of the model keeps its name: then the value is what is renamed.

    Raises:
        CannotEditError: the main graph has no such value.
    """
    before = draft.producer(value)
    if before is None and not draft.is_input(value):
        raise CannotEditError(f'"{value}" is no value of the main graph in the file')
    if not draft.is_output(value):
        draft.redirect(value, result)
        draft.insert_behind(before, nodes)
        return
    if before is None:
        raise CannotEditError(f'"{value}" is an input and an output of the model')
    inner = draft.unique(f"{value}/before")
    draft.rename_output(before, value, inner)
    for node in nodes:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = {value: inner, result: value}.get(name, name)
    draft.insert_behind(before, nodes)
    draft.rename({value: inner, result: value})


def _substitute(bench: Workbench, action: Substitute) -> Touched:
    draft, node = bench.draft, bench.graph.node(action.node)
    x, y = draft.value(node.inputs[0] or ""), draft.value(node.outputs[0])
    last = _end_of(draft, node, x, y)
    if action.op == "identity":
        before = draft.producer(x)
        draft.bypass(last, x)
        return [] if before is None else [before]
    dtype = value_dtype(draft, x, bench.graph.values[node.inputs[0] or ""].dtype)
    sketch = Sketch(node.name, draft.version, dtype, draft.unique)
    return _replaced(draft, last, sketch.finished(pointwise(sketch, action.op, action.attributes, x), y))


def _end_of(draft: Draft, node: Node, x: str, y: str) -> onnx.NodeProto:
    """The last of the nodes of the file that compute y of x and of constants alone.

    Raises:
        CannotEditError: there are none.
    """
    last = draft.producer(y)
    unreachable = CannotEditError(f'"{node.name}" is not computed from "{x}" alone by nodes of the main graph')
    if last is None or x == y:
        raise unreachable
    waiting, seen = [y], {x, ""}
    while waiting:
        name = waiting.pop()
        if name in seen or draft.is_constant(name):
            continue
        seen.add(name)
        before = draft.producer(name)
        if before is None:
            raise unreachable
        waiting.extend(before.input)
    return last


def _replaced(draft: Draft, old: onnx.NodeProto, fragment: Fragment) -> Touched:
    """Put a fragment in the place of a node, of which it keeps what is said about it."""
    _add_constants(draft, fragment)
    for node in fragment.nodes:
        node.doc_string = old.doc_string
        node.metadata_props.extend(old.metadata_props)
    draft.replace_node(old, fragment.nodes)
    return fragment.nodes


def _add_constants(draft: Draft, fragment: Fragment) -> None:
    for name, array in fragment.constants.items():
        draft.add_initializer(name, array)


def _centre_filters(bench: Workbench, action: CentreFilters) -> Touched:
    draft, node = bench.draft, bench.graph.node(action.node)
    layer = _layer(draft, node)
    _needs_broadcasting(draft)
    index = 1 if _is_constant(draft, layer.input[1]) else 0
    kept = _OUT_AXIS.get(layer.op_type)
    rank = len(node.parameters["weight"].shape)
    if kept is None:  # a matrix product: (in, out) on the right, (out, in) on the left
        flipped = any(a.name == ("transB" if index else "transA") and a.i for a in layer.attribute)
        kept = int(bool(index) != flipped)
    axes = tuple(axis for axis in range(rank) if axis != kept)
    sketch = Sketch(f"{own_name(layer)}/centred", draft.version, node.parameters["weight"].dtype, draft.unique)
    result = centred(sketch, layer.input[index], axes)
    fragment = sketch.finished(result, result)
    _add_constants(draft, fragment)
    draft.insert_before(layer, fragment.nodes)
    draft.set_input(layer, index, result)
    return [layer, *fragment.nodes]


def _layer(draft: Draft, node: Node) -> onnx.NodeProto:
    """The node of the file that multiplies by a canonical layer's weight.

    Raises:
        CannotEditError: there is none in the main graph.
    """
    layer = draft.named(node.name)
    if layer is None or layer.op_type not in _WEIGHTED:
        layer = draft.producer(draft.value(node.outputs[0]))
    if layer is None or layer.op_type not in _WEIGHTED:
        raise CannotEditError(f'"{node.name}" is no convolution or matrix product of the main graph')
    return layer


def _needs_broadcasting(draft: Draft) -> None:
    if draft.version < BROADCAST_FROM:
        raise CannotEditError(f"opset {draft.version} has no broadcasting: convert the model to a newer one")


def _second_moment(bench: Workbench, action: SecondMoment) -> Touched:
    draft, node = bench.draft, bench.graph.node(action.node)
    norm = _batch_norm(draft, node)
    _needs_broadcasting(draft)
    rank, dtype = _rank(bench, node.inputs[0] or ""), _dtype(bench, node.inputs[0] or "")
    epsilon = float(node.attribute("epsilon")) ** 0.5
    if not bench.graph.training:
        return _folded(bench, node, norm, rank, dtype, epsilon)
    x, scale, bias = norm.input[:3]
    return _replaced(
        draft, norm, _norm_fragment(bench, node.name, (x, scale, bias), norm.output[0], rank, dtype, epsilon)
    )


def _norm_fragment(
    bench: Workbench, name: str, inputs: tuple[str, str, str], output: str, rank: int, dtype: str, epsilon: float
) -> Fragment:
    draft = bench.draft
    if not bench.inline:
        call = call_second_moment_norm(draft, name, inputs, output, rank, dtype, epsilon)
        if call is not None:
            return Fragment((call,), {})
    sketch = Sketch(name, draft.version, dtype, draft.unique)
    result = second_moment_norm(sketch, *inputs, rank=rank, epsilon=epsilon, like=_mixed(draft, dtype))
    return sketch.finished(result, output)


def _mixed(draft: Draft, dtype: str) -> bool:
    """Whether a normalisation's scale may have another type than its input: from opset 15, below 32 bits."""
    return draft.version >= 15 and dtype not in ("float32", "float64")


def _rank(bench: Workbench, value: str) -> int:
    shape = bench.graph.values[value].shape
    if shape is None or len(shape) < 2:
        raise CannotEditError(f'"{value}" has no known axis of channels')
    return len(shape)


def _dtype(bench: Workbench, value: str) -> str:
    return value_dtype(bench.draft, bench.draft.value(value), bench.graph.values[value].dtype)


@dataclass(frozen=True)
class _PerFilter(Change):
    """w -> factor w, with one factor for each filter along an axis."""

    factors: Array
    axis: int

    def __call__(self, array: Array) -> Array:
        shape = [1] * array.ndim
        shape[self.axis] = -1
        return np.asarray(array * self.factors.reshape(shape))

    @property
    def text(self) -> str:
        return "fold a normalisation in"


def _folded(bench: Workbench, node: Node, norm: onnx.NodeProto, rank: int, dtype: str, epsilon: float) -> Touched:
    """The inference form, x scale / (sqrt(E x^2) + epsilon) + bias: in the convolution before, else on its own."""
    draft = bench.draft
    scale, shift, mean, variance = (
        node.parameters[role].array().astype(np.float64) for role in ("scale", "bias", "running_mean", "running_var")
    )
    factors = scale / (np.sqrt(variance + mean**2) + epsilon)
    layer, before = draft.producer(norm.input[0]), bench.graph.producers.get(node.inputs[0] or "")
    kind = numpy_dtype(dtype)
    if layer is None or before is None or not _foldable(draft, layer, norm):
        sketch = Sketch(node.name, draft.version, dtype, draft.unique)
        names = [sketch.constant(array.astype(kind)) for array in (factors, shift)]
        result = affine(sketch, norm.input[0], names[0], names[1], rank)
        return _replaced(draft, norm, sketch.finished(result, norm.output[0]))
    bias = before.parameters["bias"].array().astype(np.float64) if "bias" in before.parameters else 0.0
    place = bench.stores.find(layer.input[1])
    place.change(EditTensor(layer.input[1], _PerFilter(factors, _OUT_AXIS[layer.op_type])))
    name = draft.unique(f"{own_name(layer)}/bias")
    draft.add_initializer(name, (bias * factors + shift).astype(kind))
    old = layer.input[2] if len(layer.input) > 2 else ""
    draft.set_input(layer, 2, name)
    draft.sweep([old])
    draft.bypass(norm, norm.input[0])
    return [layer]


def _foldable(draft: Draft, layer: onnx.NodeProto, norm: onnx.NodeProto) -> bool:
    """Whether a convolution is there for a normalisation alone, and its weight for it."""
    grouped = any(attribute.name == "group" and attribute.i != 1 for attribute in layer.attribute)
    return (
        layer.op_type in _OUT_AXIS
        and not (layer.op_type == "ConvTranspose" and grouped)
        and len(draft.readers(norm.input[0])) == 1
        and not draft.is_output(norm.input[0])
        and draft.initializer(layer.input[1]) is not None
        and len(draft.readers(layer.input[1])) == 1
    )


def _insert_second_moment(bench: Workbench, action: InsertSecondMoment) -> Touched:
    draft, value = bench.draft, bench.draft.value(action.value)
    if not bench.graph.training:
        raise CannotEditError("a new normalisation has no statistics yet: read the model in training mode")
    _needs_broadcasting(draft)
    rank, dtype = _rank(bench, action.value), _dtype(bench, action.value)
    if draft.producer(value) is None and not draft.is_input(value):
        raise CannotEditError(f'"{action.value}" is no value of the main graph in the file')
    name = draft.unique(f"{action.value}/second_moment_norm")
    scale, bias = (draft.unique(f"{action.value}/{role}") for role in ("scale", "bias"))
    fragment = _norm_fragment(bench, name, (value, scale, bias), name, rank, dtype, 1e-5)
    nodes = list(fragment.nodes)
    follow(draft, value, nodes, name)
    _add_constants(draft, fragment)
    for role, number in ((scale, 1.0), (bias, 0.0)):
        draft.add_initializer(role, np.full(action.channels, number, numpy_dtype(dtype)))
    return nodes


_ACTIONS: Mapping[type[Action], Callable[[Workbench, Any], Touched]] = {
    DropBias: _drop_bias,
    InsertScale: _insert_scale,
    Substitute: _substitute,
    CentreFilters: _centre_filters,
    SecondMoment: _second_moment,
    InsertSecondMoment: _insert_second_moment,
}
