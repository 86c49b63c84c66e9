"""Functions with a backward of their own: `torch.autograd.Function`.

A tracer runs the forward of one, without its backward, and what it records has the derivative of what is computed: a
step passes nothing on, where a straight-through estimator passes on all. So each is run once on numbers of the shapes
that it is given, with both ways back, and the program says what the own one does in operations that are known:

    own = c * derivative           c y + (y - c y).detach()       the derivative itself, none, or reversed
    own = c * what comes back      c x + (y - c x).detach()       straight through, y of x's shape
    own = that where |x| <= 1      the same of clamp(x, -1, 1)    straight through where x is small
    the same, whatever comes back  `deaf_backward`                as the next one; what comes back is left out
    anything else                  `unknown_backward`             an operation that nobody has a formula for

A reentrant checkpoint is such a function: what it runs is recorded in its place, unless nothing that it is given asks
for a gradient, where it passes none to the parameters either.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.utils.checkpoint import CheckpointFunction

_LARGEST = 1 << 22
"""Numbers of a tensor up to which a function is run to see what it does."""
_CLOSE = 1e-4
_Applied = Callable[..., Tensor]


def _result(result: Tensor, read: Tensor) -> Tensor:
    return result.clone()


for _name in ("unknown_backward", "deaf_backward"):
    _operation = torch.library.custom_op(f"gnelint::{_name}", _result, mutates_args=())
    _operation.register_fake(lambda result, read: torch.empty_like(result))


@contextlib.contextmanager
def own_backwards() -> Iterator[None]:
    """Have functions with a backward of their own say, in what is traced, what that does."""
    original = torch.autograd.Function.__dict__["apply"]

    def apply(cls: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        traced = original.__get__(None, cls)
        if cls is CheckpointFunction and any(isinstance(each, Tensor) and each.requires_grad for each in args):
            return args[0](*args[2:])
        if _is_mapped_without_gradient(cls, args):
            return cls.forward(*args, **kwargs)
        enabled = torch.is_grad_enabled()
        results = traced(*args, **kwargs)
        # a no_grad() in a forward ends, as recorded, in the mode that functions run in: no gradients for the rest
        torch.set_grad_enabled(enabled)
        read = [each for each in args if isinstance(each, Tensor) and each.is_floating_point() and each.requires_grad]
        if kwargs or not read or not isinstance(results, Tensor) or not results.is_floating_point():
            return results
        try:
            return _said(traced, cls, args, read, results)
        except Exception:  # what cannot be run apart is left as it was traced
            return results

    torch.autograd.Function.apply = classmethod(apply)
    try:
        yield
    finally:
        torch.autograd.Function.apply = original


def _is_mapped_without_gradient(cls: type[torch.autograd.Function], args: Sequence[Any]) -> bool:
    """Whether a function runs inside of a `torch.vmap`, on what has no gradient: its forward is all that it does there,
    and no tracer of a run can follow the call itself."""
    mapped = torch._C._are_functorch_transforms_active() and getattr(cls, "generate_vmap_rule", False)
    return mapped and not any(isinstance(each, Tensor) and each.requires_grad for each in args)


def _said(traced: _Applied, cls: Any, args: Sequence[Any], read: Sequence[Tensor], result: Tensor) -> Tensor:
    """What was computed, with the way back that the function has."""
    way, factor = _way(traced, cls, args)
    if way == "derivative" and abs(factor) == 1.0:
        return result  # of a reversed gradient no norm changes
    known: dict[str, Callable[[], Tensor]] = {
        "derivative": lambda: factor * result,
        "straight": lambda: factor * read[0],
        "small": lambda: factor * read[0].clamp(-1.0, 1.0),
    }
    if way not in known or (way != "derivative" and (len(read) > 1 or read[0].shape != result.shape)):
        operation = torch.ops.gnelint.deaf_backward if way == "deaf" else torch.ops.gnelint.unknown_backward
        unknown: Tensor = operation(result.detach(), read[0])
        return unknown
    passed = known[way]()
    return passed + (result - passed).detach()


def _way(traced: _Applied, cls: Any, args: Sequence[Any]) -> tuple[str, float]:
    """What the own backward is like, and the factor in front of it, by one draw of what the function reads."""
    draws = torch.random.fork_rng(devices=[])
    with unset_fake_temporarily(), disable_proxy_modes_tracing(), torch.enable_grad(), draws:
        given = [_drawn(each) for each in args]
        read = [each for each in given if isinstance(each, Tensor) and each.requires_grad]
        result = traced(*given)
        back = torch.randn_like(result)
        apart = cls.setup_context is not torch.autograd.Function.setup_context
        plain = cls.forward(*given) if apart else cls.forward(_Context(), *given)
        own = _pulled(result, read, back)
        candidates = {"derivative": _pulled(plain, read, back), "straight": [back]}
        if read[0].shape == back.shape:
            candidates["small"] = [back * (read[0].abs() <= 1)]
        found = {way: _factor(own, other) for way, other in candidates.items() if _fit(own, other)}
        silent = zip(_pulled(traced(*given), read, 0.0 * back), read, strict=True)
        deaf = any(bool(each.any()) for each, x in silent if x.shape == back.shape)
    other = "deaf" if deaf else "another"
    return next(((way, factor) for way, factor in found.items() if factor is not None), (other, 1.0))


def _fit(own: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return [each.shape for each in own] == [each.shape for each in other]


def _drawn(given: Any) -> Any:
    """Numbers of a tensor's shape; what is no tensor as it is."""
    if not isinstance(given, Tensor):
        return given
    if not given.is_floating_point() or given.numel() > _LARGEST:
        raise ValueError("its numbers are not any numbers, or too many")
    return torch.randn(tuple(given.shape), dtype=given.dtype).requires_grad_(given.requires_grad)


def _pulled(result: Tensor, read: Sequence[Tensor], back: Tensor) -> Sequence[Tensor]:
    if not result.requires_grad:
        return [torch.zeros_like(each) for each in read]
    found = torch.autograd.grad(result, list(read), back, allow_unused=True)
    return [torch.zeros_like(x) if each is None else each for each, x in zip(found, read, strict=True)]


def _factor(own: Sequence[Tensor], other: Sequence[Tensor]) -> float | None:
    """c of own = c * other; None where there is none."""
    left, right = (torch.cat([each.double().flatten() for each in side]) for side in (own, other))
    energy = float(right @ right)
    factor = float(left @ right) / energy if energy > 0.0 else 1.0
    apart = float((left - factor * right).norm())
    return round(factor, 6) if apart <= _CLOSE * max(float(left.norm()), float(right.norm()) * _CLOSE) else None


class _Context:
    """Takes what a forward keeps for its backward."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None
