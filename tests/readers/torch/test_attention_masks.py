"""Every form in which networks write their attention masks gives the gradient that autograd measures, or is unknown.

Each form stands inside the fused operation and in front of a softmax that is written out. The truth is measured in
float64: inputs and cotangents are drawn from N(0, 1), the figure is log2 of the squared gradient norm at the input
relative to the cotangent's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gnelint

BATCH, LENGTH, WIDTH, HEADS = 2, 48, 32, 4
BITS = 0.3
"""As many as the project asks of a network's median module."""

Mask = Callable[[Tensor, Tensor | None], Tensor]
"""The mask of the tokens x, and of what an input says of them where there is one."""


def causal(length: int = LENGTH) -> Tensor:
    """True where a query sees a key."""
    at = torch.arange(length)
    return at <= at[:, None]


def added(seen: Tensor, hidden: float, like: Tensor) -> Tensor:
    """0 where a query sees a key, a number where it does not."""
    return torch.zeros(seen.shape, dtype=like.dtype).masked_fill(~seen, hidden)


def window(width: int = 5) -> Tensor:
    """A sliding window of the past."""
    at = torch.arange(LENGTH)
    return causal() & (at > at[:, None] - width)


def prefix(length: int = 20) -> Tensor:
    """Causal behind a prefix that all see."""
    return causal() | (torch.arange(LENGTH) < length)


LOWEST = torch.finfo(torch.float32).min
FORMS: dict[str, Mask] = {
    "-inf": lambda x, _: added(causal(), -math.inf, x),
    "finfo.min": lambda x, _: added(causal(), LOWEST, x),
    "-100": lambda x, _: added(causal(), -100.0, x),
    "-1e4 times one minus": lambda x, _: (1.0 - causal().to(x.dtype)) * -1e4,
    "boolean": lambda x, _: causal(),
    "where": lambda x, _: torch.where(causal(), torch.zeros((), dtype=x.dtype), torch.full((), LOWEST, dtype=x.dtype)),
    "triu": lambda x, _: torch.full((LENGTH, LENGTH), -math.inf, dtype=x.dtype).triu(1),
    "expanded": lambda x, _: causal()[None, None].expand(len(x), -1, -1, -1),
    "expanded and added": lambda x, _: added(causal(), LOWEST, x)[None, None].expand(len(x), HEADS, -1, -1),
    "repeated": lambda x, _: added(causal(), -math.inf, x).repeat(len(x), 1, 1, 1),
    "window": lambda x, _: window(),
    "window, added": lambda x, _: added(window(), LOWEST, x)[None],
    "prefix": lambda x, _: prefix(),
    "prefix, added": lambda x, _: added(prefix(), -math.inf, x),
    "causal and padding": lambda x, kept: causal()[None, None] & kept[:, None, None, :].bool(),
    "causal and padding, added": lambda x, kept: (
        added(causal(), LOWEST, x)[None, None] + (1.0 - kept[:, None, None, :].to(x.dtype)) * LOWEST
    ).clamp(min=LOWEST),
    "causal and padding, filled": lambda x, kept: (
        added(causal(), LOWEST, x)[None, None].expand(len(x), 1, -1, -1)
        .masked_fill(kept[:, None, None, :] == 0, LOWEST)
    ),
    "padding": lambda x, kept: kept[:, None, None, :].bool(),
    "padding, added": lambda x, kept: (1.0 - kept[:, None, None, :].to(x.dtype)) * -1e4,
    "window and padding": lambda x, kept: window(30)[None, None] & kept[:, None, None, :].bool(),
}  # fmt: skip
OF_INPUTS = tuple(form for form in FORMS if "padding" in form)


class Attention(nn.Module):
    """One layer whose mask has a form."""

    def __init__(self, form: str, fused: bool) -> None:
        super().__init__()
        self.form, self.fused = form, fused
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mask = FORMS[self.form](x, kept)
        if self.fused:
            seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            logits = logits.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else logits + mask
            seen = logits.softmax(-1) @ v
        return self.out(seen.transpose(1, 2).flatten(2))


def padding(kind: str) -> Tensor:
    """Which tokens are kept."""
    kept = torch.ones(BATCH, LENGTH, dtype=torch.long)
    if kind == "one is short":
        kept[1, LENGTH // 2 :] = 0
    return kept


@lru_cache
def measured(form: str, kind: str = "") -> float:
    """log2 of the squared gradient norm at the input relative to the cotangent's."""
    torch.manual_seed(0)
    module = Attention(form, fused=False).double()
    rest = (padding(kind),) if kind else ()
    total = 0.0
    for _ in range(8):
        x = torch.randn(BATCH, LENGTH, WIDTH, dtype=torch.float64, requires_grad=True)
        y = module(x, *rest)
        cotangent = torch.randn_like(y)
        (gradient,) = torch.autograd.grad(y, x, cotangent)
        total += float(gradient.square().sum() / cotangent.square().sum()) / 8
    return math.log2(total)


def predicted(form: str, fused: bool, kind: str = "") -> float | None:
    """What gnelint says of it; None where it says that it does not know."""
    torch.manual_seed(0)
    module = Attention(form, fused)
    rest = (padding(kind),) if kind else ()
    prediction = gnelint.check(module, (torch.randn(BATCH, LENGTH, WIDTH), *rest)).prediction
    if prediction.coverage < 1.0:
        return None
    return prediction.gradient_log2


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "written out"])
@pytest.mark.parametrize("form", [form for form in FORMS if form not in OF_INPUTS])
def test_a_mask_of_known_numbers(form: str, fused: bool) -> None:
    found = predicted(form, fused)
    assert found is not None
    assert abs(found - measured(form)) < BITS


@pytest.mark.parametrize("kind", ["all are kept", "one is short"])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "written out"])
@pytest.mark.parametrize("form", OF_INPUTS)
def test_a_mask_that_an_input_has_a_part_in(form: str, fused: bool, kind: str) -> None:
    found = predicted(form, fused, kind)
    assert found is not None
    assert abs(found - measured(form, kind)) < BITS


def test_masks_differ_by_more_than_the_bound() -> None:
    """A mask that was dropped, or half of it, would be seen."""
    free = measured("padding", "all are kept")
    assert min(abs(measured(form) - free) for form in ("boolean", "window")) > 2 * BITS
