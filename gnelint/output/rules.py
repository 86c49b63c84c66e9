"""Lists of rules: `gnelint rules` for people in a terminal, and as Markdown, which rules/CATALOGUE.md is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from gnelint.lint.rulefile import Rule
from gnelint.output.explain import explanation
from gnelint.output.text import wrapped

GROUPS = ("initialization", "activation", "normalization", "residual", "network", "numerics", "coverage")
"""In the order of their hundreds."""

_NAME = 42
_INTRODUCTION = (
    "Every rule of gnelint, from the files beside this one, by `gnelint rules --format markdown`. A preview rule runs"
    " with `--preview` only. A fix marked *display* is advice without an edit."
)


def listing(rules: Sequence[Rule]) -> str:
    """Name, severities and summary of each rule by group, in 80 columns."""
    lines: list[str] = []
    for group, members in _grouped(rules):
        lines += [*([""] if lines else []), f"{group} ({len(members)})"]
        for rule in members:
            notes = [_severities(rule), *(["preview"] if rule.status == "preview" else [])]
            lines.append(f"  {rule.id:<8} {rule.name:<{_NAME}} {', '.join(notes)}".rstrip())
            lines += wrapped(rule.summary, " " * 11)
    stable = sum(rule.status == "stable" for rule in rules)
    lines += ["", *wrapped(f"{len(rules)} rules, {stable} stable. Explain one: gnelint rule {rules[0].id}", "")]
    return "\n".join(lines) + "\n"


def catalogue(rules: Sequence[Rule]) -> str:
    """A table of all rules, and each with its explanation, as Markdown."""
    lines = ["# The rules", "", _INTRODUCTION]
    for group, members in _grouped(rules):
        lines += [
            "",
            f"## {group}",
            "",
            "| id | name | severity | status | fix | summary |",
            "|---|---|---|---|---|---|",
        ]
        lines += [catalogue_row(rule) for rule in members]
    for rule in rules:
        lines += ["", catalogue_section(rule)]
    return "\n".join(lines) + "\n"


def as_json(rules: Sequence[Rule]) -> str:
    """All rules for programs: what each is called, judges and mends, and its parameters with their defaults."""
    entries = [
        {
            "id": rule.id,
            "name": rule.name,
            "group": rule.group,
            "status": rule.status,
            "stage": rule.stage,
            "severities": list(dict.fromkeys(severity for _, severity in rule.program.severities)),
            "fix": None if (fix := rule.program.fix) is None else {"kind": fix.kind, "safety": fix.safety},
            "explained_by": list(rule.explained_by),
            "params": {name: parameter.default for name, parameter in rule.params.items()},
            "summary": rule.summary,
            "file": rule.file,
        }
        for rule in rules
    ]
    return json.dumps({"schema": "gnelint/rules/1", "rules": entries}, indent=2, allow_nan=False) + "\n"


def catalogue_section(rule: Rule) -> str:
    """What the catalogue says of one rule."""
    return re.sub(r"^(?=#+ )", "#", explanation(rule).strip(), flags=re.M)


def _grouped(rules: Sequence[Rule]) -> Iterator[tuple[str, list[Rule]]]:
    for group in (*GROUPS, *sorted({rule.group for rule in rules} - {*GROUPS})):
        members = [rule for rule in rules if rule.group == group]
        if members:
            yield group, members


def _severities(rule: Rule) -> str:
    return "/".join(dict.fromkeys(severity for _, severity in rule.program.severities))


def catalogue_row(rule: Rule) -> str:
    """Its line in the catalogue's table."""
    anchor = f"{rule.name}-{rule.id}".lower()
    fix = "" if rule.program.fix is None else f"{rule.program.fix.kind} ({rule.program.fix.safety})"
    cells = (f"[{rule.id}](#{anchor})", rule.name, _severities(rule), rule.status, fix, rule.summary)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
