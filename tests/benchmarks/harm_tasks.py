"""Small tasks that the networks of `tests.benchmarks.harm` are trained on.

A task gives 256 samples. The fresh form is hard enough that a hundred steps tell a good start from a bad one: the
labels come from a random teacher. The easy form is learned in a few hundred steps: clusters, or a smooth teacher.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SAMPLES = 256


@dataclass(frozen=True)
class Batch:
    """Samples: what `forward` takes, and what is to come out; the first axis of every tensor counts samples."""

    inputs: tuple[Tensor, ...]
    target: Tensor

    def take(self, index: Tensor) -> Batch:
        """Some of the samples."""
        return Batch(tuple(each[index] for each in self.inputs), self.target[index])

    def double(self) -> Batch:
        """The same in double precision."""
        inputs = tuple(each.double() if each.is_floating_point() else each for each in self.inputs)
        return Batch(inputs, self.target.double() if self.target.is_floating_point() else self.target)


@dataclass(frozen=True)
class Task:
    """What a network is to learn.

    Attributes:
        draw: samples, given a generator and whether they are to be easy.
        loss: of the network's outputs and the targets, a mean.
        trivial: the loss of a network that has learned nothing.
    """

    draw: Callable[[torch.Generator, bool], Batch]
    loss: Callable[[Any, Tensor], Tensor]
    trivial: float

    def samples(self, seed: int, easy: bool) -> Batch:
        """The samples of a seed."""
        return self.draw(torch.Generator().manual_seed(1000 + seed), easy)


def first(outputs: Any) -> Tensor:
    """The output, or the first of several."""
    return outputs if isinstance(outputs, Tensor) else outputs[0]


def cross_entropy(outputs: Any, target: Tensor) -> Tensor:
    """Over the last axis of the output."""
    logits = first(outputs)
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), target.reshape(-1))


def squared(outputs: Any, target: Tensor) -> Tensor:
    """Mean squared error of the first output."""
    return F.mse_loss(first(outputs).reshape(target.shape), target)


def classes(*shape: int, count: int = 10) -> Task:
    """N(0, 1) inputs of a shape; labels of a tanh teacher, or of clusters."""

    def draw(generator: torch.Generator, easy: bool) -> Batch:
        x = torch.randn(SAMPLES, *shape, generator=generator)
        if easy:
            y = torch.randint(0, count, (SAMPLES,), generator=generator)
            centres = _smooth(torch.randn(count, *shape, generator=generator))
            return Batch(((x + 1.5 * centres[y]) / 3.25**0.5,), y)
        return Batch((x,), (_teacher(_coarse(x), count, generator)).argmax(-1))

    return Task(draw, cross_entropy, math.log(count))


def regression(*shape: int, outputs: int = 4) -> Task:
    """N(0, 1) inputs of a shape; targets of a tanh teacher, about N(0, 1)."""

    def draw(generator: torch.Generator, easy: bool) -> Batch:
        x = torch.randn(SAMPLES, *shape, generator=generator)
        if easy:
            x = _smooth(x)
        return Batch((x,), _teacher(_coarse(x), outputs, generator, 0.5 if easy else 1.5))

    return Task(draw, squared, 1.0)


def reconstruction(*shape: int) -> Task:
    """Inputs of low rank and some noise, which are the targets as well."""

    def draw(generator: torch.Generator, easy: bool) -> Batch:
        basis = torch.randn(4 if easy else 12, *shape, generator=generator)
        z = torch.randn(SAMPLES, basis.shape[0], generator=generator)
        x = torch.tensordot(z, _smooth(basis), 1) / basis.shape[0] ** 0.5
        x = x + (0.02 if easy else 0.1) * torch.randn(x.shape, generator=generator)
        return Batch((x,), x)

    return Task(draw, squared, 1.0)


def tokens(vocabulary: int = 24, length: int = 12) -> Task:
    """Sequences of tokens; at each place the sum of this token and the one before it, or this one permuted."""

    def draw(generator: torch.Generator, easy: bool) -> Batch:
        x = torch.randint(0, vocabulary, (SAMPLES, length), generator=generator)
        shuffled = torch.randperm(vocabulary, generator=generator)
        before = torch.roll(x, 1, 1)
        before[:, 0] = 0
        return Batch((x,), shuffled[x] if easy else (x + before) % vocabulary)

    return Task(draw, cross_entropy, math.log(vocabulary))


def sequences(length: int = 10, width: int = 16, count: int = 6) -> Task:
    """Sequences of vectors; the label is that of a teacher on their mean, or of clusters."""

    def draw(generator: torch.Generator, easy: bool) -> Batch:
        x = torch.randn(SAMPLES, length, width, generator=generator)
        if easy:
            y = torch.randint(0, count, (SAMPLES,), generator=generator)
            return Batch(((x + torch.randn(count, 1, width, generator=generator)[y]) / 2**0.5,), y)
        return Batch((x,), _teacher(x.mean(1) * length**0.5, count, generator).argmax(-1))

    return Task(draw, cross_entropy, math.log(count))


def pairs(width: int = 24, count: int = 6) -> Task:
    """Two vectors; whether they are of one cluster. The network gives their squared distance first."""

    def draw(generator: torch.Generator, easy: bool) -> Batch:
        centres = torch.randn(count, width, generator=generator)
        y = torch.randint(0, count, (2, SAMPLES), generator=generator)
        y[1, ::2] = y[0, ::2]
        noise = torch.randn(2, SAMPLES, width, generator=generator) * (0.5 if easy else 1.0)
        a, b = centres[y] + noise
        return Batch((a, b), (y[0] == y[1]).float())

    def loss(outputs: Any, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(1.0 - first(outputs), target)

    return Task(draw, loss, math.log(2))


def field(dimensions: int = 2, outputs: int = 1) -> Task:
    """Coordinates in [-1, 1]; a smooth function of them."""

    def draw(generator: torch.Generator, easy: bool) -> Batch:
        x = torch.rand(SAMPLES, dimensions, generator=generator) * 2 - 1
        waves = torch.randn(6, dimensions, outputs, generator=generator) * (1.0 if easy else 4.0)
        y = torch.sin(torch.einsum("bd,kdo->bko", x, waves) + 1.0).sum(1)
        return Batch((x,), (y - y.mean(0)) / y.std(0))

    return Task(draw, squared, 1.0)


def density(width: int = 12) -> Task:
    """Vectors of a curved distribution; the loss is the negative log likelihood of (z, log determinant), in nats."""

    def draw(generator: torch.Generator, easy: bool) -> Batch:
        z = torch.randn(SAMPLES, width, generator=generator)
        spread = torch.exp((1.0 if easy else 0.5) * torch.tanh(z[:, : width // 2]))
        x = torch.cat([z[:, : width // 2], z[:, width // 2 :] * spread * 0.5 + z[:, : width // 2]], 1)
        return Batch((x,), torch.zeros(SAMPLES))

    def loss(outputs: Any, target: Tensor) -> Tensor:
        z, logdet = outputs
        return (0.5 * z.square().sum(1) - logdet + target).mean() / z.shape[1]

    return Task(draw, loss, 1.0)


def several(task: Task) -> Task:
    """A second output is to give the first input's mean as well."""

    def draw(generator: torch.Generator, easy: bool) -> Batch:
        return task.draw(generator, easy)

    def loss(outputs: Any, target: Tensor) -> Tensor:
        return task.loss(outputs[0], target) + 0.1 * outputs[1].square().mean()

    return Task(draw, loss, task.trivial)


def _teacher(x: Tensor, outputs: int, generator: torch.Generator, gain: float = 1.5) -> Tensor:
    x = x.flatten(1)
    inner = torch.randn(x.shape[1], 40, generator=generator) / x.shape[1] ** 0.5
    outer = torch.randn(40, outputs, generator=generator)
    y = torch.tanh(gain * x @ inner) @ outer
    return (y - y.mean(0)) / y.std(0)


def _smooth(x: Tensor) -> Tensor:
    """Images of low frequency, everything else as it is; of the same variance."""
    if x.dim() != 4:
        return x
    low = F.interpolate(x[:, :, ::4, ::4], size=x.shape[2:], mode="bilinear")
    return low / low.std()


def _coarse(x: Tensor) -> Tensor:
    """What a teacher sees of images: means over quarters."""
    return F.adaptive_avg_pool2d(x, 2) * (x.shape[-1] // 2) if x.dim() == 4 else x
