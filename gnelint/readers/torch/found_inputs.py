"""Example inputs that a module says itself: by an attribute of its kind, its configuration, or its first layer.

What a candidate is tried on has shapes only; a module whose way depends on numbers computes once.
"""

from __future__ import annotations

import inspect
import math
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Literal

import torch
from torch import nn
from torch.utils import _pytree as pytree

from gnelint.readers.torch.by_examples import write_to_copies
from gnelint.readers.torch.export import cause, quietly, untouched
from gnelint.readers.torch.input_makers import (
    BATCH,
    LENGTH,
    NO_SIZE,
    PATCHES,
    SIDE,
    Makers,
    noise_of,
    other_forms,
    tokens_of,
)
from gnelint.readers.torch.named_inputs import named
from gnelint.readers.torch.outputs import without_caches
from gnelint.readers.torch.stand_ins import stand_ins
from gnelint.records import dataclass


@dataclass(frozen=True)
class FoundInputs:
    """What a module can be called with.

    Attributes:
        args, kwargs: of its `forward`.
        source: where they are from, for people.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    source: str

    @property
    def note(self) -> str:
        """What is fed, and how to feed something else."""
        given = [("", value) for value in self.args] + list(self.kwargs.items())
        shown = ", ".join(
            f"{f'{name}=' if name else ''}{','.join(map(str, _sizes(value)))}"
            for name, value in given
            if isinstance(value, (torch.Tensor, int))
        )
        return f"inputs are {self.source}: {shown or 'none'}; --input sets others"


def find_inputs(module: nn.Module) -> FoundInputs | None:
    """What the module can be called with, None where it does not say."""
    for find in (
        _example_input_array, _of_configuration, _dummy_inputs, _default_configuration, _declared, _first_layer,
        _by_names,
    ):  # fmt: skip
        found = find(module)
        if found is not None:
            return found
    return None


def _example_input_array(module: nn.Module) -> FoundInputs | None:
    given = getattr(module, "example_input_array", None)
    return None if given is None else _as_given(given, "its example_input_array")


def _dummy_inputs(module: nn.Module) -> FoundInputs | None:
    given = getattr(module, "dummy_inputs", None)
    given = given() if callable(given) else given
    if not given or not isinstance(given, (Mapping, tuple, list, torch.Tensor)):
        return None
    found = _as_given(given, "its dummy_inputs")
    return found if accepts(module, found.args, found.kwargs) else None


def _as_given(given: Any, source: str) -> FoundInputs:
    if isinstance(given, Mapping):
        return FoundInputs((), given, source)
    return FoundInputs(tuple(given) if isinstance(given, (tuple, list)) else (given,), {}, source)


def _default_configuration(module: nn.Module) -> FoundInputs | None:
    for attribute in ("pretrained_cfg", "default_cfg"):
        configuration = getattr(module, attribute, None)
        size = configuration.get("input_size") if isinstance(configuration, Mapping) else None
        if size:
            return FoundInputs((noise_of(module, (BATCH, *size)),), {}, f"the input_size of its {attribute}")
    return None


def _declared(module: nn.Module) -> FoundInputs | None:
    """What a model of Keras on torch says: `inputs`, symbolic tensors with a shape whose free sizes are None."""
    declared = getattr(module, "inputs", None)
    if not isinstance(declared, (list, tuple)) or not declared:
        return None
    shapes = [getattr(each, "shape", None) for each in declared]
    if not all(isinstance(shape, tuple) for shape in shapes):
        return None
    made = tuple(noise_of(module, tuple(size or BATCH * 4 for size in shape or ())) for shape in shapes)
    found = FoundInputs((made[0] if len(made) == 1 else list(made),), {}, "the shapes that its `inputs` have")
    return found if accepts(module, found.args, {}) else None


def _first_layer(module: nn.Module) -> FoundInputs | None:
    """A shape that fits the first layer, where `forward` runs on it: rows, or else a sequence of rows each."""
    found = guessed(module)
    if found is None or accepts(module, found.args, {}):
        return found
    if found.args[0].dim() > 2 or not found.args[0].is_floating_point():
        return None
    steps = noise_of(module, (BATCH, LENGTH, found.args[0].shape[-1]))
    return FoundInputs((steps,), {}, _GUESSED) if accepts(module, (steps,), {}) else None


def _by_names(module: nn.Module) -> FoundInputs | None:
    """What the names of the arguments say, in the forms that `forward` runs on."""
    for args in islice(named(module), _MOST_GUESSES):
        if accepts(module, args, {}):
            return FoundInputs(args, {}, "guessed from the names of its arguments")
    return None


def guessed(module: nn.Module) -> FoundInputs | None:
    """A shape that fits the first layer, for a `forward` of one input."""
    parameters = inspect.signature(module.forward).parameters.values()
    required = [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if len(required) != 1:
        return None
    for part in module.modules():
        shape: tuple[int, ...] | None = None
        if isinstance(part, nn.modules.conv._ConvNd):
            side = {1: SIDE, 2: SIDE, 3: 16}[part.weight.dim() - 2]
            shape = (BATCH * 4, part.in_channels, *(side,) * (part.weight.dim() - 2))
        elif isinstance(part, nn.Linear):
            shape = (BATCH * 4, part.in_features)
        elif isinstance(part, nn.RNNBase):
            shape = (BATCH * 4, LENGTH, part.input_size)
        elif isinstance(part, nn.Embedding):
            tokens = tokens_of(part.num_embeddings, (BATCH * 4, LENGTH))
            return FoundInputs((tokens,), {}, _GUESSED)
        if shape is not None:
            return FoundInputs((noise_of(module, shape),), {}, _GUESSED)
    return None


_GUESSED = "guessed from its first layer"


def why_not(module: nn.Module) -> str | None:
    """How a guess at a module's inputs failed, for people."""
    guess = guessed(module)
    error = None if guess is None else _answer(module, guess.args, {})[1]
    if guess is None or error is None:
        return None
    sizes = ",".join(map(str, guess.args[0].shape))
    return f"on {sizes}, {_GUESSED}, it fails: {cause(error)}"


# --- configurations ---------------------------------------------------------------------------------------------------


def _of_configuration(module: nn.Module) -> FoundInputs | None:
    """What `forward` takes by its documentation and by the names that configurations give to sizes."""
    configuration = getattr(module, "config", None)
    if configuration is None or not hasattr(configuration, "__dict__"):
        return None
    makers = Makers(module, configuration)
    names = list(inspect.signature(module.forward).parameters)
    perhaps: dict[str, Any] = {}
    tried: set[tuple[Any, ...]] = set()
    for chosen in dict.fromkeys(_candidates(module, names)):
        waiting = [(kwargs, 0) for kwargs in reversed(list(_made(makers, chosen)))]
        while waiting:
            kwargs, repairs = waiting.pop()
            shapes = tuple((name, *_sizes(value)) for name, value in kwargs.items())
            if shapes in tried or len(tried) >= _MOST_TRIES:
                continue
            tried.add(shapes)
            answer, error = _answer(module, (), kwargs)
            if answer == "runs":
                return FoundInputs((), kwargs, "from its configuration")
            if answer == "unseen" and len(kwargs) > len(perhaps):
                perhaps = kwargs  # what comes behind the numbers that are missing may need more, hardly ever less
            if error is not None and repairs < _MOST_REPAIRS:
                mended = list(_repaired(kwargs, error, makers, names))
                waiting += [(other, repairs + 1) for other in reversed(mended)]
    return FoundInputs((), perhaps, "from its configuration") if perhaps else None


_MOST_TRIES, _MOST_REPAIRS = 100, 6
"""Calls of a module, and of those how many in a row that each follow what the last one's error says."""

_MISFITS = (
    re.compile(r"reduction dim, but got \[.*?(?P<got>\d+)\] X \[(?P<wanted>\d+),"),
    re.compile(r"normalized_shape=\[(?P<wanted>\d+)\].*size.*?(?P<got>\d+)\]"),
    re.compile(r"to have (?P<wanted>\d+) channels, but got (?P<got>\d+) channels"),
    re.compile(r"broadcast a dimension of length (?P<wanted>\d+) at -\d.*\b(?P<got>\d+)\]$"),
    re.compile(r"Sizes of tensors must match.*Expected.*? (?P<wanted>\d+).*? got (?:size )?(?P<got>\d+)"),
)
"""What torch says of a size that does not fit."""
_ONE_EXAMPLE = re.compile(r"shape '\[(?P<shape>\d+(?:, \d+)*)\]' is invalid for input of size (?P<size>\d+)")
"""What torch says where a batch of one is written into the code."""
_IMAGE_MISFIT = re.compile(r"\((\d+)\*(\d+)\) doesn't match model \((\d+)\*(\d+)\)")
_ABSENT = re.compile(
    r"NoneType|'bool' object|missing \d+ required|[Yy]ou (have|need) to (specify|provide|pass)|requires? |required|"
    r"(must|should) be (given|provided|specified)|cannot be .?None"
)
"""What is said where an argument is missing."""
_NEVER_ASKED = re.compile(
    r"(?<!class_)label|cache|past_key|position_ids|encoder_outputs|head_mask|inputs_embeds|returns?_|output_"
)
"""Arguments that nobody has to give: targets, and what stands in for others."""


def _repaired(
    kwargs: Mapping[str, Any], error: BaseException, makers: Makers, names: list[str]
) -> Iterator[dict[str, Any]]:
    """What else to try where an error says which size it wants, or that something is missing."""
    said = str(error).strip()
    for misfit in _MISFITS:
        for found in misfit.finditer(said):
            got, wanted = int(found["got"]), int(found["wanted"])
            for name, value in kwargs.items():
                if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim() > 1:
                    for shape in _resized(value, got, wanted):
                        mended = makers.noise(*shape)
                        mask = f"{name}_mask"
                        masks = _masks(mask, mended, (mask,)) if mask in kwargs else [{}]
                        yield from ({**kwargs, name: mended, **masked} for masked in masks)
    if (fixed := _ONE_EXAMPLE.search(said)) is not None:
        sizes = [int(size) for size in fixed["shape"].split(",")]
        if sizes[0] == BATCH and math.prod(sizes) == BATCH * int(fixed["size"]):
            yield pytree.tree_map_only(torch.Tensor, lambda value: value[:1], dict(kwargs))
    if (sides := _IMAGE_MISFIT.search(said)) is not None:
        rows, columns, high, wide = map(int, sides.groups())
        yield {
            name: makers.noise(*value.shape[1:-2], value.shape[-2] * high // rows, value.shape[-1] * wide // columns)
            if isinstance(value, torch.Tensor) and value.dim() > 3
            else value
            for name, value in kwargs.items()
        }
    if _ABSENT.search(said):
        lines = " ".join(frame.line or "" for frame in traceback.extract_tb(error.__traceback__)[-3:])
        left = [name for name in names if name not in kwargs and not _NEVER_ASKED.search(name)]
        for name in sorted(left, key=lambda name: not re.search(rf"\b{name}\b", f"{said} {lines}"))[:_MOST_ASKED]:
            for value in islice(makers.forms(name), _MOST_FORMS):
                yield {**kwargs, name: value}
            if (number := makers.number(name)) is not None:
                yield {**kwargs, name: number}


def _sizes(value: Any) -> tuple[int, ...]:
    """The shape of a tensor; a number as it is."""
    return tuple(value.shape) if isinstance(value, torch.Tensor) else (value,)


def _resized(value: torch.Tensor, got: int, wanted: int) -> Iterator[tuple[int, ...]]:
    """Shapes of one example where another size was wanted than a tensor had, at all axes of that size, or at one.

    Of two tensors that do not fit together either may be the wrong one; a size may have been multiplied on the way, or
    a few columns been taken off."""
    shape = tuple(value.shape[1:])
    last, found = shape[-1], list[tuple[int, ...]]()
    if got in shape and wanted in shape:  # its axes may be the other way round
        others = {got: wanted, wanted: got}
        found.append(tuple(others.get(size, size) for size in shape))
    for one, other in ((got, wanted), (wanted, got)):
        found.append(tuple(other if size == one else size for size in shape))
        places = [place for place, size in enumerate(shape) if size == one]
        found += [(*shape[:place], other, *shape[place + 1 :]) for place in places]
    if got != last and got % last == 0 and wanted * last % got == 0:
        found.append((*shape[:-1], wanted * last // got))
    if 0 < last - got <= _MOST_COLUMNS:
        found.append((*shape[:-1], wanted + last - got))
    yield from (other for other in dict.fromkeys(found) if other != shape)


_MOST_GUESSES = 40
"""Calls of a module of which only the names of arguments are known."""
_MOST_COLUMNS = 4
"""Columns at the head of each row that say where it is."""
_MOST_ASKED, _MOST_FORMS = 6, 2
"""Arguments that are tried where one is missing, and forms of each."""


def _made(makers: Makers, chosen: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The tensors of some arguments, in the usual forms first, then each in its other forms."""
    usual: dict[str, Any] = {}
    for name in chosen:
        try:
            usual[name] = makers.made(name)
        except NO_SIZE:
            usual[name] = None
    in_patches = any(name.endswith("grid_thw") for name in chosen)
    others = [
        {**usual, name: maker(makers), **masked}
        for name in chosen
        for maker in other_forms(name)
        if (maker in PATCHES) == in_patches and _has_sizes(maker, makers)
        for masked in _masks(f"{name}_mask", maker(makers), chosen)
    ]
    # a grid says how many rows there are of which image: nothing else fits, though only the numbers would tell
    for found in (*others, usual) if in_patches and others else (usual, *others):
        if found and all(value is not None for value in found.values()):
            yield found


def _masks(name: str, value: torch.Tensor, chosen: tuple[str, ...]) -> list[dict[str, torch.Tensor]]:
    """The mask of an argument, where there is one: a number a step, which the last axis has or the one before."""
    steps = dict.fromkeys(value.shape[-1:0:-1]) if name in chosen else ()
    return [{name: torch.ones(len(value), size, dtype=torch.long)} for size in steps] or [{}]


def _has_sizes(maker: Callable[[Makers], Any], makers: Makers) -> bool:
    try:
        maker(makers)
    except NO_SIZE:
        return False
    return True


_TEXT, _IMAGE = "input_ids", "pixel_values"
_MAIN = (_TEXT, _IMAGE, "input_values", "input_features", "pixel_values_videos", "past_values", "audio_values",
         "decoder_input_ids", "audio_codes", "spectrogram", "inputs", "input_points", "states")  # fmt: skip


def _candidates(module: nn.Module, names: list[str]) -> Iterator[tuple[str, ...]]:
    """Sets of inputs to try, the most likely first."""
    signature = inspect.signature(module.forward)
    required = [
        p.name for p in signature.parameters.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    said = getattr(module, "main_input_name", None)
    main = said if said in names else None
    extra = [
        name
        for name in (
            "bbox",
            "past_time_features",
            "past_observed_mask",
            "token_type_ids",
            "input_features_mask",
            "pixel_mask",
            "target_sizes",
            "mm_token_type_ids",
            "image_attention_mask",
            "pixel_attention_mask",
            "spatial_shapes",
            "lang_ids",
            *_OF_DECISIONS,
        )
        if name in names
    ]
    decoder = ["decoder_input_ids"] if "decoder_input_ids" in names else []
    firsts = [name for name in (main, *_MAIN) if name in names]
    first = list(dict.fromkeys([*([main] if main else firsts[:1]), *required]))
    yield tuple(dict.fromkeys(first))
    yield tuple(dict.fromkeys((*first, *decoder)))
    yield tuple(dict.fromkeys((*first, *extra)))
    if _TEXT in names:
        yield tuple(dict.fromkeys((_TEXT, *required)))
        yield tuple(dict.fromkeys((_TEXT, *required, *decoder)))
        for other in firsts:
            yield tuple(dict.fromkeys((_TEXT, other, *required)))
            yield tuple(dict.fromkeys((_TEXT, other, *required, *extra)))
            yield tuple(dict.fromkeys((_TEXT, other, *required, *extra, *decoder)))
            yield tuple(dict.fromkeys((_TEXT, other, *required, *decoder)))
    yield tuple(dict.fromkeys((*firsts, *required)))


_OF_DECISIONS = ("actions", "rewards", "returns_to_go", "timesteps")


_UNSEEN = (
    "data-dependent",
    "DataDependent",
    "meta tensors",
    "FakeTensor",
    "allocate",
    "unhinted",
    "concrete integers",
    "is_nonzero",
    "Expected inputs of BF16",
    ".numpy() is not supported",
)
"""What the errors of tensors without numbers say."""


def accepts(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether `forward` runs on such inputs, or fails only because they hold no numbers."""
    return _answer(module, args, kwargs)[0] != "fails"


def _answer(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], recorded: bool = False
) -> tuple[Literal["runs", "unseen", "fails"], Exception | None]:
    """What `forward` does on such inputs without numbers, and its error; "unseen" where it stops for want of them and
    the module has none either: one that has some computes once. With gradients `recorded` for one that takes them."""
    try:
        with (
            untouched(module),
            quietly(),
            torch.set_grad_enabled(recorded),
            without_caches(module),
            stand_ins(module, args, dict(kwargs), always=True) as given,
            given.mode,
        ):
            module(*given.args, **given.kwargs)
    except Exception as error:
        said = f"{type(error).__name__} {error}"
        if not recorded and "does not require grad" in said:
            return _answer(module, args, kwargs, recorded=True)
        if isinstance(error, AttributeError) or not any(word in said for word in _UNSEEN):
            return "fails", error
        if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
            return "unseen", None
        failure = _failure(module, args, kwargs)
        return ("runs", None) if failure is None else ("fails", failure)
    return "runs", None


def _failure(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Exception | None:
    """What goes wrong where the module computes."""
    args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, (args, dict(kwargs)))
    try:
        with untouched(module), quietly(), torch.no_grad(), without_caches(module):
            write_to_copies(module)
            module(*args, **kwargs)
    except Exception as error:
        return error
    return None
