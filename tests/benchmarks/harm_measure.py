"""What `tests.benchmarks.harm` measures of a network: with PyTorch's autograd and hooks alone, nothing of gnelint."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.benchmarks.harm_tasks import Batch, Task

PROBES = 8
BATCH = 32
TAUGHT = 16
"""Samples of a step of training."""


@dataclass(frozen=True)
class Measured:
    """One network in training form, from white cotangents at its true outputs.

    Attributes:
        gradients: of each parameter that asks for one: whether a number of it is not zero (float32, two probes).
        broken: parameters with a gradient that is not finite (float32).
        depth: for each probe, log2 of the squared norm of the gradient at the inputs and at every submodule's output,
            -inf where it is zero (float64).
        scales: root mean square of each output.
    """

    gradients: Mapping[str, bool]
    broken: tuple[str, ...]
    depth: tuple[Mapping[str, float], ...]
    scales: tuple[float, ...]


def measure(net: nn.Module, batch: Batch) -> Measured:
    """Measure a copy of a network on 32 samples a probe."""
    reached: dict[str, bool] = {}
    broken: dict[str, None] = {}
    single = copy.deepcopy(net).train()
    for seed in range(2):
        gradients = _parameter_gradients(single, _part(batch, seed), seed)
        for name, gradient in gradients.items():
            reached[name] = reached.get(name, False) or bool((gradient != 0).any())
            if not bool(torch.isfinite(gradient).all()):
                broken[name] = None
    double = copy.deepcopy(net).double().train()
    exact = batch.double()
    depth, scales = [], []
    for seed in range(PROBES):
        squared, found = _activation_gradients(double, _part(exact, seed), seed)
        depth.append({name: math.log2(value) if value > 0 else -math.inf for name, value in squared.items()})
        scales.append(found)
    means = tuple(sum(each) / len(each) for each in zip(*scales, strict=True))
    return Measured(reached, tuple(broken), tuple(depth), means)


def _part(batch: Batch, seed: int) -> Batch:
    return batch.take(torch.arange(BATCH) + BATCH * (seed % (len(batch.target) // BATCH)))


def outputs(net: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
    """What a network gives; dropout draws the same for every network."""
    torch.manual_seed(0)
    found = net(*batch.inputs)
    return (found,) if isinstance(found, Tensor) else tuple(found)


def _sent(found: tuple[Tensor, ...], seed: int) -> tuple[Tensor, ...]:
    """White cotangents; drawn in double precision, so that they are the same for both."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype) for y in found)


def _parameter_gradients(net: nn.Module, batch: Batch, seed: int) -> dict[str, Tensor]:
    found = outputs(net, batch)
    named = {name: each for name, each in net.named_parameters() if each.requires_grad}
    given = torch.autograd.grad(found, list(named.values()), _sent(found, seed), allow_unused=True)
    return {
        name: torch.zeros_like(named[name]) if each is None else each for name, each in zip(named, given, strict=True)
    }


def _activation_gradients(net: nn.Module, batch: Batch, seed: int) -> tuple[dict[str, float], tuple[float, ...]]:
    """Squared norms of gradients by place, and the root mean squares of the outputs."""
    squared: dict[str, float] = {}
    for index, each in enumerate(batch.inputs):
        if each.is_floating_point():
            _watch(each.requires_grad_(), f"input{index}", squared)
    with _watched(net, squared):
        found = outputs(net, batch)
        sent = _sent(found, seed)
        torch.autograd.backward(found, sent, inputs=_leaves(net, batch))
    for each in net.parameters():
        each.grad = None
    return squared, tuple(float(y.detach().square().mean().sqrt()) for y in found)


def _leaves(net: nn.Module, batch: Batch) -> list[Tensor]:
    return [each for each in (*batch.inputs, *net.parameters()) if each.requires_grad]


def _watch(value: Tensor, name: str, squared: dict[str, float]) -> None:
    squared[name] = 0.0

    def take(gradient: Tensor) -> None:
        squared[name] = float(gradient.square().sum())

    value.register_hook(take)


@contextmanager
def _watched(net: nn.Module, squared: dict[str, float]) -> Iterator[None]:
    """Every call of a submodule is watched; further calls of one have a number behind the name."""
    calls: dict[str, int] = {}
    handles = []

    def hook(name: str) -> Any:
        def see(module: nn.Module, inputs: Any, output: Any) -> None:
            value = output if isinstance(output, Tensor) else output[0]
            calls[name] = calls.get(name, 0) + 1
            if isinstance(value, Tensor) and value.requires_grad:
                _watch(value, f"{name}#{calls[name]}", squared)

        return see

    for name, part in net.named_modules():
        if name and "parametrizations" not in name:
            handles.append(part.register_forward_hook(hook(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def spread(depth: Mapping[str, float], places: list[str]) -> float:
    """Bits between the largest and the smallest squared norm of a gradient along the depth."""
    values = [depth[place] for place in places]
    return max(values) - min(values) if values else 0.0


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Attributes:
        optimizer: "adam", "adamw" or "sgd" with momentum 0.9.
        lr, steps: with batches of 16.
    """

    optimizer: str
    lr: float
    steps: int


def train(net: nn.Module, task: Task, batch: Batch, how: Training, seed: int) -> tuple[nn.Module, float]:
    """A trained copy of a network, and the mean loss of its last ten steps; infinite where training broke down."""
    net = copy.deepcopy(net).train()
    chosen = [each for each in net.parameters() if each.requires_grad]
    optimizer = _optimizer(how, chosen)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    losses: list[float] = []
    order = torch.empty(0, dtype=torch.long)
    for _ in range(how.steps):
        if len(order) < TAUGHT:
            order = torch.randperm(len(batch.target), generator=generator)
        now, order = batch.take(order[:TAUGHT]), order[TAUGHT:]
        loss = task.loss(net(*now.inputs), now.target)
        if not bool(torch.isfinite(loss)):
            return net, math.inf
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return net, sum(losses[-10:]) / len(losses[-10:])


def _optimizer(how: Training, chosen: list[nn.Parameter]) -> torch.optim.Optimizer:
    if how.optimizer == "sgd":
        return torch.optim.SGD(chosen, how.lr, momentum=0.9, fused=True)
    if how.optimizer == "adamw":
        return torch.optim.AdamW(chosen, how.lr, weight_decay=0.05, fused=True)
    return torch.optim.Adam(chosen, how.lr, fused=True)
