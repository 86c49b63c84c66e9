"""The command line as a user meets it: exit codes, streams, files, and one line for each mistake.

The networks are small ONNX files made here, so that the whole path from the file to the report is run.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gnelint.cli.check import FORMATS
from gnelint.lint.rulefile import load_rules
from tests.command import gnelint


def write_mlp(path: Path, *, depth: int = 30, gain: float = 1.0, width: int = 64, op: str = "Relu") -> Path:
    """An ONNX file of `depth` Gemm layers with He weights times `gain` and an activation behind each."""
    generator = np.random.default_rng(0)
    nodes, weights, previous = [], [], "x"
    for index in range(depth):
        weight = generator.normal(0, gain * (2 / width) ** 0.5, (width, width)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{index}"))
        nodes.append(helper.make_node("Gemm", [previous, f"w{index}"], [f"h{index}"], name=f"fc{index}", transB=1))
        nodes.append(helper.make_node(op, [f"h{index}"], [f"a{index}"], name=f"act{index}"))
        previous = f"a{index}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [16, width]) for name in ("x", previous)]
    graph = helper.make_graph(nodes, "mlp", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), str(path))
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_mlp(folder / "bad.onnx", gain=0.5)
    write_mlp(folder / "good.onnx")
    (folder / "broken.onnx").write_bytes(b"not a model at all" * 10)
    return folder


def one_line(stderr: str, *parts: str) -> None:
    lines = stderr.splitlines()
    assert len(lines) == 1, stderr
    assert lines[0].startswith("gnelint: ")
    for part in parts:
        assert part in lines[0]


def test_a_bad_network(models: Path) -> None:
    result = gnelint("check", "bad.onnx", cwd=models)
    assert result.returncode == 1, result.stderr
    assert result.stderr == ""
    assert "The gradient vanishes" in result.stdout
    assert "GNE101 error" in result.stdout
    assert "31 errors, 0 warnings" in result.stdout
    assert "\033" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_a_good_network(models: Path, tmp_path: Path) -> None:
    result = gnelint("check", "good.onnx", cwd=models)
    assert (result.returncode, result.stderr) == (0, "")
    assert "No findings." in result.stdout
    assert gnelint("check", "good.onnx", "-q", cwd=models).stdout == ""
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes((models / "good.onnx").read_bytes())
    assert gnelint("check", "a.onnx", "b.onnx", "-q", cwd=tmp_path).stdout == ""


def test_json_and_determinism(models: Path) -> None:
    first, second = (gnelint("check", "bad.onnx", "good.onnx", "--format", "json", cwd=models) for _ in range(2))
    assert first.returncode == 1
    assert first.stdout == second.stdout
    report = json.loads(first.stdout)
    assert report["schema"] == "gnelint/1"
    assert [entry["target"] for entry in report["targets"]] == ["bad.onnx", "good.onnx"]
    bad, good = report["targets"]
    assert bad["summary"]["coverage"] == 1.0
    assert bad["summary"]["gradient_ratio"] < 2.0**-40
    assert (good["summary"]["errors"], good["summary"]["warnings"]) == (0, 0)
    assert bad["findings"][0]["fix"]["safety"] == "init"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--exit-zero"], 0),
        (["--fail-on", "never"], 0),
        (["--fail-on", "info"], 1),
        (["--ignore", "GNE1,GNE5"], 0),
        (["--select", "gne501"], 1),
        (["--select", "GNE901"], 0),
        (["--select", "GNE901", "--extend-select", "GNE101"], 1),
        (["--stage", "trained"], 0),
        (["--mode", "eval"], 1),
    ],
)
def test_exit_codes(models: Path, options: Sequence[str], code: int) -> None:
    result = gnelint("check", "bad.onnx", *options, cwd=models)
    assert (result.returncode, result.stderr) == (code, "")


def test_rules_left_out_for_trained_weights_are_said(models: Path) -> None:
    result = gnelint("check", "bad.onnx", "--stage", "trained", cwd=models)
    skipped = sum(rule.stage == "init" for rule in load_rules().rules if rule.status == "stable")
    assert f"{skipped} rules for untrained networks skipped" in " ".join(result.stdout.split())


def test_one_bad_file_does_not_stop_the_others(models: Path) -> None:
    result = gnelint("check", "broken.onnx", "nowhere.onnx", "good.onnx", cwd=models)
    assert result.returncode == 2
    assert "good.onnx: " in result.stdout
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("gnelint: ") for line in lines)
    assert any("nowhere.onnx" in line for line in lines)
    assert any("broken.onnx" in line for line in lines)
    assert "Traceback" not in result.stderr
    assert "Traceback" in gnelint("check", "broken.onnx", "-v", cwd=models).stderr


def test_a_directory(models: Path) -> None:
    result = gnelint("check", ".", "--format", "json", cwd=models)
    assert result.returncode == 2
    assert len(json.loads(result.stdout)["targets"]) == 2


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["chek", "bad.onnx"], ["chek", "check"]),
        (["check"], ["TARGET", "--help"]),
        (["check", "bad.onnx", "--formt", "json"], ["--formt", "--format"]),
        (["check", "bad.onnx", "--format", "xml"], ["xml", "json"]),
        (["check", "bad.onnx", "--statistics", "--format", "sarif"], ["--statistics", "sarif", "json"]),
        (["check", "bad.onnx", "--htlm", "x"], ["--htlm", "--html"]),
        (["check", "bad.onnx", "--select", "GNE9999"], ["GNE9999", "gnelint rules"]),
        (["check", "bad.onnx", "--rules", "nowhere.yaml"], ["nowhere.yaml", "cannot be read"]),
        (["check", "bad.onnx", "--config", "nowhere.toml"], ["nowhere.toml", "cannot be read"]),
        (["check", "bad.onnx", "--input", "a,b"], ["--input a,b"]),
        (["check", "bad.onnx", "-o", "no/such/folder/report.txt"], ["no/such/folder/report.txt", "cannot be written"]),
        (["rule", "GNE10"], ["GNE10", "Did you mean"]),
    ],
)
def test_mistakes_get_one_line_and_code_2(models: Path, arguments: Sequence[str], parts: Sequence[str]) -> None:
    result = gnelint(*arguments, cwd=models)
    assert result.returncode == 2
    assert result.stdout == ""
    one_line(result.stderr, *parts)


def test_output_file_is_whole_or_absent(models: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text("the old one")
    result = gnelint("check", models / "bad.onnx", "--format", "json", "-o", report, "--no-cache", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert json.loads(report.read_text())["schema"] == "gnelint/1"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_every_format_of_a_run(models: Path) -> None:
    def run(form: str, *targets: str, code: int) -> str:
        result = gnelint("check", *targets, "--format", form, cwd=models)
        assert result.returncode == code, result.stderr
        return result.stdout

    for targets, code in ((("good.onnx",), 0), (("bad.onnx", "good.onnx"), 1), (("bad.onnx", "nowhere.onnx"), 2)):
        (log,) = json.loads(run("sarif", *targets, code=code))["runs"]
        invocation = log["invocations"][0]
        assert (invocation["exitCode"], invocation["executionSuccessful"]) == (code, code < 2)
        assert len(log["results"]) == (31 if code else 0)
        suites = ElementTree.fromstring(run("junit", *targets, code=code))
        assert (suites.get("failures"), suites.get("errors")) == ("2" if code else "0", "1" if code == 2 else "0")
        assert [suite.get("name") for suite in suites] == list(targets)
        annotations = run("github", *targets, code=code).splitlines()
        assert [line.split("::")[1].split(" ")[0] for line in annotations[:-1]] == ["error"] * (0, 2, 3)[code]
        assert ("### gnelint: 31 errors" in run("markdown", *targets, code=code)) == (code > 0)


@pytest.mark.parametrize("form", FORMATS)
def test_names_of_any_language_in_any_locale(tmp_path: Path, form: str) -> None:
    model = onnx.load(str(write_mlp(tmp_path / "模型.onnx", gain=0.5, depth=24, width=32)))
    for node in model.graph.node:
        node.name = f"слой/{node.name}"
    onnx.save(model, str(tmp_path / "模型.onnx"))
    command = [sys.executable, "-m", "gnelint", "check", "模型.onnx", "--format", form]
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (1, b"")
    shown = result.stdout.decode("utf-8")
    if form in ("github", "junit", "markdown"):
        assert "слой/fc0" in shown
        assert "模型.onnx" in shown


def test_what_ran_is_known_from_the_cache_too(models: Path, tmp_path: Path) -> None:
    def sarif(*options: str) -> str:
        return gnelint(
            "check",
            "bad.onnx",
            "--format",
            "sarif",
            "--cache-dir",
            tmp_path,
            "--stage",
            "trained",
            *options,
            cwd=models,
        ).stdout

    first = sarif()
    assert sarif() == first == sarif("--no-cache")
    ran = [rule["id"] for rule in json.loads(first)["runs"][0]["tool"]["driver"]["rules"]]
    assert ran == [rule.id for rule in load_rules().rules if rule.stage == "any" and rule.status == "stable"]


NETWORK = """\
import torch


class Deep(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(64, 64) for _ in range(30))
        for layer in self.layers:
            torch.nn.init.normal_(layer.weight, std=0.5 * (2 / 64) ** 0.5)

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))  # here
        return x
"""


def test_findings_of_torch_are_at_their_lines(tmp_path: Path) -> None:
    """Those of a module, and of an ONNX file that the dynamo exporter wrote; the whole network's are at the file."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from tests.models.export import write_onnx

    file = tmp_path / "nets" / "deep.py"
    file.parent.mkdir()
    file.write_text(NETWORK)
    module = runpy.run_path(str(file))["Deep"]()
    write_onnx(module, (torch.randn(16, 64),), tmp_path / "deep.onnx", opset=18, dynamo=True, fold=False)
    line = NETWORK[: NETWORK.index("# here")].count("\n") + 1
    for target, own in (("nets.deep:Deep", file), ("nets/deep.py:Deep", file), ("deep.onnx", tmp_path / "deep.onnx")):
        shape = () if own.suffix == ".onnx" else ("--input", "16,64")
        select = ("--select", "GNE101,GNE5")
        result = gnelint("check", target, *shape, *select, "--format", "sarif", cwd=tmp_path)
        assert result.returncode == 1, result.stderr
        *places, network = json.loads(result.stdout)["runs"][0]["results"]
        assert places
        for place in places:
            physical = place["locations"][0]["physicalLocation"]
            assert physical["artifactLocation"]["uri"] == "nets/deep.py"
            assert physical["region"] == {"startLine": line}
            assert ("analysisTarget" in place) == (own.suffix == ".onnx")
        assert network["locations"][0]["physicalLocation"] == {
            "artifactLocation": {"uri": own.relative_to(tmp_path).as_posix(), "uriBaseId": "%SRCROOT%"}
        }
        annotations = gnelint("check", target, *shape, *select, "--format", "github", cwd=tmp_path).stdout
        assert f"file=nets/deep.py,line={line},title=GNE101" in annotations


def test_statistics(models: Path) -> None:
    result = gnelint("check", "bad.onnx", "good.onnx", "--statistics", cwd=models)
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["30", "GNE101", "error", "gain-mismatch", "in", "1", "of", "2", "targets"],
        ["1", "GNE501", "error", "vanishing-gradient", "in", "1", "of", "2", "targets"],
        ["31", "findings."],
    ]
    report = json.loads(gnelint("check", "bad.onnx", "--statistics", "--format", "json", cwd=models).stdout)
    assert report["statistics"][0] == {
        "rule": "GNE101", "name": "gain-mismatch", "count": 30, "targets": 1,
        "errors": 30, "warnings": 0, "infos": 0, "fixable": 30,
    }  # fmt: skip


def test_configuration_and_command_line(models: Path, tmp_path: Path) -> None:
    bad = models / "bad.onnx"
    (tmp_path / "gnelint.toml").write_text('ignore = ["GNE1", "GNE5"]\n')
    assert gnelint("check", bad, cwd=tmp_path).returncode == 0
    (tmp_path / "gnelint.toml").write_text('fail-on = "never"\n')
    assert gnelint("check", bad, cwd=tmp_path).returncode == 0
    assert gnelint("check", bad, "--fail-on", "error", cwd=tmp_path).returncode == 1
    (tmp_path / "gnelint.toml").write_text('select = ["GNE101"]\n[params.GNE101]\ntolerance = 5.0\n')
    assert gnelint("check", bad, cwd=tmp_path).returncode == 0
    other = tmp_path / "other.toml"
    other.write_text("")
    assert gnelint("check", bad, "--config", other, cwd=tmp_path).returncode == 1
    (tmp_path / "gnelint.toml").write_text("nonsense = 1\n")
    result = gnelint("check", bad, cwd=tmp_path)
    assert result.returncode == 2
    one_line(result.stderr, "gnelint.toml", "nonsense")


RULE = """\
schema: 1
id: ACME001
name: any-relu
group: activation
severity: info
stage: any
summary: There is a rectifier.
pattern: a = relu(x)
message: "{a.name} is a rectifier"
explain: "It says so."
"""


def test_a_users_rule(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "acme.yaml"
    path.write_text(RULE)
    result = gnelint(
        "check", models / "good.onnx", "--rules", path, "--format", "json", "--fail-on", "info", cwd=tmp_path
    )
    assert result.returncode == 1, result.stderr
    assert len(json.loads(result.stdout)["targets"][0]["findings"]) == 30
    assert "ACME001  any-relu" in gnelint("rules", "--rules", path, cwd=tmp_path).stdout
    assert "It says so." in gnelint("rule", "acme001", "--rules", path, cwd=tmp_path).stdout
    path.write_text(RULE.replace("schema: 1", "schema: 7"))
    result = gnelint("check", models / "good.onnx", "--rules", path, cwd=tmp_path)
    assert result.returncode == 0
    one_line(result.stderr, "needs rule schema 7")
    path.write_text(RULE.replace("{a.name}", "{a.nmae}"))
    result = gnelint("check", models / "good.onnx", "--rules", path, cwd=tmp_path)
    assert result.returncode == 2
    one_line(result.stderr, "acme.yaml:9", "nmae")


def test_rules_and_rule(tmp_path: Path) -> None:
    listed = gnelint("rules", cwd=tmp_path)
    assert listed.returncode == 0
    assert listed.stdout.count("GNE") >= 7
    explained = gnelint("rule", "GNE401", cwd=tmp_path)
    assert explained.returncode == 0
    assert explained.stdout.startswith("# residual-growth (GNE401)")


HEAVY = "torch", "onnx", "numpy", "yaml", "jsonschema", "jinja2"


def loaded(code: str, cwd: Path) -> set[str]:
    """Which heavy modules a program has imported when it ends."""
    program = (
        "import sys\n"
        f"try:\n    {code}\nexcept SystemExit:\n    pass\n"
        f"print('LOADED', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=cwd, capture_output=True, text=True, check=True)
    return set(result.stdout.splitlines()[-1].split()[1:])


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    assert loaded("import gnelint.cli; sys.argv = ['gnelint', '--help']; gnelint.cli.main()", tmp_path) == set()
    assert (
        loaded("import gnelint.cli; sys.argv = ['gnelint', 'check', '--help']; gnelint.cli.main()", tmp_path) == set()
    )


def test_checking_an_onnx_file_never_imports_torch(models: Path) -> None:
    """What the command does in a process of its own, done in one that can be looked into."""
    imports = "from gnelint.app.batch import answer; from gnelint.readers.target import resolve; "
    imports += "from gnelint.settings.jobs import Job; "
    found = loaded(f"{imports}assert answer(Job(resolve('bad.onnx')[0])).findings", models)
    assert "onnx" in found
    assert "torch" not in found
    assert "jsonschema" not in found
