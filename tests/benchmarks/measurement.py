"""Autograd's answer for every value of a network's traced graph, by the names of that graph."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind

EMBEDDING = torch.ops.aten.embedding.default


@dataclass(frozen=True)
class Measured:
    """What one value of the graph was found to be.

    Attributes:
        mean, second_moment: over the whole tensor.
        gradient_log2: log2 of the squared gradient norm relative to the cotangent's; -inf for zero, None where no
            gradient was asked for.
    """

    mean: float
    second_moment: float
    gradient_log2: float | None


def traced(module: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """The functional graph in training mode, traced with dropout neutral (as the analysis takes it)."""
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return torch.export.export(module, inputs, strict=False).run_decompositions({})


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps every floating tensor by the name of its node."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.seen: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        first = result[0] if isinstance(result, (tuple, list)) and result and n.op != "output" else result
        if isinstance(first, Tensor) and first.is_floating_point():
            self.seen[n.name] = first
        return result


def _arguments(program: torch.export.ExportedProgram, inputs: tuple[Tensor, ...]) -> list[object]:
    """Operands for the graph's placeholders; a gradient is asked for at floating inputs and at embedding tables."""
    constants = {**program.state_dict, **program.constants}
    tables = {
        node.args[0].name
        for node in program.graph.nodes
        if node.target is EMBEDDING and isinstance(node.args[0], fx.Node)
    }
    user, found = iter(inputs), []
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            value = next(user).detach().clone()
            found.append(value.requires_grad_(value.is_floating_point()))
        else:
            value = constants[spec.target]
            if isinstance(value, Tensor):
                value = value.detach().clone().requires_grad_(spec.arg.name in tables)
            found.append(value)
    return found


def measure(
    program: torch.export.ExportedProgram,
    inputs: tuple[Tensor, ...],
    *,
    probes: int = 4,
    cotangent_at: str | None = None,
    seed: int = 0,
) -> dict[str, Measured]:
    """Measure every floating value of the graph that depends on an input.

    Args:
        program: from `traced`.
        inputs: run on these.
        probes: Gaussian cotangents to average the squared norms over.
        cotangent_at: name of the node at whose value the cotangent is placed; None for the floating outputs.
        seed: of the cotangents.

    Returns:
        By node name. Values on which the cotangent's value does not depend have gradient None.
    """
    recorder = _Recorder(program.graph_module)
    recorder.run(*_arguments(program, inputs))
    seen = {name: value for name, value in recorder.seen.items() if value.requires_grad}
    if cotangent_at is None:
        specs = program.graph_signature.output_specs
        names = [spec.arg.name for spec in specs if spec.kind is OutputKind.USER_OUTPUT]
    else:
        names = [cotangent_at]
    sources = [seen[name] for name in dict.fromkeys(names) if name in seen]
    generator = torch.Generator().manual_seed(seed)
    totals = dict.fromkeys(seen, 0.0)
    scale, reached = 0.0, set()
    for probe in range(probes):
        cotangents = [torch.randn(value.shape, generator=generator, dtype=value.dtype) for value in sources]
        gradients = torch.autograd.grad(
            sources, list(seen.values()), cotangents, retain_graph=probe + 1 < probes, allow_unused=True
        )
        scale += sum(float(cotangent.double().square().sum()) for cotangent in cotangents)
        for name, gradient in zip(seen, gradients, strict=True):
            if gradient is not None:
                reached.add(name)
                totals[name] += float(gradient.double().square().sum())
    return {name: _measured(value, totals[name] / scale if name in reached else None) for name, value in seen.items()}


def _measured(value: Tensor, norm2: float | None) -> Measured:
    data = value.detach().double()
    log2 = None if norm2 is None else math.log2(norm2) if norm2 > 0 else -math.inf
    return Measured(float(data.mean()), float(data.square().mean()), log2)


def step_seconds(module: nn.Module, inputs: tuple[Tensor, ...], repeats: int = 3) -> float:
    """Seconds of one forward and backward pass of the module, the best of `repeats` after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        output = module(*inputs)
        output.sum().backward()
        times.append(time.perf_counter() - begin)
        module.zero_grad(set_to_none=True)
    return min(times[1:])


def squared_norms(measured: Mapping[str, Measured]) -> dict[str, float]:
    """log2 of the squared gradient norm by name, for the values that have one."""
    return {name: value.gradient_log2 for name, value in measured.items() if value.gradient_log2 is not None}
