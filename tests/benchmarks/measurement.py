"""Autograd's answer for every value of a network's traced graph, by the names of that graph."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind

from gnelint.graph import Graph
from gnelint.readers import torch_graph
from gnelint.readers.idioms import fuse
from gnelint.readers.torch_export import export_module

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


@dataclass(frozen=True)
class Traced:
    """A network as autograd runs it and as the analysis sees it.

    Attributes:
        program: the functional program; dropout is neutral in it, as the analysis takes it.
        graph: the same program lowered.
        names: the program's node that computes each value of the graph. Values that only the lowering has are missing.
        seconds: what tracing and lowering took.
    """

    program: torch.export.ExportedProgram
    graph: Graph
    names: Mapping[str, str]
    seconds: float


def trace(module: nn.Module, inputs: tuple[Tensor, ...], name: str) -> Traced:
    """Read the module as `gnelint.readers.torch.read_module` does in training mode, and keep what it was read from."""
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    begin = time.perf_counter()
    program, notes = export_module(module, inputs, {}, name, True)
    lowerer = torch_graph._Lowerer(program, torch_graph.Reading(name, True, {}, notes))
    lowerer.run()
    lowered = lowerer.graph()
    graph = fuse(lowered)
    seconds = time.perf_counter() - begin
    values = dict(lowerer._inputs)
    drafts = lowerer._read_drafts({flow.index for flow in lowerer._output_flows()})
    for draft, node in zip(drafts, lowered.nodes, strict=True):
        values.update(zip(draft.outputs, node.outputs, strict=True))
    names: dict[str, str] = {}
    for traced, result in lowerer._results.items():
        if isinstance(result, torch_graph.Flow) and result.index in values:
            names.setdefault(values[result.index], traced.name)
    for index, value in lowerer._inputs.items():
        names.setdefault(value, values[index])
    return Traced(program, graph, names, seconds)


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
    traced: Traced,
    inputs: tuple[Tensor, ...],
    *,
    probes: int = 4,
    cotangent_at: str | None = None,
    seed: int = 0,
) -> dict[str, Measured]:
    """Measure every value of the graph that depends on an input.

    Args:
        traced: the network.
        inputs: run on these.
        probes: Gaussian cotangents to average the squared norms over.
        cotangent_at: the graph's value at which the cotangent is placed; None for the outputs.
        seed: of the cotangents.

    Returns:
        By the name of the value in the graph. Those on which the cotangent's value does not depend have gradient None.
    """
    program = traced.program
    recorder = _Recorder(program.graph_module)
    recorder.run(*_arguments(program, inputs))
    seen = {name: value for name, value in recorder.seen.items() if value.requires_grad}
    if cotangent_at is None:
        specs = program.graph_signature.output_specs
        names = [spec.arg.name for spec in specs if spec.kind is OutputKind.USER_OUTPUT]
    else:
        names = [traced.names[cotangent_at]]
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
    return {
        value: _measured(seen[name], totals[name] / scale if name in reached else None)
        for value, name in traced.names.items()
        if name in seen
    }


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
