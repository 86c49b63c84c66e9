"""Attention, rotary embedding and their relatives against ONNX Runtime and by hand; their derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from gnelint.errors import ModelError
from tests.measure.onnx_on_torch.nodes import DOUBLE, assert_like_reference, run_model, run_node

INF = float("inf")


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=dtype)


def heads(q: int = 4, kv: int = 4, *, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Queries, keys and values: 3 queries for 5 keys in 2 samples."""
    return [normal(2, q, 3, 8, dtype=dtype), normal(2, kv, 5, 8, dtype=dtype, seed=1), normal(2, kv, 5, 6, dtype=dtype)]


def mask(*shape: int) -> Tensor:
    """A boolean mask that lets each query see something."""
    found = normal(*shape) > 0
    found[..., 0] = True
    return found


@pytest.mark.parametrize("opset", [23, 24])
@pytest.mark.parametrize("kv", [4, 2, 1])
@pytest.mark.parametrize(
    "attributes", [{}, {"is_causal": 1}, {"scale": 0.3, "softcap": 1.5}, {"softmax_precision": 11}], ids=str
)
def test_attention_of_grouped_heads(opset: int, kv: int, attributes: dict[str, Any]) -> None:
    assert_like_reference("Attention", heads(4, kv), opset=opset, **attributes)


@pytest.mark.parametrize("is_causal", [0, 1])
def test_attention_of_packed_heads(is_causal: int) -> None:
    inputs = [normal(2, 3, 32), normal(2, 5, 16), normal(2, 5, 12)]
    attributes = {"q_num_heads": 4, "kv_num_heads": 2, "is_causal": is_causal}
    assert_like_reference("Attention", inputs, opset=23, outputs=3, **attributes)


@pytest.mark.parametrize("shape", [(3, 5), (4, 3, 5), (2, 1, 3, 5), (2, 4, 3, 5)], ids=str)
@pytest.mark.parametrize("kind", ["boolean", "float"])
@pytest.mark.parametrize("is_causal", [0, 1])
def test_attention_with_a_mask(shape: tuple[int, ...], kind: str, is_causal: int) -> None:
    given = mask(*shape) if kind == "boolean" else normal(*shape)
    assert_like_reference("Attention", [*heads(4, 2), given], opset=23, is_causal=is_causal)


@pytest.mark.parametrize("is_causal", [0, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_with_the_past(is_causal: int, masked: bool) -> None:
    given = normal(1, 4, 3, 7) if masked else None
    inputs = [*heads(4, 2), given, normal(2, 2, 2, 8), normal(2, 2, 2, 6)]
    assert_like_reference("Attention", inputs, opset=23, outputs=3, is_causal=is_causal)


@pytest.mark.parametrize("is_causal", [0, 1])
def test_attention_with_padded_keys(is_causal: int) -> None:
    inputs = [*heads(), None, None, None, torch.tensor([3, 5])]
    assert_like_reference("Attention", inputs, opset=24, is_causal=is_causal)


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_attention_shows_its_scores(mode: int, softcap: float) -> None:
    attributes = {"qk_matmul_output_mode": mode, "softcap": softcap}
    assert_like_reference("Attention", [*heads(4, 2), normal(3, 5)], opset=24, outputs=4, **attributes)


@pytest.mark.parametrize("shape", [(5,), (1, 5), (2, 1, 1, 5)], ids=str)
@pytest.mark.parametrize("kind", ["boolean", "float"])
@pytest.mark.parametrize("is_causal", [0, 1])
def test_a_mask_may_be_the_same_for_all_queries(shape: tuple[int, ...], kind: str, is_causal: int) -> None:
    given = mask(*shape) if kind == "boolean" else normal(*shape)
    (found,) = run_node("Attention", [*heads(), given], opset=24, is_causal=is_causal)
    full = given.expand(2, 4, 3, 5).clone()
    (expected,) = run_node("Attention", [*heads(), full], opset=24, is_causal=is_causal)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", ["boolean", "float"])
def test_a_mask_may_be_shorter_than_the_keys(kind: str) -> None:
    short = mask(3, 4) if kind == "boolean" else normal(3, 4)
    hidden = torch.full((3, 1), False) if kind == "boolean" else torch.full((3, 1), -INF)
    (found,) = run_node("Attention", [*heads(), short], opset=24)
    (expected,) = run_node("Attention", [*heads(), torch.cat([short, hidden], 1)], opset=24)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("left", "right"), [(1, -1), (-1, 1), (2, 0), (0, 0)])
def test_attention_in_a_window(left: int, right: int) -> None:
    ahead = torch.arange(5) - torch.arange(3).unsqueeze(1)
    seen = (ahead >= (-left if left >= 0 else -9)) & (ahead <= (right if right >= 0 else 9))
    (found,) = run_node("Attention", heads(), opset=25, left_window_size=left, right_window_size=right)
    (expected,) = run_node("Attention", [*heads(), seen], opset=25)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", ["boolean", "float"])
def test_a_query_that_sees_nothing_gives_nothing_back(kind: str) -> None:
    seen = torch.tensor([[True] * 5, [False] * 5, [True] * 5])
    given = seen if kind == "boolean" else torch.zeros(3, 5).masked_fill(~seen, -INF)
    inputs = [tensor.requires_grad_() for tensor in heads()]
    y, _, _, probabilities = run_node("Attention", [*inputs, given], opset=24, outputs=4, qk_matmul_output_mode=3)
    assert not y[:, :, 1].any()
    assert not probabilities[:, :, 1].any()
    assert y[:, :, 0].all()
    for gradient in torch.autograd.grad(y.square().sum(), inputs):
        assert bool(gradient.isfinite().all())


@pytest.mark.parametrize(
    ("inputs", "attributes", "reason"),
    [
        ([*heads(), None, normal(2, 4, 2, 8)], {}, "past key without a past value"),
        ([*heads(), None, normal(2, 4, 2, 8), normal(2, 4, 2, 6), torch.tensor([3, 5])], {}, "nonpad_kv_seqlen"),
        (heads(), {"qk_matmul_output_mode": 4}, "qk_matmul_output_mode = 4"),
        (heads(4, 3), {}, "4 heads of queries for 3 of keys"),
        ([normal(2, 3, 8), normal(2, 3, 8), normal(2, 3, 8)], {}, 'no attribute "q_num_heads"'),
    ],
    ids=["past", "padding", "mode", "heads", "packed"],
)
def test_attention_refuses(inputs: list[Tensor | None], attributes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        run_node("Attention", inputs, opset=24, **attributes)


# --- rotary embedding ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("size", [0, 4])
def test_rotary_embedding(interleaved: int, positions: bool, packed: bool, size: int) -> None:
    x = normal(2, 3, 32) if packed else normal(2, 4, 3, 8)
    half = (size or 8) // 2
    caches = [normal(10, half), normal(10, half, seed=1)] if positions else [normal(2, 3, half), normal(2, 3, half)]
    inputs = [x, *caches] + ([torch.tensor([[1, 2, 3], [4, 0, 9]])] if positions else [])
    attributes = {"interleaved": interleaved, "rotary_embedding_dim": size, "num_heads": 4 if packed or size else 0}
    assert_like_reference("RotaryEmbedding", inputs, opset=23, **attributes)


# --- linear attention, causal convolution, flexible attention -----------------------------------------------------


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
@pytest.mark.parametrize("per_axis", [False, True])
def test_linear_attention_is_its_recurrence(rule: str, per_axis: bool) -> None:
    q, k, v, state = normal(1, 3, 8), normal(1, 3, 4), normal(1, 3, 6), normal(1, 2, 2, 3)
    decay = normal(1, 3, 4 if per_axis else 2) if "gated" in rule else None
    beta = normal(1, 3, 2).sigmoid() if "delta" in rule else None
    attributes = {"update_rule": rule, "q_num_heads": 4, "kv_num_heads": 2, "scale": 0.5}
    y, after = run_node("LinearAttention", [q, k, v, state, decay, beta], opset=27, outputs=2, **attributes)
    for head in range(2):
        memory = state[0, head].numpy()
        for t in range(3):
            key, value = k[0, t].numpy().reshape(2, 2)[head], v[0, t].numpy().reshape(2, 3)[head]
            if decay is not None:
                memory = memory * np.exp(decay[0, t].numpy().reshape(2, -1)[head])[:, None]
            if beta is not None:
                value = beta[0, t, head].item() * (value - memory.T @ key)
            memory = memory + np.outer(key, value)
            for query in (2 * head, 2 * head + 1):
                expected = 0.5 * q[0, t].numpy().reshape(4, 2)[query] @ memory
                np.testing.assert_allclose(y[0, t].reshape(4, 3)[query], expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(after[0, head], memory, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"update_rule": "gated"}, "without decay"),
        ({"update_rule": "delta"}, "without beta"),
        ({"update_rule": "x"}, "x"),
    ],
)
def test_linear_attention_refuses(attributes: dict[str, Any], reason: str) -> None:
    inputs = [normal(1, 3, 4), normal(1, 3, 4), normal(1, 3, 4)]
    with pytest.raises(ModelError, match=reason):
        run_node("LinearAttention", inputs, opset=27, outputs=2, q_num_heads=2, kv_num_heads=2, **attributes)


def test_causal_convolution_in_two_pieces_is_that_of_the_whole() -> None:
    x, weight, bias = normal(2, 3, 7), normal(3, 1, 4), normal(3)
    whole, last = run_node("CausalConvWithState", [x, weight, bias], opset=27, outputs=2, activation="silu")
    early, state = run_node("CausalConvWithState", [x[..., :2], weight, bias], opset=27, outputs=2, activation="silu")
    late, end = run_node(
        "CausalConvWithState", [x[..., 2:], weight, bias, state], opset=27, outputs=2, activation="silu"
    )
    torch.testing.assert_close(torch.cat([early, late], 2), whole)
    torch.testing.assert_close(end, last)
    torch.testing.assert_close(end, x[..., -3:])
    padded = torch.nn.functional.pad(x, [3, 0])
    expected = torch.nn.functional.silu(torch.nn.functional.conv1d(padded, weight, bias, groups=3))
    torch.testing.assert_close(whole, expected)


def test_causal_convolution_refuses_another_activation() -> None:
    with pytest.raises(ModelError, match='activation "relu"'):
        run_node("CausalConvWithState", [normal(1, 2, 3), normal(2, 1, 2)], opset=27, outputs=2, activation="relu")


def test_flexible_attention_runs_its_graphs() -> None:
    q, k, v = heads(4, 2)

    def graph(op_type: str) -> Any:
        info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("before", "after")]
        return helper.make_graph([helper.make_node(op_type, ["before"], ["after"])], op_type, info[:1], info[1:])

    node = helper.make_node(
        "FlexAttention",
        ["q", "k", "v"],
        ["y"],
        domain="ai.onnx.preview",
        score_mod=graph("Relu"),
        prob_mod=graph("Softmax"),
        scale=0.7,
    )
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, list(tensor.shape))
        for name, tensor in zip("qkv", (q, k, v), strict=True)
    ]
    main = helper.make_graph([node], "one", inputs, [helper.make_empty_tensor_value_info("y")])
    opsets = [helper.make_opsetid("", 24), helper.make_opsetid("ai.onnx.preview", 1)]
    (found,) = run_model(helper.make_model(main, opset_imports=opsets), [q, k, v])
    keys, values = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    expected = (q @ keys.mT * 0.7).relu().softmax(-1).softmax(-1) @ values
    torch.testing.assert_close(found, expected)


# --- derivatives --------------------------------------------------------------------------------------------------


def differentiable() -> list[Any]:
    """Operator, shapes of the floating inputs, the other inputs by place, opset, outputs, attributes."""
    four = [(1, 2, 2, 2), (1, 1, 3, 2), (1, 1, 3, 2)]
    packed = [(1, 2, 4), (1, 2, 2), (1, 2, 2)]
    positions = torch.tensor([[0, 2]])
    return [
        ("Attention", [*four, (2, 3)], {}, 23, 1, {"softcap": 2.0}),
        ("Attention", four, {3: torch.tensor([[True, False, True], [False] * 3])}, 24, 1, {}),
        ("Attention", packed, {}, 23, 1, {"q_num_heads": 2, "kv_num_heads": 1, "is_causal": 1}),
        ("RotaryEmbedding", [(1, 2, 2, 4), (3, 2), (3, 2)], {3: positions}, 23, 1, {}),
        ("RotaryEmbedding", [(1, 2, 2, 4), (3, 1), (3, 1)], {3: positions}, 23, 1,
         {"interleaved": 1, "rotary_embedding_dim": 2, "num_heads": 2}),
        ("LinearAttention", [(1, 2, 4), (1, 2, 2), (1, 2, 2), (1, 1, 2, 2), (1, 2, 1), (1, 2, 1)], {}, 27, 2,
         {"q_num_heads": 2, "kv_num_heads": 1}),
        ("CausalConvWithState", [(1, 2, 3), (2, 1, 2), (2,), (1, 2, 1)], {}, 27, 2, {"activation": "silu"}),
    ]  # fmt: skip


@pytest.mark.parametrize(("op_type", "shapes", "fixed", "opset", "outputs", "attributes"), differentiable())
def test_derivatives(
    op_type: str,
    shapes: list[tuple[int, ...]],
    fixed: dict[int, Tensor],
    opset: int,
    outputs: int,
    attributes: dict[str, Any],
) -> None:
    inputs = [normal(*shape, dtype=torch.float64, seed=index).requires_grad_() for index, shape in enumerate(shapes)]

    def run(*given: Tensor) -> Tensor:
        everything = [*given, *(fixed[place] for place in sorted(fixed))]
        return run_node(op_type, everything, opset=opset, outputs=outputs, settings=DOUBLE, **attributes)[0]

    assert torch.autograd.gradcheck(run, inputs, check_forward_ad=True)
