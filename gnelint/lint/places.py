"""Names as people read them: many in few words ("layers.0-31" for 32 layers), and what cannot be seen made visible."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

_NUMBER = re.compile(r"([0-9]{1,18})")
_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?")


def folded(names: Iterable[str]) -> list[str]:
    """Names with those that differ in their numbers only written as one, in the order of their first.

    Numbers that are equal wherever they stand together ("fc3 .. act3") count as one. Ranges are only joined where every
    combination is there: layers 0 and 1 of stages 1 and 2 are "layer1-2.0-1", but not if one of the four is missing.
    """
    groups: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for name in dict.fromkeys(names):
        parts = _NUMBER.split(name)
        groups.setdefault(tuple(parts[::2]), []).append(tuple(parts[1::2]))
    return [name for texts, rows in groups.items() for name in _of_one_form(texts, rows)]


def _of_one_form(texts: Sequence[str], rows: Sequence[tuple[str, ...]]) -> list[str]:
    columns = list(zip(*rows, strict=True))
    distinct = list(dict.fromkeys(columns))
    found = list(zip(*distinct, strict=True)) if distinct else [()]
    for place in reversed(range(len(distinct))):
        alike: dict[tuple[str, ...], list[str]] = {}
        for row in found:
            alike.setdefault((*row[:place], "", *row[place + 1 :]), []).append(row[place])
        found = [(*key[:place], _ranges(numbers), *key[place + 1 :]) for key, numbers in alike.items()]
    where = [distinct.index(column) for column in columns]
    return ["".join([*(t + row[i] for t, i in zip(texts, where, strict=False)), texts[-1]]) for row in found]


def _ranges(numbers: Iterable[str]) -> str:
    """ "0-5,8" for 0, 1, 2, 3, 4, 5 and 8; what is not written as a plain number ("007") stands for itself."""
    plain = {number for number in numbers if str(int(number)) == number}
    runs = []
    for _, run in groupby(enumerate(sorted(map(int, plain))), key=lambda item: item[1] - item[0]):
        members = [number for _, number in run]
        runs.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return ",".join([*runs, *(number for number in dict.fromkeys(numbers) if number not in plain)])


def scope(names: Iterable[str]) -> str | None:
    """The numbered scopes in which all of these names lie ("layers.0-31"); None if they have none in common."""
    split = [_NUMBER.split(name) for name in dict.fromkeys(names)]
    for position in range(1, min(map(len, split), default=0), 2):
        if len({parts[position - 1] for parts in split}) > 1:  # what is before is the same for all
            return None
        numbers = dict.fromkeys(parts[position] for parts in split)
        if len(numbers) > 1:
            return "".join((*split[0][:position], _ranges(numbers)))
    return None


def alike_edits(edits: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Edits that do the same to the same parts of layers but for their numbers, in the order of the first."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for edit in edits:
        part = edit["subject"].rpartition(".")[2]
        groups.setdefault((*form(edit["what"]), *form(part)), []).append(edit)
    return list(groups.values())


def changes(edits: Iterable[Mapping[str, Any]], width: int = 60) -> list[str]:
    """What is changed, a clause for each group of like edits: "multiply 0-98.weight by 1.98 to 2.03".

    Args:
        edits: each with a `subject` and `what` is done to it; the same ones count once.
        width: of names in characters, beyond which they are only counted.
    """
    different = {(edit["subject"], edit["what"]): edit for edit in edits}
    clauses = []
    for group in alike_edits(different.values()):
        names = list(dict.fromkeys(edit["subject"] for edit in group))
        listed = ", ".join(folded(names))
        where = listed if len(names) == 1 or len(listed) <= width else f"{len(names)} tensors"
        clauses += [_clause(where, what) for what in alike(edit["what"] for edit in group)]
    return clauses


def _clause(where: str, what: str) -> str:
    for verb, link in (("multiply", "by"), ("set", "to")):
        if what.startswith(f"{verb} {link} "):
            return f"{verb} {where}{what.removeprefix(verb)}"
    return f"{where}: {what}"


def visible(text: str) -> str:
    """The text with what has no shape of its own escaped: line ends, controls, turns of direction."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def form(text: str) -> tuple[str, ...]:
    """What stands around the numbers of a text: the same for texts that differ in those alone."""
    return tuple(_DECIMAL.split(text))


def alike(texts: Iterable[str]) -> list[str]:
    """The texts with those that differ in one number only written as one: "scale by 1.9 to 2.1"."""
    groups: dict[tuple[str, ...], list[list[str]]] = {}
    for text in texts:
        groups.setdefault(form(text), []).append(_DECIMAL.findall(text))
    return [_ranged(parts, rows) for parts, rows in groups.items()]


def _ranged(parts: tuple[str, ...], rows: list[list[str]]) -> str:
    shown = []
    for column in zip(*rows, strict=True):
        low, high = min(column, key=float), max(column, key=float)
        shown.append(low if low == high else f"{low} to {high}")
    return "".join(part + number for part, number in zip(parts, [*shown, ""], strict=True))
