"""The closed language of rule files: compiled once, evaluated on predicted numbers, with no way to anything else.

A text is parsed with Python's `ast` and compiled from an allow-list: numbers, strings, names, `+ - * /`, comparisons
(chained ones too), `and`, `or`, `not`, calls of the functions of `functions`, and the few fields of `FIELDS`. Every
expression has a kind that is known when the rule is loaded, so that a wrong argument is an error of the rule file and
not a surprise in front of a model. An expression is evaluated for all matches of a rule at once (`columns.py`).

A number that nobody knows (a prediction that is None, 0/0, the logarithm of a negative number) is nan. It spreads
through arithmetic and comparisons; `and` and `or` follow Kleene's logic; a condition that is not known does not hold.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np

from gnelint.lint.columns import Column, Columns, constant, plain
from gnelint.lint.index import Indices, Mask
from gnelint.lint.kinds import LITERALS, ExpressionError, Function, Kind, literal
from gnelint.records import dataclass
from gnelint.words import close

MAX_LENGTH = 500
MAX_DEPTH = 40

FIELDS: Mapping[Kind, Mapping[str, str]] = {
    "node": {
        "name": "the node's name",
        "op": "its canonical operation",
        "source_op": "its operation's name in the model",
        "scope": "the innermost module it belongs to",
    },
    "block": {"name": "the block's name", "kind": "serial, residual, dense, attention, gated or parallel"},
}
"""What may follow a dot, with its meaning; all of them are texts."""

RUN_FUNCTIONS: Mapping[str, str] = {
    "total(x)": "sum of x along the path of this match",
    "product(x)": "product of x along the path of this match",
    "count()": "number of matches on the path of this match",
    "lowest(x)": "least x in the run of this match",
    "highest(x)": "largest x in the run of this match",
    "average(x)": "mean of x in the run of this match",
    "median(x)": "median of x in the run of this match",
    "is_first()": "no match lies before this one",
    "is_last()": "no match lies behind this one",
}
"""Functions over all matches of a rule, with their meaning (`runs.py`)."""

_RUN_PARAMETERS = {signature.partition("(")[0]: int("x" in signature) for signature in RUN_FUNCTIONS}


@dataclass(frozen=True)
class Name:
    """What a name in scope stands for; `of_run` if its value needs every match of the rule."""

    kind: Kind
    of_run: bool = False


class Environment(Protocol):
    """Where an expression finds its values: some matches of a rule against one prediction."""

    @property
    def columns(self) -> Columns:
        """The predicted numbers."""

    @property
    def size(self) -> int:
        """How many matches."""

    def lookup(self, name: str) -> Column:
        """The values of a name in scope."""

    def aggregate(self, function: str, expression: Expression | None) -> Column:
        """A function of `RUN_FUNCTIONS`."""

    def rows(self, chosen: Indices) -> Environment:
        """Some of the matches."""


Evaluate = Callable[[Environment], Column]


@dataclass(frozen=True)
class Expression:
    """A compiled expression: its text, the kind of its value, and how to get the values."""

    text: str
    kind: Kind
    evaluate: Evaluate
    of_run: bool = False

    def holds(self, environment: Environment) -> Mask:
        """For each match, whether the condition is known to be true."""
        return cast(Mask, self.evaluate(environment) == 1.0)

    def values(self, environment: Environment) -> list[Any]:
        """The value for each match: None where it is not known, a number, True, False or a text."""
        return [plain(self.kind, entry) for entry in self.evaluate(environment).tolist()]


def compile_expression(text: str, scope: Mapping[str, Name], functions: Mapping[str, Function]) -> Expression:
    """Compile a text; `scope` gives the names it may use.

    Raises:
        ExpressionError: the text is not in the language, names something unknown, or mixes kinds.
    """
    text = text.strip()
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"longer than {MAX_LENGTH} characters")
    try:
        tree = ast.parse(text.replace("\n", " "), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(f"not an expression ({error.args[0] if error.args else error})") from None
    compiler = _Compiler(scope, functions)
    kind, evaluate = compiler.compile(tree.body, 0)
    return Expression(text, kind, evaluate, compiler.of_run)


def compile_condition(text: str, scope: Mapping[str, Name], functions: Mapping[str, Function]) -> Expression:
    """Compile a text that must be a truth value."""
    expression = compile_expression(text, scope, functions)
    if expression.kind != "truth":
        raise ExpressionError(f"a condition must be true or false, this is a {expression.kind}")
    return expression


def parts(text: str) -> tuple[str, ...]:
    """What a condition is made of: the terms of its `and`s and `or`s, each followed by the operands it compares."""
    found: list[str] = []

    def visit(tree: ast.expr) -> None:
        if isinstance(tree, ast.BoolOp):
            for value in tree.values:
                visit(value)
            return
        found.append(ast.unparse(tree))
        inner = tree.operand if isinstance(tree, ast.UnaryOp) else tree
        if isinstance(inner, ast.Compare):
            operands = [inner.left, *inner.comparators]
            found.extend(ast.unparse(operand) for operand in operands if not isinstance(operand, ast.Constant))

    visit(ast.parse(text.replace("\n", " "), mode="eval").body)
    return tuple(dict.fromkeys(found))


class _Compiler:
    """One walk over the syntax tree; every method returns the kind and a closure that evaluates."""

    def __init__(self, scope: Mapping[str, Name], functions: Mapping[str, Function], inside_run: str = "") -> None:
        self.scope = scope
        self.functions = functions
        self.inside_run = inside_run
        self.of_run = False

    def compile(self, tree: ast.expr, depth: int) -> tuple[Kind, Evaluate]:
        if depth > MAX_DEPTH:
            raise ExpressionError(f"nested deeper than {MAX_DEPTH}")
        if isinstance(tree, ast.Constant):
            return self._constant(tree)
        if isinstance(tree, ast.Name):
            return self._name(tree)
        if isinstance(tree, ast.Attribute):
            return self._field(tree, depth)
        if isinstance(tree, ast.UnaryOp):
            return self._unary(tree, depth)
        if isinstance(tree, ast.BinOp):
            return self._binary(tree, depth)
        if isinstance(tree, ast.Compare):
            return self._comparison(tree, depth)
        if isinstance(tree, ast.BoolOp):
            return self._connective(tree, depth)
        if isinstance(tree, ast.Call):
            return self._call(tree, depth)
        raise ExpressionError(f'"{ast.unparse(tree)}" is not allowed here')

    def _constant(self, tree: ast.Constant) -> tuple[Kind, Evaluate]:
        value = tree.value
        if isinstance(value, (bool, str)):
            kind: Kind = "text" if isinstance(value, str) else "truth"
            return kind, lambda environment: constant(value, environment.size)
        if isinstance(value, (int, float)):
            try:
                number = float(value)
            except OverflowError:
                raise ExpressionError("a number is too large") from None
            return "number", lambda environment: constant(number, environment.size)
        raise ExpressionError(f"{value!r} is neither a number nor a string")

    def _name(self, tree: ast.Name) -> tuple[Kind, Evaluate]:
        name = tree.id
        known = self.scope.get(name)
        if known is None:
            raise ExpressionError(f'"{name}" is not defined; known here: {", ".join(sorted(self.scope)) or "nothing"}')
        if known.of_run:
            if self.inside_run:
                raise ExpressionError(f'"{name}" needs all matches itself and cannot stand in {self.inside_run}()')
            self.of_run = True
        return known.kind, lambda environment: environment.lookup(name)

    def _field(self, tree: ast.Attribute, depth: int) -> tuple[Kind, Evaluate]:
        kind, owner = self.compile(tree.value, depth + 1)
        field = tree.attr
        if field not in FIELDS.get(kind, {}):
            offered = ", ".join(FIELDS.get(kind, {})) or "no fields"
            raise ExpressionError(f'a {kind} has no field "{field}" (it has {offered})')
        reader = Function(f".{field}", (kind,), "text", lambda facts, place: getattr(place, field), "")
        return "text", _calling(reader, [kind], [owner])

    def _number(self, tree: ast.expr, depth: int) -> Evaluate:
        kind, evaluate = self.compile(tree, depth)
        if kind != "number":
            raise ExpressionError(f'"{ast.unparse(tree)}" is a {kind} where a number is needed')
        return evaluate

    def _truth(self, tree: ast.expr, depth: int) -> Evaluate:
        kind, evaluate = self.compile(tree, depth)
        if kind != "truth":
            raise ExpressionError(f'"{ast.unparse(tree)}" is a {kind} where a condition is needed')
        return evaluate

    def _unary(self, tree: ast.UnaryOp, depth: int) -> tuple[Kind, Evaluate]:
        if isinstance(tree.op, ast.Not):
            condition = self._truth(tree.operand, depth + 1)
            return "truth", lambda environment: 1.0 - condition(environment)
        if not isinstance(tree.op, (ast.USub, ast.UAdd)):
            raise ExpressionError(f'"{ast.unparse(tree)}" is not allowed here')
        sign = -1.0 if isinstance(tree.op, ast.USub) else 1.0
        operand = self._number(tree.operand, depth + 1)
        return "number", lambda environment: sign * operand(environment)

    def _binary(self, tree: ast.BinOp, depth: int) -> tuple[Kind, Evaluate]:
        operation = _ARITHMETIC.get(type(tree.op))
        if operation is None:
            raise ExpressionError(f'"{ast.unparse(tree)}": only + - * / are allowed')
        left, right = self._number(tree.left, depth + 1), self._number(tree.right, depth + 1)
        return "number", lambda environment: _quietly(operation, left(environment), right(environment))

    def _comparison(self, tree: ast.Compare, depth: int) -> tuple[Kind, Evaluate]:
        compiled = [self.compile(operand, depth + 1) for operand in (tree.left, *tree.comparators)]
        kinds = {kind for kind, _ in compiled}
        for test in tree.ops:
            if type(test) not in _COMPARISONS:
                raise ExpressionError(f'"{ast.unparse(tree)}": only == != < <= > >= compare')
            if kinds != {"number"} and not (kinds == {"text"} and isinstance(test, (ast.Eq, ast.NotEq))):
                raise ExpressionError(f'"{ast.unparse(tree)}" compares a {" with a ".join(sorted(kinds))}')
        operands = [evaluate for _, evaluate in compiled]
        compare = [_COMPARISONS[type(test)] for test in tree.ops]
        unknown = _is_none if kinds == {"text"} else np.isnan

        def evaluate(environment: Environment) -> Column:
            values = [operand(environment) for operand in operands]
            result = np.ones(environment.size)
            for holds, left, right in zip(compare, values, values[1:], strict=False):
                compared = np.where(unknown(left) | unknown(right), math.nan, holds(left, right))
                result = _and(result, compared)
            return result

        return "truth", evaluate

    def _connective(self, tree: ast.BoolOp, depth: int) -> tuple[Kind, Evaluate]:
        compiled: list[tuple[bool, Evaluate]] = []
        before = self.of_run
        for value in tree.values:
            self.of_run = False
            condition = self._truth(value, depth + 1)
            compiled.append((self.of_run, condition))
        self.of_run = before or any(of_run for of_run, _ in compiled)
        # what needs all matches costs most: it is asked last, and only where the rest leaves it open
        conditions = [condition for _, condition in sorted(compiled, key=lambda entry: entry[0])]
        if isinstance(tree.op, ast.And):
            return "truth", lambda environment: _conjunction(conditions, environment)
        denied = [_negated(condition) for condition in conditions]
        return "truth", lambda environment: 1.0 - _conjunction(denied, environment)

    def _call(self, tree: ast.Call, depth: int) -> tuple[Kind, Evaluate]:
        if not isinstance(tree.func, ast.Name):
            raise ExpressionError(f'"{ast.unparse(tree.func)}" is not a function of the language')
        if tree.keywords or any(isinstance(argument, ast.Starred) for argument in tree.args):
            raise ExpressionError(f'"{ast.unparse(tree)}": arguments are given by position')
        name = tree.func.id
        if name in _RUN_PARAMETERS:
            return self._aggregate(name, tree, depth)
        function = self.functions.get(name)
        if function is None:
            meant = close(name, [*self.functions, *_RUN_PARAMETERS])
            raise ExpressionError(f'there is no function "{name}"{f"; did you mean {meant[0]}" if meant else ""}')
        parameters = function.parameters
        if function.variadic and len(tree.args) > len(parameters):
            parameters = (*parameters, *parameters[-1:] * (len(tree.args) - len(parameters)))
        if len(tree.args) != len(parameters):
            raise ExpressionError(f"{function.signature} got {len(tree.args)} arguments")
        compiled = [
            self._argument(argument, kind, function.signature, depth + 1)
            for argument, kind in zip(tree.args, parameters, strict=True)
        ]
        arguments = [argument for _, argument in compiled]
        if function.numbers:
            return function.result, lambda environment: _quietly(
                function.call, *(argument(environment) for argument in arguments)
            )
        return function.result, _calling(function, [kind for kind, _ in compiled], arguments)

    def _argument(self, tree: ast.expr, wanted: Kind, signature: str, depth: int) -> tuple[Kind, Any]:
        """The argument's kind, and how to get its values, or the value itself of a literal."""
        if wanted in LITERALS:
            named = tree.id if isinstance(tree, ast.Name) else tree.value if isinstance(tree, ast.Constant) else None
            if not isinstance(named, str):
                raise ExpressionError(f"{signature} needs a name or a text in quotes there")
            return wanted, literal(wanted, named)
        kind, evaluate = self.compile(tree, depth)
        if kind != wanted and not (wanted == "place" and kind in ("node", "block")):
            wanted_name = "node or block" if wanted == "place" else wanted
            raise ExpressionError(f'{signature}: "{ast.unparse(tree)}" is a {kind}, a {wanted_name} is needed')
        return kind, evaluate

    def _aggregate(self, name: str, tree: ast.Call, depth: int) -> tuple[Kind, Evaluate]:
        if self.inside_run:
            raise ExpressionError(f"{name}() inside {self.inside_run}()")
        if len(tree.args) != _RUN_PARAMETERS[name]:
            signature = f"{name}({'x' * _RUN_PARAMETERS[name]})"
            raise ExpressionError(f"{signature} takes {('no arguments', 'one argument')[_RUN_PARAMETERS[name]]}")
        self.of_run = True
        summand: Expression | None = None
        for argument in tree.args:
            inner = _Compiler(self.scope, self.functions, inside_run=name)
            kind, evaluate = inner.compile(argument, depth + 1)
            if kind != "number":
                raise ExpressionError(f"{name}(x) takes numbers, this is a {kind}")
            summand = Expression(ast.unparse(argument), kind, evaluate)
        result: Kind = "truth" if name.startswith("is_") else "number"
        return result, lambda environment: environment.aggregate(name, summand)


def _calling(function: Function, kinds: Sequence[Kind], arguments: Sequence[Any]) -> Evaluate:
    """How to call a function of facts; arguments are closures, or literal values."""

    def evaluate(environment: Environment) -> Column:
        given = [
            value if kind in LITERALS else value(environment) for kind, value in zip(kinds, arguments, strict=True)
        ]
        return environment.columns.call(function, kinds, given, environment.size)

    return evaluate


def _quietly(function: Callable[..., Column], *columns: Column) -> Column:
    """Apply a function of columns; what has no value (0/0, the logarithm of a negative number) is nan, unknown."""
    with np.errstate(all="ignore"):
        return function(*columns)


def _divide(x: Column, y: Column) -> Column:
    return x / (y + 0.0)  # -0.0 + 0.0 is 0.0: 1/0 is infinite with the sign of the numerator


def _and(x: Column, y: Column) -> Column:
    """Kleene's and: false if any is false, else unknown if any is unknown."""
    return np.where((x == 0.0) | (y == 0.0), 0.0, x * y)


def _conjunction(conditions: Sequence[Evaluate], environment: Environment) -> Column:
    """Kleene's and of conditions, each asked only for the matches that the ones before leave open."""
    result = np.ones(environment.size)
    open_rows = np.arange(environment.size)
    for condition in conditions:
        asked = environment if len(open_rows) == environment.size else environment.rows(open_rows)
        found = _and(result[open_rows], condition(asked))
        result[open_rows] = found
        open_rows = open_rows[found != 0.0]
        if not open_rows.size:
            break
    return result


def _negated(condition: Evaluate) -> Evaluate:
    return lambda environment: 1.0 - condition(environment)


def _is_none(column: Column) -> Mask:
    return np.array([entry is None for entry in column.tolist()], np.bool_)


_ARITHMETIC: Mapping[type[ast.operator], Callable[[Column, Column], Column]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: _divide,
}

_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


_FORMAT = re.compile(r"\+?(\.\d{1,2})?[gfe%]")


@dataclass(frozen=True)
class Template:
    """A message with places for values: `{w.name}`, `{gain:.3g}`; `{{` and `}}` are braces."""

    text: str
    pieces: Sequence[str | tuple[Expression, str]]

    def render(self, environment: Environment) -> list[str]:
        """The message for each match; a value that is not known reads "unknown"."""
        columns = [
            [piece] * environment.size
            if isinstance(piece, str)
            else [_show(value, piece[1]) for value in piece[0].values(environment)]
            for piece in self.pieces
        ]
        return ["".join(texts) for texts in zip(*columns, strict=True)]


def compile_template(text: str, scope: Mapping[str, Name], functions: Mapping[str, Function]) -> Template:
    """Compile a message.

    Raises:
        ExpressionError: a brace is left open, a place holds no valid expression, or its format is none of
            `[+][.n](g|f|e|%)`.
    """
    pieces: list[str | tuple[Expression, str]] = []
    for part in re.split(r"(\{\{|\}\}|\{[^{}]*\})", " ".join(text.split())):
        if part in ("{{", "}}"):
            pieces.append(part[0])
        elif part.startswith("{") and part.endswith("}"):
            pieces.append(_place(part[1:-1], scope, functions))
        elif "{" in part or "}" in part:
            raise ExpressionError("a brace is not closed; write {{ for a brace itself")
        elif part:
            pieces.append(part)
    return Template(text, tuple(pieces))


def _place(text: str, scope: Mapping[str, Name], functions: Mapping[str, Function]) -> tuple[Expression, str]:
    body, colon, form = text.rpartition(":")
    expression = compile_expression(body if colon else text, scope, functions)
    if expression.kind not in ("number", "text"):
        raise ExpressionError(f'"{text}" is a {expression.kind}, which cannot be printed')
    if colon and (expression.kind != "number" or not _FORMAT.fullmatch(form)):
        raise ExpressionError(f'"{form}" is not a format for a {expression.kind}; numbers take .3g, .2f, .1e, .0%')
    return expression, form if colon else ""


def _show(value: Any, form: str) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, str):
        return value
    return format(value, form or ".3g")
