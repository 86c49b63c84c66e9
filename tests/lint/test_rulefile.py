"""Rule files are read with their lines: what is wrong in one is said with file and line."""

from __future__ import annotations

import importlib.resources
import json
import re
from pathlib import Path

import jsonschema
import pytest

from gnelint.errors import RuleError
from gnelint.lint import rulefile
from gnelint.lint.losses import LOSSES
from gnelint.lint.rulefile import builtin_directory, load_rule, load_rules

GOOD = """\
schema: 1
id: ACME001
name: some-rule
group: network
severity: warning
stage: any
summary: A rule.
pattern: |
  w = linear(x)
  a = relu(w)
where:
  - phi(w) > 0
params:
  tolerance: {default: 0.25, help: "how much"}
let:
  gain: phi(w) * phi(a)
when: abs(log2(gain)) > tolerance
message: "{w.name}: {gain:.3g}"
explain: |
  ## What it checks
  Things.
"""


def write(tmp_path: Path, text: str, name: str = "rule.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_good_file(tmp_path: Path) -> None:
    rule = load_rule(write(tmp_path, GOOD))
    assert not isinstance(rule, str)
    assert (rule.id, rule.stage, rule.over, rule.status) == ("ACME001", "any", "nodes", "stable")
    assert rule.program.severities == ((None, "warning"),)
    assert [name for name, _ in rule.program.lets] == ["gain"]


def replaced(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        (replaced("name: some-rule\n", "name: some-rule\nname: again\n"), 4, 'key "name" is given twice'),
        (replaced("let:\n", "let:\n  gain: phi(a)\n"), 17, 'key "gain" is given twice'),
        (replaced("summary", "sumary"), 7, 'unknown key "sumary". Did you mean "summary"?'),
        (replaced('help: "how much"', 'hlep: "how much"'), 14, "help"),
        (replaced("group: network", "group: nonsense"), 4, "nonsense"),
        (replaced("severity: warning", "severity: fatal"), 5, "fatal"),
        (replaced("stage: any\n", ""), 1, "'stage' is a required property"),
        (replaced("id: ACME001", "id: lower1"), 2, "lower1"),
        (replaced("a = relu(w)", "a = rleu(w)"), 10, 'pattern: "rleu" is neither'),
        (replaced("a = relu(w)", "a = relu(x)"), 9, "pattern"),
        (replaced("a = relu(w)", "a = relu(w, alpha>None)"), 10, "compared by size"),
        (replaced("a = relu(w)", "a = relu?(w)"), 10, "cannot be optional"),
        (replaced("a = relu(w)", "a = relu(via(any, y))"), 10, "not a statement"),
        (replaced("pattern: |\n  w = linear(x)\n  a = relu(w)\n", ""), 1, "no pattern"),
        (replaced("pattern: |", "over: network\npattern: |"), 9, "no pattern"),
        (replaced("phi(w) > 0", "phi(v) > 0"), 12, 'expression "phi(v) > 0": "v" is not defined'),
        (replaced("phi(w) > 0", "phi(w)"), 12, "true or false"),
        (replaced("phi(w) > 0", "total(phi(w)) > 0"), 12, "over what passes `where`"),
        (replaced("phi(w) * phi(a)", "w.__class__"), 16, "no field"),
        (replaced("  gain: phi(w)", "  w: phi(w)"), 16, '"w" is taken'),
        (replaced("  gain: phi(w)", "  tolerance: phi(w)"), 16, '"tolerance" is taken'),
        (replaced("when: abs(log2(gain)) >", "when: abs(log2(gain)) -"), 17, "true or false"),
        (replaced("{gain:.3g}", "{gian:.3g}"), 18, '"gian" is not defined'),
        (replaced("{gain:.3g}", "{gain:.3g"), 18, "brace"),
        (replaced("message:", "measured: w.name\nmessage:"), 18, "is a text, not a number"),
        (GOOD + "fix: {kind: gain, target: gain, safety: init, title: x}\n", 22, "neither a node nor a block"),
        (GOOD + "fix: {kind: gain, safety: unsafe, title: x}\n", 22, "unsafe"),
        (GOOD + "fix: {kind: gain, factor: 1 +, safety: init, title: x}\n", 22, "not an expression"),
        (GOOD + "references: [{title: x, arxiv: 2001.1}]\n", 22, "2001.1"),
        (GOOD + "tests: &a [{model: x, findings: 0}]\nreferences: *a\n", 23, "alias"),
        (GOOD + "tests: !!python/object/apply:os.system ['true']\n", 22, ""),
        (GOOD + "tests: 2020-01-01\n", 22, "not allowed"),
        (GOOD + "tests: [\n", 23, "not valid YAML"),
        ("schema: 0\n", 1, "schema: 1"),
        ("id: ACME001\n", 1, "schema: 1"),
        ("- a\n- b\n", 1, "keys and values"),
        ("just text\n", 1, "keys and values"),
        ("", 1, "keys and values"),
        ("{1: 2, [3]: 4}\n", 1, "plain text"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, text: str, line: int, why: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(RuleError) as caught:
        load_rule(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: "), message
    assert why in message


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (replaced("phi(w) > 0", "phi(v) > 0"), "where[0]: "),
        (replaced("phi(w) * phi(a)", "w.__class__"), "let.gain: "),
        (replaced("default: 0.25", "default: [0.25]"), "params.tolerance.default: "),
        (replaced("a = relu(w)", "a = rleu(w)"), "pattern: "),
        (replaced("{gain:.3g}", "{gian:.3g}"), "message: "),
        (replaced("severity: warning", "severity: [{when: gain > 1, severity: bad}]"), "severity"),
        (replaced("severity: warning", "severity: [{when: gian > 1, severity: error}]"), "severity[0].when: "),
        (GOOD + "run: {ends_at: nothing}\n", "run.ends_at: "),
        (GOOD + "tests: [{model: x, findings: -1}]\n", "tests[0].findings: "),
        (GOOD + "tests: [{model: x, findings: 1, modle: y}]\n", "tests[0].modle: "),
        (GOOD + "fix: {kind: gain, factor: 1 +, safety: init, title: x}\n", "fix.factor: "),
    ],
)
def test_errors_name_the_key(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(RuleError) as caught:
        load_rule(write(tmp_path, text))
    assert f": {key}" in str(caught.value)


def test_factor_may_be_printed_by_the_title(tmp_path: Path) -> None:
    fix = 'fix: {kind: gain, target: w, factor: 1 / sqrt(gain), safety: init, title: "by {factor:.3g}"}\n'
    rule = load_rule(write(tmp_path, GOOD + fix))
    assert not isinstance(rule, str)
    assert rule.program.fix is not None
    assert rule.program.fix.has_factor


def test_a_newer_schema_is_skipped_with_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path, "schema: 2\nid: [who, knows]\n")
    loaded = load_rules([path])
    assert len(loaded.warnings) == 1
    assert "needs rule schema 2" in loaded.warnings[0]
    assert loaded.rules == load_rules().rules or len(loaded.rules) == len(load_rules().rules)


def test_files_and_directories(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    write(tmp_path, GOOD.replace("ACME001", "ACME002"), "other.yml")
    write(tmp_path, "not a rule", "README.md")
    assert [rule.id for rule in load_rules([tmp_path]).rules if rule.id.startswith("ACME")] == ["ACME001", "ACME002"]


def test_one_id_belongs_to_one_rule(tmp_path: Path) -> None:
    first, second = write(tmp_path, GOOD), write(tmp_path, GOOD, "again.yaml")
    with pytest.raises(RuleError, match="ACME001 belongs to"):
        load_rules([first, second])
    with pytest.raises(RuleError, match="GNE101 belongs to"):
        load_rules([write(tmp_path, GOOD.replace("ACME001", "GNE101"), "mine.yaml")])


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"\xff\xfe\x00", "UTF-8"), (b"a" * (1 << 19), "larger"), (b"a: " + b"[" * 100_000, "")],
)
def test_hostile_files(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "rule.yaml"
    path.write_bytes(content)
    with pytest.raises(RuleError, match=why or "rule.yaml"):
        load_rule(path)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match="cannot be read"):
        load_rules([tmp_path / "nowhere.yaml"])
    with pytest.raises(RuleError, match="no rule file"):
        load_rules([tmp_path])


def test_own_rules_are_found_in_the_checkout() -> None:
    assert (builtin_directory() / "README.md").is_file()


def test_editors_are_told_what_every_key_means() -> None:
    """The schema describes each key, and the documentation names it."""
    schema = json.loads((Path(rulefile.__file__).parent / "rule.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    text = (builtin_directory() / "README.md").read_text()
    for key, value in schema["properties"].items():
        assert value["description"]
        assert re.search(rf"\b{key}:|`{key}`", text), key
    for key, value in schema["properties"]["tests"]["items"]["properties"].items():
        assert value["description"]
        assert f"| `{key}` |" in text


def test_the_losses_of_tests_are_those_of_the_option() -> None:
    schema = json.loads((Path(rulefile.__file__).parent / "rule.schema.json").read_text())
    assert schema["properties"]["tests"]["items"]["properties"]["loss"]["enum"] == [*LOSSES]


def test_the_schema_is_part_of_the_package() -> None:
    assert importlib.resources.files("gnelint.lint").joinpath("rule.schema.json").is_file()
