"""Embeddings that are stored in integers, as embeddings of real numbers.

A table of codes is looked up before it is decoded, so that nothing between says what the codes mean:

    DequantizeLinear(Gather(codes, ids), s, z)  =  Gather(DequantizeLinear(codes, s, z), ids)

The look-up is written in real numbers and quantised behind, which changes no number and leaves the readers as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper

from gnelint.onnxfile.nodes import bodies, domain_of, reads

_DECODING = ("DequantizeLinear", "QLinear", "QGemm")
"""What operators begin with that have an operand's scale and zero point behind it."""


def with_real_tables(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes of a graph, with tables decoded in front of a look-up whose readers all decode it alike."""
    tables = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    looked_up = {node.output[0] for node in nodes if _looks_up(node) and node.input[0] in tables}
    if not looked_up or not any(node.op_type.startswith(_DECODING) for node in nodes):
        return list(nodes)
    kept = {info.name for info in graph.output} | {name for node in nodes if any(bodies(node)) for name in reads(node)}
    names = {*tables, *kept, *(name for node in nodes for name in (*node.input, *node.output))}
    scale_of = {
        name: next(iter(scales))
        for name, scales in _scales(nodes).items()
        if name in looked_up - kept and len(scales) == 1 and all(tables.get(each) in ((), (1,)) for each in min(scales))
    }
    written: list[onnx.NodeProto] = []
    for node in nodes:
        scale = scale_of.get(node.output[0]) if _looks_up(node) else None
        written += [node] if scale is None else _decoded_first(node, scale, names)
    return written


def _looks_up(node: onnx.NodeProto) -> bool:
    return node.op_type == "Gather" and not domain_of(node) and len(node.input) == 2 and len(node.output) == 1


def _scales(nodes: Sequence[onnx.NodeProto]) -> dict[str, set[tuple[str, ...]]]:
    """By value: the scales and zero points that it is read with; an empty name where it is read as it is."""
    found: dict[str, set[tuple[str, ...]]] = {}
    for node in nodes:
        decodes = node.op_type.startswith(_DECODING)
        for place, name in enumerate(node.input):
            pair = tuple(node.input[place + 1 : place + 3])
            found.setdefault(name, set()).add(pair if decodes and len(pair) == 2 and all(pair) else ("",))
    return found


def _decoded_first(node: onnx.NodeProto, scale: tuple[str, ...], names: set[str]) -> list[onnx.NodeProto]:
    codes, ids = node.input
    written = node.output[0]
    table, real = f"{written}_table", f"{written}_real"
    while names & {table, real}:
        table, real = f"{table}_", f"{real}_"
    names.update((table, real))
    looked_up = onnx.NodeProto()
    looked_up.CopyFrom(node)
    looked_up.input[:], looked_up.output[:] = [table, ids], [real]
    return [
        helper.make_node("DequantizeLinear", [codes, *scale], [table], table),
        looked_up,
        helper.make_node("QuantizeLinear", [real, *scale], [written], real),
    ]
