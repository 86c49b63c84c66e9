"""Where in a user's file the code that `gnelint fix --emit-init` writes goes."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from gnelint.records import dataclass


@dataclass(frozen=True)
class Replaced:
    """Lines of a file, counted from 0, and what stands in their place; the end is not among them."""

    start: int
    end: int
    text: str


def insertion(source: str, code: str) -> list[Replaced]:
    """The edits that put the function of `code` at the end of a file, and the imports that it lacks behind its own.

    A function of the same name that is there already is replaced. There are none where the function does nothing.

    Args:
        source: the user's file.
        code: what `gnelint fix --emit-init` writes.

    Raises:
        SyntaxError: the user's file is not Python.
    """
    tree, made = ast.parse(source), ast.parse(code)
    functions = [node for node in made.body if isinstance(node, ast.FunctionDef)]
    (function,) = functions
    if len(function.body) == 1:  # its docstring alone
        return []
    text = "\n".join(code.splitlines()[_first_line(function) :]).rstrip("\n") + "\n"
    known = set(_bound(tree.body))
    missing = [node for node in made.body if _is_import(node) and not known.issuperset(_bound([node]))]
    edits = []
    if missing:
        at = _behind_imports(tree.body)
        edits.append(Replaced(at, at, "".join(f"{ast.unparse(node)}\n" for node in missing)))
    old = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function.name]
    if old:
        edits.append(Replaced(_first_line(old[-1]), old[-1].end_lineno or old[-1].lineno, text))
    else:
        lines = source.splitlines(keepends=True)
        start = "" if not lines or lines[-1].endswith("\n") else "\n"
        edits.append(Replaced(len(lines), len(lines), f"{start}\n\n{text}"))
    return edits


def _first_line(function: ast.FunctionDef) -> int:
    """The line, from 0, of its first decorator or of itself."""
    return min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)]) - 1


def _is_import(node: ast.stmt) -> bool:
    return isinstance(node, (ast.Import, ast.ImportFrom))


def _bound(body: Sequence[ast.stmt]) -> Iterator[str]:
    """The names that imports give."""
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)


def _behind_imports(body: Sequence[ast.stmt]) -> int:
    """The line, from 0, behind a file's imports; without any, behind its docstring."""
    before = [node for node in body if _is_import(node)]
    docstring = body[:1] if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) else []
    return max((node.end_lineno or node.lineno for node in (*before, *docstring)), default=0)
