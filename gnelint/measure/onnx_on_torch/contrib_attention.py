"""Attention of com.microsoft, as ONNX Runtime's optimiser and its model builder for text generation write it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gnelint.measure.onnx_on_torch.attention import grouped_product, merge_heads, rotated, split_heads
from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.contrib import DOMAIN
from gnelint.measure.onnx_on_torch.table import CannotRunError, operator


@operator("Attention", domain=DOMAIN)
def attention(
    call: Call,
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    mask: Tensor | None = None,
    past: Tensor | None = None,
    attention_bias: Tensor | None = None,
    past_length: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """softmax(Q K^T scale + mask) V with Q, K, V = x W + b; then keys and values with those of the past."""
    if past_length is not None:
        raise CannotRunError("a shared buffer of past and present")
    return self_attention(call, x @ w if b is None else x @ w + b, mask, past, attention_bias)


def self_attention(
    call: Call, projected: Tensor, mask: Tensor | None, past: Tensor | None, attention_bias: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Attention among queries, keys and values that lie beside each other; then keys and values with the past ones."""
    if call.get("do_rotary", 0) or call.get("past_present_share_buffer", 0):
        raise CannotRunError("rotary positions or a shared buffer of past and present")
    sizes = call.get("qkv_hidden_sizes") or (projected.shape[-1] // 3,) * 3
    heads = call.need("num_heads")
    q, k, v = (split_heads(part, heads) for part in projected.split(list(sizes), -1))
    if past is not None:
        k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
    scores = _scores(call, q, k, mask, attention_bias)
    return merge_heads(scores.softmax(-1) @ v), torch.stack([k, v]) if call.used(1) else None


@operator("MultiHeadAttention", domain=DOMAIN)
def multi_head_attention(
    call: Call,
    q: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    attention_bias: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    past_length: Tensor | None = None,
    beams: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """softmax(Q K^T scale + mask) V; keys and values with those of the past; what softmax was taken of."""
    if past_length is not None or beams is not None:
        raise CannotRunError("a shared buffer of past and present")
    query, key, value = _split_operands(call.need("num_heads"), q, k, v, bias)
    if past_key is not None and past_value is not None:
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    scores = _scores(call, query, key, mask, attention_bias)
    return merge_heads(scores.softmax(-1) @ value), key, value, scores


def _split_operands(
    heads: int, q: Tensor, k: Tensor | None, v: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Q, K and V as (batch, heads, length, size) from any of the layouts that the operator allows."""
    if k is None:  # (batch, length, heads, 3, size)
        if q.dim() != 5:
            raise CannotRunError("queries without keys")
        query, key, value = (part.flatten(2) for part in q.unbind(3))
    elif k.dim() == 4 and v is not None:  # keys and values of another sequence, split and with their bias
        if bias is not None:
            q = q + bias[: q.shape[-1]]
        return split_heads(q, heads), k, v
    elif k.dim() == 5:  # (batch, length, heads, 2, size)
        query, (key, value) = q, (part.flatten(2) for part in k.unbind(3))
    elif v is not None:
        query, key, value = q, k, v
    else:
        raise CannotRunError("keys without values")
    if bias is not None:
        parts = bias.split([query.shape[-1], key.shape[-1], value.shape[-1]])
        query, key, value = query + parts[0], key + parts[1], value + parts[2]
    return split_heads(query, heads), split_heads(key, heads), split_heads(value, heads)


def _scores(call: Call, q: Tensor, k: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor:
    """Q K^T scale with masks and bias added."""
    scores = (q @ k.mT) * (call.get("scale") or 1 / math.sqrt(q.shape[-1]))
    if mask is not None:
        hidden = scores.new_tensor(call.get("mask_filter_value", -10000.0))
        scores = scores + torch.where(_kept(mask, q.shape[0], k.shape[2]), torch.zeros_like(hidden), hidden)
    if bias is not None:
        scores = scores + bias
    if call.get("unidirectional", 0):
        ahead = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(k.shape[2] - q.shape[2] + 1)
        scores = scores.masked_fill(ahead, -math.inf)
    return scores


def _kept(mask: Tensor, batch: int, keys: int) -> Tensor:
    """Which keys a mask lets through, from any of its forms."""
    if mask.dim() == 3:
        return (mask > 0)[:, None]
    if mask.dim() == 2:
        return (mask > 0)[:, None, None]
    if mask.dim() != 1 or mask.shape[0] not in (batch, 2 * batch):
        raise CannotRunError(f"a mask of shape {tuple(mask.shape)}")
    places = torch.arange(keys, device=mask.device)
    kept = places < mask[:batch, None]
    if mask.shape[0] == 2 * batch:
        kept = kept & (places >= mask[batch:, None])
    return kept[:, None, None]


@operator("GroupQueryAttention", domain=DOMAIN)
def group_query_attention(
    call: Call,
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    past_key: Tensor | None,
    past_value: Tensor | None,
    last: Tensor,
    total: Tensor,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    positions: Tensor | None = None,
    attention_bias: Tensor | None = None,
    sink: Tensor | None = None,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
    query_norm: Tensor | None = None,
    key_norm: Tensor | None = None,
    query_lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Causal attention in which several heads of queries share one of keys; then the present keys and values."""
    if call.used(3) or call.get("sliding_window_cache", 0):
        raise CannotRunError("the scores as an output, or a cache as long as the window")
    if key_scale is not None or value_scale is not None or query_lengths is not None:
        raise CannotRunError("a quantised cache or padded queries")
    query, key, value = _grouped_operands(call, q, k, v)
    query, key = _normed(call, query, query_norm, "q"), _normed(call, key, key_norm, "k")
    length, longest = query.shape[2], int(total)
    before = torch.zeros_like(last) if length == longest else last + 1 - length  # keys in the cache
    places = before.reshape(-1, 1).long() + torch.arange(length, device=q.device)
    if call.get("do_rotary", 0):
        if cos is None or sin is None:
            raise CannotRunError("rotary positions without their tables")
        angles = places if positions is None else positions.long().reshape(places.shape)
        query, key = _turned(call, query, cos[angles], sin[angles]), _turned(call, key, cos[angles], sin[angles])
    key, value = _appended(past_key, key, before, longest), _appended(past_value, value, before, longest)
    scores = _grouped_scores(call, query, key[:, :, :longest], attention_bias)
    scores = scores.masked_fill(~_seen(call, places, last, longest), -math.inf)
    probabilities = _softmax(scores, sink, bool(call.get("smooth_softmax", 0) == 1))
    return merge_heads(grouped_product(probabilities, value[:, :, :longest])), key, value


def _grouped_operands(call: Call, q: Tensor, k: Tensor | None, v: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Q, K and V as (batch, heads, length, size); all three lie in the first operand if the others are left out."""
    heads, shared = call.need("num_heads"), call.need("kv_num_heads")
    if k is None or v is None:
        size = q.shape[-1] // (heads + 2 * shared)
        q, k, v = q.split([heads * size, shared * size, shared * size], -1)
    return split_heads(q, heads), split_heads(k, shared), split_heads(v, shared)


def _grouped_scores(call: Call, q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    """Q K^T scale, bounded by the softcap, plus a bias."""
    scores = grouped_product(q, k.mT) * (call.get("scale") or 1 / math.sqrt(q.shape[-1]))
    softcap = call.get("softcap", 0.0)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    return scores if bias is None else scores + bias


def _normed(call: Call, x: Tensor, weight: Tensor | None, side: str) -> Tensor:
    """RMSNorm of each head, if there is a weight for it."""
    if weight is None:
        return x
    epsilon = call.get(f"{side}_norm_epsilon", call.get("qk_norm_epsilon", 1e-6))
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * (wide.square().mean(-1, keepdim=True) + epsilon).rsqrt()).to(x.dtype) * weight


def _turned(call: Call, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (batch, heads, length, size) turned by the angles of its positions, entries beyond the tables left alone."""
    size = 2 * cos.shape[-1]
    turned = rotated(x[..., :size], cos[:, None], sin[:, None], bool(call.get("rotary_interleaved", 0)))
    return torch.cat([turned, x[..., size:]], -1)


def _appended(past: Tensor | None, new: Tensor, before: Tensor, longest: int) -> Tensor:
    """The first `before` entries of each sequence's cache, then the new ones, then 0 to the longest sequence's end."""
    length = new.shape[2]
    old = new.new_zeros((*new.shape[:2], 0, new.shape[3])) if past is None else past
    size = max(longest, old.shape[2])
    if old.shape[2] < size:
        old = torch.cat([old, old.new_zeros((*old.shape[:2], size - old.shape[2], old.shape[3]))], 2)
    source = torch.arange(size, device=new.device) - before.reshape(-1, 1)
    index = source.clamp(0, length - 1).long()[:, None, :, None].expand(*new.shape[:2], size, new.shape[3])
    is_old, is_beyond = ((source < 0)[:, None, :, None], (source >= length)[:, None, :, None])
    return torch.where(is_old, old, new.gather(2, index).masked_fill(is_beyond, 0))


def _seen(call: Call, places: Tensor, last: Tensor, longest: int) -> Tensor:
    """Which keys each query attends to: (batch, 1, queries, keys)."""
    keys = torch.arange(longest, device=places.device)
    if not call.get("causal", 1):
        return (keys <= last.reshape(-1, 1))[:, None, None]
    seen = keys <= places[..., None]
    window = call.get("local_window_size", -1)
    if window >= 0:
        seen = seen & (keys > places[..., None] - window)
    return seen[:, None]


def _softmax(scores: Tensor, sink: Tensor | None, smooth: bool) -> Tensor:
    """softmax with one more entry per head in the denominator, if there is a sink."""
    if sink is None and not smooth:
        return scores.softmax(-1)
    extra = scores.new_zeros(scores.shape[1]) if sink is None else sink
    column = extra[:, None, None].expand(*scores.shape[:3], 1)
    return torch.cat([scores, column], -1).softmax(-1)[..., :-1]


@operator("RotaryEmbedding", domain=DOMAIN)
def rotary_embedding(call: Call, x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs of entries of each head turned by the angle of their position."""
    if call.get("is_packed_batching", 0) or call.get("scale", 1.0) != 1.0:
        raise CannotRunError("packed batches or a scale")
    size = call.get("rotary_embedding_dim", 0)
    heads = x
    if x.dim() == 3:
        count = call.need("num_heads") if size else x.shape[-1] // (2 * cos.shape[-1])
        heads = split_heads(x, count)
    size = size or heads.shape[-1]
    if positions.numel() == 1:
        positions = positions.reshape(1, 1) + torch.arange(heads.shape[2], device=x.device)
    angles = cos[positions][:, None], sin[positions][:, None]
    turned = rotated(heads[..., :size], *angles, bool(call.get("interleaved", 0)))
    y = torch.cat([turned, heads[..., size:]], -1)
    return merge_heads(y) if x.dim() == 3 else y
