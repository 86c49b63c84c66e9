"""Texts in a model that are no UTF-8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gnelint.onnxfile.file import open_model

PLACES = ("op", "domain", "node", "input", "output", "attribute", "info", "dim", "weight", "graph", "key", "value",
          "producer", "function", "inner")  # fmt: skip


def model(place: str) -> onnx.ModelProto:
    """A model with QQQ in one of its texts."""

    def name(here: str, usual: str) -> str:
        return f"{usual}QQQ" if here == place else usual

    x = helper.make_tensor_value_info(name("info", "x"), TensorProto.FLOAT, [name("dim", "N"), 4])
    inner = helper.make_graph([helper.make_node(name("inner", "Relu"), ["x"], ["z"])], "b", [], [])
    node = helper.make_node(
        name("op", "Relu"), [name("input", "x")], [name("output", "y")], name("node", "n"), domain=name("domain", "d")
    )
    node.attribute.append(helper.make_attribute("body", inner))
    node.attribute[0].name = name("attribute", "body")
    weight = numpy_helper.from_array(np.ones(2, np.float32), name("weight", "w"))
    graph = helper.make_graph([node], name("graph", "g"), [x], [], [weight])
    imports = [helper.make_opsetid("", 17)]
    function = helper.make_function("my", name("function", "F"), ["a"], ["o"], [], imports)
    found = helper.make_model(graph, opset_imports=imports, functions=[function], producer_name=name("producer", "p"))
    node = found.graph.node[0]
    node.metadata_props.add(key=name("key", "k"), value=name("value", "v"))
    return found


def texts(message: object) -> list[object]:
    """Every text in a message."""
    found: list[object] = []
    for field, value in message.ListFields():  # type: ignore[attr-defined]
        plain = isinstance(value, (str, bytes, int, float)) or hasattr(value, "ListFields")
        for part in (value,) if plain else value:
            if field.type == field.TYPE_MESSAGE:
                found += texts(part)
            elif field.type == field.TYPE_STRING:
                found.append(part)
    return found


@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_utf_8_is_escaped(place: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    data = model(place).SerializeToString()
    assert data.count(b"QQQ") == 1
    path.write_bytes(data.replace(b"QQQ", b"Q\xff\xfe"))
    found = texts(open_model(path).proto)
    assert all(isinstance(text, str) for text in found)
    assert sum(str(text).endswith("Q\\xff\\xfe") for text in found) == 1


def test_what_is_utf_8_stays(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model("node").SerializeToString().replace(b"QQQ", "€".encode()))
    assert open_model(path).proto.graph.node[0].name == "n€"
