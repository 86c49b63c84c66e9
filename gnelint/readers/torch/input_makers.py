"""Tensors for the arguments of a `forward`, by their names and documented shapes, with the sizes of a configuration."""

from __future__ import annotations

import ast
import inspect
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

BATCH, LENGTH, SIDE, SAMPLES = 2, 16, 64, 4000
"""Examples, tokens, pixels of a side and samples of sound where nothing says how many."""

_FIRST_TOKEN = 3
"""Rows before it stand for padding and the like."""


NO_SIZE = (AttributeError, TypeError, KeyError, StopIteration, OverflowError)
"""What happens where a configuration does not say a size."""


class Makers:
    """Tensors by the names of arguments, with the sizes of a configuration."""

    def __init__(self, module: nn.Module, configuration: Any) -> None:
        self._module = module
        parts = [configuration, *(part for part in vars(configuration).values() if hasattr(part, "to_dict"))]
        self._parts = parts
        self._documented = dict(_documented(module))

    def made(self, name: str) -> torch.Tensor:
        """The tensor of an argument.

        Raises:
            KeyError: nothing is known of an argument of this name.
        """
        try:
            return _BY_NAME[name](self)
        except NO_SIZE:
            return self.as_documented(name)

    def as_documented(self, name: str) -> torch.Tensor:
        """The tensor of an argument, of the type and shape that the documentation of `forward` says.

        Raises:
            KeyError: it says none, or in words that are not understood.
        """
        kind, axes = self._documented[name]
        shape = tuple(self._extent(axis) for axis in axes)
        if name.endswith(_WORDS) and kind != "float":
            return tokens_of(self.size("vocab_size", "num_embeddings", default=100), shape)
        if "mask" in name and kind != "float" and len(shape) < 4:
            return torch.ones(shape, dtype=torch.bool if kind == "bool" else torch.long)
        if "position" in name and name.endswith("ids"):
            return torch.arange(shape[-1]).expand(shape).contiguous()
        if kind != "float" and (kind != "tensor" or name.endswith("ids")):
            return torch.zeros(shape, dtype=torch.bool if kind == "bool" else torch.long)
        return noise_of(self._module, shape)

    def forms(self, name: str) -> Iterator[torch.Tensor]:
        """The tensors that an argument may be: by its name, as it is documented, and in the other forms of its name."""
        shapes = set()
        for maker in (lambda made: made.made(name), *other_forms(name)):
            try:
                found = maker(self)
            except NO_SIZE:
                continue
            if found.shape not in shapes:
                shapes.add(found.shape)
                yield found

    def number(self, name: str) -> int | None:
        """A number of patches that an argument annotated as one says, of `LENGTH` in all; None for any other."""
        asked = inspect.signature(self._module.forward).parameters.get(name)
        is_number = asked is not None and re.search(r"\bint\b", str(asked.annotation))
        return _NUMBERS.get(name) if is_number else None

    def _extent(self, axis: ast.expr) -> int:
        """The size of an axis from the word or the formula that stands for it."""
        if isinstance(axis, ast.Constant) and isinstance(axis.value, int):
            return axis.value
        if isinstance(axis, ast.BinOp) and type(axis.op) in _ARITHMETIC:
            return _ARITHMETIC[type(axis.op)](self._extent(axis.left), self._extent(axis.right))
        if isinstance(axis, ast.Call) and len(axis.args) == 1 and isinstance(axis.args[0], ast.Attribute):
            return len(next(getattr(part, axis.args[0].attr) for part in self._parts))
        word = axis.attr if isinstance(axis, ast.Attribute) else axis.id if isinstance(axis, ast.Name) else ""
        for known, size in _AXES:
            if known.search(word):
                return size(self)
        return self.size(word, *_SYNONYMS.get(word, ()))

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
        return tokens_of(self.size("vocab_size", "num_embeddings", default=100), (BATCH, length))

    def tokens_of_channels(self) -> torch.Tensor:
        """A word a step of each channel, as codecs of sound have them."""
        count = self.size("num_codebooks", "num_channels", "n_codebooks")
        return self.tokens()[..., None].expand(-1, -1, count).contiguous()

    def noise(self, *shape: int) -> torch.Tensor:
        return noise_of(self._module, (BATCH, *shape))

    def pixels(self) -> torch.Tensor:
        frames = self.size("num_frames", default=0) if self.size("tubelet_size", "num_frames", default=0) else 0
        return self.noise(*((frames,) if frames else ()), *self.image())

    def large_image(self) -> torch.Tensor:
        """For a trunk that halves often."""
        return self.noise(self.channels(), 4 * SIDE, 4 * SIDE)

    def film(self) -> torch.Tensor:
        """As few frames as make a patch."""
        return self.noise(2 * self.size("tubelet_size", "temporal_patch_size", default=2), *self.image())

    def image(self) -> tuple[int, ...]:
        """Channels, rows and columns of an image."""
        for part in self._parts:
            found = getattr(part, "image_size", None)
            if isinstance(found, Mapping):
                found = (found["height"], found["width"])
            if isinstance(found, (list, tuple)) and len(found) == 2:
                return (self.channels(), int(found[0]), int(found[1]))
        side = self.size("image_size", "img_size", "sample_size", default=SIDE)
        return (self.channels(), side, side)

    def channels(self) -> int:
        """Of an image."""
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
        return noise_of(self._module, (int(self.grid().prod()), self.channels() * frames * side * side))

    def small_images(self) -> torch.Tensor:
        """The patches of one image as an image each."""
        side = self.size("patch_size", default=14)
        return noise_of(self._module, (int(self.grid().prod()), self.channels(), side, side))

    def row_of_patches(self) -> torch.Tensor:
        """The patches of all images beside each other, as one low image."""
        side = self.size("patch_size", default=14)
        return noise_of(self._module, (1, self.channels(), side, BATCH * _GRID * _GRID * side))

    def first_layers_patches(self) -> torch.Tensor:
        """The patches of one image as wide as the first layer takes them."""
        first = next(part for part in self._module.modules() if isinstance(part, nn.Linear))
        return noise_of(self._module, (int(self.grid().prod()), first.in_features))

    def rows_of_patches(self) -> torch.Tensor:
        """The patches of each image in a row each."""
        side = self.size("patch_size", default=16)
        return self.noise(_GRID * _GRID, self.channels() * side * side)

    def places(self) -> torch.Tensor:
        """Column and row of each patch."""
        at = torch.arange(_GRID)
        places = torch.cartesian_prod(at, at).flip(-1)
        return places.expand(BATCH, -1, -1).contiguous()

    def embedded_patches(self) -> torch.Tensor:
        """The patches of one image as the width of the network."""
        return noise_of(self._module, (int(self.grid().prod()), self.size("hidden_size", "embed_dim")))

    def pair(self) -> torch.Tensor:
        """Two images to be matched."""
        return self.noise(2, *self.image())

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
_NUMBERS = {"num_frames": 1, "height": _GRID, "width": LENGTH // _GRID}
"""How the tokens of a film lie, one a patch."""

_VECTORS = ("query_embeds", "inputs_embeds", "noise_embeds", "hidden_states", "context_hidden_states", "latents")
"""Arguments that are tokens as vectors."""

_BY_NAME: Mapping[str, Callable[[Makers], torch.Tensor]] = {
    **dict.fromkeys(("input_ids", "inputs", "qformer_input_ids"), Makers.tokens),
    **dict.fromkeys(("token_type_ids", "mm_token_type_ids"), lambda made: torch.zeros_like(made.tokens())),
    **dict.fromkeys(("grid_thw", "image_grid_thw"), Makers.grid),
    **dict.fromkeys(_VECTORS, Makers.vectors),
    "states": lambda made: made.steps("state_dim"),
    "state": lambda made: made.noise(made.size("max_state_dim", "state_dim")),
    "decoder_input_ids": Makers.tokens,
    "actions": lambda made: made.steps("act_dim"),
    **dict.fromkeys(("rewards", "returns_to_go"), lambda made: made.steps("reward_dim")),
    "timesteps": lambda made: torch.arange(LENGTH).expand(BATCH, LENGTH).contiguous(),
    "audio_mel": Makers.frames,
    "audio_mel_mask": lambda made: torch.zeros(made.frames().shape[:2], dtype=torch.bool),
    "image_attention_mask": lambda made: torch.ones(*made.tokens().shape, 1, dtype=torch.long),
    "pixel_attention_mask": lambda made: torch.ones(BATCH, _GRID * _GRID, dtype=torch.long),
    **dict.fromkeys(("pixel_position_ids", "image_position_ids"), Makers.places),
    "merge_sizes": lambda made: torch.tensor([made.size("spatial_merge_size", "merge_size", default=2)]),
    "lang_ids": lambda made: torch.zeros(BATCH, dtype=torch.long),
    "timestep": lambda made: torch.arange(1, BATCH + 1),
    "encoder_attention_mask": lambda made: torch.ones(BATCH, LENGTH, dtype=torch.bool),
    "class_labels": lambda made: torch.zeros(BATCH, dtype=torch.long),
    "guidance": lambda made: torch.ones(BATCH),
    "encoder_hidden_states": lambda made: made.noise(LENGTH, made.size(*_CONDITIONS)),
    "pooled_projections": lambda made: made.noise(made.size("pooled_projection_dim")),
    "proj_embedding": lambda made: made.noise(made.size("embedding_proj_dim", "embedding_dim")),
    **dict.fromkeys(("img_ids", "txt_ids"), lambda made: torch.zeros(LENGTH, 3)),
    "controlnet_cond": lambda made: made.noise(made.size("conditioning_channels"), 8 * SIDE, 8 * SIDE),
    **dict.fromkeys(("target_sizes", "spatial_shapes"), lambda made: torch.tensor([[_GRID, _GRID]] * BATCH)),
    **dict.fromkeys(("attention_mask", "decoder_attention_mask"), lambda made: torch.ones_like(made.tokens())),
    **dict.fromkeys(("pixel_values", "pixel_values_videos"), Makers.pixels),
    "input_features": Makers.features,
    "input_features_mask": lambda made: torch.ones(BATCH, made.features().shape[-1], dtype=torch.long),
    "pixel_mask": lambda made: torch.ones(BATCH, *made.pixels().shape[-2:], dtype=torch.long),
    **dict.fromkeys(("input_values", "audio_values"), Makers.sound),
    "bbox": lambda made: torch.zeros_like(made.tokens())[..., None].expand(-1, -1, 4).contiguous(),
    "past_values": Makers.past,
    "past_time_features": lambda made: made.noise(made.past().shape[1], made.size("num_time_features", default=1)),
    "past_observed_mask": lambda made: torch.ones_like(made.past(), dtype=torch.bool),
}


PATCHES = (Makers.patches, Makers.embedded_patches, Makers.first_layers_patches, Makers.small_images)
"""A row a patch."""

OTHER_FORMS: Mapping[str, tuple[Callable[[Makers], torch.Tensor], ...]] = {
    "pixel_values": (
        Makers.patches,
        Makers.first_layers_patches,
        Makers.small_images,
        Makers.pair,
        lambda made: made.pixels()[:, None],
        Makers.rows_of_patches,
        Makers.row_of_patches,
        Makers.large_image,
    ),
    "decoder_input_ids": (lambda made: made.as_documented("decoder_input_ids"), Makers.tokens_of_channels),
    "pixel_values_videos": (Makers.film, lambda made: made.pixels()[:, None]),
    "bbox": (lambda made: torch.zeros(*made.tokens().shape, 4),),
    "sample": (lambda made: made.noise(*made.image()),),
    "hidden_states": (lambda made: made.noise(*made.image()), Makers.patches, Makers.embedded_patches),
    "inputs": (Makers.sound,),
    "input_values": (Makers.channels_of_sound, Makers.frames_of_sound),
    "input_features": (
        Makers.frames,
        lambda made: made.features()[:, None],
        lambda made: made.features().transpose(1, 2).contiguous(),
        Makers.chunks,
        Makers.vectors,
    ),
}
"""What other forms an argument of a name has; `PATCHES` where a grid comes with it."""


_ARITHMETIC: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Mult: operator.mul, ast.Add: operator.add, ast.Sub: operator.sub, ast.FloorDiv: operator.floordiv,
}  # fmt: skip
_AXES: tuple[tuple[re.Pattern[str], Callable[[Makers], int]], ...] = (
    (re.compile("^batch"), lambda made: BATCH),
    (re.compile("num_frames"), lambda made: made.size("num_frames", default=2)),
    (re.compile("seq|len|tokens|steps|time|frames|residual|num_.*features"), lambda made: LENGTH),
    (re.compile("height|image_size"), lambda made: made.image()[1]),
    (re.compile("width"), lambda made: made.image()[2]),
    (re.compile("channel"), lambda made: made.channels()),
)
"""Sizes of axes by words in their names."""
_CONDITIONS: tuple[str, ...] = (
    "caption_channels",
    "joint_attention_dim",
    "cross_attention_input_dim",
    "text_embed_dim",
    "text_dim",
    "cap_feat_dim",
    "cross_attention_dim",
    "encoder_hid_dim",
    "cross_attention_hidden_size",
    "encoder_hidden_size",
    "embedding_dim",
    "hidden_size",
)
"""How wide what a network attends to is, by the names of that width."""

_SYNONYMS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("dim", "hidden_size", "embed_dim", "embed_dims"), ("hidden_size", "d_model", "dim", "embed_dim")),
    **dict.fromkeys(("mel_bins", "num_mel_bins", "feature_size"), ("num_mel_bins", "feature_size", "n_mels")),
    **dict.fromkeys(("feature_dim", "embed_dims"), _CONDITIONS),
    "projection_dim": ("pooled_projection_dim",),
    "num_codebooks": ("num_codebooks", "num_channels", "n_codebooks"),
}
_WORDS = ("input_ids", "codes", "tokens")
"""Ends of the names of arguments whose numbers are words."""
_ENTRY = re.compile(r"^\s*(\w+):? \( ?(?:`?(?:torch\.)?(\w*)Tensor)?", re.MULTILINE)
_SHAPE = re.compile(r"shape `?[(\[]((?:[^()\[\]`]|\([^()]*\))*)")
"""`name (torch.LongTensor of shape (batch_size, sequence_length))`, or the shape in the lines below it."""
_KINDS = {"Float": "float", "Long": "long", "Int": "long", "Bool": "bool"}


def _documented(module: nn.Module) -> Iterator[tuple[str, tuple[str, list[ast.expr]]]]:
    """The kind and the axes of each tensor whose shape the documentation of `forward` says."""
    said = inspect.getdoc(module.forward) or ""
    ends = [*(entry.start() for entry in _ENTRY.finditer(said)), len(said)][1:]
    for entry, end in zip(_ENTRY.finditer(said), ends, strict=False):
        name, kind = entry.groups()
        shape = _SHAPE.search(said, entry.end(), end)
        if kind is None or shape is None:
            continue
        try:
            axes = ast.parse(f"({re.sub(_SPACE_OF_A_NAME, '_', shape[1])},)", mode="eval").body
        except SyntaxError:
            continue
        if isinstance(axes, ast.Tuple):
            yield name, (_KINDS.get(kind, "tensor"), axes.elts)


_SPACE_OF_A_NAME = re.compile(r"(?<=[a-z]) (?=[a-z])")


def other_forms(name: str) -> tuple[Callable[[Makers], torch.Tensor], ...]:
    """What else an argument of a name may be, its documented shape the last."""
    return (*OTHER_FORMS.get(name, ()), lambda made: made.as_documented(name))


def tokens_of(rows: int, shape: tuple[int, ...]) -> torch.Tensor:
    first = min(_FIRST_TOKEN, rows - 1)
    count = torch.arange(math.prod(shape))
    return (first + count % max(min(rows, 100) - first, 1)).reshape(shape)


def noise_of(module: nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
