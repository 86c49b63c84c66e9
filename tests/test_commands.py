"""What helps people at the command line: names for ids, hints, the next command, many targets in few lines."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gnelint.lint.rulefile import load_rules
from gnelint.settings.config import read_config
from gnelint.settings.template import TEMPLATE
from tests.command import gnelint
from tests.test_cli import one_line, write_mlp


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_mlp(tmp_path / "a good one.onnx", depth=24, width=32)
    write_mlp(tmp_path / "z bad.onnx", gain=0.5, depth=24, width=32)
    return tmp_path


def test_rules_are_selected_by_their_names(folder: Path) -> None:
    (by_name, by_id) = (
        gnelint("check", "z bad.onnx", "--select", word, "--format", "json", cwd=folder).stdout
        for word in ("gain-mismatch", "GNE101")
    )
    assert by_name == by_id
    assert json.loads(by_name)["targets"][0]["summary"]["errors"] == 24


def test_configurations_name_rules_too(folder: Path) -> None:
    (folder / "gnelint.toml").write_text(
        'select = ["gain-mismatch"]\nparams.gain-mismatch.budget = 1000\n'
        '[[suppress]]\nrules = ["gain-mismatch"]\nnodes = ["fc0"]\n'
    )
    summary = json.loads(gnelint("check", "z bad.onnx", "--format", "json", cwd=folder).stdout)["targets"][0]["summary"]
    assert (summary["errors"], summary["warnings"], summary["suppressed"]) == (0, 23, 1)


@pytest.mark.parametrize("words", [("rule", "gain-mismatch"), ("explain", "GNE101"), ("explain", "gne101")])
def test_a_rule_is_explained_by_either(folder: Path, words: tuple[str, str]) -> None:
    assert gnelint(*words, cwd=folder).stdout.startswith("# gain-mismatch (GNE101)")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("gain-mismach", "gain-mismatch"),
        ("GNE5011", "GNE501"),
        ("GNE1O1", "GNE101"),
        ("vanishing", "vanishing-gradient"),
    ],
)
def test_what_names_no_rule_gets_the_nearest(folder: Path, word: str, meant: str) -> None:
    result = gnelint("rule", word, cwd=folder)
    assert result.returncode == 2
    one_line(result.stderr, word, f"Did you mean {meant}?")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("z bad.onnx", "Say `gnelint check 'z bad.onnx'`"),
        ("not_here.onnx", "Say `gnelint check not_here.onnx`"),
        ("nets.py:Net", "Say `gnelint check nets.py:Net`"),
        ("chek", "Did you mean `gnelint check`?"),
        ("lint", "Did you mean `gnelint check`?"),
        ("frobnicate", "There are check, fix, "),
    ],
)
def test_what_is_no_command_gets_a_hint(folder: Path, word: str, said: str) -> None:
    result = gnelint(word, cwd=folder)
    assert result.returncode == 2
    one_line(result.stderr, said)


def test_the_next_command_works_as_it_is_printed(folder: Path) -> None:
    result = gnelint("check", "z bad.onnx", "--select", "GNE1", "--mode", "eval", cwd=folder)
    last = result.stdout.splitlines()[-1]
    assert last == "Fix: gnelint fix 'z bad.onnx' --diff --mode eval --select GNE1"
    program, *words = shlex.split(last.removeprefix("Fix: "))
    assert program == "gnelint"
    assert "24 edits would be made" in gnelint(*words, cwd=folder).stdout


def test_no_command_is_named_where_nothing_would_be_edited(folder: Path) -> None:
    assert "Fix:" not in gnelint("check", "a good one.onnx", cwd=folder).stdout
    assert "Fix:" not in gnelint("check", "z bad.onnx", "--stage", "trained", cwd=folder).stdout


def test_many_targets_take_a_line_each_the_worst_first(folder: Path) -> None:
    result = gnelint("check", ".", cwd=folder)
    lines = result.stdout.splitlines()
    assert result.returncode == 1
    assert [line.split()[0] for line in lines[1:3]] == ["25", "0"]
    assert "z bad.onnx" in lines[1]
    assert lines[1].endswith("GNE101")
    assert lines[-1] == "2 targets, 1 with errors. For details name one, or add -v."
    assert max(map(len, lines)) <= 80
    assert "The gradient vanishes" in gnelint("check", ".", "-v", cwd=folder).stdout
    assert "a good one.onnx" not in gnelint("check", ".", "-q", cwd=folder).stdout


def test_output_format_is_format(folder: Path) -> None:
    one, other = (gnelint("check", ".", word, "json", cwd=folder).stdout for word in ("--format", "--output-format"))
    assert one == other


def test_rules_for_programs(folder: Path) -> None:
    listed = json.loads(gnelint("rules", "--format", "json", cwd=folder).stdout)
    assert listed["schema"] == "gnelint/rules/1"
    assert [rule["id"] for rule in listed["rules"]] == [rule.id for rule in load_rules().rules]
    first = listed["rules"][0]
    assert first["severities"] == ["error", "warning"]
    assert first["fix"] == {"kind": "gain", "safety": "init"}
    assert first["params"]["tolerance"] == 0.25


def test_a_configuration_to_start_from(folder: Path) -> None:
    assert gnelint("init", cwd=folder).returncode == 0
    file = folder / "gnelint.toml"
    assert file.read_text() == TEMPLATE
    again = gnelint("init", cwd=folder)
    assert again.returncode == 2
    one_line(again.stderr, "gnelint.toml", "is here already", "--force")
    assert gnelint("init", "--force", cwd=folder).returncode == 0
    assert gnelint("check", "a good one.onnx", cwd=folder).returncode == 0


def test_every_line_of_it_can_be_said(folder: Path) -> None:
    """With the marks taken away it is a configuration that holds, and no key is missing."""
    lines = [line.removeprefix("# ") for line in TEMPLATE.splitlines()]
    said = [line for line in lines if line.startswith(("[", '"')) or line.partition(" = ")[1]]
    file = folder / "gnelint.toml"
    file.write_text("\n".join(line.replace("our_rules/", ".") for line in said))
    config = read_config(file)
    assert config.overrides[-1].stage == "trained"
    assert config.suppress[0].nodes == ("layers.0.*",)
    from gnelint.settings.config import _KEYS

    assert not [key for key in _KEYS if key not in TEMPLATE]


def test_settings_are_shown_and_nothing_is_checked(folder: Path) -> None:
    (folder / "gnelint.toml").write_text('select = ["gain-mismatch"]\nfail-on = "never"\n[params.GNE101]\nlayers = 5\n')
    result = gnelint("check", "z bad.onnx", "--show-settings", "--no-cache", cwd=folder)
    assert result.returncode == 0
    target, settings, *others = result.stdout.splitlines()
    assert (target, settings.split()[0]) == ("z bad.onnx", "settings")
    assert str(folder / "gnelint.toml") in settings + "".join(line.strip() for line in others[:2])
    for line in (
        "  rules         1: GNE101",
        "  parameters    GNE101: layers = 5",
        "  mode          train",
        "  loss          not said",
        "  fail on       never",
        "  baseline      none",
        "  cache         none",
    ):
        assert line in others


def test_a_fixed_file_overwrites_nothing_unless_told(folder: Path) -> None:
    done = gnelint("fix", "z bad.onnx", "-o", "a good one.onnx", "--no-verify", cwd=folder)
    assert done.returncode == 2
    one_line(done.stderr, "a good one.onnx", "is there already", "--force")
    forced = gnelint("fix", "z bad.onnx", "-o", "a good one.onnx", "--no-verify", "--force", cwd=folder)
    assert forced.returncode == 0, forced.stderr


def test_check_fixes_files_in_place_and_reports_what_is_left(folder: Path) -> None:
    good, bad = (folder / name for name in ("a good one.onnx", "z bad.onnx"))
    before = good.read_bytes(), bad.read_bytes()
    result = gnelint("check", ".", "--fix", "--format", "json", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert [target["summary"]["errors"] for target in json.loads(result.stdout)["targets"]] == [0, 0]
    assert "gnelint: a good one.onnx: nothing to fix.\n" in result.stderr
    assert "gnelint: z bad.onnx: 24 edits made. Measured with " in result.stderr
    assert good.read_bytes() == before[0]
    assert bad.read_bytes() != before[1]
    again = gnelint("check", ".", "--fix", cwd=folder)
    assert "z bad.onnx: nothing to fix." in again.stderr


def test_check_fixes_no_python_targets_and_says_what_does(folder: Path) -> None:
    before = (folder / "z bad.onnx").read_bytes()
    (folder / "nets.py").write_text("net = None\n")
    result = gnelint("check", "z bad.onnx", "nets.py:net", "--fix", cwd=folder)
    assert result.returncode == 2
    one_line(result.stderr, "nets.py:net is not a model file", "`gnelint fix nets.py:net --emit-init init_weights.py`")
    assert (folder / "z bad.onnx").read_bytes() == before


def test_a_file_that_cannot_be_fixed_costs_its_own_answer(folder: Path) -> None:
    (folder / "broken.onnx").write_bytes(b"no model")
    result = gnelint("check", ".", "--fix", "--select", "GNE1", "--format", "json", cwd=folder)
    assert result.returncode == 2
    assert [target["target"] for target in json.loads(result.stdout)["targets"]] == ["a good one.onnx", "z bad.onnx"]
    assert result.stderr.count("broken.onnx") == 1


def test_watching_checks_again_when_a_file_changes(folder: Path) -> None:
    command = [sys.executable, "-m", "gnelint", "check", "z bad.onnx", "--watch", "--no-cache", "-q"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "watching 1 file; Ctrl-C ends it." in process.stderr.readline()
        (folder / "gnelint.toml").write_text('ignore = ["GNE501"]\n')
        said = [process.stderr.readline() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        shown = process.stdout.read()
        assert process.wait() == 0
    assert "this configuration ignores GNE501" in said[0]
    assert "watching 2 files" in said[1]
    assert [line.split(".")[0] for line in shown.splitlines() if line.endswith("GNE101")] == [
        "25 errors, 0 warnings",
        "24 errors, 0 warnings",
    ]


def test_a_new_rule_passes_its_own_tests(folder: Path) -> None:
    written = gnelint("rules", "--new", "thin-tanh", cwd=folder)
    assert written.stdout.startswith("thin-tanh.yaml and thin_tanh_networks.py: written. Next: gnelint rules --check")
    command = shlex.split(written.stdout.partition("Next: gnelint ")[2])
    checked = gnelint(*command, cwd=folder)
    assert (checked.returncode, checked.stdout.splitlines()[-1]) == (0, "all hold")
    assert gnelint("rules", "--new", "thin-relu", cwd=folder).returncode == 0
    assert len(load_rules([folder]).rules) == len(load_rules().rules) + 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gain-mismatch", "is the name of GNE101"),
        ("Thin Tanh", "Write lower case with hyphens"),
        ("thin-tanh", "thin_tanh_networks.py: is here already"),
    ],
)
def test_a_new_rule_takes_nothing_from_others(folder: Path, name: str, said: str) -> None:
    (folder / "thin_tanh_networks.py").write_text("")
    result = gnelint("rules", "--new", name, cwd=folder)
    assert result.returncode == 2
    one_line(result.stderr, said)


def test_the_hint_at_a_rule_of_ones_own_names_its_file(folder: Path) -> None:
    gnelint("rules", "--new", "thin-tanh", cwd=folder)
    shown = gnelint("check", "thin_tanh_networks.py:bad", "--rules", "thin-tanh.yaml", cwd=folder).stdout
    hint = shown.partition("Why: gnelint ")[2].splitlines()[0]
    assert hint == "rule LOCAL001 --rules thin-tanh.yaml"
    assert gnelint(*hint.split(), cwd=folder).stdout.startswith("# thin-tanh (LOCAL001)")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes(tmp_path: Path, shell: str) -> None:
    page = (Path(__file__).parents[1] / "gnelint" / "settings" / "README.md").read_text(encoding="utf-8")
    assert f"_GNELINT_COMPLETE={shell}_source gnelint" in page
    program = tmp_path / "gnelint"
    program.write_text(f"#!{sys.executable}\nfrom gnelint.__main__ import main\nmain()\n")
    program.chmod(0o755)
    environment = {**os.environ, "_GNELINT_COMPLETE": f"{shell}_source"}
    result = subprocess.run([program], env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "_GNELINT_COMPLETE" in result.stdout


def test_what_names_nothing_is_told_as_it_was_written(folder: Path) -> None:
    result = gnelint("check", "z bad.onnx", "--select", "gain-mismach,gne1", cwd=folder)
    assert result.returncode == 2
    one_line(result.stderr, "gnelint: gain-mismach: no rule", "Did you mean gain-mismatch?")
    small = gnelint("check", "z bad.onnx", "--select", "gne1", "--statistics", cwd=folder)
    assert small.stdout == gnelint("check", "z bad.onnx", "--select", "GNE1", "--statistics", cwd=folder).stdout
