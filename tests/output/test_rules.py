"""What `gnelint rules` prints, and that rules/CATALOGUE.md is what the rule files say."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from gnelint.lint.rulefile import builtin_directory, load_rules
from gnelint.output.rules import GROUPS, catalogue, listing
from tests.command import gnelint

RULES = load_rules().rules


def printed(*arguments: str) -> str:
    done = gnelint("rules", *arguments, cwd=Path.cwd())
    assert done.returncode == 0
    return done.stdout


def test_the_catalogue_is_fresh() -> None:
    kept = (builtin_directory() / "CATALOGUE.md").read_text(encoding="utf-8")
    advice = "run: gnelint rules --format markdown > rules/CATALOGUE.md"
    assert kept == catalogue(RULES), advice


def test_the_command_prints_both() -> None:
    assert printed() == listing(RULES)
    assert printed("--format", "markdown") == catalogue(RULES)


def test_the_list_is_narrow_and_names_every_rule_once() -> None:
    lines = listing(RULES).splitlines()
    assert max(map(len, lines)) <= 80
    assert sorted(re.findall(r"^  ([A-Z]+\d+) ", "\n".join(lines), re.M)) == [rule.id for rule in RULES]
    titles = [line.split(" (")[0] for line in lines if re.match(r"[a-z]+ \(\d+\)$", line)]
    assert titles == [group for group in GROUPS if any(rule.group == group for rule in RULES)]


def test_preview_rules_are_marked() -> None:
    made = [replace(RULES[0], status="preview"), replace(RULES[1], status="stable")]
    first, second = (line for line in listing(made).splitlines() if line.startswith("  GNE"))
    assert first.endswith("preview")
    assert not second.endswith("preview")


def test_every_rule_has_a_section_that_its_row_leads_to() -> None:
    text = catalogue(RULES)
    sections = re.findall(r"^## (\S+) \((\w+)\)$", text, re.M)
    assert sections == [(rule.name, rule.id) for rule in RULES]
    for name, rule_id in sections:
        assert f"[{rule_id}](#{name}-{rule_id.lower()})" in text
