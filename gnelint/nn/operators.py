"""Second moment normalisation as operators of torch, gnelint::second_moment_norm and its backward, and written out.

The operators run the kernels of the device (`backend`), know the shapes they give (for tracing), and are differentiable
twice; the second derivatives are plain operations, which torch differentiates further. Written out in standard
operations the same function is what exporters and compilers see, and what runs where operators cannot: under the
transforms of torch.func, with dual numbers, on other kinds of tensors.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional

from gnelint.nn.kernels import native
from gnelint.records import dataclass


@dataclass(frozen=True)
class Backend:
    """What computes second moment normalisation on a device.

    Attributes:
        name: "triton" (own kernels), "native" (torch's vectorised primitives) or "eager" (written out).
        reason: why this one.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@cache
def backend(device: str = "cpu") -> Backend:
    """What runs on a kind of device ("cpu", "cuda", ...), and why.

    Inside of torch.compile, torch.export and ONNX export it is "eager" everywhere, as the compiler fuses what it sees;
    Triton's kernels leave double precision to it, too.
    """
    if device == "cpu":
        return Backend("native", "torch's batch normalisation kernels with mean 0")
    if device != "cuda":
        return Backend("eager", f"there are no kernels for {device}")
    if importlib.util.find_spec("triton") is None:
        return Backend("eager", "triton is not installed")
    return Backend("triton", "triton is installed")


@cache
def kernels(device: str) -> ModuleType | None:
    """The kernels of a kind of device; None where the function is written out."""
    if backend(device).name == "triton":
        from gnelint.nn.kernels import on_triton

        return on_triton
    return native if backend(device).name == "native" else None


def normalised(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, eps: float, relu: bool
) -> tuple[Tensor, Tensor]:
    """y = weight x / (sqrt(m) + eps) + bias, plus residual, rectified, where these are asked for; and m.

    Args:
        x: (N, C, ...), floating. m is the mean of x^2 over all axes but the second.
        weight, bias: (C,), None for 1 and 0.
        residual: of the shape of x; where it is of another type the sum is of the wider one.
        eps: added to the root, not under it.
        relu: whether y is rectified.
    """
    mixed = residual is not None and residual.dtype != x.dtype
    if not mixed and _opaque(x, weight, bias, residual):
        y, second = _Forward.apply(x, weight, bias, residual, eps, relu)
        return y, second
    return written_out(x, None, weight, bias, residual, eps, relu)


def evaluated(
    x: Tensor,
    second: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    relu: bool,
) -> Tensor:
    """y with a second moment that is known: a factor and a shift for each channel, in one pass."""
    if x.numel() == 0 or not _opaque(x, second, weight, bias, residual):
        return written_out(x, second, weight, bias, residual, eps, relu)[0]
    factor = native.gain(native.root(second.to(native.wide(x))) + eps, weight)
    shift = None if bias is None else bias.to(factor.dtype)
    zeros, ones = torch.zeros_like(factor), torch.ones_like(factor)
    y = functional.batch_norm(x, zeros, ones, factor, shift, False, 0.0, 0.0)
    if residual is not None:
        y = y + residual
    return torch.relu(y) if relu else y


def _opaque(*tensors: Tensor | None) -> bool:
    """Whether an operator can stand for the function here."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.jit.is_scripting():
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return False
    known = [tensor for tensor in tensors if tensor is not None]
    if not all(type(tensor) in (Tensor, torch.nn.Parameter) for tensor in known):
        return False
    found = kernels(known[0].device.type)
    return found is not None and known[0].dtype in found.TYPES and len({tensor.device for tensor in known}) == 1


def written_out(
    x: Tensor,
    second: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    relu: bool,
) -> tuple[Tensor, Tensor]:
    """The same in standard operations.

    Narrow types are computed in single precision. A channel of zeros gives zeros, and no gradient through m.

    Args:
        x, weight, bias, residual, eps, relu: as in `normalised`.
        second: (C,), taken as m; None for the batch's own.
    """
    wide = x.to(native.wide(x))
    channel = (1, -1, *(1,) * (x.dim() - 2))
    if second is None:
        second = wide.square().mean((0, *range(2, x.dim())), keepdim=True)
    else:
        second = second.to(wide.dtype).view(channel)
    # the derivative of the root at 0 is infinite, and infinite times the 0 behind it is nan
    y = wide / (second.clamp_min(torch.finfo(wide.dtype).tiny).sqrt() + eps)
    if weight is not None:
        y = y * weight.view(channel)
    if bias is not None:
        y = y + bias.view(channel)
    y = y.to(x.dtype)
    if residual is not None:
        y = y + residual
    return torch.relu(y) if relu else y, second.flatten()


NAMESPACE = "gnelint"
"""Of the operators, in torch.ops."""
_library = torch.library.Library(NAMESPACE, "DEF")
_library.define(
    "second_moment_norm(Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, float eps, bool relu)"
    " -> (Tensor, Tensor)"
)
_library.define(
    "second_moment_norm_backward(Tensor dy, Tensor? dm, Tensor x, Tensor? weight, Tensor second, Tensor? y, float eps,"
    " bool keep) -> (Tensor, Tensor, Tensor, Tensor)"
)
_forward = torch.ops.gnelint.second_moment_norm.default
_backward = torch.ops.gnelint.second_moment_norm_backward.default


def _run_forward(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = (kernels(x.device.type) or native).forward(x, *rest)
    return found


def _run_backward(dy: Tensor, dm: Tensor | None, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    found: tuple[Tensor, ...] = (kernels(x.device.type) or native).backward(dy, dm, x, *rest)
    return found


def _shapes_forward(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(native.dense(x)), x.new_empty(x.size(1), dtype=native.wide(x))


def _shapes_backward(
    dy: Tensor,
    dm: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    second: Tensor,
    y: Tensor | None,
    eps: float,
    keep: bool,
) -> tuple[Tensor, ...]:
    dx = torch.empty_like(native.dense(x))
    return dx, torch.empty_like(second), torch.empty_like(second), torch.empty_like(dx) if keep else dx.new_empty(0)


def _called(operator: Any, run: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Any]) -> tuple[Tensor, ...]:
    """What an operator gives: through the dispatcher where something listens to it, else at once, which saves a third
    of a small layer's time."""
    if torch._C._len_torch_dispatch_stack() == 0 and type(inputs[0]) is Tensor:
        return run(*inputs)
    with torch._C._AutoDispatchBelowAutograd():
        found: tuple[Tensor, ...] = operator(*inputs)
    return found


class _Forward(torch.autograd.Function):  # type: ignore[misc]
    """The operator and its derivative, the other operator."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        x, weight, bias, residual, eps, relu = inputs
        y, second = _called(_forward, _run_forward, inputs)
        ctx.save_for_backward(x, weight, second, y if relu else None)
        ctx.set_materialize_grads(False)
        ctx.eps, ctx.keep = eps, residual is not None
        ctx.types = tuple(None if given is None else given.dtype for given in (weight, bias))
        return y, second

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dm: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, second, y = ctx.saved_tensors
        dy = torch.zeros_like(x) if dy is None else dy
        inputs = (dy, dm, x, weight, second, y, ctx.eps, ctx.keep)
        found = _Backward.apply(*inputs) if torch.is_grad_enabled() else _called(_backward, _run_backward, inputs)
        dx, dweight, dbias, dz = found
        of_weight, of_bias = ctx.types
        return (
            dx,
            None if of_weight is None else dweight.to(of_weight),
            None if of_bias is None else dbias.to(of_bias),
            dz if ctx.keep else None,
            None,
            None,
        )


class _Backward(torch.autograd.Function):  # type: ignore[misc]
    """The operator of the derivative and its own derivative, in plain operations."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        dy, dm, x, weight, second, y, eps, keep = inputs
        found = _called(_backward, _run_backward, inputs)
        ctx.save_for_backward(dy, dm, x, weight, second, y)
        ctx.eps, ctx.keep = eps, keep
        return found

    @staticmethod
    def backward(ctx: Any, u: Tensor, v: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor | None, ...]:
        """The derivatives of L = u dx + v dweight + s dbias + t dz, each product summed.

        With A, B, D the sums of u dz, u x and x dz over a channel of n entries, w the weight, r = sqrt(m), q = r + eps:

            L = w A / q - w D B / (q^2 n r) + 2 dm B / n + v D / q + s sum(dz) + t dz

        and dr/dx = x / (n r), which is 0 in a channel of zeros.
        """
        dy, dm, x, weight, second, y = ctx.saved_tensors
        kind = second.dtype
        axes, channel = (0, *range(2, x.dim())), (1, -1, *(1,) * (x.dim() - 2))
        count = native.per_channel(x)
        mask = None if y is None else (y > 0).to(kind)
        dz = dy.to(kind) if mask is None else dy.to(kind) * mask
        u, wide_x = u.to(kind), x.to(kind)
        # m is the mean of x^2 here, so that whatever differentiates further sees that it depends on x
        second = wide_x.square().mean(axes) if x.numel() else second
        alive = (second >= torch.finfo(kind).tiny).to(kind)
        r = second.clamp_min(torch.finfo(kind).tiny).sqrt()
        q = r + ctx.eps
        w = torch.ones_like(r) if weight is None else weight.to(kind)
        a, b, d = (u * dz).sum(axes), (u * wide_x).sum(axes), (wide_x * dz).sum(axes)
        by_root = alive / (q * q * count * r)
        by_d = v / q - w * b * by_root
        by_b = -w * d * by_root if dm is None else 2.0 * dm / count - w * d * by_root
        by_r = -w * a / q**2 - v * d / q**2 + alive * w * d * b / count * (2.0 / (q**3 * r) + 1.0 / (q**2 * r**2))
        of_x = by_d.view(channel) * dz + by_b.view(channel) * u + (by_r * alive / (count * r)).view(channel) * wide_x
        of_dz = (w / q).view(channel) * u + by_d.view(channel) * wide_x + s.to(kind).view(channel)
        if ctx.keep:
            of_dz = of_dz + t
        of_dy = of_dz if mask is None else of_dz * mask
        of_dm = None if dm is None else 2.0 * b / count
        of_weight = None if weight is None else (a / q - d * b * by_root).to(weight.dtype)
        return of_dy.to(dy.dtype), of_dm, of_x.to(x.dtype), of_weight, None, None, None, None


def _differentiable_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, eps: float, relu: bool
) -> tuple[Tensor, Tensor]:
    if forward_ad._current_level >= 0:
        return written_out(x, None, weight, bias, residual, eps, relu)
    found: tuple[Tensor, Tensor] = _Forward.apply(x, weight, bias, residual, eps, relu)
    return found


for _name, _run, _shapes, _derivable in (
    ("second_moment_norm", _run_forward, _shapes_forward, _differentiable_forward),
    ("second_moment_norm_backward", _run_backward, _shapes_backward, _Backward.apply),
):
    for _device in ("CPU", "CUDA"):
        _library.impl(_name, _run, _device)
    _library.impl(_name, _derivable, "Autograd")
    torch.library.register_fake(f"{NAMESPACE}::{_name}", _shapes, lib=_library)
