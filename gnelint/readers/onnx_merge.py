"""A linear map followed by a constant that its exporter adds in a node of its own is one linear layer."""

from __future__ import annotations

from dataclasses import replace

from gnelint.graph import Graph, Node, Parameter
from gnelint.readers.onnx_fold import reshaped


def merge_biases(graph: Graph) -> Graph:
    """MatMul + Add and Conv + Add as one node, named after the map; nothing else may read what lies between them."""
    merged: dict[str, Node] = {}
    gone: set[str] = set()
    outputs = set(graph.outputs)
    for node in graph.nodes:
        if node.op != "bias" or "bias" not in node.parameters or node.attribute("factor") != 1:
            continue
        middle = node.inputs[0]
        if middle is None:
            continue
        source = graph.producers.get(middle)
        if source is None or source.op not in ("linear", "conv", "conv_transpose") or "bias" in source.parameters:
            continue
        found = _bias(node.parameters["bias"], source, len(graph.values[middle].shape or ()))
        if found is None or middle in outputs or len(graph.consumers[middle]) > 1:
            continue
        merged[source.name] = replace(
            source,
            outputs=node.outputs,
            parameters={**source.parameters, "bias": found},
            sources=(source.name, node.name),
        )
        gone.add(node.name)
    if not merged:
        return graph
    nodes = tuple(merged.get(node.name, node) for node in graph.nodes if node.name not in gone)
    written = {name for node in nodes for name in node.outputs} | set(graph.inputs)
    values = {name: value for name, value in graph.values.items() if name in written}
    return replace(graph, nodes=nodes, values=values)


def _bias(parameter: Parameter, source: Node, rank: int) -> Parameter | None:
    """The constant as one number for each output channel; None if it is something else."""
    weight = source.parameters["weight"]
    if source.op == "linear":
        channels, axis = weight.shape[0], rank - 1
    else:
        axis = 1
        channels = weight.shape[1] * source.attribute("groups") if source.op == "conv_transpose" else weight.shape[0]
    sizes = (1,) * (rank - len(parameter.shape)) + parameter.shape
    if parameter.size != channels or len(sizes) != rank or sizes[axis] != channels:
        return None
    return reshaped(parameter, (channels,))
