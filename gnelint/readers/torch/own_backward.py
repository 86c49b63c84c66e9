"""Functions with a backward of their own: `torch.autograd.Function`.

A tracer runs the forward of one, without its backward, and what it records has the derivative of what is computed: a
step passes nothing on, where a straight-through estimator passes on all. So each is run once on numbers of the shapes
that it is given, with both ways back, and the program says what the own one does in operations that are known:

    own = c * derivative           c y + (y - c y).detach()       the derivative itself, none, or reversed
    own = c * what comes back      c x + (y - c x).detach()       straight through, y of x's shape
    own = that where |x| <= 1      the same of clamp(x, -1, 1)    straight through where x is small
    own = g(x) entry by entry      g x + (y - g x).detach()       a surrogate, whose backward is traced for g
    own = derivative with grad     the forward, recorded          it runs again what it ran without gradients (adjoints)
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
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.utils.checkpoint import CheckpointFunction

_LARGEST = 1 << 22
"""Numbers of a tensor up to which a function is run to see what it does."""
_CLOSE, _NEAR = 1e-4, 0.05
"""How far apart, relative to their length, two gradients may be: of formulas, and of one that a solver works out."""
_SEED = 0
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
    base = torch.autograd.function._SingleLevelFunction
    known: list[type[torch.autograd.Function]] = []  # what is being called, having been asked for its way
    apart: list[type[torch.autograd.Function]] = []  # what is run to see what it does, with what it calls

    def apply(cls: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        traced = original.__get__(None, cls)
        if apart:
            return traced(*args, **kwargs)
        if cls is CheckpointFunction and any(isinstance(each, Tensor) and each.requires_grad for each in args):
            return args[0](*args[2:])
        if _is_mapped_without_gradient(cls, args):
            return cls.forward(*args, **kwargs)
        enabled = torch.is_grad_enabled()
        known.append(cls)
        try:
            with _no_grad_noticed() as cut:
                results = traced(*args, **kwargs)
        finally:
            known.pop()
        # a no_grad() in a forward ends, as recorded, in the mode that functions run in: no gradients for the rest
        torch.set_grad_enabled(enabled)
        read = [each for each in args if isinstance(each, Tensor) and each.is_floating_point() and each.requires_grad]
        if kwargs or not read or not isinstance(results, Tensor) or not results.is_floating_point():
            return results
        try:
            apart.append(cls)
            try:
                way = _way(traced, cls, args)
            finally:
                apart.pop()
            return _said(way, cls, args, read, results)
        except Exception:  # what cannot be run apart is left as it was traced, unless that has no gradient
            if not cut:
                return results
            with _gradients_kept():  # its backward may reach what it runs without gradients
                return torch.ops.gnelint.unknown_backward(_forward(cls, args), read[0])

    def bound(cls: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        """`apply` that was taken off its class before (`relu = OwnRelu.apply`) comes by here alone."""
        if known or apart:
            return super(base, cls).apply(*args, **kwargs)
        return apply(cls, *args, **kwargs)

    torch.autograd.Function.apply, base.apply = classmethod(apply), classmethod(bound)
    try:
        yield
    finally:
        torch.autograd.Function.apply = original
        del base.apply  # what is inherited is there again


def _is_mapped_without_gradient(cls: type[torch.autograd.Function], args: Sequence[Any]) -> bool:
    """Whether a function runs inside of a `torch.vmap`, on what has no gradient: its forward is all that it does there,
    and no tracer of a run can follow the call itself."""
    mapped = torch._C._are_functorch_transforms_active() and getattr(cls, "generate_vmap_rule", False)
    return mapped and not any(isinstance(each, Tensor) and each.requires_grad for each in args)


def _said(own: tuple[str, float], cls: Any, args: Sequence[Any], read: Sequence[Tensor], result: Tensor) -> Tensor:
    """What was computed, with the way back that the function has."""
    way, factor = own
    if way == "derivative" and abs(factor) == 1.0:
        return result  # of a reversed gradient no norm changes
    if way == "recorded":
        with _gradients_kept():
            found: Tensor = _forward(cls, args)
        return found
    if way == "entries":
        passed = sum(x * slope.detach() for x, slope in zip(read, _slopes(cls, args, result), strict=True))
        return passed + (result - passed).detach()
    known: dict[str, Callable[[], Tensor]] = {
        "derivative": lambda: factor * result,
        "straight": lambda: factor * read[0],
        "small": lambda: factor * read[0].clamp(-1.0, 1.0),
    }
    if way not in known or (way != "derivative" and (len(read) > 1 or read[0].shape != result.shape)):
        operation = torch.ops.gnelint.deaf_backward if way == "deaf" else torch.ops.gnelint.unknown_backward
        unknown: Tensor = result.detach()
        for each in read[1:]:  # a gradient may come to each of them
            unknown = torch.ops.gnelint.unknown_backward(unknown, each)
        return operation(unknown, read[0])
    passed = known[way]()
    return passed + (result - passed).detach()


def _way(traced: _Applied, cls: Any, args: Sequence[Any]) -> tuple[str, float]:
    """What the own backward is like, and the factor in front of it, by one draw of what the function reads."""
    draws = torch.random.fork_rng(devices=[])
    with (
        unset_fake_temporarily(), disable_proxy_modes_tracing(), torch.enable_grad(), draws, _own_data(),
        _drawn_modules(args) as held,
    ):  # fmt: skip
        given = [held[id(each)] if id(each) in held else _drawn(each) for each in args]
        read = [each for each in given if isinstance(each, Tensor) and each.requires_grad]
        torch.manual_seed(_SEED)  # a backward may draw, too: it draws the same when its slopes are asked for
        result = traced(*given)
        back = torch.randn(result.shape, dtype=result.dtype, generator=torch.Generator().manual_seed(_SEED + 1))
        own = _pulled(result, read, back)
        candidates = {"derivative": _pulled(_forward(cls, given), read, back), "straight": [back]}
        if read[0].shape == back.shape:
            candidates["small"] = [back * (read[0].abs() <= 1)]
        found = {way: _factor(own, other) for way, other in candidates.items() if _fit(own, other)}
        for way, factor in found.items():
            if factor is not None:
                return way, factor
        return _other_way(traced, cls, given, result, back, own), 1.0


def _other_way(
    traced: _Applied, cls: Any, given: Sequence[Any], result: Tensor, back: Tensor, own: Sequence[Tensor]
) -> str:
    """What a backward is like that is no multiple of anything simple, from what it makes of `back`."""
    read = [each for each in given if isinstance(each, Tensor) and each.requires_grad]
    with _gradients_kept():
        again = _pulled(_forward(cls, given), read, back)
    if _is_near(own, again, _CLOSE):
        return "recorded"
    torch.manual_seed(_SEED)
    if _fit(own, [back] * len(own)) and _is_near(own, [back * slope for slope in _slopes(cls, given, result)], _CLOSE):
        return "entries"
    if _is_near(own, again, _NEAR):
        return "recorded"
    silent = zip(_pulled(traced(*given), read, 0.0 * back), read, strict=True)
    return "deaf" if any(bool(each.any()) for each, x in silent if x.shape == back.shape) else "another"


def _forward(cls: Any, args: Sequence[Any]) -> Any:
    """The forward by itself."""
    return cls.forward(*args) if _has_context_apart(cls) else cls.forward(_Context(), *args)


def _has_context_apart(cls: Any) -> bool:
    return cls.setup_context is not torch.autograd.Function.setup_context


@contextlib.contextmanager
def _own_data() -> Iterator[None]:
    """`x.data` is what torch has, where a tracer has put something else in its place."""
    put = torch.Tensor.__dict__.get("data")
    if put is not None:
        del torch.Tensor.data
    try:
        yield
    finally:
        if put is not None:
            torch.Tensor.data = put


@contextlib.contextmanager
def _gradients_kept() -> Iterator[None]:
    """`torch.no_grad()` does nothing."""
    saved = torch.no_grad.__enter__, torch.no_grad.__exit__
    torch.no_grad.__enter__, torch.no_grad.__exit__ = (lambda self: None), (lambda self, *error: None)
    try:
        yield
    finally:
        torch.no_grad.__enter__, torch.no_grad.__exit__ = saved


def _slopes(cls: Any, args: Sequence[Any], result: Tensor) -> list[Tensor]:
    """What the own backward makes of ones, for each tensor with a gradient: its slopes where it goes entry by entry."""
    context = _Context()
    context.needs_input_grad = tuple(isinstance(each, Tensor) and each.requires_grad for each in args)
    if _has_context_apart(cls):
        cls.setup_context(context, tuple(args), cls.forward(*args))
    else:
        cls.forward(context, *args)
    with torch.no_grad():
        found = cls.backward(context, torch.ones_like(result))
    found = found if isinstance(found, tuple) else (found,)
    kept = zip(args, found, context.needs_input_grad, strict=True)
    return [torch.zeros_like(each) if slope is None else slope for each, slope, needed in kept if needed]


def _fit(own: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return [each.shape for each in own] == [each.shape for each in other]


def _drawn(given: Any) -> Any:
    """Numbers of a tensor's shape; what is no tensor, or has numbers and asks for no gradient (times), as it is, and so
    is a parameter, which the function may know by itself."""
    if not isinstance(given, Tensor) or (isinstance(given, torch.nn.Parameter) and not isinstance(given, FakeTensor)):
        return given
    if not given.requires_grad and not isinstance(given, FakeTensor) and given.is_floating_point():
        return given.detach().clone()
    if not given.is_floating_point() or given.numel() > _LARGEST:
        raise ValueError("its numbers are not any numbers, or too many")
    return torch.randn(tuple(given.shape), dtype=given.dtype).requires_grad_(given.requires_grad)


_SMALL = 0.1
"""Standard deviation of the numbers of parameters: sums of many keep some size."""


@contextlib.contextmanager
def _drawn_modules(args: Sequence[Any]) -> Iterator[dict[int, Tensor]]:
    """Modules that a function is given hold numbers; those of their tensors, by the ids of what a tracer put there."""
    parts = [part for each in args if isinstance(each, torch.nn.Module) for part in each.modules()]
    stores = [store for part in parts for store in (part._parameters, part._buffers)]
    saved = [(store, name, held) for store in stores for name, held in store.items() if isinstance(held, FakeTensor)]
    if sum(held.numel() for _, _, held in saved) > _LARGEST:
        raise ValueError("too many numbers")
    drawn = {id(held): _numbers(held) for _, _, held in saved}
    try:
        for store, name, held in saved:
            store[name] = drawn[id(held)]
        yield drawn
    finally:
        for store, name, held in saved:
            store[name] = held


def _numbers(held: Tensor) -> Tensor:
    """Of a parameter's shape, or of a buffer's: a running mean, a variance, a count."""
    if not held.is_floating_point():
        return torch.zeros(tuple(held.shape), dtype=held.dtype)
    if not held.requires_grad:
        return torch.ones(tuple(held.shape), dtype=held.dtype)
    return (_SMALL * torch.randn(tuple(held.shape), dtype=held.dtype)).requires_grad_()


@contextlib.contextmanager
def _no_grad_noticed() -> Iterator[list[bool]]:
    """Holds something once a `torch.no_grad()` was entered."""
    original, seen = torch.no_grad.__enter__, list[bool]()

    def enter(self: Any) -> None:
        seen.append(True)
        original(self)

    torch.no_grad.__enter__ = enter
    try:
        yield seen
    finally:
        torch.no_grad.__enter__ = original


def _pulled(result: Tensor, read: Sequence[Tensor], back: Tensor) -> Sequence[Tensor]:
    if not result.requires_grad:
        return [torch.zeros_like(each) for each in read]
    found = torch.autograd.grad(result, list(read), back, allow_unused=True)
    return [torch.zeros_like(x) if each is None else each for each, x in zip(found, read, strict=True)]


def _factor(own: Sequence[Tensor], other: Sequence[Tensor], close: float = _CLOSE) -> float | None:
    """c of own = c * other; None where there is none."""
    left, right = (torch.cat([each.double().flatten() for each in side]) for side in (own, other))
    energy = float(right @ right)
    factor = float(left @ right) / energy if energy > 0.0 else 1.0
    apart = float((left - factor * right).norm())
    return round(factor, 6) if apart <= close * max(float(left.norm()), float(right.norm()) * _CLOSE) else None


def _is_near(own: Sequence[Tensor], other: Sequence[Tensor], close: float) -> bool:
    factor = _factor(own, other, close)
    return factor is not None and abs(factor - 1.0) <= close


class _Context:
    """Takes what a forward keeps for its backward."""

    saved_tensors: tuple[Any, ...] = ()
    needs_input_grad: tuple[bool, ...] = ()

    def save_for_backward(self, *kept: Any) -> None:
        self.saved_tensors = kept

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None
