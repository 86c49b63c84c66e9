"""What has changed from an earlier report to a later one, finding by finding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gnelint.records import dataclass


@dataclass(frozen=True)
class Change:
    """What has changed for one target.

    Attributes:
        target: its name.
        before, after: log2 of the squared gradient norm at the input over that at the output; None if it is not known.
        new, gone: findings that are only in the later report, only in the earlier one.
        is_known: whether the earlier report has the target.
    """

    target: str
    before: float | None
    after: float | None
    new: Sequence[Mapping[str, Any]]
    gone: Sequence[Mapping[str, Any]]
    is_known: bool = True


def changes(old: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> list[Change]:
    """What has changed for each target of a later report; findings are known again by their fingerprints."""
    known = {entry["target"]: entry for entry in old["targets"]}
    return [_change(known.get(entry["target"]), entry) for entry in entries]


def _change(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> Change:
    after = new["summary"].get("gradient_log2")
    if old is None:
        return Change(new["target"], None, after, new["findings"], (), is_known=False)
    before = old["summary"].get("gradient_log2")
    added, gone = (_left(one["findings"], other["findings"]) for one, other in ((new, old), (old, new)))
    return Change(new["target"], before, after, added, gone)


def _left(findings: Sequence[Mapping[str, Any]], known: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The findings that are not among the known ones; of several alike so many are known as there are there."""
    counts = Counter(map(_key, known))
    left = []
    for finding in findings:
        key = _key(finding)
        if counts[key]:
            counts[key] -= 1
        else:
            left.append(finding)
    return left


def _key(finding: Mapping[str, Any]) -> tuple[str, str, str]:
    return finding["rule"], finding["severity"], finding.get("fingerprint") or " ".join(finding.get("nodes", ()))
