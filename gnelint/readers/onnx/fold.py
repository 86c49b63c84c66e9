"""The part of a model that depends on constants alone, kept as recipes that run when the numbers are asked for.

Shapes computed by the model itself are folded at once (they are small); a weight that is normalised, dequantised or
sliced by nodes of the model stays a recipe until somebody reads it.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import onnx

from gnelint.ir.graph import Derivation, Parameter, Provenance, Stored, TensorKind, foremost
from gnelint.onnxfile.types import STRING
from gnelint.onnxfile.weights import literal
from gnelint.readers.onnx.call import Call, OutputType
from gnelint.readers.onnx.evaluate import NUMPY_OPS, Arrays, reference
from gnelint.records import cached_property, dataclass

EAGER_ENTRIES = 1 << 16
"""A constant of at most so many entries is computed while reading."""
MAX_COMPUTED = 1 << 28
"""Entries of the largest constant that is computed at all; larger ones stay nodes."""
MAX_GROWTH = 64
"""How many times larger than its operands a large computed constant may be."""

MAX_DEPTH = 256
"""Operations in the longest chain that is left for later."""

SIZES = "sizes"
"""The `transform` of integers that the sizes of other tensors make."""

RANDOM = frozenset({"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial",
                    "Bernoulli", "Dropout"})  # fmt: skip
"""Drawn anew in every pass (dropout is neutral): never part of a recipe."""

_NOISE = frozenset({"RandomNormal", "RandomNormalLike"})
MAX_NOISE = 1 << 22
"""Entries of the largest noise that is drawn."""

_KEEPS_NUMBERS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten"})


class CannotFoldError(Exception):
    """A constant part that is not computed here: it is too large, or fails."""


@dataclass(frozen=True, eq=False)
class Step:
    """One operation on constants."""

    op_type: str
    operands: tuple[Parameter | None, ...]
    run: Callable[[Arrays], Sequence[np.ndarray]]

    @cached_property
    def types(self) -> frozenset[str]:
        """The operators that the result is made with."""
        return frozenset({self.op_type}).union(*(_types(operand) for operand in self.operands))

    @cached_property
    def depth(self) -> int:
        """Length of the longest chain of steps that must run."""
        loads = [operand.load for operand in self.operands if operand is not None]
        return 1 + max((load.step.depth for load in loads if isinstance(load, Recipe)), default=0)


@dataclass(frozen=True, eq=False)
class Recipe(Derivation):
    """The `load` of a computed parameter: output `index` of a step."""

    step: Step
    index: int

    def leaves(self) -> tuple[Parameter, ...]:
        stored = {
            operand.name: operand
            for step in steps(self)
            for operand in step.operands
            if operand is not None and not isinstance(operand.load, Recipe)
        }
        return tuple(stored.values())

    def evaluate(self, changed: Stored) -> np.ndarray:
        return evaluate(self, changed)


@dataclass(frozen=True, eq=False)
class Known(Recipe):
    """The same where the numbers are at hand."""

    array: np.ndarray

    def evaluate(self, changed: Stored) -> np.ndarray:
        return evaluate(self, changed) if changed else self.array


def _types(operand: Parameter | None) -> frozenset[str]:
    return operand.load.step.types if operand is not None and isinstance(operand.load, Recipe) else frozenset()


def evaluate(recipe: Recipe, changed: Stored) -> np.ndarray:
    """Run a recipe and what it depends on, each step once and none within another.

    Args:
        recipe: what to compute.
        changed: numbers that take the place of stored ones.
    """
    results: dict[int, Sequence[np.ndarray]] = {}
    for step in steps(recipe):
        arrays: list[np.ndarray | None] = []
        for operand in step.operands:
            if operand is not None and isinstance(operand.load, Recipe):
                stored = results[id(operand.load.step)][operand.load.index]
                arrays.append(stored if operand.permutation is None else stored.transpose(operand.permutation))
            else:
                arrays.append(None if operand is None else operand.with_stored(changed).array())
        with np.errstate(all="ignore"):
            results[id(step)] = [np.asarray(made) for made in step.run(arrays)]  # of 0-d arrays numpy makes scalars
    return results[id(recipe.step)][recipe.index]


def steps(recipe: Recipe) -> list[Step]:
    """All steps that a recipe needs, in an order to run them in."""
    order: dict[int, Step] = {}
    waiting: list[tuple[Step, bool]] = [(recipe.step, False)]
    while waiting:
        step, expanded = waiting.pop()
        if id(step) in order:
            continue
        if expanded:
            order[id(step)] = step
            continue
        waiting.append((step, True))
        waiting.extend(
            (operand.load.step, False)
            for operand in step.operands
            if operand is not None and isinstance(operand.load, Recipe)
        )
    return list(order.values())


def reshaped(parameter: Parameter, shape: tuple[int, ...]) -> Parameter:
    """The same numbers in another shape."""
    if parameter.shape == shape:
        return parameter
    step = Step("Reshape", (parameter,), lambda arrays: [_present(arrays[0]).reshape(shape)])
    return replace(parameter, shape=shape, load=Recipe(step, 0), permutation=None)


def computed(
    name: str,
    op_type: str,
    operands: tuple[Parameter | None, ...],
    shape: tuple[int, ...],
    dtype: str,
    run: Callable[[Arrays], Sequence[np.ndarray]],
    index: int = 0,
) -> Parameter:
    """A constant that is computed when it is read."""
    step = Step(op_type, operands, run)
    return _describe(Parameter(name, shape, dtype, Recipe(step, index)), step, operands)


def constant_of_shape(
    name: str, shape: tuple[int, ...], value: np.ndarray, dtype: str, measured: bool = False
) -> Parameter:
    """One repeated number: it takes no memory, and stands in for weights that the file does not have.

    Args:
        name, shape, value, dtype: of the result.
        measured: whether the shape is that of another tensor: then the program fills it with this number.
    """
    number = value.reshape(-1)[0] if value.size else value.dtype.type(0)
    program = measured or math.prod(shape) <= 1 or "int" in dtype or dtype == "bool"
    provenance: Provenance = "data" if program else "placeholder"
    # a placeholder stands for weights that are trained; a number of the program does not
    kind: TensorKind = "parameter" if provenance == "placeholder" else "constant"
    return Parameter(name, shape, dtype, partial(np.broadcast_to, number, shape), provenance=provenance, kind=kind)


def drawn(call: Call, name: str) -> Parameter | None:
    """Normal noise of a known shape, as one draw of it: weights that noise is added to are weights all the same.

    None for anything else: of what is drawn uniformly masks are made, which differ from pass to pass.
    """
    if call.op_type not in _NOISE:
        return None
    like = call.inputs[0] if call.inputs else None
    shape = tuple(map(int, call.get("shape") or () if like is None else like.shape or ()))
    if not 1 < math.prod(shape) <= MAX_NOISE or call.dtype is None or not call.dtype.startswith("float"):
        return None
    mean, scale = call.get("mean", 0.0), call.get("scale", 1.0)

    def run(_: Arrays) -> Sequence[np.ndarray]:
        draws = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
        return [(mean + scale * draws).astype(call.dtype)]

    step = Step(call.op_type, (), run)
    return _describe(Parameter(name, shape, call.dtype, Recipe(step, 0)), step, ())


def fold(call: Call, names: Sequence[str], version_of: Mapping[str, int]) -> tuple[Parameter, ...]:
    """The outputs of an operation on constants.

    Args:
        call: all its inputs are constants (or left out).
        names: for the results.
        version_of: the opset versions in force, by domain.

    Raises:
        CannotFoldError: the operation stays a node.
    """
    if call.op_type in _ENDLESS:
        raise CannotFoldError(f"{call.op_type} may take any time")
    operands = tuple(operand if isinstance(operand, Parameter) else None for operand in call.inputs)
    decides = any(output.dtype is None or not output.dtype.startswith("float") for output in call.outputs)
    if decides and any(operand is not None and operand.transform == "random" for operand in operands):
        raise CannotFoldError(f"{call.op_type} decides by what is drawn")
    simple = _same_numbers(call, operands, names)
    if simple is not None:
        return simple
    size = sum(operand.size for operand in operands if operand is not None)
    known = [_entries(output) for output in call.outputs]
    if any(count is not None and count > max(EAGER_ENTRIES, min(MAX_COMPUTED, MAX_GROWTH * size)) for count in known):
        raise CannotFoldError(
            f"{call.op_type} makes a constant of shape {call.outputs[known.index(max_of(known))].shape}"
        )
    run = _runner(call, version_of)
    step = Step(call.op_type, operands, run)
    if step.depth > MAX_DEPTH:
        raise CannotFoldError(f"a chain of more than {MAX_DEPTH} operations on constants")
    small = size <= EAGER_ENTRIES and all(count is None or count <= EAGER_ENTRIES for count in known)
    if small and (None not in known or call.op_type not in _UNBOUNDED):
        return _eager(step, call, names, operands)
    found = []
    for index, (name, output) in enumerate(zip(names, call.outputs, strict=True)):
        shape = output.shape
        if shape is None or output.dtype is None or _entries(output) is None:
            raise CannotFoldError(f"the shape of a constant that {call.op_type} makes is not known")
        parameter = Parameter(name, tuple(int(n) for n in shape), output.dtype, Recipe(step, index))
        found.append(_describe(parameter, step, operands))
    return tuple(found)


_UNBOUNDED = frozenset({"Expand", "Tile", "Pad", "Resize", "Upsample", "OneHot", "CenterCropPad", "AffineGrid",
                        "ConstantOfShape", "Loop", "Scan", "BlackmanWindow", "HannWindow", "HammingWindow",
                        "MelWeightMatrix", "DFT", "STFT"})  # fmt: skip
"""Their results may be far larger than their operands: not run before the size is known."""


_ENDLESS = frozenset({"RegexFullMatch"})
"""What a short text can keep busy for years: an expression such as (a+)+ is tried in as many ways as there are."""


def max_of(counts: Sequence[int | None]) -> int:
    """The largest of the counts that are known."""
    return max(count for count in counts if count is not None)


def _entries(output: OutputType) -> int | None:
    if output.shape is None or any(not isinstance(size, int) for size in output.shape):
        return None
    return math.prod(int(size) for size in output.shape)


def _present(array: np.ndarray | None) -> np.ndarray:
    assert array is not None
    return array


def _same_numbers(
    call: Call, operands: tuple[Parameter | None, ...], names: Sequence[str]
) -> tuple[Parameter, ...] | None:
    """Operations after which the tensor is still the same one: it keeps its name."""
    first = operands[0] if operands else None
    if call.domain or (first is not None and first.dtype == STRING):
        return None
    output = call.outputs[0]
    if call.op_type == "ConstantOfShape" and first is not None and output.dtype is not None:
        from onnx import numpy_helper

        if _entries(output) is None:
            return None
        value = (
            numpy_helper.to_array(call.attributes["value"].t) if "value" in call.attributes else np.zeros(1, np.float32)
        )
        shape = tuple(int(n) for n in output.shape or ())
        return (constant_of_shape(names[0], shape, value, output.dtype, measured=first.transform == SIZES),)
    if first is None:
        return None
    if call.op_type == "Identity":
        return (first,)
    if call.op_type == "Transpose":
        perm = call.get("perm") or tuple(reversed(range(len(first.shape))))
        return (first.permuted(perm),) if sorted(perm) == list(range(len(first.shape))) else None
    if call.op_type in _KEEPS_NUMBERS and output.shape is not None and _entries(output) == first.size:
        return (reshaped(first, tuple(int(n) for n in output.shape)),)
    if call.op_type == "Cast" and output.dtype is not None and _both_floating(first.dtype, output.dtype):
        run = _runner(call, {})
        step = Step("Cast", (first,), run)
        return (replace(first, dtype=output.dtype, load=Recipe(step, 0), permutation=None),)
    return None


def _both_floating(first: str, second: str) -> bool:
    return all(name in ("float64", "float32", "float16", "bfloat16") for name in (first, second))


def _eager(
    step: Step, call: Call, names: Sequence[str], operands: tuple[Parameter | None, ...]
) -> tuple[Parameter, ...]:
    arrays = [None if operand is None else operand.array() for operand in operands]
    try:
        with np.errstate(all="ignore"):
            results = [np.asarray(result) for result in step.run(arrays)]
    except CannotFoldError:
        raise
    except Exception as error:  # whatever a hostile operand makes numpy raise
        raise CannotFoldError(f"{call.op_type} of constants fails: {error}") from error
    if len(results) < len(names):
        raise CannotFoldError(f"{call.op_type} returns {len(results)} tensors")
    found = []
    for index, (name, result) in enumerate(zip(names, results, strict=False)):
        parameter = literal(name, result)
        weight_like = result.size > 1 and parameter.dtype not in (STRING, "bool") and "int" not in parameter.dtype
        if weight_like:
            parameter = _describe(replace(parameter, load=Known(step, index, result)), step, operands)
        elif any(operand is not None and operand.transform == SIZES for operand in operands):
            parameter = replace(parameter, transform=SIZES)
        found.append(parameter)
    return tuple(found)


def _runner(call: Call, version_of: Mapping[str, int]) -> Callable[[Arrays], Sequence[np.ndarray]]:
    function = NUMPY_OPS.get(call.op_type) if not call.domain else None
    if function is not None:
        return partial(function, call)
    if any(output.proto is not None for output in call.outputs):
        raise CannotFoldError(f"{call.op_type} makes no tensor")
    if any(attribute.type in _GRAPHS for attribute in call.attributes.values()):
        raise CannotFoldError(f"{call.op_type} has a body")
    return partial(reference, call, dict(version_of))


_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def _describe(parameter: Parameter, step: Step, operands: Sequence[Parameter | None]) -> Parameter:
    """Add where the numbers come from and how they were derived."""
    if operands and step.op_type in _WRITTEN_INTO:
        operands = operands[1:]  # the numbers are those that are written, what they are written into is the ground
    provenance: Provenance = "data"
    if any(operand is not None and operand.provenance == "placeholder" for operand in operands):
        provenance = "placeholder"
    if step.types & _NOISE:
        provenance = "initializer"
    kind = foremost(operand.kind for operand in operands if operand is not None)
    return replace(parameter, provenance=provenance, transform=_transform(step.types), kind=kind)


_WRITTEN_INTO = frozenset({"Scatter", "ScatterElements", "ScatterND"})
_VIEWS = frozenset({"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Gather",
                    "Concat", "Cast", "CastLike", "Expand", "Tile"})  # fmt: skip
_NORMS = frozenset({"ReduceL2", "LpNormalization"})
_SQUARES = frozenset({"Pow", "Mul"})
_MEAN_REMOVED = frozenset({"InstanceNormalization", "LayerNormalization", "BatchNormalization",
                           "MeanVarianceNormalization", "GroupNormalization"})  # fmt: skip


def _transform(types: frozenset[str]) -> str | None:
    """The name of a reparametrisation, by the operations it is made of.

    Weight normalisation divides by an L2 norm; weight standardisation subtracts a mean and divides by a root of a mean
    square, or calls a normalisation on the weight. Spectral normalisation divides by u^T W v, products of the weight
    with the vectors of a power iteration, which may be normalised on the way.
    """
    if types & _NOISE:
        return "random"
    if types <= _VIEWS:
        return None
    if types <= _VIEWS | {"DequantizeLinear", "QuantizeLinear"}:
        return "dequantize"
    divides = bool(types & {"Div", "Reciprocal", "Pow"})
    if divides and types & {"MatMul", "Gemm"} and types & (_NORMS | {"ReduceSum", "ReduceSumSquare", "Squeeze"}):
        return "spectral_norm"
    if types & _MEAN_REMOVED or ({"ReduceMean", "Sub", "Sqrt"} <= types and divides):
        return "weight_standardization"
    root_of_squares = "Sqrt" in types and (
        "ReduceSumSquare" in types or ("ReduceSum" in types and bool(types & _SQUARES))
    )
    if types & _NORMS or (root_of_squares and divides):
        return "weight_norm"
    return "computed"
