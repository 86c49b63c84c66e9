"""The closed language of rule files: compiled once, evaluated on predicted numbers, with no way to anything else.

A text is parsed with Python's `ast` and compiled from an allow-list: numbers, strings, names, `+ - * /`, comparisons
(chained ones too), `and`, `or`, `not`, calls of the functions of `functions.py`, and the few fields of `FIELDS`. Every
expression has a kind that is known when the rule is loaded, so that a wrong argument is an error of the rule file and
not a surprise in front of a model.

A number that nobody knows (a prediction that is None, 0/0, the logarithm of a negative number) is None. It spreads
through arithmetic and comparisons; `and` and `or` follow Kleene's logic; a condition that is None does not hold.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from gnelint.vocabulary import VOCABULARY, families

if TYPE_CHECKING:
    from gnelint.lint.functions import Facts

Kind = Literal["number", "text", "truth", "node", "block", "operations", "place"]
"""What an expression stands for. Only parameters are of the last two kinds: `operations` is a literal set of operations
("relu|gelu", a family), `place` a node or a block."""

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


class ExpressionError(ValueError):
    """A text that the language does not allow; the message says why."""


@dataclass(frozen=True)
class Name:
    """What a name in scope stands for; `uses_total` if its value needs every match of the rule."""

    kind: Kind
    uses_total: bool = False


class Environment(Protocol):
    """Where an expression finds its values: one match of a rule against one prediction."""

    @property
    def facts(self) -> Facts:
        """The predicted numbers."""

    def lookup(self, name: str) -> Any:
        """The value of a name in scope."""

    def total(self, expression: Expression) -> float | None:
        """The sum of an expression over the rule's matches along the path through this one."""


Evaluate = Callable[[Environment], Any]


@dataclass(frozen=True)
class Expression:
    """A compiled expression: its text, the kind of its value, and how to get the value."""

    text: str
    kind: Kind
    evaluate: Evaluate
    uses_total: bool = False

    def holds(self, environment: Environment) -> bool:
        """Whether the condition is known to be true."""
        return self.evaluate(environment) is True


@dataclass(frozen=True)
class Function:
    """A function of the language.

    Attributes:
        parameters: kinds of the arguments; a function with `variadic` takes one or more of the last.
        result: kind of the value.
        call: gets the facts, then the arguments; a number argument that is unknown never reaches it.
        help: one line for people; `signature` shows the names of the arguments.
    """

    signature: str
    parameters: tuple[Kind, ...]
    result: Kind
    call: Callable[..., Any]
    help: str
    variadic: bool = False


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
    return Expression(text, kind, evaluate, compiler.uses_total)


def compile_condition(text: str, scope: Mapping[str, Name], functions: Mapping[str, Function]) -> Expression:
    """Compile a text that must be a truth value."""
    expression = compile_expression(text, scope, functions)
    if expression.kind != "truth":
        raise ExpressionError(f"a condition must be true or false, this is a {expression.kind}")
    return expression


class _Compiler:
    """One walk over the syntax tree; every method returns the kind and a closure that evaluates."""

    def __init__(
        self, scope: Mapping[str, Name], functions: Mapping[str, Function], inside_total: bool = False
    ) -> None:
        self.scope = scope
        self.functions = functions
        self.inside_total = inside_total
        self.uses_total = False

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
        if isinstance(value, bool):
            return "truth", lambda environment: value
        if isinstance(value, str):
            return "text", lambda environment: value
        if isinstance(value, (int, float)):
            try:
                number = float(value)
            except OverflowError:
                raise ExpressionError("a number is too large") from None
            return "number", lambda environment: number
        raise ExpressionError(f"{value!r} is neither a number nor a string")

    def _name(self, tree: ast.Name) -> tuple[Kind, Evaluate]:
        name = tree.id
        known = self.scope.get(name)
        if known is None:
            raise ExpressionError(f'"{name}" is not defined; known here: {", ".join(sorted(self.scope)) or "nothing"}')
        if known.uses_total:
            if self.inside_total:
                raise ExpressionError(f'"{name}" is a total itself and cannot be summed again')
            self.uses_total = True
        return known.kind, lambda environment: environment.lookup(name)

    def _field(self, tree: ast.Attribute, depth: int) -> tuple[Kind, Evaluate]:
        kind, owner = self.compile(tree.value, depth + 1)
        field = tree.attr
        if field not in FIELDS.get(kind, {}):
            offered = ", ".join(FIELDS.get(kind, {})) or "no fields"
            raise ExpressionError(f'a {kind} has no field "{field}" (it has {offered})')
        return "text", lambda environment: getattr(owner(environment), field)

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
            return "truth", lambda environment: _negation(condition(environment))
        if not isinstance(tree.op, (ast.USub, ast.UAdd)):
            raise ExpressionError(f'"{ast.unparse(tree)}" is not allowed here')
        sign = -1.0 if isinstance(tree.op, ast.USub) else 1.0
        operand = self._number(tree.operand, depth + 1)
        return "number", lambda environment: known(lambda x: sign * x, operand(environment))

    def _binary(self, tree: ast.BinOp, depth: int) -> tuple[Kind, Evaluate]:
        operation = _ARITHMETIC.get(type(tree.op))
        if operation is None:
            raise ExpressionError(f'"{ast.unparse(tree)}": only + - * / are allowed')
        left, right = self._number(tree.left, depth + 1), self._number(tree.right, depth + 1)
        return "number", lambda environment: known(operation, left(environment), right(environment))

    def _comparison(self, tree: ast.Compare, depth: int) -> tuple[Kind, Evaluate]:
        compiled = [self.compile(operand, depth + 1) for operand in (tree.left, *tree.comparators)]
        kinds = {kind for kind, _ in compiled}
        for operator in tree.ops:
            if type(operator) not in _COMPARISONS:
                raise ExpressionError(f'"{ast.unparse(tree)}": only == != < <= > >= compare')
            if kinds != {"number"} and not (kinds == {"text"} and isinstance(operator, (ast.Eq, ast.NotEq))):
                raise ExpressionError(f'"{ast.unparse(tree)}" compares a {" with a ".join(sorted(kinds))}')
        operands = [evaluate for _, evaluate in compiled]
        tests = [_COMPARISONS[type(operator)] for operator in tree.ops]

        def evaluate(environment: Environment) -> bool | None:
            values = [operand(environment) for operand in operands]
            pairs = zip(tests, values, values[1:], strict=False)
            return _conjunction([known(test, left, right) for test, left, right in pairs])

        return "truth", evaluate

    def _connective(self, tree: ast.BoolOp, depth: int) -> tuple[Kind, Evaluate]:
        conditions = [self._truth(value, depth + 1) for value in tree.values]
        if isinstance(tree.op, ast.And):
            return "truth", lambda environment: _conjunction(c(environment) for c in conditions)
        return "truth", lambda environment: _negation(
            _conjunction(_negation(condition(environment)) for condition in conditions)
        )

    def _call(self, tree: ast.Call, depth: int) -> tuple[Kind, Evaluate]:
        if not isinstance(tree.func, ast.Name):
            raise ExpressionError(f'"{ast.unparse(tree.func)}" is not a function of the language')
        if tree.keywords or any(isinstance(argument, ast.Starred) for argument in tree.args):
            raise ExpressionError(f'"{ast.unparse(tree)}": arguments are given by position')
        name = tree.func.id
        if name == "total":
            return self._total(tree, depth)
        function = self.functions.get(name)
        if function is None:
            raise ExpressionError(f'there is no function "{name}"')
        parameters = function.parameters
        if function.variadic and len(tree.args) > len(parameters):
            parameters = (*parameters, *parameters[-1:] * (len(tree.args) - len(parameters)))
        if len(tree.args) != len(parameters):
            raise ExpressionError(f"{function.signature} got {len(tree.args)} arguments")
        arguments = [
            self._argument(argument, kind, function.signature, depth + 1)
            for argument, kind in zip(tree.args, parameters, strict=True)
        ]

        def evaluate(environment: Environment) -> Any:
            values = (argument(environment) for argument in arguments)
            return known(lambda *given: function.call(environment.facts, *given), *values)

        return function.result, evaluate

    def _argument(self, tree: ast.expr, wanted: Kind, signature: str, depth: int) -> Evaluate:
        if wanted == "operations":
            named = tree.id if isinstance(tree, ast.Name) else tree.value if isinstance(tree, ast.Constant) else None
            if not isinstance(named, str):
                raise ExpressionError(f"{signature} needs the name of an operation or a family")
            found = operations(named)
            return lambda environment: found
        kind, evaluate = self.compile(tree, depth)
        if kind != wanted and not (wanted == "place" and kind in ("node", "block")):
            wanted_name = "node or block" if wanted == "place" else wanted
            raise ExpressionError(f'{signature}: "{ast.unparse(tree)}" is a {kind}, a {wanted_name} is needed')
        return evaluate

    def _total(self, tree: ast.Call, depth: int) -> tuple[Kind, Evaluate]:
        if self.inside_total:
            raise ExpressionError("total() inside total()")
        if len(tree.args) != 1:
            raise ExpressionError("total(x) takes one argument")
        self.uses_total = True
        inner = _Compiler(self.scope, self.functions, inside_total=True)
        kind, evaluate = inner.compile(tree.args[0], depth + 1)
        if kind != "number":
            raise ExpressionError(f"total(x) sums numbers, this is a {kind}")
        summand = Expression(ast.unparse(tree.args[0]), kind, evaluate)
        return "number", lambda environment: environment.total(summand)


def known(function: Callable[..., Any], *values: Any) -> Any:
    """Apply a function unless a value is unknown; nan, an overflow and a domain error are unknown too."""
    if any(value is None for value in values):
        return None
    try:
        result = function(*values)
    except (OverflowError, ValueError):
        return None
    return None if isinstance(result, float) and math.isnan(result) else result


def _divide(x: float, y: float) -> float:
    if y == 0.0:
        return math.nan if x == 0.0 else math.copysign(math.inf, x)
    return x / y


def _conjunction(values: Any) -> bool | None:
    """Kleene's and: false if any is false, else unknown if any is unknown. Stops at the first false."""
    result: bool | None = True
    for value in values:
        if value is False:
            return False
        if value is None:
            result = None
    return result


def _negation(value: bool | None) -> bool | None:
    return None if value is None else not value


_ARITHMETIC: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda x, y: x + y,
    ast.Sub: lambda x, y: x - y,
    ast.Mult: lambda x, y: x * y,
    ast.Div: _divide,
}

_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: lambda x, y: bool(x == y),
    ast.NotEq: lambda x, y: bool(x != y),
    ast.Lt: lambda x, y: bool(x < y),
    ast.LtE: lambda x, y: bool(x <= y),
    ast.Gt: lambda x, y: bool(x > y),
    ast.GtE: lambda x, y: bool(x >= y),
}


_FORMAT = re.compile(r"\+?(\.\d{1,2})?[gfe%]")


@dataclass(frozen=True)
class Template:
    """A message with places for values: `{w.name}`, `{gain:.3g}`; `{{` and `}}` are braces."""

    text: str
    pieces: Sequence[str | tuple[Expression, str]]

    def render(self, environment: Environment) -> str:
        """The message for one match; a value that is not known reads "unknown"."""
        return "".join(
            piece if isinstance(piece, str) else _show(piece[0].evaluate(environment), piece[1])
            for piece in self.pieces
        )


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
