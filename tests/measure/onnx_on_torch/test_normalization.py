"""Normalisations against ONNX Runtime, the statistics of BatchNormalization, and derivatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gnelint.errors import ModelError
from gnelint.measure.onnx_on_torch.call import NormalizationMode, Settings
from tests.measure.onnx_on_torch.nodes import DOUBLE, assert_like_reference, node_model, run_node, run_reference


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=dtype)


def stored(*shape: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Scale, bias, mean and a positive variance."""
    scale, bias, mean, variance = (normal(*shape, dtype=dtype, seed=seed) for seed in range(4))
    return [scale, bias, mean, variance.abs() + 0.5]


def by_hand(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    shape = (1, -1) + (1,) * (x.dim() - 2)
    scale, bias, mean, variance = (part.reshape(shape) for part in (scale, bias, mean, variance))
    return (x - mean) / (variance + 1e-5).sqrt() * scale + bias


def of_batch(x: Tensor) -> tuple[Tensor, Tensor]:
    axes = (0, *range(2, x.dim()))
    return x.mean(axes), x.var(axes, unbiased=False)


# --- BatchNormalization -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [7, 8, 9, 14, 15])
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5), (2, 3, 2, 2, 2)], ids=str)
def test_batch_norm_with_stored_statistics(opset: int, shape: tuple[int, ...]) -> None:
    assert_like_reference("BatchNormalization", [normal(*shape), *stored(3)], opset=opset, epsilon=1e-3)


def test_batch_norm_of_a_vector_has_one_channel() -> None:
    assert_like_reference("BatchNormalization", [normal(5), *stored(1)], opset=15)


@pytest.mark.parametrize("opset", [14, 15])
def test_batch_norm_in_training_mode(opset: int) -> None:
    inputs = [normal(4, 3, 2), *stored(3)]
    assert_like_reference("BatchNormalization", inputs, opset=opset, outputs=3, training_mode=1, momentum=0.7)


@pytest.mark.parametrize("opset", [7, 9])
def test_batch_norm_with_five_outputs_is_in_training_mode(opset: int) -> None:
    inputs = [normal(4, 3, 2), *stored(3)]
    found = run_node("BatchNormalization", inputs, opset=opset, outputs=5, momentum=0.7)
    model = node_model("BatchNormalization", inputs, opset=opset, outputs=5, momentum=0.7)
    for output, expected in zip(found[:4], run_reference(model, inputs)[:4], strict=True):
        torch.testing.assert_close(output, torch.from_numpy(expected))
    torch.testing.assert_close(found[4], of_batch(inputs[0])[1])  # ONNX Runtime gives 1 / deviation here


@pytest.mark.parametrize("opset", [1, 6])
@pytest.mark.parametrize("is_test", [0, 1])
def test_batch_norm_of_early_opsets_goes_by_is_test(opset: int, is_test: int) -> None:
    x, parameters = normal(4, 3, 2), stored(3)
    extra = {"consumed_inputs": [0, 0, 0, 1, 1]} if opset == 1 else {}
    (found,) = run_node("BatchNormalization", [x, *parameters], opset=opset, is_test=is_test, **extra)
    statistics = tuple(parameters[2:]) if is_test else of_batch(x)
    torch.testing.assert_close(found, by_hand(x, *parameters[:2], *statistics))


def test_batch_norm_that_is_not_spatial() -> None:
    assert_like_reference("BatchNormalization", [normal(3, 4, 2, 5), *stored(4, 2, 5)], opset=8, spatial=0)


def test_batch_norm_that_is_not_spatial_from_the_batch() -> None:
    x, parameters = normal(3, 4, 2), stored(4, 2)
    found = run_node("BatchNormalization", [x, *parameters], opset=7, outputs=5, spatial=0)
    torch.testing.assert_close(found[3], x.mean(0))
    deviation = (x.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(found[0], (x - x.mean(0)) / deviation * parameters[0] + parameters[1])


@pytest.mark.parametrize("opset", [6, 9, 15])
@pytest.mark.parametrize("mode", ["batch", "running"])
@pytest.mark.parametrize("training", [False, True])
def test_the_run_says_which_statistics_are_used(opset: int, mode: NormalizationMode, training: bool) -> None:
    x, parameters = normal(4, 3, 2), stored(3)
    attributes = {6: {"is_test": int(not training)}, 9: {}, 15: {"training_mode": int(training)}}[opset]
    outputs = 5 if opset == 9 and training else 1
    found = run_node(
        "BatchNormalization",
        [x, *parameters],
        opset=opset,
        outputs=outputs,
        settings=Settings(normalization=mode),
        **attributes,
    )
    statistics = of_batch(x) if mode == "batch" else tuple(parameters[2:])
    torch.testing.assert_close(found[0], by_hand(x, *parameters[:2], *statistics))


def test_stored_statistics_are_no_part_of_the_gradient_and_stay_as_they_are() -> None:
    x, parameters = normal(4, 3, 2), stored(3)
    before = [part.clone() for part in parameters]
    inputs = [tensor.requires_grad_() for tensor in (x, *parameters)]
    for training in (0, 1):
        outputs = run_node("BatchNormalization", inputs, opset=15, outputs=1 + 2 * training, training_mode=training)
        gradients = torch.autograd.grad(outputs[0].square().sum(), inputs, allow_unused=True)
        assert [gradient is None for gradient in gradients] == [False, False, False, True, True]
        assert not any(output.requires_grad for output in outputs[1:])
    for now, then in zip(parameters, before, strict=True):
        assert (now == then).all()


def test_running_statistics_stay_if_the_run_uses_them() -> None:
    inputs = [normal(4, 3, 2), *stored(3)]
    settings = Settings(normalization="running")
    found = run_node("BatchNormalization", inputs, opset=15, outputs=3, training_mode=1, settings=settings)
    torch.testing.assert_close(found[1], inputs[3])
    torch.testing.assert_close(found[2], inputs[4])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", ["batch", "running"])
def test_batch_norm_of_half_types_with_float32_parameters(dtype: torch.dtype, mode: NormalizationMode) -> None:
    x, parameters = normal(4, 3, 2).to(dtype), stored(3)
    settings = Settings(normalization=mode)
    found, *_ = run_node("BatchNormalization", [x, *parameters], opset=15, settings=settings)
    expected, *_ = run_node("BatchNormalization", [x.float(), *parameters], opset=15, settings=settings)
    assert found.dtype is dtype
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)


# --- the others ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
@pytest.mark.parametrize("with_bias", [False, True])
def test_layer_norm_with_statistics(axis: int, with_bias: bool) -> None:
    x = normal(2, 3, 4)
    parameters = [normal(*x.shape[axis % 3 :], seed=seed) for seed in range(1 + with_bias)]
    assert_like_reference("LayerNormalization", [x, *parameters], opset=17, outputs=3, axis=axis, epsilon=1e-3)


def test_layer_norm_broadcasts_scale_and_bias() -> None:
    assert_like_reference("LayerNormalization", [normal(2, 3, 4), normal(3, 4), normal(4)], opset=17, axis=1)


@pytest.mark.parametrize("op_type", ["LayerNormalization", "RMSNormalization"])
def test_norms_of_half_types_take_their_statistics_in_float32(op_type: str) -> None:
    x = torch.full((1, 512), 300.0, dtype=torch.float16)  # squares and their sum overflow in float16
    x[0, ::2] = -300.0
    (found,) = run_node(op_type, [x, torch.ones(512, dtype=torch.float16)], opset=23)
    assert found.dtype is torch.float16
    torch.testing.assert_close(found.float().abs(), torch.ones(1, 512))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_rms_norm(axis: int) -> None:
    x = normal(2, 3, 4)
    assert_like_reference("RMSNormalization", [x, normal(*x.shape[axis % 3 :])], opset=23, axis=axis)


def test_simplified_layer_norm_as_onnx_runtime_writes_it() -> None:
    inputs = [normal(2, 3, 4), normal(4)]
    assert_like_reference("SimplifiedLayerNormalization", inputs, opset=14, outputs=2, axis=-1, epsilon=1e-3)


@pytest.mark.parametrize(("opset", "size"), [(18, 2), (21, 6)])
def test_group_norm_is_scaled_by_group_before_opset_21_and_by_channel_since(opset: int, size: int) -> None:
    inputs = [normal(2, 6, 4, 3), normal(size), normal(size, seed=1)]
    assert_like_reference("GroupNormalization", inputs, opset=opset, num_groups=2, epsilon=1e-3)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5), (2, 3, 2, 2, 2)], ids=str)
@pytest.mark.parametrize("opset", [6, 22])
def test_instance_norm(shape: tuple[int, ...], opset: int) -> None:
    assert_like_reference("InstanceNormalization", [normal(*shape), normal(3), normal(3, seed=1)], opset=opset)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("axis", [0, -1])
def test_lp_norm_leaves_nothing_at_nothing(p: int, axis: int) -> None:
    x = normal(3, 4)
    x[:, 1] = 0
    x[1] = 0
    assert_like_reference("LpNormalization", [x], opset=7, p=p, axis=axis)


def test_lp_norm_of_another_power_is_refused() -> None:
    with pytest.raises(ModelError, match="p = 3"):
        run_node("LpNormalization", [normal(3, 4)], opset=22, p=3)


@pytest.mark.parametrize("size", [1, 3, 5, 9])
def test_local_response_norm(size: int) -> None:
    attributes = {"size": size, "alpha": 0.3, "beta": 0.6, "bias": 0.8}
    assert_like_reference("LRN", [normal(2, 7, 3, 3)], opset=7, **attributes)


@pytest.mark.parametrize("shape", [(1, 5), (1, 5, 2)], ids=str)
def test_local_response_norm_of_an_even_size_reaches_further_up(shape: tuple[int, ...]) -> None:
    x = normal(*shape)
    (found,) = run_node("LRN", [x], opset=13, size=2, alpha=2.0, beta=1.0, bias=1.0)
    squares = x.square()
    above = torch.cat([squares[:, 1:], torch.zeros_like(squares[:, :1])], 1)
    torch.testing.assert_close(found, x / (1 + squares + above))


@pytest.mark.parametrize("opset", [9, 13])
@pytest.mark.parametrize("attributes", [{}, {"axes": [1]}, {"axes": [-2, -1]}], ids=str)
def test_mean_variance_norm(opset: int, attributes: dict[str, Any]) -> None:
    assert_like_reference("MeanVarianceNormalization", [normal(2, 3, 4, 5)], opset=opset, tolerance=1e-4, **attributes)


@pytest.mark.parametrize("across", [0, 1])
@pytest.mark.parametrize("variance", [0, 1])
def test_mean_variance_norm_of_the_early_draft(across: int, variance: int) -> None:
    attributes = {"across_channels": across, "normalize_variance": variance}
    assert_like_reference("MeanVarianceNormalization", [normal(2, 3, 4, 5)], opset=8, tolerance=1e-4, **attributes)


def test_mean_variance_norm_of_a_constant_has_a_derivative() -> None:
    x = torch.ones(2, 3, 2, 2, requires_grad=True)
    (found,) = run_node("MeanVarianceNormalization", [x], opset=13)
    assert bool(torch.autograd.grad(found.sum(), x)[0].isfinite().all())


# --- derivatives --------------------------------------------------------------------------------------------------


def differentiable() -> list[Any]:
    """Operator, shapes of the inputs, opset, attributes."""
    channel = [(3,), (3,)]
    return [
        ("LayerNormalization", [(2, 3, 2), (3, 2), (3, 2)], 17, {"axis": 1}),
        ("LayerNormalization", [(2, 3), (1,), (3,)], 17, {}),
        ("RMSNormalization", [(2, 3), (3,)], 23, {}),
        ("SimplifiedLayerNormalization", [(2, 3), (3,)], 14, {}),
        ("GroupNormalization", [(2, 4, 2), (2,), (2,)], 18, {"num_groups": 2}),
        ("GroupNormalization", [(2, 4, 2), (4,), (4,)], 21, {"num_groups": 2}),
        ("InstanceNormalization", [(2, 3, 4), *channel], 22, {}),
        ("LpNormalization", [(2, 3)], 22, {"p": 1}),
        ("LpNormalization", [(2, 3)], 22, {"p": 2, "axis": 0}),
        ("LRN", [(1, 4, 2)], 13, {"size": 3, "alpha": 0.5}),
        ("MeanVarianceNormalization", [(2, 2, 2, 1)], 13, {}),
    ]


@pytest.mark.parametrize(("op_type", "shapes", "opset", "attributes"), differentiable(), ids=lambda v: str(v)[:30])
def test_derivatives(op_type: str, shapes: list[tuple[int, ...]], opset: int, attributes: dict[str, Any]) -> None:
    inputs = [normal(*shape, dtype=torch.float64, seed=index).requires_grad_() for index, shape in enumerate(shapes)]

    def run(*given: Tensor) -> Tensor:
        return run_node(op_type, given, opset=opset, settings=DOUBLE, **attributes)[0]

    assert torch.autograd.gradcheck(run, inputs, check_forward_ad=True)


@pytest.mark.parametrize("mode", ["batch", "running"])
@pytest.mark.parametrize(("shape", "size", "spatial"), [((3, 2, 2), (2,), 1), ((4, 2, 2), (2, 2), 0)], ids=str)
def test_derivatives_of_batch_norm(
    mode: NormalizationMode, shape: tuple[int, ...], size: tuple[int, ...], spatial: int
) -> None:
    x = normal(*shape, dtype=torch.float64)
    scale, bias, mean, variance = stored(*size, dtype=torch.float64)
    settings = Settings(float32=torch.float64, normalization=mode)

    def run(*given: Tensor) -> Tensor:
        inputs = [*given, mean, variance]
        return run_node("BatchNormalization", inputs, opset=8, settings=settings, spatial=spatial)[0]

    moving = [tensor.requires_grad_() for tensor in (x, scale, bias)]
    assert torch.autograd.gradcheck(run, moving, check_forward_ad=True)


@pytest.mark.parametrize("output", [1, 2])
def test_derivatives_of_the_statistics_of_layer_norm(output: int) -> None:
    inputs = [normal(2, 3, dtype=torch.float64).requires_grad_(), torch.ones(3, dtype=torch.float64)]

    def run(x: Tensor) -> Tensor:
        return run_node("LayerNormalization", [x, inputs[1]], opset=17, outputs=3, settings=DOUBLE)[output]

    assert torch.autograd.gradcheck(run, inputs[:1], check_forward_ad=True)
