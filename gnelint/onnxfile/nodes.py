"""Nodes of an ONNX graph as the file has them: names, bodies, order, attributes, and what an operator is defined by."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import onnx
from onnx import defs, helper

from gnelint.errors import UnreadableError


def own_name(node: onnx.NodeProto) -> str:
    """The node's name; one that has none is called after its operator and its first output."""
    return node.name or f"{node.op_type}_{next((name for name in node.output if name), '')}".rstrip("_")


def domain_of(node: onnx.NodeProto | onnx.FunctionProto | onnx.OperatorSetIdProto) -> str:
    """The domain of what a node calls, "" for ai.onnx."""
    return "" if node.domain == "ai.onnx" else node.domain


def is_constant(node: onnx.NodeProto) -> bool:
    """Whether the node holds a tensor."""
    return node.op_type == "Constant" and domain_of(node) == ""


def types_of(graph: onnx.GraphProto) -> dict[str, onnx.TypeProto]:
    """The types that a graph declares for its values."""
    return {info.name: info.type for info in (*graph.value_info, *graph.output)}


def in_order(nodes: Sequence[onnx.NodeProto]) -> Sequence[int]:
    """Indices of the nodes so that each stands behind those it reads from; the file's own order where that does.

    Raises:
        UnreadableError: a cycle closes.
    """
    producer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    sources = [{producer[name] for name in reads(node) if name in producer} for node in nodes]
    if all(source < index for index, found in enumerate(sources) for source in found):
        return range(len(nodes))
    readers: list[list[int]] = [[] for _ in nodes]
    for index, found in enumerate(sources):
        for source in found:
            readers[source].append(index)
    waiting = [len(found) for found in sources]
    ready = [index for index, count in enumerate(waiting) if count == 0]
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers[index]:
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, reader)
    if len(order) < len(nodes):
        stuck = nodes[next(index for index, count in enumerate(waiting) if count > 0)]
        raise UnreadableError(
            f'the graph has a cycle through node "{stuck.name or stuck.op_type}" ({stuck.op_type})',
            "ONNX graphs have none; export the model again.",
        )
    return order


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The bodies that a node of control flow holds."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def reads(node: onnx.NodeProto) -> set[str]:
    """The names that a node reads from around it, for its bodies too; what a body names itself hides a name outside."""
    found = {name for name in node.input if name}
    for body in bodies(node):
        inner = {info.name for info in body.output}.union(*(reads(each) for each in body.node))
        found |= inner.difference(_own_names(body))
    return found


def _own_names(body: onnx.GraphProto) -> Iterator[str]:
    """The names that a body gives: to its inputs, its constants and what its nodes write."""
    yield from (info.name for info in body.input)
    yield from (tensor.name for tensor in body.initializer)
    yield from (tensor.values.name for tensor in body.sparse_initializer)
    yield from (name for node in body.node for name in node.output)


def imports(opsets: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """Opset versions by domain, "" for ai.onnx."""
    return {domain_of(opset): opset.version for opset in opsets}


def resolved_attributes(
    node: onnx.NodeProto, given_attributes: Mapping[str, onnx.AttributeProto]
) -> dict[str, onnx.AttributeProto]:
    """The node's attributes; references to a function's attributes are replaced or, if not given, left out."""
    found: dict[str, onnx.AttributeProto] = {}
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            given = given_attributes.get(attribute.ref_attr_name)
            if given is None:
                continue
            renamed = onnx.AttributeProto()
            renamed.CopyFrom(given)
            renamed.name = attribute.name
            found[attribute.name] = renamed
        else:
            found[attribute.name] = attribute
    return found


def plain(attribute: onnx.AttributeProto) -> Any:
    """An attribute as Python's int, float or str, a tuple of these, or an ONNX message."""
    value = helper.get_attribute_value(attribute)
    if isinstance(value, list):
        return tuple(part.decode("utf-8", "replace") if isinstance(part, bytes) else part for part in value)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


@lru_cache(maxsize=4096)
def schema_of(op_type: str, version: int, domain: str) -> defs.OpSchema | None:
    """An operator's schema, None for one that onnx does not know in this version."""
    try:
        return defs.get_schema(op_type, version, domain)
    except Exception:  # onnx's SchemaError: the operator is not onnx's own
        return None


def definition(
    schema: defs.OpSchema, version: int, node: onnx.NodeProto, types: Sequence[onnx.TypeProto | None]
) -> onnx.FunctionProto | None:
    """An operator's definition in terms of simpler ones, None if the standard has none for this opset and these types.

    Args:
        types: of the inputs; an empty one for an input left out, None for one that is not known.
    """
    body = b""
    if schema.has_function:
        versions = [v for v in schema.function_opset_versions if v <= version]
        if versions:
            body = schema.get_function_with_opset_version(max(versions))
    elif schema.has_context_dependent_function:
        versions = [v for v in schema.context_dependent_function_opset_versions if v <= version]
        if versions and all(found is not None for found in types):
            body = schema.get_context_dependent_function_with_opset_version(
                max(versions),
                node.SerializeToString(),
                [found.SerializeToString() for found in types if found is not None],
            )
    if not body:
        return None
    function = onnx.FunctionProto.FromString(body)
    defaults = [attribute.default_value for attribute in schema.attributes.values()]
    function.attribute_proto.extend(value for value in defaults if value.type != onnx.AttributeProto.UNDEFINED)
    return function


def with_attributes(node: onnx.NodeProto, attributes: Mapping[str, onnx.AttributeProto]) -> onnx.NodeProto:
    """A copy of the node with these attributes in place of its own."""
    found = onnx.NodeProto(
        op_type=node.op_type, domain=node.domain, name=node.name, input=node.input, output=node.output
    )
    found.attribute.extend(attributes.values())
    return found
