"""What `gnelint rule ID` prints: the rule file's own words."""

from __future__ import annotations

import re

from gnelint.lint.rulefile import Rule


def explanation(rule: Rule) -> str:
    """The explanation of a rule, with its parameters and references, as Markdown."""
    severities = " or ".join(dict.fromkeys(severity for _, severity in rule.program.severities))
    judged = "untrained networks" if rule.stage == "init" else "all networks"
    lines = [f"# {rule.name} ({rule.id})", "", rule.summary, "", f"{severities}; group {rule.group}; judges {judged}."]
    lines += ["", rule.explain.strip()]
    if rule.explained_by:
        others = ", ".join(rule.explained_by)
        lines += [
            "",
            "## What it yields to",
            "",
            f"It keeps silent where one of these speaks of the same place: {others}.",
        ]
    if rule.params:
        table = f"[tool.gnelint.params.{rule.id}]"
        lines += ["", "## Parameters", "", f"Set them in the table `{table}` of pyproject.toml.", ""]
        lines += [f"- `{name} = {_toml(p.default)}`: {p.help}" for name, p in rule.params.items()]
    if rule.references:
        lines += ["", "## References", ""]
        for entry in rule.references:
            where = f"https://arxiv.org/abs/{entry['arxiv']}" if "arxiv" in entry else entry.get("url", "")
            lines.append(f"- {entry['title']}{': ' * bool(where)}{where}")
    return "\n".join(lines) + "\n"


def first_paragraph(rule: Rule) -> str:
    """The beginning of a rule's explanation, on one line, without its heading."""
    for part in rule.explain.split("\n\n"):
        text = " ".join(line.strip() for line in part.splitlines() if not line.startswith("#"))
        if text.strip():
            return text.strip()
    return rule.summary


def _toml(value: float | str | bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else f"{value:g}"


def for_terminal(markdown: str) -> str:
    """The same for a terminal that shows colours: headings are bold, code is in colour, and the marks are gone."""
    lines = []
    for line in markdown.splitlines():
        heading = re.fullmatch(r"#+ (.*)", line)
        lines.append(f"\033[1m{heading[1]}\033[0m" if heading else re.sub(r"`([^`]+)`", "\033[36m\\1\033[0m", line))
    return "\n".join(lines) + "\n"
