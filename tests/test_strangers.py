"""Files of strangers as a user, a hook or a CI job meets them: no code runs, one bad file costs one answer, no name
commands, and what ends a run ends all of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gnelint import check
from gnelint.app.batch import CHECK, _lost
from gnelint.errors import ModelError
from gnelint.readers.target import Target
from gnelint.settings.jobs import Job
from tests.test_cli import write_mlp

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits and signals are of POSIX")

SECONDS, MEMORY = 30.0, 1 << 30
"""Of computing, start of Python included, on a machine that does other things; bytes."""


def info(name: str, shape: Sequence[Any] | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def ints(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def numbers(name: str, *shape: int) -> onnx.TensorProto:
    drawn = np.random.default_rng(0).standard_normal(shape) * 0.3
    return numpy_helper.from_array(drawn.astype(np.float32), name)


def relu(read: str, written: str) -> onnx.NodeProto:
    return helper.make_node("Relu", [read], [written])


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
) -> Path:
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(weights))
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid("my", 1)] if functions else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=10), str(path))
    return path


def started(*arguments: str, cwd: Path, **more: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gnelint", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=cwd, text=True, errors="replace", **{**pipes, **more})


def gnelint(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    process = started(*arguments, cwd=cwd)
    out, err = process.communicate(timeout=240)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


MEASURED = """
import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss * 1024]))
"""


def cost(*arguments: str, cwd: Path) -> tuple[int, str, float, int]:
    """Exit code, standard error, seconds of computing and the most memory of one run and its workers.

    The system counts what a process was before it ran its program: it is started by a small one, not by this.
    """
    command = [sys.executable, "-c", MEASURED, sys.executable, "-m", "gnelint", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    code, seconds, memory = json.loads(done.stdout)
    return code, done.stderr, seconds, memory


# --- bounded cost -----------------------------------------------------------------------------------------------------


def _batch(path: Path) -> Path:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Sigmoid", ["m"], ["s"]),
             helper.make_node("Mul", ["m", "s"], ["y"]), helper.make_node("MatMul", ["y", "w"], ["z"])]  # fmt: skip
    return save(path, nodes, [info("x", [2**40, 8])], [info("z", None)], [numbers("w", 8, 8)])


def _large_batch(path: Path) -> Path:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Sigmoid", ["m"], ["s"]),
             helper.make_node("Mul", ["m", "s"], ["y"]), helper.make_node("MatMul", ["y", "w"], ["z"])]  # fmt: skip
    return save(path, nodes, [info("x", [2**36, 8])], [info("z", None)], [numbers("w", 8, 8)])


def _pool(path: Path) -> Path:
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[20000], strides=[1])
    return save(path, [node], [info("x", [1, 1, 40000])], [info("y", None)])


def _ones(path: Path) -> Path:
    value = numpy_helper.from_array(np.array([1.0], np.float32))
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["o"], value=value),
             helper.make_node("BatchNormalization", ["x", *["o"] * 4], ["y"]), relu("y", "z")]  # fmt: skip
    return save(path, nodes, [info("x", [2, 10**8, 8, 8])], [info("z", None)], [ints("s", 10**8)])


def _softmax(path: Path) -> Path:
    chain = [helper.make_node("Softmax", [f"w{i}"], [f"w{i + 1}"]) for i in range(20)]
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["w0"]),
        *chain,
        helper.make_node("MatMul", ["x", "w20"], ["y"]),
    ]
    return save(path, nodes, [info("x", [1, 8192])], [info("y", None)], [ints("s", 8192, 8192)])


def _double(path: Path) -> Path:
    nodes = [helper.make_node("Concat", [f"w{i}", f"w{i}"], [f"w{i + 1}"], axis=0) for i in range(60)]
    nodes.append(helper.make_node("MatMul", ["w60", "x"], ["y"]))
    return save(path, nodes, [info("x", [4, 4])], [info("y", None)], [numbers("w0", 4, 4)])


def _stride(path: Path) -> Path:
    nodes = [helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[10**6] * 2), relu("y", "z"),
             helper.make_node("Conv", ["z", "v"], ["q"])]  # fmt: skip
    weights = [numbers("w", 3, 4, 3, 3), numbers("v", 4, 4, 3, 3)]
    return save(path, nodes, [info("x", [1, 3, 8, 8])], [info("q", None)], weights)


def _functions(path: Path) -> Path:
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("my", 1)]
    made = [helper.make_function("my", "F0", ["a"], ["o"], [relu("a", "o")], imports)]
    for i in range(1, 17):
        twice = [helper.make_node(f"F{i - 1}", [a], [b], domain="my") for a, b in (("a", "m"), ("m", "o"))]
        made.append(helper.make_function("my", f"F{i}", ["a"], ["o"], twice, imports))
    return save(
        path, [helper.make_node("F16", ["x"], ["y"], domain="my")], [info("x", [4])], [info("y", [4])], (), made
    )


def _zeros(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(50 << 20)
    return path


def _windows(path: Path) -> Path:
    nodes = [helper.make_node("MaxPool", ["x"], ["m"], kernel_shape=[2**31 - 1, 2], strides=[2, 2]),
             helper.make_node("Slice", ["m", "from", "to", "axes"], ["y"])]  # fmt: skip
    bounds = [ints("from", 0), ints("to", 2), ints("axes", 2)]
    return save(path, nodes, [info("x", ["N", 4, 8, 8])], [info("y", None)], bounds)


def _kernel(path: Path) -> Path:
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2**63 - 1, 5], pads=[2, 2, 2, 2])
    return save(path, [node], [info("x", [1, 1, 5, 5])], [info("y", None)])


def _rank(path: Path) -> Path:
    nodes = [relu("x", "a"), helper.make_node("Transpose", ["a"], ["b"]), helper.make_node("ReduceMean", ["b"], ["y"])]
    return save(path, nodes, [info("x", [2] * 100)], [info("y", None)])


def _no_output(path: Path) -> Path:
    return save(path, [helper.make_node("Constant", [], [], value_float=1.0)], [], [])


def _chain(path: Path) -> Path:
    nodes = [relu(f"v{i}" if i else "x", f"v{i + 1}") for i in range(700)]
    return save(path, nodes, [info("x", [4, 16])], [info("v700", [4, 16])])


def _expression(path: Path) -> Path:
    """Tried in 2^40 ways."""
    nodes = [helper.make_node("RegexFullMatch", ["s"], ["m"], pattern="(a+)+$"), relu("x", "y")]
    text = helper.make_tensor("s", TensorProto.STRING, [1], [b"a" * 40 + b"!"])
    graph = helper.make_graph(nodes, "g", [info("x", [4, 8])], [info("y", None)], [text])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


def _spare(path: Path) -> Path:
    """Numbers that nothing reads."""
    spare = [TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[1], raw_data=bytes(4)) for i in range(30_000)]
    return save(path, [relu("x", "y")], [info("x", [4, 8])], [info("y", None)], spare)


HOSTILE = (_batch, _large_batch, _pool, _ones, _softmax, _double, _stride, _functions, _zeros, _windows, _kernel, _rank,
           _no_output, _chain, _expression, _spare)  # fmt: skip


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__.strip("_"))
def test_a_small_file_costs_little(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "m.onnx")
    code, err, seconds, memory = cost("check", "-q", "--no-cache", "m.onnx", cwd=tmp_path)
    assert code in (0, 2)
    assert len(err.splitlines()) == (code == 2)
    assert err == "" or err.startswith("gnelint: m.onnx: ")
    assert "itself failed" not in err
    assert seconds < SECONDS
    assert memory < MEMORY


@pytest.mark.parametrize("command", [("check", "-q", "--no-cache"), ("fix", "--diff"), ("verify",)])
@pytest.mark.parametrize(("option", "said"), [("--max-memory=0.3", "0.3 GB"), ("--timeout=1", "1 s of computing")])
def test_budgets_name_the_node(command: tuple[str, ...], option: str, said: str, tmp_path: Path) -> None:
    (_softmax if "memory" in option else _long)(tmp_path / "m.onnx")
    result = gnelint(*command, option, "m.onnx", cwd=tmp_path)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert said in line
    assert 'node "' in line or command == ("verify",)  # it loads PyTorch first, which takes both
    assert option.partition("=")[0] in line


def _long(path: Path) -> Path:
    """So many nodes that reading them alone takes more than a second."""
    nodes = [relu(f"v{i}" if i else "x", f"v{i + 1}") for i in range(20_000)]
    return save(path, nodes, [info("x", [4, 16])], [info("v20000", [4, 16])])


# --- one bad file costs one answer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_a_process_that_ends_costs_its_own_answer(jobs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is made to end the process on one node: which file of which version does so is not the point."""
    for index in range(8):
        save(tmp_path / f"m{index}.onnx", [relu("x", "y")], [info("x", [4])], [info("y", [4])])
    save(tmp_path / "m3.onnx", [helper.make_node("Softmax", ["x"], ["y"], "evil")], [info("x", [4])], [info("y", [4])])
    (tmp_path / "sitecustomize.py").write_text(
        "import os, gnelint.readers.onnx.infer as infer\n"
        "usual = infer.TypeInference.infer\n"
        "def evil(self, node, *rest):\n"
        "    os.abort() if node.name == 'evil' else None\n"
        "    return usual(self, node, *rest)\n"
        "infer.TypeInference.infer = evil\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    result = gnelint("check", "--no-cache", "-j", jobs, "--format", "json", ".", cwd=tmp_path)
    assert result.returncode == 2
    assert len(json.loads(result.stdout)["targets"]) == 7
    (line,) = result.stderr.splitlines()
    assert line.startswith("gnelint: m3.onnx: ended the process")
    assert 'node "evil" (Softmax)' in line
    assert "SIGABRT" in line


def test_names_without_end_are_cut(tmp_path: Path) -> None:
    unknown = helper.make_node("Z" * 100_000, ["x"], ["y"], name="n" * 100_000)
    save(tmp_path / "m.onnx", [unknown], [info("x", ["d" * 100_000, 8])], [info("y", None)])
    assert len(str(check(tmp_path / "m.onnx"))) < 20_000


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkfifo, "is no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "is no regular file"),
        (lambda path: path.symlink_to("elsewhere.onnx"), "is a link to elsewhere.onnx, which is not there"),
        (lambda path: path.symlink_to(path.name), "which is not there"),
    ],
)
def test_what_is_no_file_is_called_so(make: Any, said: str, tmp_path: Path) -> None:
    make(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=said):
        check(tmp_path / "m.onnx")


def test_a_file_that_is_cut_short_meanwhile_is_called_so() -> None:
    found = _lost(CHECK, Job(Target("m.onnx", "onnx", path=Path("m.onnx"))), -signal.SIGBUS, 'node "a" (Relu)')
    assert 'was cut short while it was read at node "a" (Relu)' in found.reason


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_external_data_are_in_a_file(make: Any, tmp_path: Path) -> None:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[8, 8], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="w.bin")
    path = save(tmp_path / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], [info("x", [4, 8])],
                [info("y", None)], [weight])  # fmt: skip
    with pytest.raises(ModelError, match="which is missing"):
        check(path)
    make(tmp_path / "w.bin")
    with pytest.raises(ModelError, match="which is no regular file"):
        check(path)


def test_what_cannot_be_shown_costs_its_own_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mlp(tmp_path / "good.onnx", depth=2)
    write_mlp(tmp_path / "evil.onnx", depth=2)
    (tmp_path / "sitecustomize.py").write_text(
        "import gnelint.output.text as text\n"
        "usual = text.summary\n"
        "def evil(entries, *rest, **more):\n"
        "    if any('evil' in entry['target'] for entry in entries): raise KeyError('a defect')\n"
        "    return usual(entries, *rest, **more)\n"
        "text.summary = evil\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    result = gnelint("check", "--no-cache", "good.onnx", "evil.onnx", cwd=tmp_path)
    assert result.returncode == 2
    assert "good.onnx" in result.stdout
    assert result.stderr.splitlines() == [
        "gnelint: evil.onnx: gnelint itself failed (KeyError: 'a defect'). Please report this; -v shows where."
    ]


def test_a_finding_without_a_block_is_shown(tmp_path: Path) -> None:
    middle = [helper.make_node("Identity" if k % 2 else "Abs", [f"v{k}"], [f"v{k + 1}"]) for k in range(3)]
    nodes = [helper.make_node("NonZero", ["x"], ["nz"]), helper.make_node("Cast", ["nz"], ["v0"], to=1), *middle,
             relu("v3", "y")]  # fmt: skip
    save(tmp_path / "m.onnx", nodes, [info("x", [4, 4])], [info("y", None)])
    for form in ("text", "sarif", "json", "github", "junit", "markdown"):
        result = gnelint("check", "--no-cache", "--format", form, "m.onnx", cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout or form == "github"


# --- output and names -------------------------------------------------------------------------------------------------

ATTACK = "\x1b[31mRED\n::error::injected\x1b]0;title\x07\x85\u2028::error::more"


@pytest.mark.parametrize("command", [("check", "-v", "--no-cache"), ("fix", "-v", "--diff")])
def test_tracebacks_command_nothing(command: Sequence[str], tmp_path: Path) -> None:
    node = helper.make_node("Relu", [f"missing{ATTACK}"], ["y"], ATTACK)
    save(tmp_path / "m.onnx", [node], [], [info("y", [1])])
    err = gnelint(*command, "m.onnx", cwd=tmp_path).stderr
    assert "Traceback" in err
    assert "\x1b" not in err
    assert not any(line.lstrip().startswith("::") for line in err.splitlines())


@pytest.mark.parametrize("place", ["op_type", "input", "name", "dim"])
def test_names_that_are_no_utf_8_are_escaped(place: str, tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["xQQQ" if place == "input" else "x"], ["y"], "nQQQ" if place == "name" else "n")
    node.op_type = "RQQQ" if place == "op_type" else "Relu"
    shape = ["dQQQ"] if place == "dim" else [4]
    path = save(tmp_path / "m.onnx", [node], [info(node.input[0], shape)], [info("y", None)])
    path.write_bytes(path.read_bytes().replace(b"QQQ", b"\xff\xfeQ"))
    for form in ("text", "json", "sarif"):
        result = gnelint("check", "--no-cache", "--format", form, "m.onnx", cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("form", ["text", "json", "sarif", "github", "junit", "markdown"])
def test_the_name_of_a_file_may_be_no_text(form: str, tmp_path: Path) -> None:
    name = os.fsdecode(b"m\xff\xfe.onnx")
    try:
        write_mlp(tmp_path / "m.onnx", depth=2).rename(tmp_path / name)
    except OSError:
        pytest.skip("this file system has no such names")
    for more in ((), ("-o", "report", "--html", "page.html")):
        result = gnelint("check", "--no-cache", "--format", form, *more, name, cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, "")


def test_the_name_of_a_file_is_no_code(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    name = 'x""" + str(print("RAN")) + """\\.onnx'
    write_mlp(tmp_path / name, depth=8, gain=0.5, width=16)
    gnelint("fix", "--no-verify", "--emit-init", "init_weights.py", name, cwd=tmp_path)
    ran = subprocess.run([sys.executable, "init_weights.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout == ""


def test_the_name_of_a_file_is_no_option(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "--html=models").mkdir()
    for name in ("models/victim.onnx", "--html=models/victim.onnx", "a.onnx"):
        write_mlp(tmp_path / name, depth=2)
    before = (tmp_path / "models/victim.onnx").read_bytes()
    result = gnelint("check", "-q", "--html=models/victim.onnx", "a.onnx", cwd=tmp_path)
    assert result.returncode == 2
    assert "refused" in result.stderr
    assert gnelint("check", "-q", "--", "--html=models/victim.onnx", "a.onnx", cwd=tmp_path).returncode == 0
    assert (tmp_path / "models/victim.onnx").read_bytes() == before


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("pyproject.toml", "tool = 3"),
        ("pyproject.toml", "tool = [1]"),
        ("gnelint.toml", 'rules = ["/dev/zero"]'),
        ("gnelint.toml", 'baseline = "/dev/zero"'),
        ("gnelint.toml", 'baseline = "../known.json"'),
        ("gnelint.toml", 'cache-dir = "/tmp/elsewhere"'),
        ("gnelint.toml", 'cache-dir = "linked"'),
        ("gnelint.toml", "[params.GNE101]\ntolerance = " + "9" * 400),
        ("gnelint.toml", "[params.GNE101]\ntolerance = " + "9" * 5000),
        ("gnelint.toml", "[params.GNE101]\ntolerance = nan"),
        ("gnelint.toml", "# " + "x" * (1 << 20)),
    ],
)
def test_configuration_is_a_strangers(file: str, text: str, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (project / "linked").symlink_to(tmp_path / "elsewhere")
    write_mlp(project / "m.onnx", depth=2)
    (project / file).write_text(text)
    result = gnelint("check", "-q", "m.onnx", cwd=project)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert file in line
    assert "itself failed" not in line
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('ignore = ["GNE1"]', "ignores GNE1"),
        ('fail-on = "never"', "lets nothing fail"),
        ('select = ["GNE9"]', "runs only GNE9"),
        ('[per-target-ignores]\n"*.onnx" = ["GNE5"]', "ignores GNE5"),
    ],
)
def test_what_configuration_silences_is_said(text: str, said: str, tmp_path: Path) -> None:
    write_mlp(tmp_path / "m.onnx", depth=2)
    (tmp_path / "gnelint.toml").write_text(text)
    (line,) = gnelint("check", "-q", "--no-cache", "m.onnx", cwd=tmp_path).stderr.splitlines()
    assert said in line
    assert "gnelint.toml" in line


# --- ends -------------------------------------------------------------------------------------------------------------


def _group(process: subprocess.Popen[str]) -> list[str]:
    """The processes of a process' session that are still there."""
    found = subprocess.run(["pgrep", "-s", str(process.pid)], capture_output=True, text=True, check=False)
    return found.stdout.split()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("jobs", ["1", "3"])
def test_an_end_ends_the_workers(number: signal.Signals, jobs: str, tmp_path: Path) -> None:
    for index in range(6):
        _long(tmp_path / f"m{index}.onnx")
    process = started("check", "--no-cache", "-j", jobs, ".", cwd=tmp_path, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(_group(process)) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert err.strip() == ("gnelint: stopped." if number == signal.SIGINT else "")
    deadline = time.monotonic() + 5
    while _group(process) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _group(process) == []


def test_an_interrupt_at_any_moment_says_one_word(tmp_path: Path) -> None:
    write_mlp(tmp_path / "m.onnx", depth=2)
    for wait in (0.05, 0.15, 0.3, 0.6, 1.0):
        process = started("check", "--no-cache", "m.onnx", cwd=tmp_path, start_new_session=True)
        time.sleep(wait)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        before_main = "Traceback" in err and ", in main\n" not in err  # the handler is set in its first line
        assert err.strip() in ("", "gnelint: stopped.") or before_main


def test_closed_output_ends_quietly(tmp_path: Path) -> None:
    write_mlp(tmp_path / "m.onnx", depth=2)
    command = f"{sys.executable} -m gnelint check --no-cache m.onnx"
    for closing in (f"{command} >&-", f"{command} >&- 2>&-", f"{command} | true"):
        done = subprocess.run(["sh", "-c", closing], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_two_runs_write_one_baseline(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_mlp(tmp_path / f"{name}.onnx", depth=12, gain=0.5)
    command = ("check", "-q", "--no-cache", "--baseline", "known.json", "--write-baseline")
    runs = [started(*command, f"{name}.onnx", cwd=tmp_path) for name in ("a", "b", "c")]
    assert [run.wait(timeout=120) for run in runs] == [0, 0, 0]
    for run in runs:
        run.communicate()
    assert set(json.loads((tmp_path / "known.json").read_text())["targets"]) == {"a.onnx", "b.onnx", "c.onnx"}


@pytest.mark.parametrize(("given", "said"), [({"max_memory": 0.3}, "0.3 GB"), ({"timeout": 1.0}, "1 s of computing")])
def test_budgets_from_python_end_with_the_call(given: dict[str, float], said: str, tmp_path: Path) -> None:
    import resource

    limits = [resource.getrlimit(kind) for kind in (resource.RLIMIT_CPU, resource.RLIMIT_DATA)]
    path = (_softmax if "max_memory" in given else _long)(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=said):
        check(path, **given)  # type: ignore[arg-type]
    assert [resource.getrlimit(kind) for kind in (resource.RLIMIT_CPU, resource.RLIMIT_DATA)] == limits
    assert check(
        save(tmp_path / "small.onnx", [relu("x", "y")], [info("x", [4])], [info("y", [4])]), timeout=60
    ).profile
