"""Operators of com.microsoft against ONNX Runtime, and their derivatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from onnx import helper
from torch import Tensor

from gnelint.errors import ModelError
from tests.measure.onnx_on_torch.nodes import (
    DOUBLE,
    assert_like_reference,
    node_model,
    run_model,
    run_node,
    run_reference,
)

MICROSOFT = "com.microsoft"
OPSET = 17


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def ints(*values: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def codes(*shape: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    """Quantised numbers from all of a type's range."""
    bounds = torch.iinfo(dtype)
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(bounds.min, bounds.max + 1, shape, generator=generator, dtype=dtype)


def number(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(value, dtype=dtype)


IMAGE = rand(2, 4, 7, 6)
KERNEL = rand(3, 4, 3, 2)


LAYERS: list[tuple[str, list[Tensor | None], dict[str, Any]]] = [
    ("FusedConv", [IMAGE, KERNEL, rand(3)], {"activation": "Relu"}),
    ("FusedConv", [IMAGE, KERNEL, rand(3), rand(2, 3, 5, 5)], {"activation": "Relu"}),
    ("FusedConv", [IMAGE, KERNEL], {"activation": "LeakyRelu", "activation_params": [0.3], "pads": [1, 0, 2, 1]}),
    ("FusedConv", [IMAGE, KERNEL], {"activation": "Clip", "activation_params": [-0.3, 0.7], "strides": [2, 1]}),
    ("FusedConv", [IMAGE, KERNEL], {"activation": "HardSigmoid", "activation_params": [0.3, 0.4]}),
    ("FusedConv", [IMAGE, KERNEL], {"activation": "Tanh", "auto_pad": "SAME_UPPER"}),
    ("FusedGemm", [rand(3, 4), rand(4, 5), rand(5)], {"activation": "Relu", "alpha": 0.5, "beta": 2.0}),
    ("FusedGemm", [rand(4, 3), rand(5, 4)], {"activation": "Relu", "transA": 1, "transB": 1}),
    ("FusedGemm", [rand(3, 4), rand(4, 5)], {"activation": "LeakyRelu", "activation_alpha": 0.2}),
    ("FusedMatMul", [rand(2, 3, 4), rand(2, 4, 5)], {"alpha": 0.5}),
    ("FusedMatMul", [rand(2, 4, 3), rand(2, 5, 4)], {"transA": 1, "transB": 1}),
    ("FusedMatMul", [rand(3, 2, 4), rand(4, 2, 5)], {"transBatchA": 1, "transBatchB": 1}),
    ("FusedMatMul", [rand(4, 2, 3), rand(5, 2, 4)], {"transBatchA": 1, "transBatchB": 1, "transA": 1, "transB": 1}),
    ("FusedMatMul", [rand(4), rand(4, 5)], {}),
    ("Gelu", [rand(3, 4)], {}),
    ("BiasGelu", [rand(3, 4), rand(4)], {}),
    ("FastGelu", [rand(3, 4)], {}),
    ("FastGelu", [rand(3, 4), rand(4)], {}),
    ("QuickGelu", [rand(3, 4)], {}),
    ("QuickGelu", [rand(3, 4)], {"alpha": 0.5}),
    ("Inverse", [rand(2, 3, 3)], {}),
    ("Trilu", [rand(2, 3, 4), torch.tensor(1)], {"upper": 0}),
    ("ExpandDims", [rand(2, 3), torch.tensor(1, dtype=torch.int32)], {}),
    ("ExpandDims", [rand(2, 3), torch.tensor(-1, dtype=torch.int32)], {}),
    ("Range", [number(1), number(2), number(0.3)], {}),
    ("Range", [torch.tensor([2]), torch.tensor([7])], {}),
    ("GridSample", [rand(1, 2, 4, 5), rand(1, 3, 3, 2)], {"mode": "bilinear", "padding_mode": "reflection"}),
    ("GridSample", [rand(1, 2, 4, 5), rand(1, 3, 3, 2)], {"mode": "bicubic", "align_corners": 1}),
    ("NhwcMaxPool", [codes(1, 5, 6, 3)], {"kernel_shape": [2, 3], "pads": [1, 0, 0, 2], "strides": [2, 1]}),
    ("NhwcMaxPool", [codes(1, 5, 6, 3, dtype=torch.int8)], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("SkipLayerNormalization", [rand(2, 3, 8), rand(2, 3, 8), rand(8), rand(8), rand(8) + 1], {"epsilon": 0.1}),
    ("SkipLayerNormalization", [rand(2, 3, 8), rand(3, 8), rand(8)], {}),
    ("SkipSimplifiedLayerNormalization", [rand(2, 3, 8), rand(2, 3, 8) + 1, rand(8), rand(8)], {"epsilon": 0.1}),
]  # fmt: skip


@pytest.mark.parametrize(("op_type", "inputs", "attributes"), LAYERS)
def test_layers_agree_with_onnx_runtime(op_type: str, inputs: list[Tensor | None], attributes: dict[str, Any]) -> None:
    assert_like_reference(op_type, inputs, opset=OPSET, domain=MICROSOFT, **attributes)


BOXES = torch.tensor([[0.1, 0.2, 0.8, 0.9], [-0.3, 0.0, 1.2, 1.0], [0.9, 0.7, 0.2, 0.1]])


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("size", [(3, 4), (1, 2)])
def test_crop_and_resize_agrees_with_onnx_runtime(mode: str, size: tuple[int, int]) -> None:
    inputs = [rand(2, 3, 5, 6), BOXES, ints(0, 1, 1), ints(*size)]
    assert_like_reference("CropAndResize", inputs, opset=OPSET, domain=MICROSOFT, mode=mode, extrapolation_value=0.5)


@pytest.mark.parametrize(("bias", "inner", "axis"), [((2, 1, 1, 5), 1, 3), ((1, 1, 4, 5), 0, 3), ((2, 1, 4, 5), 1, 2)])
def test_bias_softmax_is_taken_over_all_axes_from_one_on(bias: tuple[int, ...], inner: int, axis: int) -> None:
    found = run_node(
        "BiasSoftmax",
        [rand(2, 3, 4, 5), rand(*bias)],
        opset=OPSET,
        domain=MICROSOFT,
        axis=axis,
        is_inner_broadcast=inner,
    )
    wanted = (rand(2, 3, 4, 5) + rand(*bias)).flatten(axis).softmax(-1).reshape(2, 3, 4, 5)
    torch.testing.assert_close(found[0], wanted)


def test_bias_dropout_that_is_not_trained_drops_nothing() -> None:
    x, bias, residual = rand(2, 3), rand(3), rand(2, 3) + 1
    y, mask = run_node("BiasDropout", [x, bias, residual, number(0.5)], opset=OPSET, outputs=2, domain=MICROSOFT)
    assert torch.equal(y, x + bias + residual)
    assert bool(mask.all())


def test_simplified_layer_normalization_is_the_root_mean_square_norm() -> None:
    x, scale = rand(2, 3, 8), rand(8)
    found = run_node("SimplifiedLayerNormalization", [x, scale], opset=OPSET, domain=MICROSOFT, epsilon=0.1)
    torch.testing.assert_close(found[0], F.rms_norm(x, (8,), scale, 0.1))


def test_skip_normalization_gives_the_sum() -> None:
    x, skip, gamma, bias = rand(2, 3, 8), rand(2, 3, 8) + 1, rand(8), rand(8) - 1
    found = run_node(
        "SkipLayerNormalization", [x, skip, gamma, None, bias], opset=OPSET, outputs=4, domain=MICROSOFT, epsilon=1e-5
    )
    torch.testing.assert_close(found[3], x + skip + bias)
    torch.testing.assert_close(found[1], (x + skip + bias).mean(-1, keepdim=True))


EMBEDDINGS = [rand(11, 8), rand(6, 8), rand(2, 8) + 1, rand(8), rand(8) + 2]


@pytest.mark.parametrize("mask", [None, torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]], dtype=torch.int32)])
@pytest.mark.parametrize("places", [None, torch.tensor([[3, 2, 1, 0]], dtype=torch.int32)])
def test_embed_layer_normalization_agrees_with_onnx_runtime(mask: Tensor | None, places: Tensor | None) -> None:
    words = torch.tensor([[1, 5, 10, 0], [2, 2, 7, 9]], dtype=torch.int32)
    segments = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]], dtype=torch.int32)
    inputs = [words, segments, *EMBEDDINGS, mask, places]
    assert_like_reference(
        "EmbedLayerNormalization", inputs, opset=OPSET, outputs=3, domain=MICROSOFT, epsilon=1e-3, mask_index_type=1
    )


# --- attention ----------------------------------------------------------------------------------------------------

X, W, B = rand(2, 4, 6), rand(6, 24), rand(24)
MASKS = {
    "none": None,
    "raw": torch.tensor([[1, 1, 1, 0], [1, 0, 1, 1]], dtype=torch.int32),
    "per query": torch.tensor([[[1, 1, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0]]] * 2, dtype=torch.int32),
    "ends": ints(3, 2),
    "ends and starts": ints(4, 3, 1, 0),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("causal", [0, 1])
def test_attention_agrees_with_onnx_runtime(mask: str, causal: int) -> None:
    assert_like_reference(
        "Attention", [X, W, B, MASKS[mask]], opset=OPSET, domain=MICROSOFT, num_heads=2, unidirectional=causal
    )


def test_attention_with_past_agrees_with_onnx_runtime() -> None:
    inputs = [X, W, B, torch.ones(2, 7, dtype=torch.int32).tril(1), rand(2, 2, 2, 3, 4)]
    assert_like_reference(
        "Attention", inputs, opset=OPSET, outputs=2, domain=MICROSOFT, num_heads=2, unidirectional=1, scale=0.3
    )


def test_attention_with_other_sizes_of_values_agrees_with_onnx_runtime() -> None:
    inputs = [X, rand(6, 22), rand(22)]
    assert_like_reference("Attention", inputs, opset=OPSET, domain=MICROSOFT, num_heads=2, qkv_hidden_sizes=[8, 8, 6])


Q, K, V = rand(2, 4, 8), rand(2, 5, 8), rand(2, 5, 6)
KEPT = torch.tensor([[1, 1, 1, 0, 1], [0, 1, 1, 1, 1]], dtype=torch.int32)
PAST = [rand(2, 2, 3, 4), rand(2, 2, 3, 4) + 1]


@pytest.mark.parametrize(
    "inputs",
    [
        [Q, K, V],
        [Q, K, V, rand(22)],
        [Q, K, V, None, KEPT],
        [Q, K, V, None, ints(3, 5)],
        [Q, K, V, None, None, rand(1, 2, 4, 5)],
        [Q, rand(2, 2, 5, 4), rand(2, 2, 5, 4) + 1],
    ],
    ids=["plain", "bias", "mask", "lengths", "attention bias", "split heads"],
)
def test_multi_head_attention_agrees_with_onnx_runtime(inputs: list[Tensor | None]) -> None:
    assert_like_reference("MultiHeadAttention", inputs, opset=OPSET, domain=MICROSOFT, num_heads=2)


@pytest.mark.parametrize("causal", [0, 1])
def test_multi_head_attention_with_past_agrees_with_onnx_runtime(causal: int) -> None:
    q, k, v = rand(2, 4, 8), rand(2, 4, 8) + 1, rand(2, 4, 8) - 1
    inputs = [q, k, v, None, None, None, *PAST]
    assert_like_reference(
        "MultiHeadAttention", inputs, opset=OPSET, outputs=3, domain=MICROSOFT, num_heads=2, unidirectional=causal
    )


def test_multi_head_attention_of_packed_operands_is_that_of_its_parts() -> None:
    q, k, v = (rand(2, 4, 8) + shift for shift in range(3))
    packed = torch.stack([part.unflatten(2, (2, 4)) for part in (q, k, v)], 3)
    forms = [[q, k, v, rand(24)], [packed, None, None, rand(24)], [q, packed[:, :, :, 1:], None, rand(24)]]
    apart, *others = (
        run_node("MultiHeadAttention", form, opset=OPSET, domain=MICROSOFT, num_heads=2) for form in forms
    )
    for other in others:
        torch.testing.assert_close(other[0], apart[0])


COS, SIN = rand(16, 8).cos(), rand(16, 8).sin()


def grouped(length: int, past: int, last: tuple[int, ...], total: int, *, rotary: bool = False) -> list[Tensor | None]:
    """Operands of GroupQueryAttention: 4 heads of queries, 2 of keys, heads of 16."""
    batch = len(last)
    q, k, v = rand(batch, length, 64), rand(batch, length, 32), rand(batch, length, 32) + 1
    caches = [rand(batch, 2, past, 16), rand(batch, 2, past, 16) + 1] if past else [None, None]
    tables = [COS, SIN] if rotary else []
    return [q, k, v, *caches, ints(*last), torch.tensor(total, dtype=torch.int32), *tables]


@pytest.mark.parametrize(
    ("inputs", "attributes"),
    [
        (grouped(5, 0, (4, 4), 5), {}),
        (grouped(5, 0, (4, 4), 5, rotary=True), {"do_rotary": 1}),
        (grouped(5, 0, (4, 4), 5, rotary=True), {"do_rotary": 1, "rotary_interleaved": 1}),
        (grouped(5, 0, (4, 4), 5), {"local_window_size": 2}),
        (grouped(5, 0, (4, 4), 5), {"softcap": 2.0, "scale": 0.7}),
        (grouped(5, 0, (4, 4), 5), {"smooth_softmax": 1}),
        (grouped(1, 6, (6, 6), 7, rotary=True), {"do_rotary": 1}),
        (grouped(1, 6, (6, 3), 7, rotary=True), {"do_rotary": 1}),
        (grouped(1, 10, (6, 3), 7, rotary=True), {"do_rotary": 1, "local_window_size": 3}),
        (grouped(3, 4, (6,), 7, rotary=True), {"do_rotary": 1}),
        ([*grouped(5, 0, (4, 4), 5), None, None, None, rand(1, 4, 5, 5)], {"softcap": 2.0}),
        ([*grouped(5, 0, (4, 4), 5), None, None, None, None, rand(4)], {}),
        (
            [*grouped(1, 6, (6, 3), 7, rotary=True), torch.tensor([[2], [5]])],
            {"do_rotary": 1},
        ),
        ([rand(2, 5, 128), None, None, None, None, *grouped(5, 0, (4, 4), 5, rotary=True)[5:]], {"do_rotary": 1}),
    ],
    ids=[
        "prompt", "rotary", "interleaved", "window", "softcap", "smooth", "token", "token of differing lengths",
        "buffer", "second prompt", "bias", "sink", "positions", "packed",
    ],
)  # fmt: skip
def test_group_query_attention_agrees_with_onnx_runtime(
    inputs: list[Tensor | None], attributes: dict[str, Any]
) -> None:
    assert_like_reference(
        "GroupQueryAttention",
        inputs,
        opset=OPSET,
        outputs=3,
        domain=MICROSOFT,
        num_heads=4,
        kv_num_heads=2,
        **attributes,
    )


def test_norms_of_queries_and_keys_are_those_of_each_head() -> None:
    settings: dict[str, Any] = {"opset": OPSET, "domain": MICROSOFT, "num_heads": 4, "kv_num_heads": 2}
    inputs = grouped(5, 0, (4, 4), 5)
    weights = rand(16), rand(16) + 1
    found = run_node(
        "GroupQueryAttention", [*inputs, *[None] * 7, *weights], q_norm_epsilon=0.1, qk_norm_epsilon=0.2, **settings
    )
    normed = [
        F.rms_norm(x.unflatten(2, (-1, 16)), (16,), weight, epsilon).flatten(2)
        for x, weight, epsilon in zip((rand(2, 5, 64), rand(2, 5, 32)), weights, (0.1, 0.2), strict=True)
    ]
    torch.testing.assert_close(found[0], run_node("GroupQueryAttention", [*normed, *inputs[2:]], **settings)[0])


@pytest.mark.parametrize(
    ("inputs", "attributes"),
    [
        ([rand(2, 3, 32), torch.tensor([[0, 1, 2], [4, 5, 6]]), COS, SIN], {}),
        ([rand(2, 3, 32), torch.tensor([2]), COS, SIN], {"interleaved": 1}),
        ([rand(2, 2, 3, 16), torch.tensor([2]), COS, SIN], {}),
        ([rand(2, 3, 48), torch.tensor([2]), COS, SIN], {"num_heads": 2, "rotary_embedding_dim": 16}),
    ],
    ids=["positions", "interleaved", "split heads", "part of a head"],
)
def test_rotary_embedding_agrees_with_onnx_runtime(inputs: list[Tensor | None], attributes: dict[str, Any]) -> None:
    assert_like_reference("RotaryEmbedding", inputs, opset=OPSET, domain=MICROSOFT, **attributes)


# --- quantised ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "block", "zeros"),
    [
        (4, 16, "default"), (4, 32, "packed"), (4, 16, "packed"), (4, 16, "floating"), (8, 16, "default"),
        (8, 16, "packed"), (2, 16, "packed"),
    ],
)  # fmt: skip
def test_matmul_n_bits_agrees_with_onnx_runtime(bits: int, block: int, zeros: str) -> None:
    columns, rows = 40, 6
    blocks = -(-columns // block)
    points = {
        "default": None,
        "packed": codes(rows * -(-blocks * bits // 8)),
        "floating": rand(rows * blocks).abs() * 2,
    }
    inputs = [
        rand(3, 4, columns), codes(rows, blocks, block * bits // 8), rand(rows * blocks), points[zeros], None,
        rand(rows),
    ]  # fmt: skip
    assert_like_reference(
        "MatMulNBits",
        inputs,
        opset=OPSET,
        domain=MICROSOFT,
        bits=bits,
        block_size=block,
        K=columns,
        N=rows,
        tolerance=1e-4,
    )


SIGNED = torch.int8
BYTE = (number(0.25), torch.tensor(120, dtype=torch.uint8))
OTHER = (number(0.125), torch.tensor(100, dtype=torch.uint8))
OUT = (number(0.5), torch.tensor(110, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes"),
    [
        ("QLinearAdd", [codes(3, 4), *BYTE, codes(4), *OTHER, *OUT], {}),
        ("QLinearMul", [codes(3, 4), *BYTE, codes(4), *OTHER, *OUT], {}),
        ("QLinearSigmoid", [codes(64), *OTHER, number(1 / 256), torch.tensor(0, dtype=torch.uint8)], {}),
        ("QLinearLeakyRelu", [codes(64), *OTHER, *OUT], {"alpha": 0.25}),
        ("QLinearWhere", [rand(3, 4) > 0, codes(3, 4), *BYTE, codes(4), *OTHER, *OUT], {}),
        ("QLinearConcat", [*OUT, codes(2, 3), *BYTE, codes(2, 5), *OTHER], {"axis": 1}),
        ("QLinearGlobalAveragePool", [codes(2, 3, 4, 4), *BYTE, *OUT], {"channels_last": 0}),
        ("QLinearGlobalAveragePool", [codes(2, 4, 4, 3), *BYTE, *OUT], {"channels_last": 1}),
        ("QLinearAveragePool", [codes(2, 3, 4, 4), *BYTE, *OUT], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("QLinearAveragePool", [codes(2, 4, 4, 3), *BYTE, *OUT], {"kernel_shape": [4, 4], "channels_last": 1}),
        ("QuantizeLinear", [rand(3, 4) * 9, *BYTE], {}),
        ("QuantizeLinear", [rand(3, 2) * 9, torch.tensor([0.5, 0.25, 2]), codes(3)], {"axis": 0}),
        ("DequantizeLinear", [codes(3, 4), *BYTE], {}),
        ("DequantizeLinear", [codes(3, 4), torch.tensor([0.5, 0.25, 2]), codes(3)], {"axis": 0}),
        ("QGemm", [codes(3, 4), *BYTE, codes(4, 5), *OTHER, None, *OUT], {}),
        ("QGemm", [codes(3, 4), *BYTE, codes(5, 4), *OTHER, ints(9, 8, -7, 6, 5)], {"transB": 1, "alpha": 0.5}),
        ("DynamicQuantizeMatMul", [rand(3, 4), codes(4, 5), rand(5).abs(), codes(5), rand(5) + 1], {}),
        ("MatMulIntegerToFloat", [codes(3, 4), codes(4, 5), number(0.3), rand(5), codes(1)[0], codes(5), rand(5)], {}),
        (
            "QLinearConv",
            [codes(1, 5, 5, 2), *BYTE, codes(3, 2, 3, 3), *OTHER, number(32.0), codes(1)[0]],
            {"channels_last": 1, "pads": [1, 0, 1, 1]},
        ),
    ],
)
def test_quantised_operators_agree_with_onnx_runtime(
    op_type: str, inputs: list[Tensor | None], attributes: dict[str, Any]
) -> None:
    assert_like_reference(op_type, inputs, opset=OPSET, domain=MICROSOFT, **attributes)


@pytest.mark.parametrize(("version", "axis"), [(13, 1), (13, -1), (12, 1)])
def test_quantised_softmax_agrees_with_onnx_runtime(version: int, axis: int) -> None:
    inputs = [codes(2, 3, 5), *OTHER, number(1 / 256), torch.tensor(0, dtype=torch.uint8)]
    whole = node_model("QLinearSoftmax", inputs, opset=OPSET, domain=MICROSOFT, axis=axis)
    whole.graph.node[0].attribute.append(helper.make_attribute("opset", version))
    assert run_model(whole, inputs)[0].tolist() == run_reference(whole, inputs)[0].tolist()


@pytest.mark.parametrize(("bits", "zeros"), [(4, False), (4, True), (8, True), (2, True)])
def test_rows_of_a_quantised_table_agree_with_onnx_runtime(bits: int, zeros: bool) -> None:
    blocks, block = 3, 16
    points = [codes(5, -(-blocks * bits // 8))] if zeros else []
    inputs = [codes(5, blocks * block * bits // 8), torch.tensor([[0, 4], [2, 2]]), rand(5, blocks), *points]
    settings = {"bits": bits, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
    assert_like_reference("GatherBlockQuantized", inputs, opset=OPSET, domain=MICROSOFT, **settings)


@pytest.mark.parametrize("causal", [0, 1])
def test_quantised_attention_agrees_with_onnx_runtime(causal: int) -> None:
    w = codes(6, 24, dtype=torch.int8) // 2  # without VNNI the runtime's sums of two products saturate beyond 64
    past = rand(2, 2, 2, 3, 4)
    inputs = [
        codes(2, 4, 6),
        w,
        B,
        number(0.01),
        rand(24) / 100,
        None,
        codes(1)[0],
        torch.zeros(24, dtype=torch.int8),
        past,
    ]
    assert_like_reference(
        "QAttention", inputs, opset=OPSET, outputs=2, domain=MICROSOFT, num_heads=2, unidirectional=causal
    )


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_dynamically_quantised_lstm_agrees_with_onnx_runtime(direction: str) -> None:
    count = 2 if direction == "bidirectional" else 1
    # without VNNI the runtime's sums of two products saturate beyond 64
    w, r = codes(count, 2, 12, dtype=torch.int8) // 2, codes(count, 3, 12, dtype=torch.int8) // 2
    zero = torch.zeros(count, dtype=torch.int8)
    scale = torch.full((count,), 0.01)
    inputs = [rand(4, 1, 2), w, r, rand(count, 24), None, None, None, None, scale, zero, scale, zero]
    assert_like_reference(
        "DynamicQuantizeLSTM", inputs, opset=OPSET, outputs=3, domain=MICROSOFT, hidden_size=3, direction=direction
    )


# --- derivatives --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes"),
    [
        ("FusedConv", [rand(1, 2, 4, 4), rand(2, 2, 3, 3), rand(2), rand(1, 2, 2, 2)], {"activation": "Tanh"}),
        ("FusedMatMul", [rand(2, 3), rand(4, 3)], {"transB": 1, "alpha": 0.5}),
        ("FastGelu", [rand(3, 4), rand(4)], {}),
        ("QuickGelu", [rand(3, 4)], {}),
        ("BiasSplitGelu", [rand(1, 3, 4), rand(4)], {}),
        ("SkipLayerNormalization", [rand(2, 3, 4), rand(3, 4), rand(4), rand(4) + 1], {"epsilon": 1e-3}),
        ("SkipSimplifiedLayerNormalization", [rand(2, 3, 4), rand(2, 3, 4) + 1, rand(4)], {"epsilon": 1e-3}),
        ("Attention", [rand(1, 3, 4), rand(4, 12), rand(12), ints(2)], {"num_heads": 2, "unidirectional": 1}),
        ("MultiHeadAttention", [rand(1, 3, 4), rand(1, 3, 4) + 1, rand(1, 3, 4) - 1, rand(12)], {"num_heads": 2}),
        (
            "GroupQueryAttention",
            grouped(2, 3, (4,), 5, rotary=True),
            {"num_heads": 4, "kv_num_heads": 2, "do_rotary": 1},
        ),
        ("RotaryEmbedding", [rand(1, 3, 16), torch.tensor([2]), COS, SIN], {"interleaved": 1}),
        ("MatMulNBits", [rand(2, 16), codes(3, 1, 8), rand(3), None, None, rand(3)],
         {"bits": 4, "block_size": 16, "K": 16, "N": 3}),
        ("CropAndResize", [rand(2, 1, 4, 4), BOXES, ints(0, 1, 1), ints(2, 3)], {}),
    ],
)  # fmt: skip
def test_derivatives_are_right(op_type: str, inputs: list[Tensor | None], attributes: dict[str, Any]) -> None:
    wide = [x.double().requires_grad_() if x is not None and x.is_floating_point() else x for x in inputs]

    def function(*given: Tensor | None) -> Tensor:
        return run_node(op_type, given, opset=OPSET, domain=MICROSOFT, settings=DOUBLE, **attributes)[0]

    assert torch.autograd.gradcheck(function, wide, check_forward_ad=True, fast_mode=True)


# --- refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes", "reason"),
    [
        ("FusedConv", [IMAGE, KERNEL], {"activation": "Mish"}, 'activation "Mish"'),
        ("Attention", [X, W, B, torch.ones(2, 1, 4, 4, dtype=torch.int32)], {"num_heads": 2}, "a mask of shape"),
        ("Attention", [X, W, B], {"num_heads": 2, "do_rotary": 1}, "rotary positions"),
        ("MultiHeadAttention", [Q], {"num_heads": 2}, "queries without keys"),
        ("GroupQueryAttention", grouped(1, 0, (0,), 1), {"num_heads": 4, "kv_num_heads": 2, "do_rotary": 1}, "tables"),
        ("BiasDropout", [Q, rand(8), None, number(0.5), torch.tensor(True)], {}, "training mode"),
        ("MatMulNBits", [Q, codes(3, 1, 6), rand(3)], {"bits": 3, "block_size": 16, "K": 8, "N": 3}, "3 bits"),
    ],
)  # fmt: skip
def test_uses_that_are_not_covered_are_refused(
    op_type: str, inputs: list[Tensor | None], attributes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ModelError, match=reason):
        run_node(op_type, inputs, opset=OPSET, domain=MICROSOFT, **attributes)
