"""Files with many times more weights than the memory that a check may take."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import gnelint
from gnelint.onnxfile.weights import is_hole
from tests.test_strangers import MEASURED, cost

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells, and stores sparse files as such")


def write(path: Path, width: int, layers: int, numbers: np.ndarray | None, across: bool = False) -> Path:
    """Linear layers and ReLUs of half precision with their numbers in a file beside it.

    Args:
        path: of the model.
        width: of each layer.
        layers: how many there are.
        numbers: some of a weight's rows, which come again and again; None leaves a sparse file.
        across: whether a unit's weights are a column of what is stored.
    """
    nodes, weights, last, each = [], [], "x", width * width * 2
    for k in range(layers):
        tensor = TensorProto(name=f"w{k}", data_type=TensorProto.FLOAT16, dims=(width, width))
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "data.bin"), ("offset", k * each), ("length", each)):
            tensor.external_data.add(key=key, value=str(value))
        weights.append(tensor)
        more = {} if across else {"transB": 1}
        nodes.append(helper.make_node("MatMul" if across else "Gemm", [last, f"w{k}"], [f"m{k}"], f"layer{k}", **more))
        nodes.append(helper.make_node("Relu", [f"m{k}"], [last := f"r{k}"], f"relu{k}"))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [4, width]) for name in ("x", last)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    with path.with_name("data.bin").open("wb") as file:
        if numbers is None:
            file.truncate(layers * each)
            return path
        for k in range(layers * width // len(numbers)):
            file.write(np.roll(numbers, 7 * k).tobytes())
    return path


def drawn(width: int, rows: int) -> np.ndarray:
    scale = (2.0 / width) ** 0.5
    return (np.random.default_rng(0).standard_normal((rows, width), np.float32) * scale).astype(np.float16)


def of_imports(folder: Path) -> int:
    """The memory of a process that has the libraries a check needs."""
    command = [sys.executable, "-c", MEASURED, sys.executable, "-c", "import click, numpy, onnx"]
    return int(json.loads(subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout)[2])


@pytest.mark.parametrize("across", [False, True])
def test_sixteen_gigabytes_that_nobody_wrote(across: bool, tmp_path: Path) -> None:
    write(tmp_path / "model.onnx", 16384, 30, None, across)
    code, err, seconds, memory = cost("check", "--no-cache", "model.onnx", cwd=tmp_path)
    assert code == 1
    assert not err
    assert memory < of_imports(tmp_path) + 200e6
    assert seconds < 20


def test_zeros_are_zeros_whoever_wrote_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gnelint.onnxfile.weights.LARGE", 1 << 14)
    found = []
    for name, numbers in (("sparse", None), ("written", np.zeros((64, 512), np.float16))):
        (tmp_path / name).mkdir()
        path = write(tmp_path / name / "model.onnx", 512, 3, numbers)
        assert is_hole(path.with_name("data.bin"), 512 * 1024, 3 * 512 * 1024) == (numbers is None)
        entry = gnelint.check(path).to_dict()
        found.append(json.dumps(entry, sort_keys=True).replace(str(tmp_path / name), ""))
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize(("width", "layers"), [(8192, 6), (2048, 90)])
def test_more_weights_than_memory(width: int, layers: int, across: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx", width, layers, drawn(width, 64), across)
    assert path.with_name("data.bin").stat().st_size > 700e6
    code, err, _, memory = cost("check", "--no-cache", "model.onnx", cwd=tmp_path)
    assert code in (0, 1)
    assert not err
    assert memory < of_imports(tmp_path) + 250e6
