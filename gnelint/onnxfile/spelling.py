"""Names in a model that are no UTF-8: protobuf hands them over as bytes, which nothing behind expects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx


def spell(model: onnx.ModelProto) -> None:
    """Replace what is no UTF-8 in the texts of a model by escapes: "\\xff"; different bytes stay different."""
    found: list[Any] = [model.producer_name, model.producer_version, *(opset.domain for opset in model.opset_import)]
    _add_properties(found, model)
    for function in model.functions:
        found += (function.name, function.domain, function.overload)
        for names in (function.input, function.output, function.attribute):
            found += names
        _add_nodes(found, function.node)
        _add_infos(found, function.value_info)
    _add_graph(found, model.graph)
    if bytes in set(map(type, found)):
        _spell(model)


def _add_graph(found: list[Any], graph: onnx.GraphProto) -> None:
    """The texts of a graph that a reader meets, as a list: the way over large models is to be short."""
    found.append(graph.name)
    for tensor in (*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)):
        found.append(tensor.name)
        for entry in tensor.external_data:
            found += (entry.key, entry.value)
    for infos in (graph.input, graph.output, graph.value_info):
        _add_infos(found, infos)
    _add_properties(found, graph)
    _add_nodes(found, graph.node)


def _add_nodes(found: list[Any], nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        found += (node.name, node.op_type, node.domain, node.overload)
        found += node.input
        found += node.output
        _add_properties(found, node)
        for attribute in node.attribute:
            found += (attribute.name, attribute.ref_attr_name)
            if attribute.type in _GRAPHS:
                for body in (attribute.g, *attribute.graphs):
                    _add_graph(found, body)


def _add_infos(found: list[Any], infos: Iterable[onnx.ValueInfoProto]) -> None:
    for info in infos:
        found.append(info.name)
        found += [dim.dim_param for dim in info.type.tensor_type.shape.dim]
        _add_properties(found, info)


def _add_properties(found: list[Any], message: Any) -> None:
    for entry in message.metadata_props:
        found += (entry.key, entry.value)


_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def _spell(message: Any) -> None:
    for field, value in message.ListFields():
        repeated = not isinstance(value, (str, bytes, int, float)) and not hasattr(value, "ListFields")
        if field.type == field.TYPE_MESSAGE:
            for part in value if repeated else (value,):
                _spell(part)
        elif field.type == field.TYPE_STRING:
            if repeated:
                value[:] = [_spelt(part) for part in value]
            else:
                setattr(message, field.name, _spelt(value))


def _spelt(text: str | bytes) -> str:
    return text if isinstance(text, str) else text.decode("utf-8", "backslashreplace")
