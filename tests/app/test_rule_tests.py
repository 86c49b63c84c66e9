"""`gnelint rules test` and `gnelint rules --check`: a rule written from rules/README.md alone, and tests that fail."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

from gnelint.app.rule_tests import Examples
from gnelint.lint.rulefile import Rule, builtin_directory, load_rule, load_rules
from tests.command import gnelint

README = Path(__file__).parents[2] / "rules" / "README.md"

NETS = """\
import torch
from torch import nn


def build(width):
    torch.manual_seed(0)
    layers = [module for _ in range(4) for module in (nn.Linear(width, width), nn.Tanh())]
    return nn.Sequential(*layers), (torch.randn(16, width),)


def narrow():
    return build(16)


def wide():
    return build(64)
"""


def documented() -> str:
    """The rule that the documentation starts with."""
    found = re.search(r"```yaml\n(schema: 1\n.*?)```", README.read_text(), re.S)
    assert found is not None
    return found[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "ACME001-narrow-tanh.yaml"
    path.write_text(text)
    return path


def test_the_rule_of_the_documentation_works(folder: Path) -> None:
    layers = [module for _ in range(4) for module in (torch.nn.Linear(64, 64), torch.nn.Tanh())]
    torch.onnx.export(torch.nn.Sequential(*layers), (torch.randn(16, 64),), folder / "wide.onnx", dynamo=False)
    path = write(folder, documented())
    result = gnelint("rules", "--check", path, cwd=folder.parent)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "ok    ACME001  nets.py:narrow: 4 findings" in result.stdout
    assert "ok    ACME001  wide.onnx: 0 findings" in result.stdout
    assert gnelint("rules", "--check", folder, cwd=folder.parent).stdout == result.stdout
    checked = gnelint("check", "nets.py:narrow", "--rules", path, "--select", "ACME001", cwd=folder)
    assert "has 16 units before a tanh" in " ".join(checked.stdout.split())
    assert "use at least 32 units" in " ".join(checked.stdout.split())


def with_tests(*entries: str) -> str:
    text = documented()
    return text[: text.index("tests:")] + "tests:\n" + "".join(f"  - {{{entry}}}\n" for entry in entries)


def test_a_test_that_fails_says_what_the_conditions_came_to(folder: Path) -> None:
    path = write(folder, with_tests('model: "nets.py:wide", findings: 4', 'model: "nets.py:narrow", findings: 0'))
    result = gnelint("rules", "test", path, cwd=folder)
    assert result.returncode == 1
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert lines[0] == "FAIL  ACME001  nets.py:wide: 0 findings"
    assert lines[1] == "4 findings expected"
    assert lines[2] == "at 0, 1: when: width < least is false"
    assert lines[3:5] == ["width = 64", "least = 32"]
    assert "... and at 1 more" in lines
    second = lines.index("FAIL  ACME001  nets.py:narrow: 4 findings")
    assert lines[second + 2 : second + 5] == ["at 0, 1: when: width < least is true", "width = 16", "least = 32"]
    assert lines[-1] == "2 failed"


def test_conditions_under_where_and_patterns_that_match_nowhere(folder: Path) -> None:
    text = with_tests('model: "nets.py:narrow", findings: 4')
    path = write(folder, text.replace("not between(w, a, normalization)", "layer(w) > 2 and fan_in(w) > 100"))
    lines = [line.strip() for line in gnelint("rules", "test", path, cwd=folder).stdout.splitlines()]
    assert lines[2] == "at 0, 1: where: layer(w) > 2 and fan_in(w) > 100 is false"
    assert lines[3:7] == ["layer(w) > 2 = false", "layer(w) = 1", "fan_in(w) > 100 = false", "fan_in(w) = 16"]
    write(folder, text.replace("a = tanh(~w)", "a = relu(~w)"))
    lines = [line.strip() for line in gnelint("rules", "test", path, cwd=folder).stdout.splitlines()]
    assert lines[2] == "the pattern matches nowhere; nodes with the operations of w: 4, a: 0"


def test_a_rule_without_when_shows_what_let_its_findings_through(folder: Path) -> None:
    text = with_tests('model: "nets.py:narrow", findings: 0').replace("when: width < least\n", "")
    lines = [line.strip() for line in gnelint("rules", "test", write(folder, text), cwd=folder).stdout.splitlines()]
    assert lines[2] == "at 0, 1: where: not between(w, a, normalization) is true"


@pytest.mark.parametrize(
    ("entry", "code", "said"),
    [
        ('model: "nets.py:narrow", findings: 4, severity: error', 1, "severity error expected, found warning"),
        ('model: "nets.py:narrow", findings: 3, todo: "the first is one too many"', 0, "todo  ACME001"),
        ('model: "nets.py:narrow", findings: 4, todo: "not yet"', 1, "remove its todo (not yet)"),
        ('model: "nets.py:narrow", findings: 4, after_fix: 0', 1, "4 findings after the fix, 0 expected"),
        ('model: "nets.py:narrow", findings: 4, others: []', 0, "ok    ACME001"),
        ('model: "nets.py:narrow", findings: 4, mode: eval, input: ["2,16"]', 0, "ok    ACME001"),
    ],
)
def test_entries(folder: Path, entry: str, code: int, said: str) -> None:
    path = write(folder, with_tests(entry))
    result = gnelint("rules", "test", path, cwd=folder)
    assert (result.returncode, result.stderr) == (code, "")
    assert said in result.stdout


def test_other_rules_that_speak_must_be_listed(folder: Path) -> None:
    (folder / "deep.py").write_text(NETS.replace("range(4)", "range(40)"))
    entry = 'model: "deep.py:narrow", findings: 40, others: []'
    path = write(folder, with_tests(entry))
    result = gnelint("rules", "test", path, cwd=folder)
    assert result.returncode == 1
    named = re.findall(r"(GNE\d+) speaks here too", result.stdout)
    assert named
    write(folder, with_tests(entry.replace("[]", f"[{', '.join(named)}]")))
    assert gnelint("rules", "test", path, cwd=folder).returncode == 0


def test_a_rule_without_tests_is_told(folder: Path) -> None:
    text = documented()
    path = write(folder, text[: text.index("tests:")])
    result = gnelint("rules", "test", path, cwd=folder)
    assert result.returncode == 0
    assert "ACME001  valid, but it has no tests" in result.stdout
    result = gnelint("rules", "--check", path, cwd=folder)
    assert result.returncode == 1
    assert "FAIL  ACME001  tests: none has findings." in result.stdout
    assert "FAIL  ACME001  tests: none is without findings." in result.stdout


def demanded(path: Path) -> str:
    """What a rule file is told by `rules --check`, its tests left out."""
    rule = load_rule(path)
    assert isinstance(rule, Rule)
    outcome = Examples(load_rules(), (rule,)).demands(rule)
    assert outcome.holds != bool(outcome.lines)
    return "\n".join(outcome.lines)


@pytest.mark.parametrize(
    ("found", "written", "said"),
    [
        (
            "## Example",
            "## Examples",
            "its headings are What it checks, Why it matters, Examples, What to do,",
        ),
        ("## What it checks", f"## What it checks\n  {'x' * 121}", "its line 2 has 121 characters. Break it at 120."),
        ("findings: 4", "findings: 0", "tests: none has findings."),
        ("findings: 0", "findings: 4", "tests: none is without findings."),
    ],
)
def test_what_is_asked_of_any_rule_file(folder: Path, found: str, written: str, said: str) -> None:
    assert demanded(write(folder, documented())) == ""
    assert said in demanded(write(folder, documented().replace(found, written)))


@pytest.mark.parametrize(
    ("found", "written", "said"),
    [
        ("name: gain-mismatch", "name: gain-off", "Call the file GNE101-gain-off.yaml."),
        (r"references:\n(  - .*\n)+", "", "references: there are none."),
        (r", others: \[\w+\]", "", "has no others. Say what is heard there."),
        ("severity: error, ", "", "has no severity. Say what is heard there."),
        ("summary: ", "summary: In short, ", "CATALOGUE.md says something else of it."),
    ],
)
def test_what_is_asked_of_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: str, written: str, said: str
) -> None:
    own = builtin_directory()
    for name in ("GNE101-gain-mismatch.yaml", "CATALOGUE.md"):
        shutil.copy(own / name, tmp_path)
    path = tmp_path / "GNE101-gain-mismatch.yaml"
    monkeypatch.setattr("gnelint.app.rule_tests.is_builtin", lambda rule: True)
    assert demanded(path) == ""
    text, count = re.subn(found, written, path.read_text())
    assert count
    path.write_text(text)
    assert said in demanded(path)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["test", "GNE999"], ["GNE999", "no rule has this id"]),
        (["test", "nowhere.yaml"], ["nowhere.yaml", "no such file"]),
        (["--check", "nowhere/rule.yaml"], ["nowhere/rule.yaml", "no such file"]),
        (["test", "broken.yaml"], ["broken.yaml:1", "schema"]),
        (["test", "lost.yaml"], ["lost.yaml:37: tests[0].model: 'resnet7': names no network"]),
        (["--check", "gone.yaml"], ["gone.yaml:37: tests[0].model: 'gone.onnx': no such file"]),
        (["test", "shapeless.yaml"], ["shapeless.yaml:37: tests[0].input: ", '"z" is not a positive size']),
        (["test", "unknown.yaml"], ["unknown.yaml:37: tests[0].loss: 'l7' is not one of"]),
        (["--rules", "lost.yaml", "test", "GNE101"], ["no options"]),
    ],
)
def test_mistakes_get_one_line_and_code_2(folder: Path, arguments: list[str], parts: list[str]) -> None:
    (folder / "broken.yaml").write_text("id: ACME001\n")
    (folder / "lost.yaml").write_text(with_tests("model: resnet7, findings: 1"))
    (folder / "gone.yaml").write_text(with_tests("model: gone.onnx, findings: 1"))
    (folder / "shapeless.yaml").write_text(with_tests('model: "nets.py:wide", findings: 0, input: ["8,z"]'))
    (folder / "unknown.yaml").write_text(with_tests('model: "nets.py:wide", findings: 0, loss: l7'))
    result = gnelint("rules", *arguments, cwd=folder)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert all(part in line for part in parts), line
