from __future__ import annotations

from gnelint.lint.rulefile import load_rules
from gnelint.output.explain import explanation


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
