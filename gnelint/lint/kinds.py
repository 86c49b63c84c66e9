"""The kinds of values in the rule language, its functions' type, and the names that rules may use as literals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from gnelint.analysis.prediction import BlockKind
from gnelint.ops import VOCABULARY, families
from gnelint.records import dataclass

Kind = Literal["number", "text", "truth", "node", "block", "operations", "attribute", "role", "block_kind", "place"]
"""What an expression stands for. Only parameters are of the last five kinds: `place` is a node or a block, the others
are literals, checked when the rule is read: `operations` ("relu|gelu", a family), the name of an `attribute`, the
`role` of a parameter ("weight", "bias", ...) and the kind of a block."""

LITERALS: frozenset[Kind] = frozenset({"operations", "attribute", "role", "block_kind"})


class ExpressionError(ValueError):
    """A text that the language does not allow; the message says why."""


@dataclass(frozen=True)
class Function:
    """A function of the language.

    Attributes:
        signature: its name and the names of its arguments.
        parameters: kinds of the arguments; a function with `variadic` takes one or more of the last.
        result: kind of the value.
        call: gets the facts, then the arguments, one match at a time; a function of `numbers` alone gets columns.
        help: one line for people.
        variadic: see `parameters`.
        numbers: whether it maps columns of numbers and asks for no facts.
        takes_unknown: whether it is called for arguments that are not known; for others the value is unknown then.
    """

    signature: str
    parameters: tuple[Kind, ...]
    result: Kind
    call: Callable[..., Any]
    help: str
    variadic: bool = False
    numbers: bool = False
    takes_unknown: bool = False


def operations(text: str) -> frozenset[str]:
    """The canonical operations named by "relu|gelu", a family, or `any`.

    Where an operation and a family share a name (linear, attention) it stands for the operation.

    Raises:
        ExpressionError: a name is neither an operation nor a family.
    """
    known = families()
    found: set[str] = set()
    for name in text.split("|"):
        name = name.strip()
        if name in VOCABULARY or name == "unmodelled":
            found.add(name)
        elif name in known:
            found |= known[name]
        elif name == "any":
            found |= {*VOCABULARY, "unmodelled"}
        else:
            raise ExpressionError(f'"{name}" is neither an operation nor a family')
    return frozenset(found)


def literal(kind: Kind, text: str) -> Any:
    """The value of a literal argument.

    Raises:
        ExpressionError: nothing has this name.
    """
    if kind == "operations":
        return operations(text)
    if text not in _NAMES[kind]:
        raise ExpressionError(f'"{text}" is no {_SHOWN[kind]}; there are {", ".join(sorted(_NAMES[kind]))}')
    return text


_NAMES: Mapping[Kind, frozenset[str]] = {
    "attribute": frozenset(name for operation in VOCABULARY.values() for name in operation.attributes),
    "role": frozenset(role for operation in VOCABULARY.values() for role in operation.parameters),
    "block_kind": frozenset(get_args(BlockKind)),
}

_SHOWN: Mapping[Kind, str] = {
    "operations": "operation or family",
    "attribute": "attribute of an operation",
    "role": "role of a parameter",
    "block_kind": "kind of block",
}
