"""Example inputs that a module says itself: by an attribute of its kind, its configuration, or its first layer.

What a candidate is tried on has shapes only; a module whose way depends on numbers computes once.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import nn
from torch.utils import _pytree as pytree

from gnelint.readers.torch.by_examples import write_to_copies
from gnelint.readers.torch.export import quietly, untouched
from gnelint.readers.torch.outputs import without_caches
from gnelint.readers.torch.stand_ins import stand_ins
from gnelint.records import dataclass

BATCH, LENGTH, SIDE, SAMPLES = 2, 16, 64, 4000
"""Examples, tokens, pixels of a side and samples of sound where nothing says how many."""

_FIRST_TOKEN = 3
"""Rows before it stand for padding and the like."""


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
        named = [("", value) for value in self.args] + list(self.kwargs.items())
        shown = ", ".join(
            f"{f'{name}=' if name else ''}{','.join(map(str, value.shape))}"
            for name, value in named
            if isinstance(value, torch.Tensor)
        )
        return f"inputs are {self.source}: {shown or 'none'}; --input sets others"


def find_inputs(module: nn.Module) -> FoundInputs | None:
    """What the module can be called with, None where it does not say."""
    for find in (_example_input_array, _of_configuration, _dummy_inputs, _default_configuration, _first_layer):
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
            return FoundInputs((_noise(module, (BATCH, *size)),), {}, f"the input_size of its {attribute}")
    return None


def _first_layer(module: nn.Module) -> FoundInputs | None:
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
            tokens = _tokens(part.num_embeddings, (BATCH * 4, LENGTH))
            return _accepted(module, {required[0].name: tokens}, "guessed from its first layer")
        if shape is not None:
            return _accepted(module, {required[0].name: _noise(module, shape)}, "guessed from its first layer")
    return None


def _accepted(module: nn.Module, kwargs: Mapping[str, Any], source: str) -> FoundInputs | None:
    positional = tuple(kwargs.values())
    return FoundInputs(positional, {}, source) if accepts(module, positional, {}) else None


# --- configurations ---------------------------------------------------------------------------------------------------


def _of_configuration(module: nn.Module) -> FoundInputs | None:
    """What `forward` takes by the names that configurations of transformers give to sizes."""
    configuration = getattr(module, "config", None)
    if configuration is None or not hasattr(module, "main_input_name"):
        return None
    makers = _Makers(module, configuration)
    names = list(inspect.signature(module.forward).parameters)
    perhaps: dict[str, Any] = {}
    for chosen in dict.fromkeys(_candidates(module, names)):
        for kwargs in _made(makers, chosen):
            answer = _answer(module, (), kwargs)
            if answer == "runs":
                return FoundInputs((), kwargs, "from its configuration")
            if answer == "unseen" and len(kwargs) > len(perhaps):
                perhaps = kwargs  # what comes behind the numbers that are missing may need more, hardly ever less
    return FoundInputs((), perhaps, "from its configuration") if perhaps else None


def _made(makers: _Makers, chosen: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The tensors of some arguments, in the usual forms first, then each in its other forms."""
    usual: dict[str, Any] = {}
    for name in chosen:
        try:
            usual[name] = makers.made(name)
        except (AttributeError, TypeError, KeyError):
            usual[name] = None
    in_patches = any(name.endswith("grid_thw") for name in chosen)
    others = [
        {**usual, name: maker(makers), **masked}
        for name in chosen
        for maker in _OTHER_FORMS.get(name, ())
        if (maker in _PATCHES) == in_patches and _has_sizes(maker, makers)
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


def _has_sizes(maker: Callable[[_Makers], Any], makers: _Makers) -> bool:
    try:
        maker(makers)
    except (AttributeError, TypeError, KeyError):
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
    main = module.main_input_name if module.main_input_name in names else None
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


class _Makers:
    """Tensors by the names of arguments, with the sizes of a configuration."""

    def __init__(self, module: nn.Module, configuration: Any) -> None:
        self._module = module
        parts = [configuration, *(part for part in vars(configuration).values() if hasattr(part, "to_dict"))]
        self._parts = parts

    def made(self, name: str) -> torch.Tensor:
        """The tensor of an argument.

        Raises:
            KeyError: nothing is known of an argument of this name.
        """
        return _BY_NAME[name](self)

    def size(self, *names: str, default: int | None = None) -> int:
        """The first of these sizes that the configuration, or a part of it, has."""
        for part in self._parts:
            for name in names:
                found = getattr(part, name, None)
                if isinstance(found, (list, tuple)) and found:
                    found = found[0]
                if isinstance(found, int) and not isinstance(found, bool):
                    return found
        if default is None:
            raise KeyError(names[0])
        return default

    def tokens(self) -> torch.Tensor:
        length = min(LENGTH, self.size("max_position_embeddings", "n_positions", default=LENGTH))
        return _tokens(self.size("vocab_size", "num_embeddings", default=100), (BATCH, length))

    def noise(self, *shape: int) -> torch.Tensor:
        return _noise(self._module, (BATCH, *shape))

    def pixels(self) -> torch.Tensor:
        frames = self.size("num_frames", default=0) if self.size("tubelet_size", "num_frames", default=0) else 0
        return self.noise(*((frames,) if frames else ()), *self._image())

    def large_image(self) -> torch.Tensor:
        """For a trunk that halves often."""
        return self.noise(self._channels(), 4 * SIDE, 4 * SIDE)

    def film(self) -> torch.Tensor:
        """As few frames as make a patch."""
        return self.noise(2 * self.size("tubelet_size", "temporal_patch_size", default=2), *self._image())

    def _image(self) -> tuple[int, ...]:
        for part in self._parts:
            found = getattr(part, "image_size", None)
            if isinstance(found, Mapping):
                found = (found["height"], found["width"])
            if isinstance(found, (list, tuple)) and len(found) == 2:
                return (self._channels(), int(found[0]), int(found[1]))
        side = self.size("image_size", "img_size", default=SIDE)
        return (self._channels(), side, side)

    def _channels(self) -> int:
        return self.size("num_channels", "in_channels", "in_chans", "image_channels", default=3)

    def features(self) -> torch.Tensor:
        bins = self.size("num_mel_bins", "feature_projection_input_dim", "feature_size", "n_mels", "mel_bins")
        steps = 2 * self.size("max_source_positions", default=SIDE // 2)
        channels_first = any(hasattr(part, "max_source_positions") for part in self._parts) and not any(
            hasattr(part, "num_conv_layers") for part in self._parts
        )
        return self.noise(bins, steps) if channels_first else self.noise(min(steps, 2 * SIDE), bins)

    def chunks(self) -> torch.Tensor:
        """Features of sound, as many steps as a whole number of windows has."""
        return self.noise(self.size("num_mel_bins"), 2 * self.size("n_window", default=SIDE))

    def sound(self) -> torch.Tensor:
        bins = self.size("num_mel_bins", default=0)
        return self.noise(self.size("max_length", default=SIDE), bins) if bins else self.noise(SAMPLES)

    def channels_of_sound(self) -> torch.Tensor:
        """As codecs take it, the channels of the sound apart; a length that frames of usual lengths divide."""
        return self.noise(self.size("audio_channels", default=1), 3840)

    def frames_of_sound(self) -> torch.Tensor:
        """A whole number of frames of usual lengths."""
        return self.noise(3840)

    def frames(self) -> torch.Tensor:
        """Features of sound, the steps first."""
        bins = self.size("input_dim", "input_feat_size", "feature_size", "num_mel_bins", "input_size", default=80)
        return self.noise(SIDE, bins)

    def grid(self) -> torch.Tensor:
        """Frames, rows and columns of patches, of one image."""
        side = max(_GRID, 2 * self.size("spatial_merge_size", "merge_size", default=2))
        return torch.tensor([[1, side, side]])

    def patches(self) -> torch.Tensor:
        """The patches of one image in a row each."""
        side = self.size("patch_size", default=14)
        frames = self.size("temporal_patch_size", default=1)
        return _noise(self._module, (int(self.grid().prod()), self._channels() * frames * side * side))

    def first_layers_patches(self) -> torch.Tensor:
        """The patches of one image as wide as the first layer takes them."""
        first = next(part for part in self._module.modules() if isinstance(part, nn.Linear))
        return _noise(self._module, (int(self.grid().prod()), first.in_features))

    def rows_of_patches(self) -> torch.Tensor:
        """The patches of each image in a row each."""
        side = self.size("patch_size", default=16)
        return self.noise(_GRID * _GRID, self._channels() * side * side)

    def places(self) -> torch.Tensor:
        """Column and row of each patch."""
        at = torch.arange(_GRID)
        places = torch.cartesian_prod(at, at).flip(-1)
        return places.expand(BATCH, -1, -1).contiguous()

    def embedded_patches(self) -> torch.Tensor:
        """The patches of one image as the width of the network."""
        return _noise(self._module, (int(self.grid().prod()), self.size("hidden_size", "embed_dim")))

    def pair(self) -> torch.Tensor:
        """Two images to be matched."""
        return self.noise(2, *self._image())

    def vectors(self) -> torch.Tensor:
        """Tokens as vectors."""
        return self.noise(LENGTH, self.size("hidden_size", "d_model", "dim", "embed_dim"))

    def steps(self, *names: str) -> torch.Tensor:
        """A vector a step, of the first of these sizes."""
        return self.noise(LENGTH, self.size(*names, default=1))

    def past(self) -> torch.Tensor:
        length = self.size("context_length", default=LENGTH)
        lags = max((max(getattr(part, "lags_sequence", None) or [0]) for part in self._parts), default=0)
        channels = self.size("num_input_channels", default=0) or self.size("input_size", default=1)
        alone = channels == 1 and not self.size("num_input_channels", default=0)
        return self.noise(length + lags) if alone else self.noise(length + lags, channels)


_GRID = 4
"""Rows and columns of patches, at least."""

_VECTORS = ("query_embeds", "inputs_embeds", "noise_embeds", "hidden_states", "context_hidden_states", "latents")
"""Arguments that are tokens as vectors."""

_BY_NAME: Mapping[str, Callable[[_Makers], torch.Tensor]] = {
    **dict.fromkeys(("input_ids", "decoder_input_ids", "inputs", "qformer_input_ids"), _Makers.tokens),
    **dict.fromkeys(("token_type_ids", "mm_token_type_ids"), lambda made: torch.zeros_like(made.tokens())),
    **dict.fromkeys(("grid_thw", "image_grid_thw"), _Makers.grid),
    **dict.fromkeys(_VECTORS, _Makers.vectors),
    "states": lambda made: made.steps("state_dim"),
    "actions": lambda made: made.steps("act_dim"),
    **dict.fromkeys(("rewards", "returns_to_go"), lambda made: made.steps("reward_dim")),
    "timesteps": lambda made: torch.arange(LENGTH).expand(BATCH, LENGTH).contiguous(),
    "audio_mel": _Makers.frames,
    "audio_mel_mask": lambda made: torch.zeros(made.frames().shape[:2], dtype=torch.bool),
    "image_attention_mask": lambda made: torch.ones(*made.tokens().shape, 1, dtype=torch.long),
    "pixel_attention_mask": lambda made: torch.ones(BATCH, _GRID * _GRID, dtype=torch.long),
    **dict.fromkeys(("pixel_position_ids", "image_position_ids"), _Makers.places),
    "merge_sizes": lambda made: torch.tensor([made.size("spatial_merge_size", "merge_size", default=2)]),
    "lang_ids": lambda made: torch.zeros(BATCH, dtype=torch.long),
    **dict.fromkeys(("target_sizes", "spatial_shapes"), lambda made: torch.tensor([[_GRID, _GRID]] * BATCH)),
    **dict.fromkeys(("attention_mask", "decoder_attention_mask"), lambda made: torch.ones_like(made.tokens())),
    **dict.fromkeys(("pixel_values", "pixel_values_videos"), _Makers.pixels),
    "input_features": _Makers.features,
    "input_features_mask": lambda made: torch.ones(BATCH, made.features().shape[-1], dtype=torch.long),
    "pixel_mask": lambda made: torch.ones(BATCH, *made.pixels().shape[-2:], dtype=torch.long),
    **dict.fromkeys(("input_values", "audio_values"), _Makers.sound),
    "bbox": lambda made: torch.zeros_like(made.tokens())[..., None].expand(-1, -1, 4).contiguous(),
    "past_values": _Makers.past,
    "past_time_features": lambda made: made.noise(made.past().shape[1], made.size("num_time_features", default=1)),
    "past_observed_mask": lambda made: torch.ones_like(made.past()),
}


_PATCHES = (_Makers.patches, _Makers.embedded_patches, _Makers.first_layers_patches)
"""A row a patch."""

_OTHER_FORMS: Mapping[str, tuple[Callable[[_Makers], torch.Tensor], ...]] = {
    "pixel_values": (
        _Makers.patches,
        _Makers.first_layers_patches,
        _Makers.pair,
        lambda made: made.pixels()[:, None],
        _Makers.rows_of_patches,
        _Makers.large_image,
    ),
    "pixel_values_videos": (_Makers.film, lambda made: made.pixels()[:, None]),
    "bbox": (lambda made: torch.zeros(*made.tokens().shape, 4),),
    "hidden_states": (_Makers.patches, _Makers.embedded_patches),
    "inputs": (_Makers.sound,),
    "input_values": (_Makers.channels_of_sound, _Makers.frames_of_sound),
    "input_features": (
        _Makers.frames,
        lambda made: made.features()[:, None],
        lambda made: made.features().transpose(1, 2).contiguous(),
        _Makers.chunks,
        _Makers.vectors,
    ),
}
"""What other forms an argument of a name has; `_PATCHES` where a grid comes with it."""


def _tokens(rows: int, shape: tuple[int, ...]) -> torch.Tensor:
    first = min(_FIRST_TOKEN, rows - 1)
    count = torch.arange(math.prod(shape))
    return (first + count % max(min(rows, 100) - first, 1)).reshape(shape)


def _noise(module: nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


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
)
"""What the errors of tensors without numbers say."""


def accepts(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether `forward` runs on such inputs, or fails only because they hold no numbers."""
    return _answer(module, args, kwargs) != "fails"


def _answer(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Literal["runs", "unseen", "fails"]:
    """What `forward` does on such inputs without numbers; "unseen" where it stops for want of them and the module has
    none either: one that has some computes once."""
    try:
        with (
            untouched(module),
            quietly(),
            torch.no_grad(),
            without_caches(module),
            stand_ins(module, args, dict(kwargs), always=True) as given,
            given.mode,
        ):
            module(*given.args, **given.kwargs)
    except Exception as error:
        said = f"{type(error).__name__} {error}"
        if isinstance(error, AttributeError) or not any(word in said for word in _UNSEEN):
            return "fails"
        if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
            return "unseen"
        return "runs" if _computes(module, args, kwargs) else "fails"
    return "runs"


def _computes(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, (args, dict(kwargs)))
    try:
        with untouched(module), quietly(), torch.no_grad(), without_caches(module):
            write_to_copies(module)
            module(*args, **kwargs)
    except Exception:
        return False
    return True
