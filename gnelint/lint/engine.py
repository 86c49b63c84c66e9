"""Rules on a prediction: which apply, what they match, and what they say there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gnelint.errors import UsageError
from gnelint.lint.finding import Finding
from gnelint.lint.rulefile import Rule, RuleSet
from gnelint.lint.running import Run
from gnelint.prediction import Prediction

Stage = Literal["auto", "init", "trained"]


@dataclass(frozen=True)
class Settings:
    """What a user chooses about the rules.

    Attributes:
        select: ids or prefixes that run; empty stands for all.
        extend_select, ignore: ids or prefixes added to and taken from those. The longer prefix wins.
        stage: judge the weights as fresh, as trained, or as they look.
        params: values for the parameters of rules, by rule id.
    """

    select: tuple[str, ...] = ()
    extend_select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    stage: Stage = "auto"
    params: Mapping[str, Mapping[str, float | str | bool]] = field(default_factory=dict)


@dataclass(frozen=True)
class LintResult:
    """Findings by rule and place, and one sentence for each reason why rules were skipped."""

    findings: tuple[Finding, ...]
    skipped: tuple[str, ...] = ()


def selected_rules(rules: RuleSet, settings: Settings) -> tuple[Rule, ...]:
    """The rules that the settings ask for; preview rules are never among them.

    Raises:
        UsageError: a prefix names no rule, a parameter does not exist or has another type.
    """
    for prefix in (*settings.select, *settings.extend_select, *settings.ignore):
        if not any(rule.id.startswith(prefix) for rule in rules.rules):
            raise no_such_rule(prefix, rules)
    _check_params(rules, settings.params)
    return tuple(rule for rule in rules.rules if rule.status == "stable" and _is_selected(rule.id, settings))


def _is_selected(rule_id: str, settings: Settings) -> bool:
    def longest(prefixes: Iterable[str]) -> int:
        return max((len(prefix) for prefix in prefixes if rule_id.startswith(prefix)), default=-1)

    wanted = max(longest(settings.select or ("",)), longest(settings.extend_select))
    return wanted > longest(settings.ignore)


def no_such_rule(prefix: str, rules: RuleSet) -> UsageError:
    """The error for an id or prefix that names nothing, with the closest one that does."""
    close = difflib.get_close_matches(prefix.upper(), [rule.id for rule in rules.rules], n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]}? " if close else ""
    return UsageError(prefix, "no rule has this id or prefix", f"{hint}`gnelint rules` lists them.")


def _check_params(rules: RuleSet, params: Mapping[str, Mapping[str, Any]]) -> None:
    for rule_id, values in params.items():
        rule = rules.get(rule_id)
        if rule is None:
            raise no_such_rule(rule_id, rules)
        for name, value in values.items():
            if name not in rule.params:
                known = ", ".join(rule.params) or "none"
                raise UsageError(f"params.{rule_id}.{name}", "no such parameter", f"{rule_id} has: {known}.")
            default = rule.params[name].default
            same = isinstance(value, bool) == isinstance(default, bool) and isinstance(value, str) == isinstance(
                default, str
            )
            if not same:
                raise UsageError(f"params.{rule_id}.{name}", f"{value!r} is not of the type of its default {default!r}")


def lint(prediction: Prediction, rules: Sequence[Rule], settings: Settings) -> LintResult:
    """Run rules over one prediction. The findings come by rule id, then in topological order."""
    applicable, skipped = _by_stage(prediction, rules, settings.stage)
    run = Run(prediction)
    findings = [finding for rule in applicable for finding in run.findings(rule, settings.params.get(rule.id, {}))]
    return LintResult(tuple(findings), skipped)


def _by_stage(prediction: Prediction, rules: Sequence[Rule], stage: Stage) -> tuple[tuple[Rule, ...], tuple[str, ...]]:
    untrained = stage == "init" or (stage == "auto" and prediction.trained is False)
    initial = [rule for rule in rules if rule.stage == "init"]
    if untrained or not initial:
        return tuple(rules), ()
    if stage == "trained":
        reason = "as --stage trained asks"
    elif prediction.trained:
        reason = "the weights look trained (--stage init judges them all the same)"
    elif any(parameter.provenance == "placeholder" for parameter in prediction.graph.parameters()):
        reason = "its weights are placeholders, one repeated value each"
    else:
        reason = "it has no weights to judge"
    count = f"{len(initial)} rule{'s' * (len(initial) != 1)} for untrained networks skipped: {reason}"
    return tuple(rule for rule in rules if rule.stage != "init"), (count,)
