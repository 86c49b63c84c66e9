"""The language is closed: what it allows has the right value, everything else is refused when the rule is loaded."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnelint.lint.columns import Column, Columns, constant
from gnelint.lint.expression import (
    MAX_LENGTH,
    Expression,
    Name,
    compile_condition,
    compile_expression,
    compile_template,
)
from gnelint.lint.facts import Facts
from gnelint.lint.functions import FUNCTIONS
from gnelint.lint.index import Indices
from gnelint.lint.kinds import ExpressionError
from tests import builders

SCOPE = {
    "w": Name("node"),
    "none": Name("node"),
    "b": Name("block"),
    "gain": Name("number"),
    "unknown": Name("number"),
    "mode": Name("text"),
}


@dataclass
class Surroundings:
    """One match. A node is its position, as in a column."""

    columns: Columns
    names: dict[str, Any]
    size: int = 1

    def lookup(self, name: str) -> Column:
        value = self.names[name]
        if value is None:
            return np.array([math.nan])
        return np.array([value]) if isinstance(value, int) else constant(value, 1)

    def aggregate(self, function: str, expression: Expression | None) -> Column:
        return np.ones(1) if expression is None else 10 * expression.evaluate(self)

    def rows(self, chosen: Indices) -> Surroundings:
        return Surroundings(self.columns, self.names, len(chosen))


@pytest.fixture(scope="module")
def surroundings() -> Surroundings:
    prediction = builders.chain(3, gain=0.25)
    names = {"w": prediction.graph.positions["fc1"], "gain": 0.25, "unknown": None, "mode": "train", "b": 0, "none": -1}
    return Surroundings(Columns(Facts(prediction)), names)


def value(text: str, surroundings: Surroundings) -> Any:
    return compile_expression(text, SCOPE, FUNCTIONS).values(surroundings)[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2 * 3 - 4 / 8", 6.5),
        ("-gain", -0.25),
        ("log2(gain)", -2.0),
        ("abs(log2(gain)) > 1", True),
        ("0 < gain < 1", True),
        ("0 < gain < 0.1", False),
        ("gain == 0.25 and not gain > 1", True),
        ("gain > 1 or gain < 1", True),
        ("max(1, gain, 3)", 3.0),
        ("min(1, gain)", 0.25),
        ("sqrt(gain)", 0.5),
        ("w.name", "fc1"),
        ("w.op == 'linear'", True),
        ("b.kind == 'serial'", True),
        ('mode != "train"', False),
        ("phi(w)", 0.5),
        ("phi(b)", 0.25**3),
        ("is_op(w, linear)", True),
        ("is_op(w, 'relu|tanh')", False),
        ("is_op(w, activation)", False),
        ("total(gain + 1)", 12.5),
    ],
)
def test_values(text: str, expected: object, surroundings: Surroundings) -> None:
    assert value(text, surroundings) == expected


@pytest.mark.parametrize(
    "text",
    ["unknown", "unknown + 1", "log2(unknown)", "unknown > 1", "not unknown > 1", "0 / 0", "log2(-1)", "sqrt(-1)",
     "log2(0) - log2(0)", "unknown > 1 and gain < 1", "unknown > 1 or gain > 1", "1e308 * 1e308 * 0"],
)  # fmt: skip
def test_what_nobody_knows_is_none(text: str, surroundings: Surroundings) -> None:
    assert value(text, surroundings) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [("unknown > 1 and gain > 1", False), ("unknown > 1 or gain < 1", True), ("1 / 0", math.inf), ("-1 / 0", -math.inf),
     ("log2(0)", -math.inf), ("1e308 * 1e308", math.inf)],
)  # fmt: skip
def test_unknown_and_infinite_follow_logic(text: str, expected: object, surroundings: Surroundings) -> None:
    assert value(text, surroundings) == expected


def test_an_unknown_condition_does_not_hold(surroundings: Surroundings) -> None:
    assert not compile_condition("unknown > 1", SCOPE, FUNCTIONS).holds(surroundings)[0]
    assert not compile_condition("not unknown > 1", SCOPE, FUNCTIONS).holds(surroundings)[0]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not an expression"),
        ("1 +", "not an expression"),
        ("2 ** 8", "only"),
        ("7 % 2", "only"),
        ("7 // 2", "only"),
        ("gain | gain", "only"),
        ("~gain", "not allowed"),
        ("lambda: 1", "not allowed"),
        ("[1, 2]", "not allowed"),
        ("{1: 2}", "not allowed"),
        ("gain if gain else 1", "not allowed"),
        ("[x for x in w]", "not allowed"),
        ("w[0]", "not allowed"),
        ("f'{gain}'", "not allowed"),
        ("(gain := 3)", "not allowed"),
        ("None", "neither"),
        ("b'x'", "neither"),
        ("1j", "neither"),
        ("1" * 400 + "0" * 90, "too large"),
        ("nobody", "not defined"),
        ("nobody(1)", "no function"),
        ("__import__('os')", "no function"),
        ("eval('1')", "no function"),
        ("w.__class__", "no field"),
        ("w.parameters", "no field"),
        ("gain.real", "no field"),
        ("w.name.upper()", "not a function"),
        ("phi(w)(1)", "not a function"),
        ("phi()", "got 0"),
        ("phi(w, w)", "got 2"),
        ("phi(*w)", "position"),
        ("phi(n=w)", "position"),
        ("phi(gain)", "is a number"),
        ("log2(w)", "is a node"),
        ("w + 1", "is a node"),
        ("w.name + w.name", "is a text"),
        ("w == w", "compares"),
        ("gain == 'a'", "compares"),
        ("'a' < 'b'", "compares"),
        ("gain in gain", "compare"),
        ("gain is gain", "compare"),
        ("gain and gain", "condition"),
        ("not gain", "condition"),
        ("is_op(w, nonsense)", "neither an operation"),
        ("is_op(w, 'relu|nonsense')", "neither an operation"),
        ("is_op(w, gain + 1)", "needs a name"),
        ("total()", "one argument"),
        ("total(total(gain))", "inside"),
        ("total(w)", "takes numbers"),
        ("gain + " * (MAX_LENGTH // 7) + "gain", "longer"),
        ("(" * 230 + "1" + ")" * 230, "not an expression"),
        ("-" * 300 + "1", "deeper"),
    ],
)
def test_everything_else_is_refused(text: str, why: str) -> None:
    with pytest.raises(ExpressionError, match=why):
        compile_expression(text, SCOPE, FUNCTIONS)


def test_a_condition_must_be_a_truth_value() -> None:
    with pytest.raises(ExpressionError, match="true or false"):
        compile_condition("gain", SCOPE, FUNCTIONS)


def test_a_name_that_is_a_total_is_not_summed_again() -> None:
    scope = {"bits": Name("number", of_run=True)}
    assert compile_expression("bits + 1", scope, FUNCTIONS).of_run
    with pytest.raises(ExpressionError, match="needs all matches itself"):
        compile_expression("total(bits)", scope, FUNCTIONS)


@given(st.text(max_size=60))
def test_no_text_gets_anything_but_an_expression_or_its_error(text: str) -> None:
    with contextlib.suppress(ExpressionError):
        compile_expression(text, SCOPE, FUNCTIONS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{w.name}: {gain:.3g}", "fc1: 0.25"),
        ("{gain * 4}", "1"),
        ("{gain:+.1f} {gain:.0%}", "+0.2 25%"),
        ("{{gain}} {unknown:.3g}", "{gain} unknown"),
        ("over\n  two   lines", "over two lines"),
        ("2^{log2(gain):.0f}", "2^-2"),
    ],
)
def test_templates(text: str, expected: str, surroundings: Surroundings) -> None:
    assert compile_template(text, SCOPE, FUNCTIONS).render(surroundings) == [expected]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{gain", "brace"),
        ("gain}", "brace"),
        ("{}", "not an expression"),
        ("{w}", "cannot be printed"),
        ("{gain:>9000}", "not a format"),
        ("{gain:.999f}", "not a format"),
        ("{w.name:.3g}", "not a format"),
        ("{w.__class__}", "no field"),
        ("{gain!r}", "not an expression"),
    ],
)
def test_templates_refuse(text: str, why: str) -> None:
    with pytest.raises(ExpressionError, match=why):
        compile_template(text, SCOPE, FUNCTIONS)
