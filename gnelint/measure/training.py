"""Trains a network for a few steps and watches the gradient of each layer: does what held at first go on holding?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from gnelint.measure.data import Batch
from gnelint.measure.program import WEIGHTED, Program, trainable
from gnelint.measure.tape import hooked_weights, log2, squared_norm
from gnelint.progress import Clock
from gnelint.records import dataclass

LEARNING_RATE = 0.01


@dataclass(frozen=True)
class Step:
    """One step of training.

    Attributes:
        loss: before the step.
        layers: log2 of the squared norm of each layer's weight gradient; -inf for zero.
    """

    loss: float
    layers: Mapping[str, float]

    @property
    def spread(self) -> float | None:
        """log2 of the largest over the smallest squared norm; None for fewer than two layers."""
        if len(self.layers) < 2:
            return None
        return max(self.layers.values()) - min(self.layers.values())


@dataclass(frozen=True)
class TrainingRun:
    """What became of a brief training.

    Attributes:
        steps: one for each that was taken; the last one is the first with a loss that is not finite, if there is one.
        task: what the network was trained on.
    """

    steps: tuple[Step, ...]
    task: str

    @property
    def diverged(self) -> bool:
        """Whether the loss left the range of numbers."""
        return not math.isfinite(self.steps[-1].loss)


def train(
    program: Program,
    batches: Iterator[tuple[Batch, Tensor | None]],
    steps: int,
    *,
    seed: int = 0,
    learning_rate: float = LEARNING_RATE,
    progress: Callable[[str], None] = lambda text: None,
) -> TrainingRun:
    """Take steps of plain gradient descent; the program's weights are changed.

    The loss is the cross-entropy of integer targets with an output (batch, classes, ...), or (batch, tokens, classes)
    with a target for each token; else the mean squared error. Without targets they are drawn once, so that there is
    something to fit.

    Args:
        program: the network; it is run in its own mode.
        batches: a batch and its targets for each step.
        steps: how many, at least 1.
        seed: of the targets.
        learning_rate: of the descent.
        progress: is told each step's loss.

    Raises:
        ModelError: the network cannot be run.
    """
    names = trainable(program.graph)
    taken: list[Step] = []
    task = ""
    optimizer: torch.optim.Optimizer | None = None
    clock = Clock()
    for number in range(steps):
        batch, targets = next(batches)
        output = _output(program, batch, names)
        if targets is None:
            targets, task = _drawn_targets(output, seed), _drawn_task(output)
        else:
            targets, task = targets.to(output.device), "the targets given"
        loss = _loss(output, targets)
        before = float(loss.detach())
        taken.append(Step(before, _by_layer(program, _backward(program, loss, names))))
        progress(f"step {number + 1} of {steps}: loss {before:.4g}{clock.left(number + 1, steps)}")
        if not math.isfinite(before):
            break
        optimizer = optimizer or torch.optim.SGD(program.updated, learning_rate)
        optimizer.step()
        optimizer.zero_grad()
    return TrainingRun(tuple(taken), task)


def _backward(program: Program, loss: Tensor, names: frozenset[str]) -> dict[str, float]:
    """Gather the gradients; returns log2 of each weight's squared norm, -inf for zero."""
    norms: dict[str, float] = {}

    def met(name: str, gradient: Tensor) -> None:
        norms[name] = log2(squared_norm(gradient))

    with hooked_weights(program, names, met):
        loss.backward()
    return norms


def _output(program: Program, batch: Batch, names: frozenset[str]) -> Tensor:
    """The first output, with gradients of the weights recorded."""
    seen: dict[str, Tensor] = {}

    def watch(name: str, tensor: Tensor) -> Tensor:
        if name in program.graph.outputs:
            seen[name] = tensor
        return tensor

    program.ask_gradients(names)
    program.run(batch, watch)
    return next(seen[name] for name in program.graph.outputs if name in seen)


def _loss(output: Tensor, targets: Tensor) -> Tensor:
    if targets.is_floating_point():
        return F.mse_loss(output, targets.to(output.dtype))
    if targets.shape == output.shape[:-1]:  # a class for each token: classes are the last axis
        return F.cross_entropy(output.flatten(0, -2), targets.flatten())
    return F.cross_entropy(output, targets.reshape(output.shape[0], *output.shape[2:]))


def _is_classes(output: Tensor) -> bool:
    return bool(output.dim() == 2 and output.shape[1] > 1)


def _drawn_targets(output: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if _is_classes(output):
        return torch.randint(output.shape[1], (output.shape[0],), generator=generator).to(output.device)
    return torch.randn(output.shape, generator=generator).to(output)


def _drawn_task(output: Tensor) -> str:
    return "random classes" if _is_classes(output) else "random numbers, by the squared error"


def _by_layer(program: Program, norms: Mapping[str, float]) -> dict[str, float]:
    return {
        node.name: norms[weight.name]
        for node in program.graph.gradient_nodes
        if node.op in WEIGHTED and (weight := node.parameters.get("weight")) is not None and weight.name in norms
    }
