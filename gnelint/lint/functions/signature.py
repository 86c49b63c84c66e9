"""What a function of the expression language is declared by, and how it reads one fact of a node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from gnelint.analysis.prediction import Block
from gnelint.ir.graph import Node
from gnelint.lint.columns import Column
from gnelint.lint.facts import Facts
from gnelint.lint.kinds import Function, Kind

Place = Node | Block

KINDS: Mapping[str, Kind] = {
    "n": "node", "m": "node", "b": "block", "p": "place", "x": "number", "y": "number", "bound": "number", "c": "truth",
    "op": "operations", "kind": "block_kind", "role": "role", "key": "attribute", "text": "text",
}  # fmt: skip
"""What the arguments of a signature are, by their names."""

Asked = TypeVar("Asked")
Known = TypeVar("Known")
Read = TypeVar("Read")


def function(signature: str, result: Kind, call: Callable[..., Any], help: str, **more: bool) -> Function:
    """A function whose signature tells what its arguments are."""
    names = signature.partition("(")[2].rstrip(")")
    parameters = tuple(KINDS[name.strip()] for name in names.split(",") if name.strip())
    return Function(signature, parameters, result, call, help, **more)


def of_numbers(
    signature: str, call: Callable[..., Column], help: str, result: Kind = "number", **more: bool
) -> Function:
    """A function that asks for no facts."""
    return function(signature, result, call, help, numbers=True, **more)


def reading(
    ask: Callable[[Facts, Asked], Known | None], read: Callable[[Known], Read | None]
) -> Callable[[Facts, Asked], Read | None]:
    """What `read` finds in what the facts know of a node, block or place; None where they know nothing."""

    def call(facts: Facts, asked: Asked) -> Read | None:
        known = ask(facts, asked)
        return None if known is None else read(known)

    return call
