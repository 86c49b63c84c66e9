"""Symbolic sizes as text: arithmetic of symbols and nothing else, since torch has sympy evaluate them as Python.

torch writes them as sympy's `srepr` does, `Add(Symbol('s0', positive=True, integer=True), Integer(1))`; files of older
versions have infix text, `s0 + 1`.
"""

from __future__ import annotations

import ast
import math
import re

from gnelint.errors import UnreadableError

MAX_LETTERS = 4000
MAX_EXPONENT = 8
"""Product of the exponents within each other: powers of powers of numbers have no end."""
MAX_NUMBER = 1 << 63

_SYMBOL = re.compile(r"[a-z]{1,3}\d{1,9}")
_FLOAT = re.compile(r"-?\d{1,40}(\.\d{0,40})?(e[-+]?\d{1,3})?")
_FUNCTIONS = frozenset(
    {"Add", "Mul", "Integer", "Rational", "FloorDiv", "ModularIndexing", "Where", "PythonMod", "Mod", "CleanDiv",
     "CeilToInt", "FloorToInt", "CeilDiv", "FloatTrueDiv", "IntTrueDiv", "IsNonOverlappingAndDenseIndicator",
     "TruncToFloat", "TruncToInt", "RoundToInt", "RoundDecimal", "ToFloat", "Identity", "Max", "Min", "Abs", "floor",
     "ceiling", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "Equality", "Unequality", "LessThan", "StrictLessThan",
     "GreaterThan", "StrictGreaterThan", "Not", "And", "Or"}
)  # fmt: skip
"""What sizes are computed with; shifts are left out, since nothing bounds their result."""
_POWERS = frozenset({"Pow", "PowByNatural", "FloatPow"})
_CONSTANTS = frozenset({"True", "False", "true", "false"})
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.BitAnd, ast.BitOr, ast.USub, ast.UAdd,
              ast.Invert, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)  # fmt: skip


class _UnsafeError(Exception):
    pass


def check_expression(text: object) -> None:
    """Demand that a text is arithmetic of symbols such as "s0", numbers, and the functions of sizes.

    Raises:
        UnreadableError: it is anything else, or longer than the size of a tensor can be.
    """
    try:
        if not isinstance(text, str) or len(text) > MAX_LETTERS:
            raise _UnsafeError
        _check(ast.parse(text.strip(), mode="eval").body, MAX_EXPONENT)
    except (_UnsafeError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        problem = f"a size in it is no arithmetic of symbols ({str(text)[:60]!r}) but may be code; refused"
        raise UnreadableError(problem, "Export the model again with torch.export.save.") from error


def _check(node: ast.expr, exponents: int) -> None:
    match node:
        case ast.Constant(value=bool() | int() | float() as value) if abs(value) <= MAX_NUMBER:
            parts: list[ast.expr] = []
        case ast.Name(id=name) if name in _CONSTANTS or _SYMBOL.fullmatch(name):
            parts = []
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str() as name)], keywords=assumed):
            _demand(_SYMBOL.fullmatch(name) is not None and _are_flags(assumed))
            parts = []
        case ast.Call(func=ast.Name(id="Float"), args=[ast.Constant(value=str() as number)], keywords=[precision]):
            _demand(_FLOAT.fullmatch(number) is not None)
            _demand(isinstance(precision.value, ast.Constant) and precision.value.value in range(1, 200))
            parts = []
        case ast.Call(func=ast.Name(id=name), args=[base, exponent], keywords=[]) if name in _POWERS:
            power = _exponent(exponent)
            _demand(power <= exponents)
            parts, exponents = [base], exponents // max(power, 1)
        case ast.BinOp(left=base, op=ast.Pow(), right=exponent):
            power = _exponent(exponent)
            _demand(power <= exponents)
            parts, exponents = [base], exponents // max(power, 1)
        case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _OPERATORS):
            parts = [left, right]
        case ast.UnaryOp(op=op, operand=operand) if isinstance(op, _OPERATORS):
            parts = [operand]
        case ast.Compare(left=left, ops=ops, comparators=rest) if all(isinstance(op, _OPERATORS) for op in ops):
            parts = [left, *rest]
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            parts = args
        case _:
            raise _UnsafeError
    for part in parts:
        _check(part, exponents)


def _demand(holds: bool) -> None:
    if not holds:
        raise _UnsafeError


def _are_flags(assumed: list[ast.keyword]) -> bool:
    """sympy's assumptions on a symbol: positive=True."""
    return all(
        isinstance(each.value, ast.Constant) and isinstance(each.value.value, bool) and str(each.arg).isidentifier()
        for each in assumed
    )


def _exponent(node: ast.expr) -> int:
    """The size of a constant exponent: Integer(-1), Rational(1, 2), 2."""
    match node:
        case ast.Constant(value=int() | float() as power):
            return math.ceil(abs(power))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _exponent(operand)
        case ast.Call(func=ast.Name(id="Integer"), args=[part], keywords=[]):
            return _exponent(part)
        case ast.Call(func=ast.Name(id="Rational"), args=[above, below], keywords=[]):
            return max(_exponent(above), _exponent(below))
        case ast.Call(func=ast.Name(id="Float"), args=[ast.Constant(value=str() as number)]) if _FLOAT.fullmatch(
            number
        ):
            _check(node, 0)
            return math.ceil(abs(float(number)))
        case _:
            raise _UnsafeError
