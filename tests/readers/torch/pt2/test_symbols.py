"""Sizes that are arithmetic, and texts that are something else."""

import pytest
import sympy
import torch
from torch.utils._sympy import functions

from gnelint.errors import UnreadableError
from gnelint.readers.torch.pt2.symbols import check_expression

S = sympy.Symbol("s0", positive=True, integer=True)
U = sympy.Symbol("u12", integer=True)


@pytest.mark.parametrize(
    "size",
    [
        S,
        2 * S + 1,
        S**2,
        sympy.sqrt(S),
        functions.FloorDiv(S + 1, 2),
        functions.Mod(S, 3),
        sympy.Max(1, S - U),
        sympy.Eq(S, 4),
        sympy.And(S > 1, U <= 7),
        functions.IntTrueDiv(S, U),
        functions.FloatPow(functions.ToFloat(S), sympy.Float(0.5)),
        functions.CeilToInt(functions.FloatTrueDiv(functions.ToFloat(S), sympy.Float(2.0))),
        sympy.Rational(1, 2) * S,
    ],
)
def test_what_torch_writes_passes(size: sympy.Basic) -> None:
    check_expression(sympy.printing.repr.srepr(size))
    check_expression(str(size).replace("sqrt(s0)", "s0"))


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "s0.__class__",
        "s0[0]",
        "(lambda: s0)()",
        "[s0 for s0 in (1,)]",
        "exec(s0)",
        "Symbol('__import__')",
        "Symbol('s0', cls=s0)",
        "Symbol(*s0)",
        "Float('1', precision=10**9)",
        "Float(s0, precision=5)",
        "9**9**9",
        "((9**8)**8)**8",
        "Pow(Integer(2), Symbol('s0'))",
        "2**s0",
        "1e400",
        "9" * 400,
        "f'{s0}'",
        "'s0'",
        "s0 if s0 else s0",
        "s0 := 1",
        "print",
        "(" * 300 + "s0" + ")" * 300 + "+" + "s0+" * 2000 + "s0",
        "-" * 3000 + "s0",
        "",
        "s0\x00",
        None,
        7,
    ],
)
def test_everything_else_is_refused(text: object) -> None:
    with pytest.raises(UnreadableError, match="no arithmetic"):
        check_expression(text)


def test_this_is_the_form_that_torch_writes() -> None:
    program = torch.export.export(
        torch.nn.Flatten(),
        (torch.randn(4, 6, 2),),
        dynamic_shapes=({0: torch.export.Dim("a"), 1: torch.export.Dim("b")},),
    )
    value = next(node.meta["val"] for node in reversed(program.graph.nodes) if "val" in node.meta)
    for size in value.shape:
        check_expression(sympy.printing.repr.srepr(size.node.expr))
