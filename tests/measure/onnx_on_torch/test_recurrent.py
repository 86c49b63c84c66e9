"""Recurrent layers against ONNX Runtime, and their derivatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gnelint.errors import ModelError
from tests.measure.onnx_on_torch.nodes import DOUBLE, assert_like_reference, run_node

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
OUTPUTS = {"RNN": 2, "GRU": 2, "LSTM": 3}
STEPS, BATCH, SIZE, HIDDEN = 4, 3, 2, 3
LENGTHS = torch.tensor([4, 2, 1], dtype=torch.int32)


def operands(
    op_type: str,
    *,
    directions: int = 1,
    lengths: bool = False,
    state: bool = False,
    peepholes: bool = False,
    seed: int = 1,
) -> list[Tensor | None]:
    """Random inputs of a recurrent operator, sequence first."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    rows = GATES[op_type] * HIDDEN
    found: list[Tensor | None] = [
        2 * rand(STEPS, BATCH, SIZE),
        rand(directions, rows, SIZE),
        rand(directions, rows, HIDDEN),
        rand(directions, 2 * rows),
        LENGTHS if lengths else None,
        rand(directions, BATCH, HIDDEN) if state else None,
    ]
    if op_type == "LSTM":
        found.append(rand(directions, BATCH, HIDDEN) if state else None)
        found.append(rand(directions, 3 * HIDDEN) if peepholes else None)
    return found


def assert_agrees(op_type: str, inputs: list[Tensor | None], opset: int = 14, **attributes: Any) -> None:
    assert_like_reference(
        op_type, inputs, opset=opset, outputs=OUTPUTS[op_type], hidden_size=HIDDEN, tolerance=2e-5, **attributes
    )


@pytest.mark.parametrize("op_type", GATES)
@pytest.mark.parametrize("opset", [7, 14, 22])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_every_direction_agrees_with_onnx_runtime(op_type: str, opset: int, direction: str) -> None:
    directions = 2 if direction == "bidirectional" else 1
    inputs = operands(op_type, directions=directions, lengths=True, state=True)
    assert_agrees(op_type, inputs, opset, direction=direction)


@pytest.mark.parametrize("op_type", GATES)
def test_operands_may_be_left_out(op_type: str) -> None:
    assert_agrees(op_type, operands(op_type)[:3])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("op_type", GATES)
def test_clipping_agrees_with_onnx_runtime(op_type: str, seed: int) -> None:
    assert_agrees(op_type, operands(op_type, seed=seed, peepholes=True), clip=0.5)


@pytest.mark.parametrize("given", [{}, {"clip": 0.5}])
def test_gru_with_the_reset_after_the_product_agrees_with_onnx_runtime(given: dict[str, Any]) -> None:
    assert_agrees("GRU", operands("GRU", state=True), linear_before_reset=1, **given)


@pytest.mark.parametrize("coupled", [0, 1])
def test_lstm_with_peepholes_agrees_with_onnx_runtime(coupled: int) -> None:
    assert_agrees("LSTM", operands("LSTM", state=True, peepholes=True), input_forget=coupled)


PARAMETERS = {"activation_alpha": [0.3], "activation_beta": [0.4]}


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("Affine", PARAMETERS),
        ("Relu", {}),
        ("LeakyRelu", {}),
        ("LeakyRelu", PARAMETERS),
        ("ThresholdedRelu", PARAMETERS),
        ("ScaledTanh", PARAMETERS),
        ("HardSigmoid", {}),
        ("HardSigmoid", PARAMETERS),
        ("Elu", {}),
        ("Elu", PARAMETERS),
        ("Softsign", {}),
        ("Softplus", {}),
    ],
)
def test_activations_agree_with_onnx_runtime(name: str, given: dict[str, Any]) -> None:
    assert_agrees("RNN", operands("RNN"), activations=[name], **given)


def test_parameters_go_to_the_activations_that_take_them_in_order() -> None:
    names = ["HardSigmoid", "LeakyRelu", "ScaledTanh", "Sigmoid", "Elu", "Affine"]
    assert_agrees(
        "LSTM",
        operands("LSTM", directions=2),
        direction="bidirectional",
        activations=names,
        activation_alpha=[0.3, 0.1, 0.7, 0.9, 0.8],
        activation_beta=[0.4, 0.6, 0.2],
    )


@pytest.mark.parametrize("op_type", GATES)
def test_batch_first_is_the_other_layout_transposed(op_type: str) -> None:
    inputs = operands(op_type, directions=2, lengths=True, state=True)
    settings: dict[str, Any] = {"opset": 14, "outputs": OUTPUTS[op_type], "hidden_size": HIDDEN}
    settings["direction"] = "bidirectional"
    wanted = run_node(op_type, inputs, **settings)
    turned = [
        None if x is None else x.transpose(0, 1).contiguous() if place in (0, 5, 6) else x
        for place, x in enumerate(inputs)
    ]
    found = run_node(op_type, turned, layout=1, **settings)
    torch.testing.assert_close(found[0], wanted[0].permute(2, 0, 1, 3))
    for state, expected in zip(found[1:], wanted[1:], strict=True):
        torch.testing.assert_close(state, expected.transpose(0, 1))


@pytest.mark.parametrize("op_type", GATES)
def test_opset_1_is_opset_7_with_an_attribute_more(op_type: str) -> None:
    inputs = operands(op_type, state=True)
    old = run_node(op_type, inputs, opset=1, outputs=1, hidden_size=HIDDEN, output_sequence=1)
    torch.testing.assert_close(old, run_node(op_type, inputs, opset=7, outputs=1, hidden_size=HIDDEN))


@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [
        ("RNN", {"direction": "reverse"}),
        ("GRU", {"linear_before_reset": 0}),
        ("GRU", {"linear_before_reset": 1, "direction": "bidirectional"}),
        ("LSTM", {"direction": "bidirectional"}),
        ("LSTM", {"input_forget": 1, "activations": ["HardSigmoid", "Softsign", "ScaledTanh"],
                  "activation_alpha": [0.1, 0.7], "activation_beta": [0.5, 0.6]}),
    ],
)  # fmt: skip
def test_derivatives_are_right(op_type: str, attributes: dict[str, Any]) -> None:
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    inputs = operands(op_type, directions=directions, lengths=True, state=True, peepholes=True)
    wide = [x.double().requires_grad_() if x is not None and x.is_floating_point() else x for x in inputs]

    def function(*given: Tensor | None) -> tuple[Tensor, ...]:
        return run_node(
            op_type, given, opset=14, outputs=OUTPUTS[op_type], hidden_size=HIDDEN, settings=DOUBLE, **attributes
        )

    assert torch.autograd.gradcheck(function, wide, check_forward_ad=True, fast_mode=True)


@pytest.mark.parametrize(
    ("inputs", "attributes", "reason"),
    [
        (operands("RNN"), {"activations": ["Sine"]}, 'activation "sine"'),
        (operands("RNN"), {"activations": ["Affine"]}, "without its alpha or beta"),
        (operands("RNN"), {"activations": ["Tanh", "Tanh"]}, "2 activations where 1 belong"),
        (operands("RNN"), {"direction": "bidirectional"}, 'weights of 1 direction for "bidirectional"'),
        ([*operands("RNN")[:4], torch.tensor([4, 2, 0], dtype=torch.int32)], {}, "an empty sequence"),
    ],
)
def test_uses_that_are_not_covered_are_refused(
    inputs: list[Tensor | None], attributes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ModelError, match=reason):
        run_node("RNN", inputs, opset=14, outputs=2, hidden_size=HIDDEN, **attributes)
