"""Attention and what goes with it: rotary embedding, linear attention, causal convolution with a state.

Built from products of matrices and softmax, not from torch's fused kernel, which has no forward-mode derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.table import CannotRunError, operator

_RAW, _CAPPED, _MASKED, _PROBABILITIES = range(4)
"""Values of `qk_matmul_output_mode`."""


@operator("Attention", since=23)
def attention(
    call: Call,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    kv_lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """softmax(scale Q K^T + mask) V for each head; then keys and values with the past ones, and the scores."""
    _check(call, past_key, past_value, kv_lengths)
    packed = q.dim() == 3
    if packed:
        q = split_heads(q, call.need("q_num_heads"))
        k, v = (split_heads(part, call.need("kv_num_heads")) for part in (k, v))
    keys = k if past_key is None else torch.cat([past_key, k], 2)
    values = v if past_value is None else torch.cat([past_value, v], 2)

    if mask is not None and call.version >= 24:
        mask = _lengthened(mask, keys.shape[2])
    scale = call.get("scale")
    root = sqrt(1 / sqrt(q.shape[-1]) if scale is None else scale)
    raw = grouped_product(q * root, (keys * root).mT)
    cap = call.get("softcap")
    capped = cap * (raw / cap).tanh() if cap > 0 else raw
    offset = _offset(q, past_key, kv_lengths)
    allowed = _allowed(call, capped, mask, offset, kv_lengths)
    bias = None if mask is None or mask.dtype is torch.bool else mask.to(capped.dtype)
    masked, nothing = _masked(capped, allowed, bias)
    probabilities = _probabilities(call, masked, nothing).to(q.dtype)

    y = grouped_product(probabilities.to(values.dtype), values).to(q.dtype)
    shown = {_RAW: raw, _CAPPED: capped, _MASKED: masked, _PROBABILITIES: probabilities}
    return merge_heads(y) if packed else y, keys, values, shown[call.get("qk_matmul_output_mode")]


def _check(call: Call, past_key: Tensor | None, past_value: Tensor | None, kv_lengths: Tensor | None) -> None:
    """Refuse what the standard forbids."""
    if (past_key is None) != (past_value is None):
        raise CannotRunError("a past key without a past value, or the other way round")
    if kv_lengths is not None and past_key is not None:
        raise CannotRunError("nonpad_kv_seqlen together with a past key")
    if call.get("qk_matmul_output_mode") not in range(4):
        raise CannotRunError(f"qk_matmul_output_mode = {call.get('qk_matmul_output_mode')}")


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(batch, length, heads size) as (batch, heads, length, size)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(batch, heads, length, size) as (batch, length, heads size)."""
    return x.transpose(1, 2).flatten(2)


def grouped_product(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product per head; with fewer heads on the right, each serves a run of neighbouring heads on the left."""
    heads, served = left.shape[1], right.shape[1]
    if heads == served:
        return left @ right
    if served == 0 or heads % served:
        raise CannotRunError(f"{heads} heads of queries for {served} of keys")
    rows = left.unflatten(1, (served, heads // served)).flatten(2, 3)
    return (rows @ right).unflatten(2, (heads // served, left.shape[2])).flatten(1, 2)


def _offset(q: Tensor, past_key: Tensor | None, kv_lengths: Tensor | None) -> Tensor | int:
    """How many keys come before the first query, for each sample if they differ."""
    if past_key is not None:
        return past_key.shape[2]
    return 0 if kv_lengths is None else (kv_lengths - q.shape[2]).view(-1, 1, 1, 1)


def _allowed(
    call: Call, scores: Tensor, mask: Tensor | None, offset: Tensor | int, kv_lengths: Tensor | None
) -> Tensor | None:
    """Which keys each query may see; None for all."""
    columns = torch.arange(scores.shape[-1], device=scores.device)
    left = call.get("left_window_size", -1)
    right = 0 if call.get("is_causal") else call.get("right_window_size", -1)
    conditions = []
    if mask is not None and mask.dtype is torch.bool:
        conditions.append(mask)
    if left >= 0 or right >= 0:
        rows = torch.arange(scores.shape[-2], device=scores.device).unsqueeze(1)
        ahead = columns - (rows + offset)  # how far a key is ahead of its query
        conditions += [ahead >= -left] if left >= 0 else []
        conditions += [ahead <= right] if right >= 0 else []
    if kv_lengths is not None:
        conditions.append(columns < kv_lengths.view(-1, 1, 1, 1))
    allowed = None
    for condition in conditions:
        allowed = condition if allowed is None else allowed & condition
    return allowed


def _lengthened(mask: Tensor, keys: int) -> Tensor:
    """A mask may be shorter than the keys, which are hidden then."""
    hidden = False if mask.dtype is torch.bool else float("-inf")
    return F.pad(mask, [0, keys - mask.shape[-1]], value=hidden) if mask.shape[-1] < keys else mask


def _masked(scores: Tensor, allowed: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The scores with the masks applied, and the queries that see no key at all, None if all see some."""
    seen = allowed
    if bias is not None:
        scores = scores + bias
        seen = bias != float("-inf") if allowed is None else allowed & (bias != float("-inf"))
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    if seen is None:
        return scores, None
    nothing = ~seen.any(-1, keepdim=True)
    return scores, nothing if bool(nothing.any()) else None


def _probabilities(call: Call, scores: Tensor, nothing: Tensor | None) -> Tensor:
    """softmax in the precision asked for; 0 for a query that sees nothing, without a NaN on the way back."""
    precision = call.get("softmax_precision")
    scores = scores if precision is None else scores.to(call.dtype(precision))
    if nothing is None:
        return scores.softmax(-1)
    return scores.masked_fill(nothing, 0).softmax(-1).masked_fill(nothing, 0)


@operator("FlexAttention", domain="ai.onnx.preview")
def flex_attention(call: Call, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """prob_mod(softmax(score_mod(scale Q K^T))) V for each head; the graphs are the identity where left out."""
    scale = call.get("scale")
    precision = call.get("softmax_precision")
    default = torch.float64 if q.dtype is torch.float64 else call.dtype(1)
    scores = grouped_product(q, k.mT) * (1 / sqrt(q.shape[-1]) if scale is None else scale)
    scores = scores.to(default if precision is None else call.dtype(precision))
    if "score_mod" in call.attributes:
        (scores,) = call.run_body("score_mod", [scores])
    probabilities = scores.softmax(-1)
    if "prob_mod" in call.attributes:
        (probabilities,) = call.run_body("prob_mod", [probabilities])
    return grouped_product(probabilities.to(v.dtype), v)


@operator("RotaryEmbedding", since=23)
def rotary_embedding(call: Call, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None) -> Tensor:
    """Pairs of entries turned by the angle of their position: halves of each head, or neighbours if interleaved."""
    packed = x.dim() == 3
    heads = x.unflatten(2, (call.need("num_heads"), -1)) if packed else x.transpose(1, 2)
    size = call.get("rotary_embedding_dim") or heads.shape[-1]
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    turned = rotated(heads[..., :size], cos.unsqueeze(2), sin.unsqueeze(2), bool(call.get("interleaved")))
    y = torch.cat([turned, heads[..., size:]], -1) if size < heads.shape[-1] else turned
    return y.flatten(2) if packed else y.transpose(1, 2)


def rotated(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Each pair (a, b) of the last axis as (a cos - b sin, a sin + b cos)."""
    a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else x.chunk(2, -1)
    pair = a * cos - b * sin, a * sin + b * cos
    return torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)


@operator("LinearAttention", since=27)
def linear_attention(
    call: Call,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor | None = None,
    decay: Tensor | None = None,
    beta: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """o_t = scale q_t^T S_t with S_t = e^g S + beta k_t (v_t - e^g S^T k_t)^T, the parts without g or beta by rule."""
    rule = call.get("update_rule")
    if rule not in ("linear", "gated", "delta", "gated_delta"):
        raise CannotRunError(f'update_rule "{rule}"')
    heads = call.need("kv_num_heads")
    stored = q.dtype if state is None else state.dtype
    wide = torch.promote_types(q.dtype, torch.float32)
    queries = split_heads(q, call.need("q_num_heads")).to(wide)
    keys, values = split_heads(k, heads).to(wide), split_heads(v, heads).to(wide)
    gates = _gates(decay, heads).to(wide) if "gated" in rule else None
    rates = _rates(beta, heads).to(wide) if "delta" in rule else None
    scale = call.get("scale") or 1 / sqrt(queries.shape[-1])
    nothing = keys.new_zeros(*keys.shape[:2], keys.shape[-1], values.shape[-1])
    memory = nothing if state is None else state.to(wide)
    outputs = []
    for t in range(queries.shape[2]):
        key, value = keys[:, :, t].unsqueeze(-1), values[:, :, t].unsqueeze(-2)
        if gates is not None:
            memory = memory * gates[:, :, t].unsqueeze(-1).exp()
        if rates is not None:
            value = rates[:, :, t, None, None] * (value - key.mT @ memory)
        memory = memory + key * value
        outputs.append(grouped_product(queries[:, :, t : t + 1], memory) * scale)
    return merge_heads(torch.cat(outputs, 2)).to(q.dtype), memory.to(stored)


def _gates(decay: Tensor | None, heads: int) -> Tensor:
    """The logarithm of the decay of each head, for each axis of its keys or one for all."""
    if decay is None:
        raise CannotRunError("a gated rule without decay")
    return split_heads(decay, heads)


def _rates(beta: Tensor | None, heads: int) -> Tensor:
    """The rate of each head's update, one for all if there is only one."""
    if beta is None:
        raise CannotRunError("a delta rule without beta")
    return beta.transpose(1, 2).expand(-1, heads, -1)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"none": torch.clone, "silu": F.silu, "swish": F.silu}


@operator("CausalConvWithState", since=27)
def causal_convolution(
    call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Each channel convolved with its own kernel over this and earlier positions; then the positions to remember."""
    activation = call.get("activation")
    if activation not in _ACTIVATIONS:
        raise CannotRunError(f'activation "{activation}"')
    reach = weight.shape[-1] - 1
    past = x.new_zeros(*x.shape[:2], reach) if state is None else state
    whole = torch.cat([past, x], 2)
    y = F.conv1d(whole, weight, bias, groups=x.shape[1])
    return _ACTIVATIONS[activation](y), whole[:, :, whole.shape[2] - reach :]
