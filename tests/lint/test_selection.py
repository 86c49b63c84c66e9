"""Which rules run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gnelint.errors import UsageError
from gnelint.lint.rulefile import RuleSet, load_rules
from gnelint.lint.selection import Settings, selected_rules, without_effect
from tests.lint.test_engine import rule

STABLE = [rule.id for rule in load_rules().rules if rule.status == "stable"]


def stable(*beginnings: str) -> list[str]:
    """The stable rules whose ids begin so."""
    return [rule for rule in STABLE if rule.startswith(beginnings)]


def ids(settings: Settings) -> list[str]:
    return [rule.id for rule in selected_rules(load_rules(), settings)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(select=("GNE101",)), ["GNE101"]),
        (Settings(select=("GNE1",)), stable("GNE1")),
        (Settings(select=("GNE1",), ignore=("GNE101",)), stable("GNE1")[1:]),
        (Settings(select=("GNE101",), ignore=("GNE1",)), ["GNE101"]),
        (Settings(select=("GNE101",), extend_select=("GNE9",)), ["GNE101", *stable("GNE9")]),
        (Settings(select=("GNE",), ignore=("GNE1", "GNE2", "GNE4", "GNE9")), stable("GNE3", "GNE5", "GNE6", "GNE7")),
        (Settings(select=("ALL",), ignore=("GNE1", "GNE2", "GNE4", "GNE9")), stable("GNE3", "GNE5", "GNE6", "GNE7")),
        (Settings(ignore=("ALL",), extend_select=("GNE101",)), ["GNE101"]),
        (Settings(select=("GNE101", "GNE501"), never=("GNE1",)), ["GNE501"]),
        (Settings(never=("ALL",)), []),
    ],
)
def test_selection(settings: Settings, expected: list[str]) -> None:
    assert ids(settings) == expected


def test_all_rules_by_default() -> None:
    assert ids(Settings()) == STABLE
    assert ids(Settings(preview=True)) == [rule.id for rule in load_rules().rules]


def test_preview_rules_run_only_when_asked(tmp_path: Path) -> None:
    rules = RuleSet((rule(tmp_path, status="preview"), rule(tmp_path, "ACME002")))

    def ran(**settings: Any) -> list[str]:
        return [found.id for found in selected_rules(rules, Settings(**settings))]

    assert ran() == ["ACME002"]
    assert ran(select=("ACME001",)) == []
    assert ran(preview=True) == ["ACME001", "ACME002"]
    assert ran(preview=True, ignore=("ACME001",)) == ["ACME002"]


def test_selecting_preview_rules_without_preview_is_said(tmp_path: Path) -> None:
    rules = RuleSet((rule(tmp_path, status="preview"), rule(tmp_path, "ACME002")))
    assert without_effect(rules, Settings()) == ()
    assert without_effect(rules, Settings(select=("ACME",))) == ()
    assert without_effect(rules, Settings(select=("ACME001",), preview=True)) == ()
    said = without_effect(rules, Settings(extend_select=("ACME001",)))
    assert said == ("ACME001 is a preview rule, which does not run without --preview.",)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (Settings(select=("GNE501X",)), "Did you mean GNE501"),
        (Settings(select=("ALLL",)), "Did you mean ALL"),
        (Settings(ignore=("X",)), "no rule has this id"),
        (Settings(never=("X",)), "no rule has this id"),
        (Settings(params={"GNE999": {}}), "no rule has this id"),
        (Settings(params={"GNE101": {"tolerence": 1.0}}), "Did you mean tolerance. GNE101 has: meant, tolerance"),
        (Settings(params={"GNE101": {"tolerance": "high"}}), "not of the type"),
        (Settings(params={"GNE101": {"tolerance": True}}), "not of the type"),
    ],
)
def test_settings_that_name_nothing(settings: Settings, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        selected_rules(load_rules(), settings)
