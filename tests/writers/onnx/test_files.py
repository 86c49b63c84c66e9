"""Files are whole or not there; data files stay the user's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gnelint.errors import GnelintError
from gnelint.fixes.edits import EditTensor, Scale
from gnelint.readers.onnx.reader import read
from gnelint.writers.onnx.writer import write_onnx
from tests.readers.onnx.build import model, node
from tests.writers.onnx.written import assert_good, because, outputs, write, written

SIZE = 256
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}


def chain(names: tuple[str, ...] = ("a", "b"), size: int = SIZE, seed: int = 0) -> onnx.ModelProto:
    """x -> x @ a @ b ..."""
    draw = np.random.default_rng(seed)
    weights = {name: (draw.standard_normal((size, size)) / size**0.5).astype(np.float32) for name in names}
    values = ["x", *(f"h_{name}" for name in names[:-1]), "y"]
    nodes = [node("MatMul", [values[i], name], [values[i + 1]], name=f"mm_{name}") for i, name in enumerate(names)]
    proto = model(nodes, {"x": (2, size)}, weights=weights, opset=18)
    proto.ir_version = 10
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, size)))
    return proto


def inline(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    onnx.save(chain(), str(folder / "model.onnx"))
    return folder / "model.onnx"


def external(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    onnx.save(chain(), str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_large_weights_are_streamed(tmp_path: Path) -> None:
    source = inline(tmp_path)
    proto, _ = written(source, [EditTensor("a", Scale(2.0))])
    before = {t.name: numpy_helper.to_array(t) for t in onnx.load(str(source)).graph.initializer}
    after = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    np.testing.assert_array_equal(after["a"], 2 * before["a"])
    np.testing.assert_array_equal(after["b"], before["b"])


def test_without_edits_the_file_is_copied(tmp_path: Path) -> None:
    for make in (inline, external):
        source = make(tmp_path / make.__name__)
        write(source, [], source.with_name("copy.onnx"))
        assert source.with_name("copy.onnx").read_bytes() == source.read_bytes()


def test_data_files_in_the_same_directory_stay(tmp_path: Path) -> None:
    source = external(tmp_path)
    data = source.with_name("weights.bin").read_bytes()
    proto, _ = written(source, [EditTensor("a", Scale(2.0))])
    assert source.with_name("weights.bin").read_bytes() == data
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "weights.bin", "fixed.onnx", "fixed.onnx.data"}
    location = {t.name: {e.key: e.value for e in t.external_data}["location"] for t in proto.graph.initializer}
    assert location == {"a": "fixed.onnx.data", "b": "weights.bin"}
    np.testing.assert_allclose(outputs(tmp_path / "fixed.onnx")["y"], 2 * outputs(source)["y"], rtol=1e-5)


def test_data_files_are_copied_to_another_directory(tmp_path: Path) -> None:
    source = external(tmp_path / "in")
    target = tmp_path / "out"
    target.mkdir()
    (target / "weights.bin").write_bytes(b"somebody else's")
    write(source, [EditTensor("a", Scale(2.0))], target / "model.onnx")
    assert_good(target / "model.onnx")
    assert (target / "weights.bin").read_bytes() == b"somebody else's"
    assert (target / "weights_1.bin").read_bytes() == source.with_name("weights.bin").read_bytes()
    np.testing.assert_allclose(outputs(target / "model.onnx")["y"], 2 * outputs(source)["y"], rtol=1e-5)
    write(source, [], target / "same.onnx")
    assert {path.name for path in target.iterdir()} == {
        "weights.bin",
        "weights_1.bin",
        "model.onnx",
        "model.onnx.data",
        "same.onnx",
    }


@pytest.mark.parametrize("name", ["fixed.onnx", "model.onnx"])
def test_beside_the_links_of_a_model_cache_the_data_are_copied(tmp_path: Path, name: str) -> None:
    """The written file is no link: what lies where the links lead is outside its directory."""
    source, snapshot = external(tmp_path / "blobs"), tmp_path / "snapshot"
    before = {path: path.read_bytes() for path in (tmp_path / "blobs").iterdir()}
    snapshot.mkdir()
    for path in before:
        (snapshot / path.name).symlink_to(Path("..", "blobs", path.name))
    wanted = 2 * outputs(source)["y"]
    write(snapshot / "model.onnx", [EditTensor("a", Scale(2.0))], snapshot / name)
    assert_good(snapshot / name)
    np.testing.assert_allclose(outputs(snapshot / name)["y"], wanted, rtol=1e-5)
    assert (snapshot / "weights_1.bin").is_file()
    assert {path: path.read_bytes() for path in before} == before


def test_small_changed_weights_go_into_the_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(chain(size=8), str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    proto, _ = written(path, [EditTensor("a", Scale(2.0))])
    assert proto.graph.initializer[0].raw_data
    assert not (tmp_path / "fixed.onnx.data").exists()


def test_a_model_is_replaced_by_itself_and_keeps_its_mode(tmp_path: Path) -> None:
    for make in (inline, external):
        source = make(tmp_path / make.__name__)
        wanted = outputs(source)["y"]
        source.chmod(0o640)
        write(source, [EditTensor("a", Scale(2.0))], source)
        assert_good(source)
        assert source.stat().st_mode & 0o777 == 0o640
        write(source, [EditTensor("a", Scale(2.0))], source)
        np.testing.assert_allclose(outputs(source)["y"], 4 * wanted, rtol=1e-5)


def test_no_edit_leaves_a_model_in_place_untouched(tmp_path: Path) -> None:
    source = inline(tmp_path)
    before = source.stat()
    write(source, [], source)
    assert source.stat().st_mtime_ns == before.st_mtime_ns
    assert source.stat().st_ino == before.st_ino


def test_a_directory_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    source = inline(tmp_path)
    with pytest.raises(GnelintError, match="is a directory"):
        write(source, [], tmp_path)
    with pytest.raises(GnelintError, match="there is no directory"):
        write(source, [], tmp_path / "no" / "model.onnx")


def test_a_directory_that_cannot_be_written_to_is_one_clear_error() -> None:
    code = """
import os, sys, tempfile
from pathlib import Path
from gnelint.errors import GnelintError
from gnelint.fixes.edits import EditTensor, Scale
from tests.writers.onnx.written import write
from tests.writers.onnx.test_files import inline
folder = Path(tempfile.mkdtemp())
folder.chmod(0o755)
source = inline(folder)
write(source, [EditTensor("a", Scale(2.0))], folder / "warm.onnx")
before = source.read_bytes()
folder.chmod(0o555)
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    for output in (source, folder / "fixed.onnx"):
        write(source, [EditTensor("a", Scale(2.0))], output)
except GnelintError as error:
    print(error)
if os.getuid() == 0:
    os.seteuid(0)
folder.chmod(0o755)
assert source.read_bytes() == before
assert {path.name for path in folder.iterdir()} == {"model.onnx", "warm.onnx"}
import shutil
shutil.rmtree(folder)
"""
    run = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "cannot be written (Permission denied)" in run.stdout


@pytest.mark.parametrize("make", ["inline", "external"])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, make: str) -> None:
    source = {"inline": inline, "external": external}[make](tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    code = f"""
import resource, sys
from pathlib import Path
from gnelint.errors import GnelintError
from gnelint.fixes.edits import EditTensor, Scale
from tests.writers.onnx.written import write
source = Path({str(source)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for output in (source, source.with_name("fixed.onnx")):
    try:
        write(source, [EditTensor("a", Scale(2.0))], output)
    except GnelintError as error:
        print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert run.stdout.count("cannot be written (File too large)") == 2, run.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("in_place", [False, True])
def test_killed_while_writing_the_input_is_intact(tmp_path: Path, in_place: bool) -> None:
    source = tmp_path / "model.onnx"
    onnx.save(chain(("a", "b", "c", "d"), size=2048), str(source))
    before = source.read_bytes()
    output = source if in_place else tmp_path / "fixed.onnx"
    code = f"""
from pathlib import Path
from gnelint.fixes.edits import EditTensor, Scale
from tests.writers.onnx.written import write
write(Path({str(source)!r}), [EditTensor(name, Scale(2.0)) for name in "abcd"], Path({str(output)!r}))
"""
    run = subprocess.Popen([sys.executable, "-c", code], env=ENVIRONMENT)
    deadline = time.monotonic() + 60
    while run.poll() is None and time.monotonic() < deadline:
        if any(path.suffix == ".tmp" and path.stat().st_size > 1 << 20 for path in tmp_path.iterdir()):
            run.send_signal(signal.SIGKILL)
            break
        time.sleep(0.001)
    run.wait()
    assert run.returncode == -signal.SIGKILL
    assert source.read_bytes() == before
    assert in_place or not output.exists()


def test_missing_data_are_an_error_not_a_broken_file(tmp_path: Path) -> None:
    source = external(tmp_path / "in")
    graph = read(source)
    source.with_name("weights.bin").unlink()
    (tmp_path / "out").mkdir()
    with pytest.raises(GnelintError, match="missing"):
        write_onnx(source, [], tmp_path / "out" / "model.onnx", graph=graph)
    (unmade,) = write_onnx(source, [because(EditTensor("a", Scale(2.0)))], source, graph=graph)
    assert "missing" in unmade.reason


BIG = 1500
"""Megabytes of each of two weights."""


@pytest.mark.slow
def test_a_model_beyond_two_gigabytes_is_patched_in_little_memory(tmp_path: Path) -> None:
    rows = BIG * 2**20 // 4 // 1024
    proto = chain(("s",), size=1024)
    for name in ("big", "large"):
        tensor = proto.graph.initializer.add(name=name, data_type=TensorProto.FLOAT, dims=[rows, 1024])
        tensor.data_location = TensorProto.EXTERNAL
        offset = 0 if name == "big" else BIG * 2**20
        for key, value in (("location", "weights.bin"), ("offset", str(offset)), ("length", str(BIG * 2**20))):
            tensor.external_data.add(key=key, value=value)
    proto.graph.node.append(node("Gather", ["big", "rows"], ["taken"]))
    proto.graph.node.append(node("Gather", ["large", "rows"], ["more"]))
    proto.graph.input.append(helper.make_tensor_value_info("rows", TensorProto.INT64, (2,)))
    for name in ("taken", "more"):
        proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, (2, 1024)))
    (tmp_path / "out").mkdir()
    source = tmp_path / "model.onnx"
    onnx.save(proto, str(source))
    with (tmp_path / "weights.bin").open("wb") as file:
        file.truncate(2 * BIG * 2**20)
    code = f"""
import resource
from pathlib import Path
from gnelint.fixes.edits import EditTensor, Scale
from tests.writers.onnx.written import write
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write(Path({str(source)!r}), [EditTensor("s", Scale(2.0))], Path({str(tmp_path / "fixed.onnx")!r}))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    run = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert int(run.stdout) < 200, f"{run.stdout} MB"
    onnx.checker.check_model(str(tmp_path / "fixed.onnx"), full_check=True)
    patched = onnx.load(str(tmp_path / "fixed.onnx"), load_external_data=False)
    assert (tmp_path / "fixed.onnx").stat().st_size < 8 * 2**20
    assert patched.graph.initializer[1] == proto.graph.initializer[1]
