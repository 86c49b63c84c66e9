"""Which rules run: ids and prefixes, as a user selects and ignores them, and the values of their parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from itertools import takewhile
from typing import Any, Literal

from gnelint.errors import UsageError
from gnelint.lint.rulefile import Rule, RuleSet
from gnelint.records import dataclass
from gnelint.words import close

Stage = Literal["auto", "init", "trained"]

ALL = "ALL"
"""The selector that means every rule."""


@dataclass(frozen=True)
class Settings:
    """What a user chooses about the rules. A selector is an id, the beginning of ids, or ALL.

    Attributes:
        select: what runs; empty stands for all.
        extend_select, ignore: added to and taken from that. The longer selector wins.
        never: what does not run, whatever selects it.
        preview: whether rules run that are not yet stable.
        stage: judge the weights as fresh, as trained, or as they look.
        params: values for the parameters of rules, by rule id.
        loss: what stands behind the network's output, one of `LOSSES`; None where it is not told.
    """

    select: tuple[str, ...] = ()
    extend_select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    preview: bool = False
    stage: Stage = "auto"
    params: Mapping[str, Mapping[str, float | str | bool]] = field(default_factory=dict)
    loss: str | None = None


def names(selector: str, rule_id: str) -> bool:
    """Whether a selector means this rule."""
    return selector == ALL or rule_id.startswith(selector)


def by_id(selectors: Iterable[str], rules: RuleSet) -> tuple[str, ...]:
    """The selectors in capitals, with ids in place of the names of rules; what names nothing stays as it is written."""
    return tuple(_by_id(selector, rules) for selector in selectors)


def _by_id(selector: str, rules: RuleSet) -> str:
    rule = rules.get(selector)
    if rule is not None:
        return rule.id
    return selector.upper() if _is_prefix(selector, rules) else selector


def _is_prefix(selector: str, rules: RuleSet) -> bool:
    """Whether a selector is the beginning of ids, or all of them, in letters of either case."""
    return selector.upper() == ALL or any(rule.id.startswith(selector.upper()) for rule in rules.rules)


def settings_by_id(settings: Settings, rules: RuleSet) -> Settings:
    """What a user chose, with ids in place of the names of rules."""
    return replace(
        settings,
        select=by_id(settings.select, rules),
        extend_select=by_id(settings.extend_select, rules),
        ignore=by_id(settings.ignore, rules),
        never=by_id(settings.never, rules),
        params=dict(zip(by_id(settings.params, rules), settings.params.values(), strict=True)),
    )


def selected_rules(rules: RuleSet, settings: Settings) -> tuple[Rule, ...]:
    """The rules that the settings ask for.

    Raises:
        UsageError: a selector names no rule, a parameter does not exist or has another type.
    """
    check_selectors((*settings.select, *settings.extend_select, *settings.ignore, *settings.never), rules)
    check_params(settings.params, rules)
    return tuple(rule for rule in rules.rules if _is_selected(rule, settings))


def unselected_rules(rules: RuleSet, settings: Settings) -> tuple[Rule, ...]:
    """The rules that the settings leave out; preview rules only where they would run."""
    runs = (rule for rule in rules.rules if rule.status != "preview" or settings.preview)
    return tuple(rule for rule in runs if not _is_selected(rule, settings))


def _is_selected(rule: Rule, settings: Settings) -> bool:
    if rule.status == "preview" and not settings.preview:
        return False
    if not (settings.select or settings.extend_select or settings.ignore or settings.never):
        return True
    if any(names(selector, rule.id) for selector in settings.never):
        return False

    def longest(selectors: Iterable[str]) -> int:
        found = (0 if selector == ALL else len(selector) for selector in selectors if names(selector, rule.id))
        return max(found, default=-1)

    wanted = max(longest(settings.select or (ALL,)), longest(settings.extend_select))
    return wanted > longest(settings.ignore)


def without_effect(rules: RuleSet, settings: Settings) -> tuple[str, ...]:
    """A sentence for each selector that a user wrote to run preview rules, while preview rules do not run."""
    if settings.preview:
        return ()
    sentences = []
    for selector in dict.fromkeys((*settings.select, *settings.extend_select)):
        meant = [rule for rule in rules.rules if names(selector, rule.id)]
        if meant and all(rule.status == "preview" for rule in meant):
            what = "is a preview rule, which does" if len(meant) == 1 else "names preview rules only, which do"
            sentences.append(f"{selector} {what} not run without --preview.")
    return tuple(sentences)


def check_selectors(selectors: Sequence[str], rules: RuleSet, where: str = "") -> None:
    """Refuse a selector that names no rule; `where` says who wrote it.

    Raises:
        UsageError: there is one; the error names the closest rule.
    """
    for selector in selectors:
        if rules.get(selector) is None and not _is_prefix(selector, rules):
            raise no_such_rule(selector, rules, where)


def no_such_rule(selector: str, rules: RuleSet, where: str = "") -> UsageError:
    """The error for a selector that names nothing, with the closest one that does."""
    best = _closest(selector.upper(), rules)
    hint = f"Did you mean {best}? " if best else ""
    subject = f"{where}: {selector}" if where else selector
    return UsageError(subject, "no rule has this id, prefix or name", f"{hint}`gnelint rules` lists them.")


def _closest(wanted: str, rules: RuleSet) -> str | None:
    if any(char.isdigit() for char in wanted) or wanted.isalpha():
        known = [*(rule.id for rule in rules.rules), ALL]
        alike = close(wanted, known, most=len(known), cutoff=0.5)
        # of ids that are as close as each other the one that begins most alike: of one family, an O meant for a 0
        digits = wanted[:3] + wanted[3:].translate(str.maketrans("OIL", "011"))
        best = max(alike, key=lambda other: (_same_start(digits, other), _same_places(digits, other)), default=None)
        if best is not None:
            return best
    names = {rule.name.upper(): rule.name for rule in rules.rules}
    alike = close(wanted, names)
    return names[alike[0]] if alike else None


def _same_start(a: str, b: str) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _same_places(a: str, b: str) -> int:
    return sum(left == right for left, right in zip(a, b, strict=False))


def check_params(params: Mapping[str, Mapping[str, Any]], rules: RuleSet, where: str = "") -> None:
    """Refuse values for parameters that no rule has; `where` says who wrote them.

    Raises:
        UsageError: a rule or parameter does not exist, or the value is not of its type.
    """
    prefix = f"{where}: " if where else ""
    for rule_id, values in params.items():
        rule = rules.get(rule_id)
        if rule is None:
            raise no_such_rule(rule_id, rules, f"{where}: params" if where else "")
        for name, value in values.items():
            subject = f"{prefix}params.{rule_id}.{name}"
            if name not in rule.params:
                meant = close(name, rule.params)
                hint = f"Did you mean {meant[0]}? " if meant else ""
                known = ", ".join(rule.params) or "none"
                raise UsageError(subject, "no such parameter", f"{hint}{rule_id} has: {known}.")
            default = rule.params[name].default
            same = isinstance(value, bool) == isinstance(default, bool) and isinstance(value, str) == isinstance(
                default, str
            )
            if not same:
                raise UsageError(subject, f"{value!r} is not of the type of its default {default!r}")
