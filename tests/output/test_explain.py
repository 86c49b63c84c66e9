from __future__ import annotations

from gnelint.lint.rulefile import load_rules
from gnelint.output.explain import explanation, for_terminal


def test_everything_a_person_needs() -> None:
    rule = load_rules().get("GNE101")
    assert rule is not None
    text = explanation(rule)
    assert text.startswith("# gain-mismatch (GNE101)\n")
    assert "error or warning" in text
    assert "## What to do" in text
    assert "- `tolerance = 0.25`: allowed |log2| of the gain of one layer" in text
    assert "[tool.gnelint.params.GNE101]" in text
    assert "https://arxiv.org/abs/1502.01852" in text


def test_for_a_terminal_the_marks_of_markdown_are_colours() -> None:
    shown = for_terminal("# gain (GNE101)\n\nSay `--fix` and `a`; 2 * `b`.\n## Why\nUnpaired ` stays.\n")
    assert shown == (
        "\033[1mgain (GNE101)\033[0m\n\nSay \033[36m--fix\033[0m and \033[36ma\033[0m; 2 * \033[36mb\033[0m.\n"
        "\033[1mWhy\033[0m\nUnpaired ` stays.\n"
    )
