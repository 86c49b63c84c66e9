"""Arithmetic, functions of one variable, choices, comparisons, logic and bits."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gnelint.errors import ModelError
from tests.measure.onnx_on_torch.nodes import DOUBLE, assert_like_reference, run_node

ARITHMETIC = {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": torch.div, "Pow": torch.pow}
VARIADIC = ("Sum", "Mean", "Max", "Min")
COMPARISONS = ("Less", "Greater", "LessOrEqual", "GreaterOrEqual")
# operator -> the first opset that has it in its present form
FUNCTIONS = {
    "Abs": 6, "Acos": 7, "Acosh": 9, "Asin": 7, "Asinh": 9, "Atan": 7, "Atanh": 9, "Ceil": 6, "Cos": 7, "Cosh": 9,
    "Erf": 9, "Exp": 6, "Floor": 6, "Log": 6, "Neg": 6, "Reciprocal": 6, "Round": 11, "Sign": 9, "Sin": 7, "Sinh": 9,
    "Sqrt": 6, "Tan": 7, "Tanh": 6,
}  # fmt: skip
WHOLE = ("Ceil", "Floor", "Round", "Sign")
"""Functions whose derivative is 0 wherever there is one."""


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def within_domain(op_type: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Arguments for which a function is defined, none of them where it has a kink or a step."""
    x = torch.tensor([[0.1, 0.3, 0.8], [0.25, 0.45, 0.95]], dtype=dtype)
    if op_type == "Acosh":
        return x + 1
    return x if op_type in ("Log", "Sqrt", "Reciprocal") else x * torch.tensor([1, -1, 1], dtype=dtype)


# --- functions of one variable ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("op_type", "since"), FUNCTIONS.items())
def test_function_in_the_oldest_opset(op_type: str, since: int) -> None:
    assert_like_reference(op_type, [within_domain(op_type)], opset=max(since, 7))


@pytest.mark.parametrize("op_type", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_function_keeps_a_narrow_type(op_type: str, dtype: torch.dtype) -> None:
    x = within_domain(op_type, dtype)
    (found,) = run_node(op_type, [x], opset=22)
    (wide,) = run_node(op_type, [x.float()], opset=22)
    assert found.dtype is dtype
    torch.testing.assert_close(found.float(), wide, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("op_type", FUNCTIONS)
def test_derivative_of_a_function(op_type: str) -> None:
    x = within_domain(op_type, torch.float64).requires_grad_()
    run = partial(_first, op_type, 13 if op_type != "Round" else 22, {})
    assert torch.autograd.gradcheck(run, [x], check_forward_ad=True)
    if op_type in WHOLE:
        assert not torch.autograd.grad(run(x).sum(), x)[0].any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32, torch.uint64])
@pytest.mark.parametrize(("op_type", "expected"), [("Abs", [0, 3, 200]), ("Sign", [0, 1, 1])])
def test_function_of_unsigned_integers(op_type: str, expected: list[int], dtype: torch.dtype) -> None:
    (found,) = run_node(op_type, [torch.tensor([0, 3, 200]).to(dtype)], opset=13)
    assert found.dtype is dtype
    assert found.tolist() == expected


def test_error_function_of_integers_is_cut_to_an_integer() -> None:
    (found,) = run_node("Erf", [torch.tensor([-9, 0, 1, 9])], opset=13)
    assert found.tolist() == [-1, 0, 0, 1]


# --- arithmetic ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op_type", ARITHMETIC)
@pytest.mark.parametrize("opset", [7, 13, 15])
@pytest.mark.parametrize("shapes", [((2, 3), (3,)), ((3, 1), (2, 1, 4)), ((), (2, 2)), ((2, 0), (1, 1))], ids=str)
def test_operands_broadcast_as_in_numpy(op_type: str, opset: int, shapes: tuple[tuple[int, ...], ...]) -> None:
    a, b = (normal(*shape, seed=seed).abs() + 0.5 for seed, shape in enumerate(shapes))
    assert_like_reference(op_type, [a, b], opset=opset)


EARLY_SHAPES = [
    ((2, 3, 4, 5), (), {}, ()),
    ((2, 3, 4, 5), (1, 1), {}, (1, 1, 1, 1)),
    ((2, 3, 4, 5), (5,), {}, (5,)),
    ((2, 3, 4, 5), (4, 5), {}, (4, 5)),
    ((2, 3, 4, 5), (3, 4), {"axis": 1}, (3, 4, 1)),
    ((2, 3, 4, 5), (2,), {"axis": 0}, (2, 1, 1, 1)),
    ((2, 3, 4, 5), (5,), {"axis": -1}, (5,)),
]
"""Shapes of A and B, attributes, and the shape of B under which numpy does the same."""


@pytest.mark.parametrize("op_type", ARITHMETIC)
@pytest.mark.parametrize("opset", [1, 6])
@pytest.mark.parametrize(("left", "right", "attributes", "as_numpy"), EARLY_SHAPES, ids=str)
def test_second_operand_broadcasts_in_early_opsets(
    op_type: str,
    opset: int,
    left: tuple[int, ...],
    right: tuple[int, ...],
    attributes: dict[str, int],
    as_numpy: tuple[int, ...],
) -> None:
    a, b = normal(*left).abs() + 0.5, normal(*right, seed=1)
    (found,) = run_node(op_type, [a, b], opset=opset, broadcast=1, **attributes)
    torch.testing.assert_close(found, ARITHMETIC[op_type](a, b.reshape(as_numpy)))


def test_early_comparison_and_logic_broadcast_too() -> None:
    a, b = normal(2, 3, 4), normal(3, seed=1)
    (less,) = run_node("Less", [a, b], opset=1, broadcast=1, axis=1)
    (both,) = run_node("And", [a > 0, b > 0], opset=1, broadcast=1, axis=1)
    (equal,) = run_node("Equal", [torch.tensor([[1, 2], [1, 3]]), torch.tensor([1, 2])], opset=1, broadcast=1)
    assert (less == (a < b.reshape(3, 1))).all()
    assert (both == ((a > 0) & (b > 0).reshape(3, 1))).all()
    assert equal.tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize(
    ("attributes", "right"),
    [
        ({}, (3,)),
        ({"broadcast": 1, "axis": 1}, (2,)),
        ({"broadcast": 1, "axis": 2}, (3, 1)),
        ({"broadcast": 1}, (1, 2, 3)),
    ],
)
def test_shapes_that_an_early_opset_does_not_combine_are_refused(
    attributes: dict[str, int], right: tuple[int, ...]
) -> None:
    with pytest.raises(ModelError, match="Add"):
        run_node("Add", [normal(2, 3), normal(*right)], opset=6, **attributes)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.uint64])
@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul"])
def test_integers_wrap_around(op_type: str, dtype: torch.dtype) -> None:
    least, most = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    a, b = (torch.tensor(values, dtype=dtype) for values in ([most, least, 3], [2, 1, 4]))
    (found,) = run_node(op_type, [a, b], opset=14)
    with np.errstate(over="ignore"):
        expected = getattr(np, {"Add": "add", "Sub": "subtract", "Mul": "multiply"}[op_type])(a.numpy(), b.numpy())
    assert found.dtype is dtype
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64])
@pytest.mark.parametrize("op_type", ["Div", "Mod", "fmod"])
def test_division_of_signed_integers(op_type: str, dtype: torch.dtype) -> None:
    a, b = (torch.tensor(values, dtype=dtype) for values in ([7, -7, 7, -7, 6], [3, 3, -3, -3, -3]))
    attributes = {"fmod": 1} if op_type == "fmod" else {}
    assert_like_reference("Mod" if op_type == "fmod" else op_type, [a, b], opset=14, **attributes)


def test_integers_are_divided_exactly() -> None:
    a = torch.tensor([2**62 + 1, -(2**62) - 1])
    (found,) = run_node("Div", [a, torch.tensor([1])], opset=14)
    assert found.tolist() == a.tolist()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32, torch.uint64])
@pytest.mark.parametrize(
    ("op_type", "expected"), [("Div", [40, 2, 0]), ("Mod", [0, 1, 3]), ("Max", [200, 7, 5]), ("Min", [5, 3, 3])]
)
def test_arithmetic_of_unsigned_integers(op_type: str, expected: list[int], dtype: torch.dtype) -> None:
    a, b = torch.tensor([200, 7, 3]).to(dtype), torch.tensor([5, 3, 5]).to(dtype)
    (found,) = run_node(op_type, [a, b], opset=14)
    assert found.dtype is dtype
    assert found.tolist() == expected


@pytest.mark.parametrize("op_type", ["Div", "Mod", "Max", "Less"])
def test_unsigned_integers_beyond_int64_are_refused(op_type: str) -> None:
    x = torch.tensor([2**63], dtype=torch.uint64)
    with pytest.raises(ModelError, match="unsigned integers"):
        run_node(op_type, [x, x], opset=14)


def test_remainder_of_floats_has_the_sign_of_the_dividend_under_fmod() -> None:
    a, b = torch.tensor([4.3, -4.3, 4.3]), torch.tensor([2.0, 2.0, -2.0])
    assert_like_reference("Mod", [a, b], opset=13, fmod=1)


@pytest.mark.parametrize("base", [torch.float32, torch.float64, torch.int32, torch.int64])
@pytest.mark.parametrize("exponent", [torch.float32, torch.float64, torch.int32, torch.int64])
def test_power_takes_the_type_of_the_base(base: torch.dtype, exponent: torch.dtype) -> None:
    assert_like_reference("Pow", [torch.tensor([2, 3, 5]).to(base), torch.tensor([3, 0, 2]).to(exponent)], opset=13)


@pytest.mark.parametrize("exponent", [torch.uint8, torch.uint32, torch.int16])
def test_power_with_an_unusual_exponent(exponent: torch.dtype) -> None:
    (found,) = run_node("Pow", [torch.tensor([2.0, 3.0]), torch.tensor([3, 2]).to(exponent)], opset=15)
    assert found.tolist() == [8.0, 9.0]


@pytest.mark.parametrize("op_type", VARIADIC)
@pytest.mark.parametrize("shapes", [((2, 3),), ((2, 3), (3,)), ((2, 1), (3,), (), (2, 3))], ids=str)
@pytest.mark.parametrize("opset", [8, 13])
def test_any_number_of_operands(op_type: str, shapes: tuple[tuple[int, ...], ...], opset: int) -> None:
    assert_like_reference(op_type, [normal(*shape, seed=seed) for seed, shape in enumerate(shapes)], opset=opset)


@pytest.mark.parametrize("op_type", ["Max", "Min"])
def test_an_extreme_of_nan_is_nan(op_type: str) -> None:
    (found,) = run_node(op_type, [torch.tensor([float("nan"), 1.0]), torch.tensor([1.0, float("nan")])], opset=13)
    assert bool(found.isnan().all())


DIFFERENTIABLE = [(name, 2, {}) for name in ARITHMETIC] + [(name, 3, {}) for name in VARIADIC]


@pytest.mark.parametrize(
    ("op_type", "count", "attributes"), [*DIFFERENTIABLE, ("Mod", 2, {"fmod": 1}), ("Mod", 2, {"fmod": 0})]
)
def test_derivatives_of_arithmetic(op_type: str, count: int, attributes: dict[str, int]) -> None:
    shapes = [(2, 3), (3,), (2, 1)][:count]
    operands = [(normal(*s, dtype=torch.float64, seed=i).abs() + 0.3).requires_grad_() for i, s in enumerate(shapes)]
    assert torch.autograd.gradcheck(partial(_first, op_type, 13, attributes), operands, check_forward_ad=True)


def test_derivatives_under_the_broadcasting_of_early_opsets() -> None:
    operands = [normal(2, 3, 2, dtype=torch.float64).requires_grad_(), normal(3, dtype=torch.float64).requires_grad_()]
    run = partial(_first, "Mul", 6, {"broadcast": 1, "axis": 1})
    assert torch.autograd.gradcheck(run, operands, check_forward_ad=True)


def test_a_square_has_a_derivative_at_and_below_nothing() -> None:
    x = torch.tensor([-2.0, 0.0, 3.0], requires_grad=True)
    (square,) = run_node("Pow", [x, torch.tensor(2.0)], opset=13)
    assert torch.autograd.grad(square.sum(), x)[0].tolist() == [-4.0, 0.0, 6.0]


# --- choices ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attributes", [{}, {"min": -0.5}, {"max": 0.5}, {"min": -0.5, "max": 0.5}], ids=str)
def test_clip_with_bounds_as_attributes(attributes: dict[str, float]) -> None:
    x = torch.tensor([-2.0, -0.5, 0.0, 0.5, float("inf"), float("nan")])
    assert_like_reference("Clip", [x], opset=7, **attributes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_clip_of_a_narrow_type_with_the_bounds_of_float32(dtype: torch.dtype) -> None:
    (found,) = run_node("Clip", [torch.tensor([-3.0, 3.0], dtype=dtype)], opset=7, max=1.0)
    assert found.dtype is dtype
    assert found.tolist() == [-3.0, 1.0]


@pytest.mark.parametrize("opset", [11, 12, 13])
@pytest.mark.parametrize(("low", "high"), [(None, None), (-0.5, None), (None, 0.5), (-0.5, 0.5)])
def test_clip_with_bounds_as_inputs(opset: int, low: float | None, high: float | None) -> None:
    bounds = [None if bound is None else torch.tensor(bound) for bound in (low, high)]
    assert_like_reference("Clip", [normal(3, 4), *bounds], opset=opset)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.int64, torch.uint32, torch.uint64])
def test_clip_of_integers(dtype: torch.dtype) -> None:
    x, low, high = (torch.tensor(values).to(dtype) for values in ([0, 3, 9], 2, 5))
    assert_like_reference("Clip", [x, low, high], opset=13)


def test_clip_to_an_upper_bound_below_the_lower_one_gives_the_upper_one() -> None:
    assert_like_reference("Clip", [normal(4), torch.tensor(1.0), torch.tensor(-1.0)], opset=13)


@pytest.mark.parametrize("opset", [6, 13])
def test_derivatives_of_clip(opset: int) -> None:
    x = torch.tensor([-2.0, -0.2, 0.3, 2.0], dtype=torch.float64, requires_grad=True)
    bounds = [torch.tensor(bound, dtype=torch.float64, requires_grad=True) for bound in (-1.0, 1.0)]
    attributes, inputs = ({"min": -1.0, "max": 1.0}, [x]) if opset == 6 else ({}, [x, *bounds])
    assert torch.autograd.gradcheck(partial(_first, "Clip", opset, attributes), inputs, check_forward_ad=True)


def test_choice_broadcasts_and_both_sides_have_derivatives() -> None:
    condition = torch.tensor([[True], [False]])
    operands = [normal(3, dtype=torch.float64).requires_grad_(), normal(2, 1, dtype=torch.float64).requires_grad_()]
    assert_like_reference("Where", [condition, *(operand.detach() for operand in operands)], opset=9)
    run = partial(_first, "Where", 16, {})
    assert torch.autograd.gradcheck(lambda x, y: run(condition, x, y), operands, check_forward_ad=True)


@pytest.mark.parametrize(
    ("opset", "attributes", "mask_dtype"),
    [(1, {"is_test": 0}, torch.float32), (7, {"ratio": 0.5}, torch.float32), (10, {"ratio": 0.5}, torch.bool)],
)
def test_dropout_keeps_everything(opset: int, attributes: dict[str, Any], mask_dtype: torch.dtype) -> None:
    x = normal(2, 3)
    found, mask = run_node("Dropout", [x], opset=opset, outputs=2, **attributes)
    assert found.equal(x)
    assert mask.equal(torch.ones(2, 3, dtype=mask_dtype))


def test_dropout_keeps_everything_in_training_too() -> None:
    x = normal(2, 3)
    found, mask = run_node("Dropout", [x, torch.tensor(0.9), torch.tensor(True)], opset=13, outputs=2)
    assert found.equal(x)
    assert bool(mask.all())


# --- comparisons, logic and bits ----------------------------------------------------------------------------------

NUMBERS = torch.tensor([float("nan"), -1.0, 0.0, float("inf"), 2.0])


@pytest.mark.parametrize(
    ("op_type", "opset"), [(name, opset) for name in COMPARISONS for opset in ((12, 16) if "Or" in name else (9, 13))]
)
def test_comparison(op_type: str, opset: int) -> None:
    assert_like_reference(op_type, [NUMBERS, NUMBERS.unsqueeze(1)], opset=opset)


@pytest.mark.parametrize("opset", [7, 11, 19])
@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.int64])
def test_equality(opset: int, dtype: torch.dtype) -> None:
    assert_like_reference("Equal", [torch.tensor([0, 1, 1]).to(dtype), torch.tensor([[0], [1]]).to(dtype)], opset=opset)


def test_equality_of_large_unsigned_integers() -> None:
    a, b = (torch.tensor(values, dtype=torch.uint64) for values in ([2**64 - 1, 1], [2**64 - 1, 2**63]))
    assert run_node("Equal", [a, b], opset=13)[0].tolist() == [True, False]


@pytest.mark.parametrize("op_type", ["And", "Or", "Xor"])
def test_connective(op_type: str) -> None:
    values = torch.tensor([False, True])
    assert_like_reference(op_type, [values, values.unsqueeze(1)], opset=7)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int64])
@pytest.mark.parametrize("op_type", ["BitwiseAnd", "BitwiseOr", "BitwiseXor"])
def test_bitwise_operator(op_type: str, dtype: torch.dtype) -> None:
    most = torch.iinfo(dtype).max
    assert_like_reference(
        op_type, [torch.tensor([most, 12, 1], dtype=dtype), torch.tensor([10], dtype=dtype)], opset=18
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint32, torch.uint64])
@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_shift_of_unsigned_integers(direction: str, dtype: torch.dtype) -> None:
    most, width = torch.iinfo(dtype).max, torch.iinfo(dtype).bits
    x, by = torch.tensor([most, most, most, 5], dtype=dtype), torch.tensor([0, 1, width - 1, 2], dtype=dtype)
    assert_like_reference("BitShift", [x, by], opset=11, direction=direction)


@pytest.mark.parametrize(("direction", "expected"), [("RIGHT", [-2, 3, -1, 0, -1]), ("LEFT", [-8, 12, 0, 0, 0])])
def test_shift_of_signed_integers(direction: str, expected: list[int]) -> None:
    x, by = (torch.tensor(values, dtype=torch.int8) for values in ([-4, 6, -4, 6, -4], [1, 1, 8, 100, -1]))
    assert run_node("BitShift", [x, by], opset=28, direction=direction)[0].tolist() == expected


def test_shift_by_all_the_bits_of_an_unsigned_integer_leaves_nothing() -> None:
    x, by = (torch.tensor(values, dtype=torch.uint64) for values in ([2**64 - 1, 2**64 - 1], [64, 2**63]))
    assert run_node("BitShift", [x, by], opset=28, direction="RIGHT")[0].tolist() == [0, 0]


@pytest.mark.parametrize("attributes", [{}, {"detect_negative": 0}, {"detect_positive": 0}], ids=str)
def test_infinity(attributes: dict[str, int]) -> None:
    x = torch.tensor([float("inf"), -float("inf"), float("nan"), 1.0])
    assert_like_reference("IsInf", [x], opset=10, **attributes)


@pytest.mark.parametrize("op_type", ["IsNaN", "IsInf"])
def test_special_values_of_eight_bits(op_type: str) -> None:
    x = torch.tensor([float("inf"), float("nan"), 1.0]).to(torch.float8_e5m2)
    assert run_node(op_type, [x], opset=20)[0].tolist() == [op_type == "IsInf", op_type == "IsNaN", False]


def _first(op_type: str, opset: int, attributes: dict[str, Any], *inputs: Tensor) -> Tensor:
    return run_node(op_type, inputs, opset=opset, settings=DOUBLE, **attributes)[0]
