"""Trains a network for a few steps and watches the gradient of each layer: does what held at first go on holding?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gnelint.measure.data import Batch
from gnelint.measure.program import Program, trainable
from gnelint.measure.tape import squared_norm

LEARNING_RATE = 0.01
_WEIGHTED = frozenset({"linear", "conv", "conv_transpose", "embedding"})


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

    The loss is the cross-entropy of integer targets with an output (batch, classes, ...), else the mean squared error;
    without targets they are drawn once, so that there is something to fit.

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
    graph = program.graph
    names = trainable(graph)
    taken: list[Step] = []
    task = ""
    for number in range(steps):
        batch, targets = next(batches)
        output = _output(program, batch, names)
        if targets is None:
            targets, task = _drawn_targets(output, seed), _drawn_task(output)
        else:
            targets, task = targets.to(output.device), "the targets given"
        loss = _loss(output, targets)
        weights = {name: leaf for name, leaf in program.leaves.items() if leaf.requires_grad}
        gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        found = {name: gradient for name, gradient in zip(weights, gradients, strict=True) if gradient is not None}
        taken.append(Step(float(loss), _by_layer(program, found)))
        progress(f"step {number + 1} of {steps}: loss {float(loss):.4g}")
        if not math.isfinite(float(loss)):
            break
        with torch.no_grad():
            for name, gradient in found.items():
                weights[name].sub_(learning_rate * gradient)
    return TrainingRun(tuple(taken), task)


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
    return F.cross_entropy(output.flatten(2) if output.dim() > 2 else output, targets.flatten(1).squeeze(-1))


def _is_classes(output: Tensor) -> bool:
    return bool(output.dim() == 2 and output.shape[1] > 1)


def _drawn_targets(output: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if _is_classes(output):
        return torch.randint(output.shape[1], (output.shape[0],), generator=generator).to(output.device)
    return torch.randn(output.shape, generator=generator).to(output)


def _drawn_task(output: Tensor) -> str:
    return "random classes" if _is_classes(output) else "random numbers, by the squared error"


def _by_layer(program: Program, gradients: Mapping[str, Tensor]) -> dict[str, float]:
    found: dict[str, float] = {}
    for node in program.graph.gradient_nodes:
        weight = node.parameters.get("weight")
        if node.op in _WEIGHTED and weight is not None and weight.name in gradients:
            norm2 = squared_norm(gradients[weight.name])
            found[node.name] = math.log2(norm2) if norm2 > 0 else -math.inf
    return found
