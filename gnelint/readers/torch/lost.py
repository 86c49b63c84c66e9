"""Results that nothing keeps: a statement that calls what returns a new tensor, `scores.masked_fill(mask, -inf)` alone.

Of what a program computes and never reads most is no mistake (a value that only another model returns); what a
statement of its own computes is: somebody took the operation for one that changes its tensor.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import torch
from torch import fx
from torch.export import ExportedProgram

from gnelint.readers.torch.names import module_stack, user_location
from gnelint.readers.torch.operations import operation_name

_CHECKS = ("assert", "_assert", "_check")
"""Beginnings of the names of functions that are called for what they raise."""
_CASTS = frozenset({"to", "type", "float", "double", "half", "bfloat16", "cuda", "cpu"})
_OF_CASTS = frozenset({"to", "_to_copy"})
_NAMESPACES = frozenset({"F", "functional", "torch"})


def lost_results(program: ExportedProgram) -> tuple[str, ...]:
    """What is lost and where, one text for each place, in the order of the program."""
    return tuple(dict.fromkeys(_lost(program.graph)))


def _lost(graph: fx.Graph) -> Iterator[str]:
    for node in graph.nodes:
        if node.op != "call_function" or node.users or not isinstance(node.meta.get("val"), torch.Tensor):
            continue
        place = user_location(node.meta.get("stack_trace"))
        called = None if place is None or place.line is None else _statements(place.file).get(place.line)
        if called is not None and place is not None and _is_of(node, *called):
            yield f"{called[1]} ({Path(place.file).name}:{place.line})"


def _is_of(node: fx.Node, owner: str, called: str) -> bool:
    """Whether an operation is what a statement calls: an argument of it may be read by what no program shows."""
    name = operation_name(node.target)
    if called.endswith("_") or name.endswith("_") or called.startswith(_CHECKS):
        return False  # changes what it is given, or looks at it
    stack = module_stack(node)
    of_module = bool(stack) and stack[-1].path.rpartition(".")[2] == called
    return called == name or owner in _NAMESPACES or (called in _CASTS and name in _OF_CASTS) or of_module


@lru_cache(maxsize=256)
def _statements(file: str) -> dict[int, tuple[str, str]]:
    """By line: what a statement calls whose result it does not keep, with the name before the dot."""
    try:
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return {}
    found: dict[int, tuple[str, str]] = {}
    for each in ast.walk(tree):
        if isinstance(each, ast.Expr) and isinstance(each.value, ast.Call):
            called = _called(each.value.func)
            if called is not None:
                lines = range(each.lineno, (each.end_lineno or each.lineno) + 1)
                found.update(dict.fromkeys(lines, called))
    return found


def _called(function: ast.expr) -> tuple[str, str] | None:
    if isinstance(function, ast.Attribute):
        owner = function.value
        return owner.id if isinstance(owner, ast.Name) else "", function.attr
    return ("", function.id) if isinstance(function, ast.Name) else None
