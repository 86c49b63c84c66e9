"""Weights wherever exporters put them: read lazily, in every type, and with what is known of where they come from."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gnelint.errors import ModelError
from gnelint.ir.graph import Parameter
from gnelint.readers.onnx.reader import read
from tests.readers.onnx.build import load, model, node, ops

RNG = np.random.default_rng(1)


def conv_weight(
    graph_nodes: list[onnx.NodeProto], folder: Path, weights: dict[str, np.ndarray], **more: object
) -> Parameter:
    """The weight of a Conv that reads "w", which the nodes compute."""
    nodes = [*graph_nodes, node("Conv", ["x", "w"], ["y"])]
    graph = load(model(nodes, {"x": (2, 3, 4, 4)}, weights=weights, **more), folder)  # type: ignore[arg-type]
    assert ops(graph) == ["conv"]
    return graph.nodes[0].parameters["weight"]


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


TYPES = [
    (TensorProto.FLOAT, np.dtype(np.float32)),
    (TensorProto.DOUBLE, np.dtype(np.float64)),
    (TensorProto.FLOAT16, np.dtype(np.float16)),
    (TensorProto.BFLOAT16, np.dtype(ml_dtypes.bfloat16)),
    (TensorProto.FLOAT8E4M3FN, np.dtype(ml_dtypes.float8_e4m3fn)),
    (TensorProto.FLOAT8E5M2, np.dtype(ml_dtypes.float8_e5m2)),
    (TensorProto.INT8, np.dtype(np.int8)),
    (TensorProto.UINT8, np.dtype(np.uint8)),
    (TensorProto.INT64, np.dtype(np.int64)),
    (TensorProto.INT4, np.dtype(ml_dtypes.int4)),
    (TensorProto.UINT4, np.dtype(ml_dtypes.uint4)),
    (TensorProto.FLOAT4E2M1, np.dtype(ml_dtypes.float4_e2m1fn)),
    (TensorProto.COMPLEX64, np.dtype(np.complex64)),
]


@pytest.mark.parametrize(("code", "dtype"), TYPES, ids=[dtype.name for _, dtype in TYPES])
@pytest.mark.parametrize("raw", [True, False])
def test_every_type_inline_and_typed(code: int, dtype: np.dtype, raw: bool, tmp_path: Path) -> None:
    numbers = RNG.integers(0, 5, (3, 5))
    array = numbers.astype(np.float32).astype(dtype)
    if raw:
        tensor = numpy_helper.from_array(array, "w")
        assert tensor.data_type == code
    else:
        tensor = helper.make_tensor("w", code, array.shape, array.astype(np.float32).reshape(-1).tolist())
    proto = model([node("Fancy", ["x", "w"], ["y"], domain="my")], {"x": (3, 5)}, domains={"my": 1})
    proto.graph.initializer.append(tensor)
    found = load(proto, tmp_path).nodes[0].parameters["input1"]
    assert (found.shape, found.dtype) == ((3, 5), dtype.name)
    np.testing.assert_array_equal(found.array().astype(np.complex64), numbers)


def test_large_inline_weights_are_views_on_the_file(tmp_path: Path) -> None:
    w = floats(64, 3, 8, 8)
    proto = model([node("Conv", ["x", "w"], ["y"])], {"x": (1, 3, 9, 9)}, weights={"w": w})
    array = load(proto, tmp_path).nodes[0].parameters["weight"].array()
    np.testing.assert_array_equal(array, w)
    base = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)
    assert not array.flags.writeable


def external(folder: Path, location: str, w: np.ndarray, **entries: int) -> Path:
    proto = model([node("Conv", ["x", "w"], ["y"], name="stem")], {"x": (2, 3, 4, 4)}, weights={"w": w})
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data(tmp_path: Path) -> None:
    w = floats(8, 3, 3, 3)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(b"0123" + w.tobytes() + b"tail")
    path = external(tmp_path, "data/w.bin", w, offset=4, length=w.nbytes)
    array = read(path).nodes[0].parameters["weight"].array()
    np.testing.assert_array_equal(array, w)
    assert array.base is not None


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "link.bin", "C:\\x", "data/../../secret.bin"])
def test_external_data_outside_the_directory_are_refused(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "data").mkdir()
    w = floats(2, 3, 1, 1)
    (tmp_path / "secret.bin").write_bytes(w.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ModelError, match=r'"w" reads external data .* outside the model.s directory; refused'):
        read(external(folder, location, w))


def cached(folder: Path, w: np.ndarray, target: str, location: str = "model.onnx_data") -> Path:
    """A model in the layout of the Hugging Face hub's cache: every file a link into the directory of the blobs."""
    snapshot, blobs = folder / "snapshots" / "abd2" / "onnx", folder / "blobs"
    for made in (snapshot, blobs, folder / "made"):
        made.mkdir(parents=True)
    for place in (blobs / "bbb222", folder / "secret.bin"):
        place.write_bytes(w.tobytes())
    external(folder / "made", location, w).rename(blobs / "aaa111")
    for name, to in (("model.onnx", "../../../blobs/aaa111"), ("model.onnx_data", target)):
        (snapshot / name).symlink_to(to)
    (snapshot.parent / "data").symlink_to(blobs)
    return snapshot / "model.onnx"


def test_links_of_a_model_cache_are_followed(tmp_path: Path) -> None:
    w = floats(2, 3, 1, 1)
    weight = read(cached(tmp_path, w, "../../../blobs/bbb222")).nodes[0].parameters["weight"]
    np.testing.assert_array_equal(weight.array(), w)


@pytest.mark.parametrize(
    ("target", "location"),
    [("../../../secret.bin", "model.onnx_data"), ("../../../blobs/bbb222", "../data/bbb222"),
     ("../../../blobs/bbb222", "../../../blobs/bbb222"), ("../../../blobs/bbb222", "../../../secret.bin")],
)  # fmt: skip
def test_links_of_a_model_cache_lead_nowhere_else(tmp_path: Path, target: str, location: str) -> None:
    with pytest.raises(ModelError, match=r"outside the model.s directory; refused"):
        read(cached(tmp_path, floats(2, 3, 1, 1), target, location))


@pytest.mark.parametrize(
    ("size", "entries", "problem"),
    [(None, {}, "missing"), (10, {}, "cut short"), (24, {"offset": 8}, "cut short"), (24, {"offset": -1}, "damaged"),
     (24, {"length": 3}, "needs 24 bytes but has 3"), (0, {}, "cut short")],
)  # fmt: skip
def test_external_data_missing_or_short(
    size: int | None, entries: dict[str, int], problem: str, tmp_path: Path
) -> None:
    if size is not None:
        (tmp_path / "w.bin").write_bytes(bytes(size))
    with pytest.raises(ModelError, match=problem):
        read(external(tmp_path, "w.bin", floats(2, 3, 1, 1), **entries))


def test_old_files_list_weights_as_inputs(tmp_path: Path) -> None:
    proto = model(
        [node("Conv", ["x", "w"], ["y"])], {"x": (1, 3, 4, 4), "w": (2, 3, 1, 1)}, weights={"w": floats(2, 3, 1, 1)}
    )
    proto.ir_version = 3
    graph = load(proto, tmp_path)
    assert (graph.inputs, ops(graph)) == (("x",), ["conv"])


def test_constant_node(tmp_path: Path) -> None:
    w = floats(2, 3, 1, 1)
    found = conv_weight([node("Constant", [], ["w"], value=numpy_helper.from_array(w))], tmp_path, {})
    np.testing.assert_array_equal(found.array(), w)
    assert found.provenance == "data"


def test_constant_of_shape_is_a_placeholder_without_memory(tmp_path: Path) -> None:
    value = numpy_helper.from_array(np.array([0.5], np.float32))
    nodes = [node("ConstantOfShape", ["s"], ["w"], value=value)]
    found = conv_weight(nodes, tmp_path, {"s": np.array([2, 3, 1, 1])})
    assert (found.provenance, found.shape) == ("placeholder", (2, 3, 1, 1))
    array = found.array()
    assert array.strides == (0, 0, 0, 0)
    assert float(array.max()) == 0.5


def test_huge_constant_of_shape_is_not_made(tmp_path: Path) -> None:
    nodes = [node("ConstantOfShape", ["s"], ["w"]), node("MatMul", ["x", "w"], ["y"])]
    graph = load(model(nodes, {"x": (2, 10**6)}, weights={"s": np.array([10**6, 10**6])}), tmp_path)
    assert graph.nodes[0].parameters["weight"].size == 10**12


def test_tied_weights_share_a_name(tmp_path: Path) -> None:
    w = floats(10, 4)
    nodes = [node("Gather", ["w", "ids"], ["e"]), node("Transpose", ["w"], ["t"]), node("MatMul", ["e", "t"], ["y"])]
    proto = model(nodes, {"ids": (2, 3)}, weights={"w": w}, types={"ids": TensorProto.INT64})
    embedding, head = load(proto, tmp_path).nodes
    assert embedding.parameters["weight"].name == head.parameters["weight"].name == "w"
    np.testing.assert_array_equal(head.parameters["weight"].array(), w)


def test_dequantised_weight(tmp_path: Path) -> None:
    q = RNG.integers(-100, 100, (4, 3, 1, 1)).astype(np.int8)
    scale = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    nodes = [node("DequantizeLinear", ["q", "s"], ["w"], axis=0)]
    found = conv_weight(nodes, tmp_path, {"q": q, "s": scale})
    assert (found.transform, found.dtype) == ("dequantize", "float32")
    np.testing.assert_allclose(found.array(), q * scale[:, None, None, None], rtol=1e-6)


def test_fake_quantisation_of_activations_is_the_identity(tmp_path: Path) -> None:
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"]),
             node("Relu", ["d"], ["y"])]  # fmt: skip
    weights = {"s": np.array(0.1, np.float32), "z": np.array(0, np.int8)}
    graph = load(model(nodes, {"x": (2, 3)}, weights=weights), tmp_path)
    assert set(ops(graph)) == {"identity", "relu"}
    assert len(graph.gradient_nodes) == len(graph.nodes)


def test_weight_normalisation_in_nodes(tmp_path: Path) -> None:
    v, g = floats(4, 3, 2, 2), floats(4, 1, 1, 1)
    nodes = [node("ReduceL2", ["v"], ["n"], axes=[1, 2, 3], keepdims=1), node("Div", ["v", "n"], ["u"]),
             node("Mul", ["u", "g"], ["w"])]  # fmt: skip
    found = conv_weight(nodes, tmp_path, {"v": v, "g": g})
    assert found.transform == "weight_norm"
    norm = np.sqrt((v**2).sum(axis=(1, 2, 3), keepdims=True))
    np.testing.assert_allclose(found.array(), g * v / norm, rtol=1e-5)


@pytest.mark.parametrize("width", [4, 400])  # at once, and kept for later
def test_weight_standardisation_in_nodes(width: int, tmp_path: Path) -> None:
    v = floats(width, 3, 8, 8) + 1
    nodes = [
        node("ReduceMean", ["v"], ["mean"], axes=[1, 2, 3]), node("Sub", ["v", "mean"], ["c"]),
        node("Mul", ["c", "c"], ["sq"]), node("ReduceMean", ["sq"], ["var"], axes=[1, 2, 3]),
        node("Sqrt", ["var"], ["sd"]), node("Div", ["c", "sd"], ["w"]), node("Conv", ["x", "w"], ["y"]),
    ]  # fmt: skip
    graph = load(model(nodes, {"x": (1, 3, 9, 9)}, weights={"v": v}), tmp_path)
    assert ops(graph) == ["conv"]
    found = graph.nodes[0].parameters["weight"]
    assert found.transform == "weight_standardization"
    np.testing.assert_allclose(found.array().mean(axis=(1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(found.array().std(axis=(1, 2, 3)), 1, rtol=1e-4)


def test_sparse_initializer(tmp_path: Path) -> None:
    dense = np.zeros((4, 3), np.float32)
    dense[[0, 2, 3], [1, 0, 2]] = [5, 6, 7]
    values = numpy_helper.from_array(np.array([5, 6, 7], np.float32), "w")
    indices = numpy_helper.from_array(np.flatnonzero(dense).astype(np.int64), "i")
    proto = model([node("MatMul", ["x", "w"], ["y"])], {"x": (2, 4)})
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, (4, 3)))
    weight = load(proto, tmp_path).nodes[0].parameters["weight"]
    np.testing.assert_array_equal(weight.array(), dense.T)


def test_shared_steps_run_once(tmp_path: Path) -> None:
    """A constant that doubles sixty times would take 2^60 additions if every use recomputed it."""
    nodes = [node("Add", [f"w{i}", f"w{i}"], [f"w{i + 1}"]) for i in range(60)]
    nodes.append(node("MatMul", ["x", "w60"], ["y"]))
    graph = load(model(nodes, {"x": (2, 300)}, weights={"w0": floats(300, 300) * 0 + 1}), tmp_path)
    assert float(graph.nodes[0].parameters["weight"].array()[0, 0]) == 2.0**60


def test_constants_by_the_reference_evaluator(tmp_path: Path) -> None:
    nodes = [node("Elu", ["v"], ["w"])]
    v = floats(2, 3, 1, 1)
    found = conv_weight(nodes, tmp_path, {"v": v})
    np.testing.assert_allclose(found.array(), np.where(v > 0, v, np.expm1(v)), rtol=1e-5)
    assert found.transform == "computed"
