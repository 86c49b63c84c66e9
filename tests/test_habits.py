"""What people expect of a linter, on the command line: suppressions, baselines, preview rules, several processes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import gnelint as api
from tests.command import gnelint
from tests.test_cli import RULE, one_line, write_mlp

DEPTH = 24


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_mlp(tmp_path / "bad.onnx", gain=0.5, depth=DEPTH, width=32)
    write_mlp(tmp_path / "good.onnx", depth=DEPTH, width=32)
    return tmp_path


def entry(folder: Path, *arguments: object, target: str = "bad.onnx") -> dict[str, Any]:
    result = gnelint("check", target, "--format", "json", *arguments, cwd=folder)
    found: dict[str, Any] = json.loads(result.stdout)["targets"][0]
    return found


def edit(path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(str(path))
    change(model)
    onnx.save(model, str(path))


# suppressions


def test_suppression_in_the_configuration(folder: Path) -> None:
    (folder / "gnelint.toml").write_text(
        '[[suppress]]\nrules = ["GNE101"]\nnodes = ["fc[0-9]", "act1?"]\nreason = "rescaled by the trainer"\n'
    )
    found = entry(folder)
    left = [finding["nodes"][0] for finding in found["findings"] if finding["rule"] == "GNE101"]
    assert left == ["fc20", "fc21", "fc22", "fc23"]
    assert (found["summary"]["errors"], found["summary"]["suppressed"]) == (5, 20)
    shown = gnelint("check", "bad.onnx", cwd=folder)
    assert "5 errors, 0 warnings. 20 suppressed.  Why: gnelint rule GNE101" in shown.stdout
    assert shown.stderr == ""


def test_everything_suppressed_is_success(folder: Path) -> None:
    (folder / "gnelint.toml").write_text('[[suppress]]\nrules = ["GNE1", "GNE501"]\n')
    result = gnelint("check", "bad.onnx", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    said = " ".join(result.stdout.split())
    assert "No findings; that the total is out of range, 2^-48 from the last layer to the input, is accepted." in said
    assert f"{DEPTH + 1} suppressed." in said


def test_suppressions_that_suppress_nothing_are_reported(folder: Path) -> None:
    (folder / "gnelint.toml").write_text(
        '[[suppress]]\nrules = ["GNE101", "GNE502"]\n[[suppress]]\nrules = ["GNE501"]\nnodes = ["fc0"]\n'
        '[[suppress]]\nrules = ["ALL"]\ntargets = ["elsewhere/*"]\n'
    )
    for _ in range(2):  # from the cache, too
        result = gnelint("check", "good.onnx", "bad.onnx", "-q", cwd=folder)
        assert result.returncode == 1
        assert [re.sub(r"^gnelint: .*/", "", line) for line in result.stderr.splitlines()] == [
            "gnelint.toml: suppress[0]: GNE502 suppresses nothing. Remove it.",
            "gnelint.toml: suppress[1]: GNE501 suppresses nothing. Remove it.",
        ]
    # of rules that do not run nothing can be said
    assert gnelint("check", "bad.onnx", "-q", "--select", "GNE101", cwd=folder).stderr == ""


def ignoring(rules: str, node: int | None) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        holder = model if node is None else model.graph.node[node]
        holder.metadata_props.add(key="gnelint.ignore", value=rules)

    return change


def test_suppression_in_the_file(folder: Path) -> None:
    bad = folder / "bad.onnx"
    edit(bad, ignoring("gne101, GNE9", 4))
    found = entry(folder)
    assert "fc2" not in [finding["nodes"][0] for finding in found["findings"] if finding["nodes"]]
    assert (found["summary"]["errors"], found["summary"]["suppressed"]) == (DEPTH, 1)
    result = gnelint("check", "bad.onnx", "-q", cwd=folder)
    one_line(result.stderr, 'bad.onnx: gnelint.ignore of node "fc2": GNE9 suppresses nothing. Remove it.')
    edit(bad, ignoring("GNE501,GNE1", None))
    assert gnelint("check", "bad.onnx", cwd=folder).returncode == 0
    checked = api.check(bad)
    assert (checked.findings, checked.suppressed) == ((), DEPTH + 1)
    assert any("GNE9 suppresses nothing" in note for note in checked.notes)


def test_rules_in_the_file_that_do_not_exist(folder: Path) -> None:
    edit(folder / "bad.onnx", ignoring("GNE1O1", 0))
    result = gnelint("check", "bad.onnx", "-q", cwd=folder)
    assert result.returncode == 1
    one_line(result.stderr, 'node "fc0": GNE1O1: no rule has this id, prefix or name. Did you mean GNE101?')


def test_names_in_the_file_do_not_steer_the_terminal(folder: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[0].name = "\033[2J\r\n"
        ignoring("\033[1mGNE9" + "9" * 5000, 0)(model)

    edit(folder / "bad.onnx", change)
    result = gnelint("check", "bad.onnx", "-q", cwd=folder)
    one_line(result.stderr, r'node "\x1b[2J "', r"\x1b[1MGNE999")
    assert "\033" not in result.stderr
    assert len(result.stderr) < 300


# baselines


def test_a_baseline_hides_what_it_knows(folder: Path) -> None:
    written = gnelint("check", "bad.onnx", "good.onnx", "--baseline", "base.json", "--write-baseline", cwd=folder)
    assert (written.returncode, written.stdout) == (0, "")
    one_line(written.stderr, f"base.json: written, {DEPTH + 1} findings of this run are known now.")
    result = gnelint("check", "bad.onnx", "good.onnx", "--baseline", "base.json", cwd=folder)
    assert "bad.onnx                            out of range" in result.stdout
    result = gnelint("check", "bad.onnx", "good.onnx", "--baseline", "base.json", "-v", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    said = " ".join(result.stdout.split())
    assert "No new findings; that the total is out of range" in said
    assert f"is accepted. {DEPTH + 1} known findings of the baseline not shown." in said
    summary = entry(folder, "--baseline", "base.json")["summary"]
    assert summary["baseline"] == {"known": DEPTH + 1, "gone": 0}
    assert (summary["errors"], summary["fixable"]) == (0, 0)
    again = (folder / "base.json").read_text()
    gnelint("check", "good.onnx", "--baseline", "base.json", "--write-baseline", cwd=folder)
    assert (folder / "base.json").read_text() == again  # the other target stays
    (folder / "gnelint.toml").write_text('baseline = "base.json"\n')
    assert gnelint("check", folder / "bad.onnx", cwd=folder.parent).returncode == 0


def rename(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.name = f"encoder/{node.name}/renamed"


def insert(model: onnx.ModelProto) -> None:
    """A stem before the first layer, and a head behind the last."""
    width = 32
    generator = np.random.default_rng(1)
    for name, shape in (("stem", (48, width)), ("stem2", (width, 48)), ("head", (width, width))):
        weight = generator.normal(0, (2 / shape[1]) ** 0.5, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    graph = model.graph
    graph.node[0].input[0] = "s2"
    stem = [
        helper.make_node("Gemm", ["x", "stem"], ["s0"], name="new0", transB=1),
        helper.make_node("Relu", ["s0"], ["s1"], name="new1"),
        helper.make_node("Gemm", ["s1", "stem2"], ["s2"], name="new2", transB=1),
    ]
    rest = [*stem, *graph.node, helper.make_node("Gemm", [graph.output[0].name, "head"], ["y"], name="new3", transB=1)]
    del graph.node[:]
    graph.node.extend(rest)
    graph.output[0].name = "y"


@pytest.mark.parametrize("change", [rename, insert])
def test_a_baseline_survives_changes_elsewhere(folder: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    gnelint("check", "bad.onnx", "--baseline", "base.json", "--write-baseline", cwd=folder)
    edit(folder / "bad.onnx", change)
    found = entry(folder, "--baseline", "base.json")
    # what was inserted touches the first layer and the last one: nothing but these may look new
    assert found["summary"]["baseline"]["known"] >= DEPTH + 1 - 2 * (change is insert)
    touched = {"fc0", "new2", f"fc{DEPTH - 1}"} if change is insert else set()
    assert {finding["nodes"][0] for finding in found["findings"]} <= touched


def scale(model: onnx.ModelProto, layer: int, factor: float) -> None:
    (weight,) = [one for one in model.graph.initializer if one.name == f"w{layer}"]
    weight.CopyFrom(numpy_helper.from_array(factor * numpy_helper.to_array(weight), weight.name))


def test_a_fix_and_a_new_mistake_do_not_cancel(folder: Path) -> None:
    gains = {one["nodes"][0]: one["measured"] for one in entry(folder)["findings"] if one["rule"] == "GNE101"}
    right = {layer: gains[f"fc{layer}"] ** -0.5 for layer in (5, 9, 10, 11)}
    edit(folder / "bad.onnx", lambda model: scale(model, 5, right[5]))
    gnelint("check", "bad.onnx", "--baseline", "base.json", "--write-baseline", cwd=folder)

    def change(model: onnx.ModelProto) -> None:
        rename(model)
        scale(model, 5, 1 / right[5])
        for layer in (9, 10, 11):
            scale(model, layer, right[layer])

    edit(folder / "bad.onnx", change)
    result = gnelint("check", "bad.onnx", "--baseline", "base.json", "-q", cwd=folder)
    assert result.returncode == 1
    closing = " ".join(result.stdout.split()).partition("1 error, 0 warnings.")[2]
    known = DEPTH - 3
    assert f"{known} known findings of the baseline not shown; 3 findings of the baseline are gone." in closing
    (new,) = entry(folder, "--baseline", "base.json")["findings"]
    assert new["nodes"][0] == "encoder/fc5/renamed"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--baseline", "none.json"], ["none.json: there is no such baseline", "--write-baseline"]),
        (["--baseline", "good.onnx"], ["good.onnx: is no baseline of gnelint"]),
        (["--baseline", "good.onnx", "--write-baseline"], ["good.onnx: is no baseline of gnelint"]),
        (["--write-baseline"], ["--write-baseline: which file?", "--baseline gnelint-baseline.json"]),
        (["--baseline", "no/folder.json", "--write-baseline"], ["no/folder.json: cannot be written"]),
    ],
)
def test_baselines_that_cannot_be_used(folder: Path, arguments: list[str], parts: list[str]) -> None:
    before = (folder / "good.onnx").read_bytes()
    result = gnelint("check", "bad.onnx", *arguments, cwd=folder)
    assert (result.returncode, result.stdout) == (2, "")
    one_line(result.stderr, *parts)
    assert (folder / "good.onnx").read_bytes() == before


# preview rules, overrides


def test_preview_rules_run_only_when_asked(folder: Path) -> None:
    (folder / "acme.yaml").write_text(RULE + "status: preview\n")
    assert entry(folder, "--rules", "acme.yaml", target="good.onnx")["findings"] == []
    found = entry(folder, "--rules", "acme.yaml", "--preview", target="good.onnx")["findings"]
    assert sum(finding["rule"] == "ACME001" for finding in found) == DEPTH
    result = gnelint("check", "good.onnx", "-q", "--rules", "acme.yaml", "--select", "ACME001", cwd=folder)
    assert result.returncode == 0
    one_line(result.stderr, "ACME001 is a preview rule, which does not run without --preview.")
    (folder / "gnelint.toml").write_text('preview = true\nrules = ["acme.yaml"]\n')
    found = entry(folder, target="good.onnx")["findings"]
    assert sum(finding["rule"] == "ACME001" for finding in found) == DEPTH


def test_each_target_fails_by_its_own_configuration(folder: Path) -> None:
    (folder / "gnelint.toml").write_text('[[overrides]]\ntargets = ["bad.onnx"]\nfail-on = "never"\n')
    assert gnelint("check", "bad.onnx", "good.onnx", "-q", cwd=folder).returncode == 0
    (folder / "gnelint.toml").write_text('[per-target-ignores]\n"bad*" = ["GNE1", "GNE5"]\n')
    assert gnelint("check", "bad.onnx", cwd=folder).returncode == 0


# several processes


@pytest.mark.parametrize(
    "options", [["--format", "json"], *(pytest.param(each, marks=pytest.mark.slow) for each in ([], ["--statistics"]))]
)
def test_several_processes_say_the_same(folder: Path, options: list[str]) -> None:
    (folder / "broken.onnx").write_bytes(b"not a model at all" * 10)
    (folder / "nets.py").write_text("import torch\nnet = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())\n")
    targets = ["good.onnx", "broken.onnx", "bad.onnx", "nowhere.onnx", "nets.py:nothing", "bad.onnx"]
    one, three = (gnelint("check", *targets, *options, "--no-cache", "-j", count, cwd=folder) for count in ("1", "3"))
    assert one.returncode == three.returncode == 2
    assert one.stdout == three.stdout
    assert one.stderr == three.stderr
    assert len(one.stderr.splitlines()) == 3


def test_a_process_that_is_ended_from_outside(folder: Path) -> None:
    pytest.importorskip("torch")
    (folder / "nets.py").write_text("import os\nos._exit(9)\n")
    result = gnelint("check", "nets.py:net", "nets.py:net", "-j", "2", cwd=folder)
    assert (result.returncode, result.stdout) == (2, "")
    line = "gnelint: nets.py:net: ended the process that was reading it (exit code 9)."
    assert [text.startswith(line) for text in result.stderr.splitlines()] == [True, True]


def test_where_answers_are_kept(folder: Path) -> None:
    gnelint("check", "bad.onnx", "--no-cache", cwd=folder)
    assert not (folder / ".gnelint_cache").exists()
    gnelint("check", "bad.onnx", "--cache-dir", "elsewhere", cwd=folder)
    assert not (folder / ".gnelint_cache").exists()
    assert len(list((folder / "elsewhere" / "records").iterdir())) == 1
    gnelint("check", "bad.onnx", cwd=folder)
    assert (folder / ".gnelint_cache" / ".gitignore").is_file()
