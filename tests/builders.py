"""Graphs and predictions made by hand, so that the linter is tested without readers, components or analysis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gnelint.analysis.prediction import Block, BlockKind, NodePrediction, Prediction
from gnelint.analysis.stage import Judgement
from gnelint.ir.graph import Graph, Location, Node, Parameter, Provenance, Value
from gnelint.theory.weights.statistics import WeightStatistics


def parameter(name: str, shape: tuple[int, ...], provenance: Provenance = "data") -> Parameter:
    """Zeros for a placeholder, else numbers of which no rule asks more than whether they are all zero."""
    drawn = np.random.default_rng(0).standard_normal(shape) if provenance == "data" else np.zeros(shape)
    numbers = drawn.astype(np.float32)
    return Parameter(name, shape, "float32", lambda: numbers, provenance=provenance)


def node(
    name: str,
    op: str,
    inputs: Sequence[str],
    *,
    weight: tuple[int, ...] | None = None,
    provenance: Provenance = "data",
    line: int | None = None,
    **attributes: Any,
) -> Node:
    """A node that writes the value "NAME:out"; `inputs` are names of nodes, or of the graph's inputs."""
    return Node(
        name=name,
        op=op,
        inputs=tuple(inputs),
        outputs=(f"{name}:out",),
        parameters={} if weight is None else {"weight": parameter(f"{name}.weight", weight, provenance)},
        attributes=attributes,
        source_op=op,
        location=None if line is None else Location("model.py", line),
    )


def graph(nodes: Sequence[Node], inputs: Sequence[str] = ("x",), name: str = "model") -> Graph:
    """A graph whose nodes name each other directly; the last one is the output."""
    made = {each.name for each in nodes}
    linked = tuple(
        Node(
            **{
                **vars(each),
                "inputs": tuple(f"{source}:out" if source in made else source for source in each.inputs),
            }
        )
        for each in nodes
    )
    names = [*inputs, *(output for each in linked for output in each.outputs)]
    values = {value: Value(value, (4, 8), "float32") for value in names}
    return Graph(name, "onnx", True, linked, tuple(inputs), linked[-1].outputs, values)


def statistics(variance: float, *, kurtosis: float = 3.0, bound: float = 1.0, size: int = 4096) -> WeightStatistics:
    return WeightStatistics(size, 0.0, variance, kurtosis, -bound, bound)


def judgement(trained: bool | None) -> Judgement:
    """The verdict without its evidence; None has no weights to judge."""
    return Judgement("none" if trained is None else "trained" if trained else "fresh")


def prediction(
    of: Graph,
    phi: Mapping[str, float | None],
    *,
    kinds: Mapping[str, BlockKind] | None = None,
    blocks: Sequence[Block] | None = None,
    weights: Mapping[str, WeightStatistics] | None = None,
    trained: bool | None = False,
    gradient_log2: Mapping[str, float] | None = None,
    unmodelled: Sequence[str] = (),
) -> Prediction:
    """A prediction with the given phi of each node; the gradient is their product, one serial block holds them all.

    `kinds` gives the kind of the single block under the key "*".
    """
    after: dict[str, float] = {}
    running = 0.0
    for each in reversed(of.nodes):
        after[each.name] = running
        factor = phi.get(each.name)
        running += math.log2(factor) if factor else 0.0
    after.update(gradient_log2 or {})
    nodes = tuple(
        NodePrediction(
            each,
            each.outputs[0],
            (4, 8),
            mean=0.0,
            second_moment=1.0,
            phi=phi.get(each.name),
            gradient_log2=after[each.name],
            basis="unmodelled" if each.name in unmodelled else "exact",
        )
        for each in of.nodes
    )
    if blocks is None:
        kind = (kinds or {}).get("*", "serial")
        names = tuple(each.name for each in of.nodes)
        blocks = [Block("all", kind, names, of.inputs[0], of.outputs[0], phi=2.0**running)]
    return Prediction(
        graph=of,
        nodes=nodes,
        blocks=tuple(blocks),
        coverage=1.0 - len(unmodelled) / max(len(of.nodes), 1),
        stage=judgement(trained),
        gradient_log2=running,
        gradient_at=of.inputs[0],
        cotangent_at="output",
        weights=weights or {},
    )


def chain(
    depth: int, *, gain: float = 1.0, activation: str = "relu", width: int = 64, blocks: bool = False, **more: Any
) -> Prediction:
    """`depth` linear layers with an activation of phi 1/2 behind each; a pair has the given gain."""
    nodes: list[Node] = []
    previous = "x"
    for index in range(depth):
        nodes.append(node(f"fc{index}", "linear", [previous], weight=(width, width), line=10 + index))
        nodes.append(node(f"act{index}", activation, [f"fc{index}"]))
        previous = f"act{index}"
    phi = {each.name: 2.0 * gain if each.op == "linear" else 0.5 for each in nodes}
    weights = {f"fc{index}.weight": statistics(2.0 * gain / width) for index in range(depth)}
    made = graph(nodes)
    parts = None
    if blocks:
        parts = [
            Block(f"fc{i} .. act{i}", "serial", (f"fc{i}", f"act{i}"), f"act{i - 1}:out", f"act{i}:out", phi=gain)
            for i in range(depth)
        ]
    return prediction(made, phi, weights={**weights, **more.pop("weights", {})}, blocks=parts, **more)
