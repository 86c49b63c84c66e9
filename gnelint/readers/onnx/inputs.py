"""The shapes that a model is read with: what `--input` says, what the file says, and stated defaults for the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field

import onnx

from gnelint.errors import UsageError
from gnelint.ir.graph import FLOATING, Dim, Value
from gnelint.onnxfile.types import element_type, tensor_shape
from gnelint.readers.inputs import InputSpec
from gnelint.records import dataclass

CHANNELS = 3
MOST_COLOURS = 4
"""Channels of an image whose channels stand last, at most: more of them could be a side."""

HOW_TO_SET = "set it with --input"
"""In every note on a size that the file leaves open and that was assumed."""


@dataclass(frozen=True)
class Sizes:
    """What is taken for the sizes that a file leaves open: of the batch, of other axes, of the sides of an image and
    of a volume.

    Attributes:
        states: whether the second axis behind a first one that the file fixes is the batch, as it is in the state of
            a recurrent layer, (layer, batch, unit).
        given: sizes that are known, by what `BoundInputs.assumed` calls them.
    """

    batch: int = 8
    sequence: int = 128
    image: int = 224
    volume: int = 32
    states: bool = False
    given: Mapping[str, int] = field(default_factory=dict)


ASSUMED = (
    *(
        Sizes(batch, sequence, states=states)
        for sequence in (128, 512, 1024, 4096, 16_000, 64_000, 256_000)
        for batch in (8, 1)
        for states in (False, True)
    ),
    *(Sizes(image=image) for image in (48, 299, 512)),
    Sizes(volume=128),
)
"""What is tried until the model can be read: some exports name the batch but fix it to 1 inside, windows of audio are
hundreds of samples long (a second has 16,000, and some models read ten), text is recognised in lines of 48 pixels, and
some classifiers pool what is left of 299 or more."""


@dataclass
class BoundInputs:
    """The graph's inputs with every size fixed.

    Attributes:
        values: in the model's order; a value of unknown rank has shape None.
        special: types of the inputs that are no plain tensors.
        sizes: what each named size was fixed to.
        assumed: the sizes that were assumed, by name, those without one by their place.
        notes: which sizes were assumed.
    """

    values: list[Value] = field(default_factory=list)
    special: dict[str, onnx.TypeProto] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    assumed: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def bind(
    declared: Sequence[onnx.ValueInfoProto], specs: Sequence[InputSpec], assumed: Sizes = ASSUMED[0]
) -> BoundInputs:
    """Fix the shape of every input.

    Raises:
        UsageError: a spec names no input, contradicts the file, or there are more than inputs.
    """
    matched = _match(declared, specs)
    bound = BoundInputs()
    for info in declared:
        if info.name in matched:
            _check(info, matched[info.name], bound)
    for info in declared:
        dtype = element_type(info.type)
        spec = matched.get(info.name)
        if info.type.WhichOneof("value") not in ("tensor_type", None):
            bound.special[info.name] = info.type
        if spec is not None:
            bound.values.append(Value(info.name, spec.shape, dtype or spec.dtype))
        else:
            bound.values.append(Value(info.name, _default(info, dtype, bound, assumed), dtype))
    return bound


def _match(declared: Sequence[onnx.ValueInfoProto], specs: Sequence[InputSpec]) -> dict[str, InputSpec]:
    names = [info.name for info in declared]
    listing = f"The model's inputs: {', '.join(_describe(info) for info in declared) or 'none'}."
    matched: dict[str, InputSpec] = {}
    for spec in specs:
        if spec.name is not None:
            if spec.name not in names:
                raise UsageError(f"--input {spec.name}", "the model has no input of this name", listing)
            if spec.name in matched:
                raise UsageError(f"--input {spec.name}", "given twice", listing)
            matched[spec.name] = spec
    free = [name for name in names if name not in matched]
    for spec in specs:
        if spec.name is None:
            if not free:
                raise UsageError("--input", f"{len(specs)} shapes for {len(names)} inputs", listing)
            matched[free.pop(0)] = spec
    return matched


def _check(info: onnx.ValueInfoProto, spec: InputSpec, bound: BoundInputs) -> None:
    """A spec must agree with the sizes that the file fixes; it gives numbers to those that the file names."""
    subject = f"--input {info.name}={','.join(map(str, spec.shape))}"
    advice = f"The model's input is {_describe(info)}."
    shape, dtype = tensor_shape(info.type), element_type(info.type)
    if spec.dtype is not None and dtype is not None and spec.dtype != dtype:
        raise UsageError(subject, f"the type {spec.dtype} is not the model's", advice)
    if shape is None:
        return
    if len(shape) != len(spec.shape):
        raise UsageError(subject, f"{len(spec.shape)} sizes for {len(shape)} axes", advice)
    for size, given in zip(shape, spec.shape, strict=True):
        if isinstance(size, int) and size > 0 and size != given:
            raise UsageError(subject, f"the model was exported with size {size}, not {given}", advice)
        if isinstance(size, str) and bound.sizes.setdefault(size, given) != given:
            raise UsageError(subject, f'"{size}" is {bound.sizes[size]} and {given} at once', advice)


def _default(info: onnx.ValueInfoProto, dtype: str | None, bound: BoundInputs, sizes: Sizes) -> tuple[int, ...] | None:
    """The declared shape with assumed sizes where the file has none."""
    shape = tensor_shape(info.type)
    if shape is None:
        return None
    found: list[int] = []
    for axis, size in enumerate(shape):
        if isinstance(size, int) and size >= 0:  # an empty input is odd but fixed
            found.append(size)
        elif isinstance(size, str) and size in bound.sizes:
            found.append(bound.sizes[size])
        else:
            name = size if isinstance(size, str) else ""
            what = f'"{name}"' if name else f"axis {axis}"
            key = name or f'{what} of input "{info.name}"'
            assumed = sizes.given.get(key) or _assumed(name, axis, shape, dtype, sizes)
            if name:
                bound.sizes[name] = assumed
            bound.assumed[key] = assumed
            found.append(assumed)
            bound.notes.append(f'{what} of input "{info.name}" was taken as {assumed}')
    return tuple(found)


def _assumed(name: str, axis: int, shape: tuple[Dim | None, ...], dtype: str | None, sizes: Sizes) -> int:
    rank = len(shape)
    if axis == 0 or "batch" in name.lower() or (sizes.states and axis == 1 and rank == 3 and isinstance(shape[0], int)):
        return sizes.batch
    floating = dtype is None or dtype in FLOATING
    if floating and rank in (4, 5):
        last = shape[-1]
        channels = rank - 1 if isinstance(last, int) and last <= MOST_COLOURS and not isinstance(shape[1], int) else 1
        return CHANNELS if axis == channels else sizes.image if rank == 4 else sizes.volume
    return sizes.sequence


def sentence(bound: BoundInputs) -> tuple[str, ...]:
    """The assumptions as one note that says how to change them."""
    if not bound.notes:
        return ()
    example = next(
        f"{value.name}={','.join(map(str, value.shape))}"
        for value in bound.values
        if value.shape is not None and any(f'"{value.name}"' in note for note in bound.notes)
    )
    return (f"{'; '.join(bound.notes)}; {HOW_TO_SET} {example}.",)


def _describe(info: onnx.ValueInfoProto) -> str:
    shape = tensor_shape(info.type)
    sizes = "of unknown rank" if shape is None else ",".join("?" if size is None else str(size) for size in shape)
    return f"{info.name}={sizes}:{element_type(info.type) or 'no tensor'}"
