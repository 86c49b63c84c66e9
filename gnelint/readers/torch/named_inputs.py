"""Example inputs by the names of a `forward`'s arguments, where neither the module nor a configuration says more.

An argument called `img` is a picture, one called `src` a row of words where there is a table of them. Each has a few
forms; which of them fit together only the module can tell.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
from torch import nn

from gnelint.readers.torch.input_makers import BATCH, LENGTH, noise_of, tokens_of

MOST_REQUIRED = 4
"""Arguments of a module that are guessed together."""
_SIDES = (224, 256, 64, 32, 128, 28)
"""Rows and columns of pictures, where no part of the module says how many."""
_WIDTHS = 4
"""Layers whose width may be that of an input."""
_SAID_SIDES = ("image_size", "img_size", "input_size", "input_resolution")


def named(module: nn.Module) -> Iterator[tuple[torch.Tensor, ...]]:
    """What the required arguments may be, each in every form that its name allows; nothing where one has none."""
    parameters = inspect.signature(module.forward).parameters.values()
    required = [p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if 0 < len(required) <= MOST_REQUIRED and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        yield from product(*(tuple(_forms(module, p.name)) for p in required))


def _forms(module: nn.Module, name: str) -> Iterator[torch.Tensor]:
    for known, makers in _BY_NAME:
        if known.fullmatch(name.lower()):
            for maker in makers:
                yield from maker(module)
            return


def _pictures(module: nn.Module) -> Iterator[torch.Tensor]:
    conv = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    for channels in (3, 1) if conv is None else (conv.in_channels,):
        for side in dict.fromkeys((*_said_sides(module), *_SIDES)):
            yield noise_of(module, (BATCH, channels, side, side))


def _pictures_for_a_conv(module: nn.Module) -> Iterator[torch.Tensor]:
    if any(isinstance(part, nn.Conv2d) for part in module.modules()):
        yield from _pictures(module)


def _said_sides(module: nn.Module) -> Iterator[int]:
    for part in module.modules():
        for attribute in _SAID_SIDES:
            found = vars(part).get(attribute)
            found = found[0] if isinstance(found, (tuple, list)) and found else found
            if isinstance(found, int) and found > 0:
                yield found


def _words(module: nn.Module) -> Iterator[torch.Tensor]:
    rows = [part.num_embeddings for part in module.modules() if isinstance(part, nn.Embedding)]
    if rows:
        yield tokens_of(min(rows), (BATCH, min(LENGTH, *rows)))


def _vectors(module: nn.Module) -> Iterator[torch.Tensor]:
    """A vector a step, and a vector an example, as wide as what the first layers read."""
    widths: Sequence[int] = [part.in_features for part in module.modules() if isinstance(part, nn.Linear)]
    for width in tuple(dict.fromkeys(widths))[:_WIDTHS]:
        yield noise_of(module, (BATCH, LENGTH, width))
        yield noise_of(module, (BATCH * 4, width))


def _edges(module: nn.Module) -> Iterator[torch.Tensor]:
    """Two neighbours of each of the first examples."""
    nodes = torch.arange(BATCH * 4)
    yield torch.stack([nodes.repeat(2), torch.cat([nodes.roll(1), nodes.roll(3)])])


def _times(module: nn.Module) -> Iterator[torch.Tensor]:
    yield torch.arange(1, BATCH + 1)
    yield torch.arange(1, BATCH + 1) / (BATCH + 1)


def _classes(module: nn.Module) -> Iterator[torch.Tensor]:
    yield torch.zeros(BATCH, dtype=torch.long)


_BY_NAME: tuple[tuple[re.Pattern[str], tuple[Callable[[nn.Module], Iterator[torch.Tensor]], ...]], ...] = (
    (re.compile(r"(input_?)?(img|image|picture|photo|pixel)s?"), (_pictures,)),
    (re.compile(r"edge_index"), (_edges,)),
    (re.compile(r"t|times?|timesteps?"), (_times,)),
    (re.compile(r"y|cls|class_?(labels|ids)"), (_classes,)),
    (re.compile(r"x|inputs?|src|tgt|source|target|trg|text|words|tokens|seq|sequence|q|k|v|query|key|value|context"),
     (_words, _vectors, _pictures_for_a_conv)),
)  # fmt: skip
"""What arguments are by words in their names, the likeliest first."""
