"""Which rules run."""

from __future__ import annotations

from pathlib import Path

import pytest

from gnelint.errors import UsageError
from gnelint.lint.rulefile import RuleSet, load_rules
from gnelint.lint.selection import Settings, selected_rules
from tests.lint.test_engine import rule


def ids(settings: Settings) -> list[str]:
    return [rule.id for rule in selected_rules(load_rules(), settings)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(select=("GNE101",)), ["GNE101"]),
        (Settings(select=("GNE1",)), ["GNE101", "GNE102"]),
        (Settings(select=("GNE1",), ignore=("GNE101",)), ["GNE102"]),
        (Settings(select=("GNE101",), ignore=("GNE1",)), ["GNE101"]),
        (Settings(select=("GNE101",), extend_select=("GNE9",)), ["GNE101", "GNE901"]),
        (Settings(select=("GNE",), ignore=("GNE1", "GNE2", "GNE4", "GNE9")), ["GNE501", "GNE502"]),
    ],
)
def test_selection(settings: Settings, expected: list[str]) -> None:
    assert ids(settings) == expected


def test_all_rules_by_default() -> None:
    assert ids(Settings()) == [rule.id for rule in load_rules().rules]


def test_preview_rules_do_not_run(tmp_path: Path) -> None:
    rules = RuleSet((rule(tmp_path, status="preview"), rule(tmp_path, "ACME002")))
    assert [found.id for found in selected_rules(rules, Settings())] == ["ACME002"]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (Settings(select=("GNE501X",)), "Did you mean GNE501"),
        (Settings(ignore=("X",)), "no rule has this id"),
        (Settings(params={"GNE999": {}}), "no rule has this id"),
        (Settings(params={"GNE101": {"tolerence": 1.0}}), "GNE101 has: tolerance"),
        (Settings(params={"GNE101": {"tolerance": "high"}}), "not of the type"),
        (Settings(params={"GNE101": {"tolerance": True}}), "not of the type"),
    ],
)
def test_settings_that_name_nothing(settings: Settings, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        selected_rules(load_rules(), settings)
