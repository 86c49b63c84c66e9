"""The JSON contract, schema "gnelint/1": every other output is a rendering of it. What it says of one target is made in
`entry`; this module, which a known answer goes through, needs neither numpy nor a graph."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnelint.errors import UsageError
from gnelint.files import read_text
from gnelint.lint.severity import SEVERITIES
from gnelint.version import __version__

if TYPE_CHECKING:
    from gnelint.lint.rulefile import Rule

SCHEMA = "gnelint/1"


def _object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list_of(items: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_TEXT, _NUMBER = {"type": "string"}, {"type": ["number", "null"]}
_COUNT, _TEXTS = {"type": "integer"}, _list_of({"type": "string"})
_READABLE = _object(
    schema={"const": SCHEMA},
    targets=_list_of(
        _object(
            target=_TEXT,
            source={"enum": ["onnx", "torch"]},
            mode={"enum": ["train", "eval"]},
            summary=_object(gradient_ratio=_NUMBER, errors=_COUNT, warnings=_COUNT, infos=_COUNT, fixable=_COUNT),
            profile=_list_of(_object(name=_TEXT, op=_TEXT, phi=_NUMBER, gradient_norm2=_NUMBER, second_moment=_NUMBER)),
            blocks=_list_of(_object(name=_TEXT, kind=_TEXT, nodes=_TEXTS, phi=_NUMBER, phi_variance=_NUMBER)),
            findings=_list_of(_object(rule=_TEXT, severity={"enum": list(SEVERITIES)})),
        )
    ),
)
"""What is asked of an earlier report that another is compared with."""

SIGNIFICANT_DIGITS = 7
"""Enough for every use, and few enough that a report does not change with the order of a sum."""


def document(targets: Iterable[Mapping[str, Any]], rules: Sequence[Rule] = ()) -> dict[str, Any]:
    """The whole report.

    Args:
        targets: what `entry.target` gave for each target.
        rules: those that may have been run; what is said of them is theirs in the report.
    """
    entries = list(targets)
    ran = {rule for entry in entries for rule in entry["rules_ran"]}
    spoke = {finding["rule"] for entry in entries for finding in entry["findings"]}
    return {
        "schema": SCHEMA,
        "version": __version__,
        "targets": entries,
        "rules": [_rule(rule, rule.id in spoke) for rule in rules if rule.id in ran | spoke],
        "versions": versions(entry["source"] for entry in entries),
    }


def versions(sources: Iterable[str]) -> dict[str, str]:
    """The programs that made a report of targets from these sources."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import

    found = {"gnelint": __version__, "python": sys.version.split()[0]}
    for package in ("numpy", *sorted({*sources})):  # a source is called as the package that reads it
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # there under another name, as torch is in some distributions
            continue
    return found


def statistics(targets: Sequence[Mapping[str, Any]], rule_names: Mapping[str, str]) -> dict[str, Any]:
    """How often each rule spoke over all targets, most often first, made of what `entry.target` gave for each."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    places: dict[str, set[int]] = {}
    for index, entry in enumerate(targets):
        for finding in entry["findings"]:
            found.setdefault(finding["rule"], []).append(finding)
            places.setdefault(finding["rule"], set()).add(index)
    ordered = sorted(found, key=lambda rule: (-len(found[rule]), rule))
    rules = [
        {
            "rule": rule,
            "name": rule_names.get(rule, ""),
            "count": len(found[rule]),
            "targets": len(places[rule]),
            **counts(found[rule]),
        }
        for rule in ordered
    ]
    return {"schema": SCHEMA, "version": __version__, "targets": len(targets), "statistics": rules}


def dumps(report: Mapping[str, Any]) -> str:
    """The report as text; the same report gives the same bytes."""
    return json.dumps(report, indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def read(path: Path) -> dict[str, Any]:
    """A report that was written earlier.

    Raises:
        UsageError: it cannot be read, or it is no report.
    """
    from jsonschema import Draft202012Validator  # slow to import, and hardly any run needs it

    advice = "Make one: gnelint check TARGET --format json -o FILE"
    try:
        report = json.loads(read_text(path), parse_constant=lambda name: None)
    except OSError as error:
        raise UsageError(str(path), f"cannot be read ({error.strerror})", advice) from None
    except (ValueError, RecursionError):
        raise UsageError(str(path), "is not JSON", advice) from None
    fault = next(iter(Draft202012Validator(_READABLE).iter_errors(report)), None)
    if fault is not None:
        where = ".".join(map(str, fault.absolute_path)) or "the whole"
        raise UsageError(str(path), f"is no report of gnelint check ({where} is not as it should be)", advice)
    found: dict[str, Any] = report
    return found


def number(value: float | None) -> float | None:
    """A finite number to the digits that mean something, else None."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def counts(findings: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many findings there are of each severity, and how many have a fix."""
    fixes = [finding["fix"] for finding in findings]
    return {
        **{f"{severity}s": sum(found["severity"] == severity for found in findings) for severity in SEVERITIES},
        "fixable": sum(fix is not None and fix["safety"] != "display" for fix in fixes),
    }


def _rule(rule: Rule, spoke: bool) -> dict[str, Any]:
    """What a rule is; its explanation only where it has found something."""
    return {
        "id": rule.id,
        "name": rule.name,
        "group": rule.group,
        "summary": rule.summary,
        "params": {name: parameter.default for name, parameter in rule.params.items()},
        "explanation": rule.explain.strip() if spoke else None,
        "references": [dict(reference) for reference in rule.references] if spoke else [],
    }
