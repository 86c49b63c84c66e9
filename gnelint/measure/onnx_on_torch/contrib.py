"""Operators of com.microsoft, which ONNX Runtime's optimiser writes: fused layers and general ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.standard import run_standard
from gnelint.measure.onnx_on_torch.table import CannotRunError, Datum, operator

DOMAIN = "com.microsoft"

_ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "": lambda x: x,
    "Relu": torch.relu,
    "Tanh": torch.tanh,
    "Sigmoid": torch.sigmoid,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "LeakyRelu": F.leaky_relu,
    "Elu": F.elu,
    "Clip": torch.clamp,
    "HardSigmoid": lambda x, alpha, beta: (alpha * x + beta).clamp(0.0, 1.0),
}
_DEFAULTS = {"LeakyRelu": (0.01,), "Elu": (1.0,), "HardSigmoid": (0.2, 0.5), "Clip": (None, None)}
"""Parameters of activations where the model says nothing."""


# --- products and convolutions ------------------------------------------------------------------------------------


@operator("FusedConv", domain=DOMAIN)
def fused_conv(call: Call, x: Tensor, w: Tensor, b: Tensor | None = None, z: Tensor | None = None) -> Tensor:
    """f(w * x + b + z) with the convolution w * x and an activation f."""
    y: Tensor = run_standard(call, "Conv", x, w, b)
    return _activated(y if z is None else y + z, call.get("activation", ""), call.get("activation_params", ()))


@operator("FusedGemm", domain=DOMAIN)
def fused_gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """f(alpha A B + beta C) with an activation f."""
    parameters = [call.get(f"activation_{name}") for name in ("alpha", "beta")]
    leaky = call.get("leaky_relu_alpha")
    given = [value for value in parameters if value is not None] or ([] if leaky is None else [leaky])
    return _activated(run_standard(call, "Gemm", a, b, c), call.get("activation", ""), given)


@operator("FusedMatMul", domain=DOMAIN)
@operator("TransposeMatMul", domain=DOMAIN)
def fused_matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """alpha A B, either of them transposed first if asked."""
    return call.get("alpha", 1.0) * (_transposed(call, a, "A") @ _transposed(call, b, "B"))


@operator("FusedMatMulActivation", domain=DOMAIN)
def fused_matmul_activation(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """f(alpha A B) with an activation f."""
    parameters = [call.get(f"activation_{name}") for name in ("alpha", "beta")]
    given = [value for value in parameters if value is not None]
    return _activated(fused_matmul(call, a, b), call.need("activation"), given)


def _transposed(call: Call, x: Tensor, side: str) -> Tensor:
    """An operand whose first axis holds its rows (transBatch), or whose rows and columns are exchanged (trans)."""
    if x.dim() < 2:
        return x
    if call.get(f"transBatch{side}", 0):
        x = x.movedim(0, -2)
    return x.mT if call.get(f"trans{side}", 0) else x


def _activated(x: Tensor, name: str, given: Sequence[float]) -> Tensor:
    if name not in _ACTIVATIONS:
        raise CannotRunError(f'activation "{name}"')
    defaults = _DEFAULTS.get(name, ())
    return _ACTIVATIONS[name](x, *(*given, *defaults[len(given) :])[: len(defaults)])


# --- activations --------------------------------------------------------------------------------------------------


@operator("Gelu", domain=DOMAIN)
def gelu(call: Call, x: Tensor) -> Tensor:
    """x times the normal distribution's integral up to x."""
    return F.gelu(x)


@operator("BiasGelu", domain=DOMAIN)
def bias_gelu(call: Call, x: Tensor, bias: Tensor) -> Tensor:
    """gelu(x + b)."""
    return F.gelu(x + bias)


@operator("FastGelu", domain=DOMAIN)
def fast_gelu(call: Call, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """gelu(x + b), approximated by tanh."""
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("BiasSplitGelu", domain=DOMAIN)
def bias_split_gelu(call: Call, x: Tensor, bias: Tensor) -> Tensor:
    """a gelu(b) with the halves a and b of x + bias."""
    left, right = (x + bias).chunk(2, -1)
    return left * F.gelu(right)


@operator("BiasSoftmax", domain=DOMAIN)
def bias_softmax(call: Call, x: Tensor, bias: Tensor) -> Tensor:
    """softmax(x + b) over all axes from one on."""
    axis = call.get("axis", 1) % x.dim()
    if bias.dim() != x.dim() and call.get("is_inner_broadcast"):
        raise CannotRunError(f"a bias of rank {bias.dim()} for a tensor of rank {x.dim()}")
    total = x + bias
    return total.flatten(axis).softmax(-1).reshape(total.shape)


@operator("BiasDropout", domain=DOMAIN)
def bias_dropout(
    call: Call,
    x: Tensor,
    bias: Tensor,
    residual: Tensor | None = None,
    ratio: Tensor | None = None,
    training: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """x + b + residual, nothing dropped; the mask of what is kept."""
    if training is not None and bool(training) and (ratio is None or float(ratio) > 0):
        raise CannotRunError("dropout in training mode")
    y = x + bias
    return (y if residual is None else y + residual), torch.ones_like(y, dtype=torch.bool)


# --- normalisation and embedding ----------------------------------------------------------------------------------


@operator("SimplifiedLayerNormalization", domain=DOMAIN)
def simplified_layer_norm(call: Call, x: Tensor, scale: Tensor) -> Datum:
    """x / sqrt(mean(x^2) + epsilon) scale."""
    return run_standard(call, "SimplifiedLayerNormalization", x, scale)


@operator("SkipLayerNormalization", domain=DOMAIN)
def skip_layer_norm(
    call: Call, x: Tensor, skip: Tensor, gamma: Tensor, beta: Tensor | None = None, bias: Tensor | None = None
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """LayerNorm(x + skip + bias); its mean and 1 / deviation; the sum."""
    total = _sum(x, skip, bias)
    epsilon = call.get("epsilon", 1e-12)
    y = F.layer_norm(total, total.shape[-1:], gamma, beta, epsilon)
    if not (call.used(1) or call.used(2)):
        return y, None, None, total
    wide = total.to(torch.promote_types(total.dtype, torch.float32))
    variance, mean = torch.var_mean(wide, -1, correction=0, keepdim=True)
    return y, mean, (variance + epsilon).rsqrt(), total


@operator("SkipSimplifiedLayerNormalization", domain=DOMAIN)
def skip_simplified_layer_norm(
    call: Call, x: Tensor, skip: Tensor, gamma: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, None, Tensor, Tensor]:
    """RMSNorm(x + skip + bias); 1/sqrt(mean square); the sum."""
    total = _sum(x, skip, bias)
    wide = total.to(torch.promote_types(total.dtype, torch.float32))
    inverse = (wide.square().mean(-1, keepdim=True) + call.get("epsilon", 1e-12)).rsqrt()
    return ((wide * inverse).to(total.dtype) * gamma), None, inverse, total


@operator("EmbedLayerNormalization", domain=DOMAIN)
def embed_layer_norm(
    call: Call,
    tokens: Tensor,
    segments: Tensor | None,
    words: Tensor,
    positions: Tensor,
    segment_table: Tensor | None,
    gamma: Tensor,
    beta: Tensor,
    mask: Tensor | None = None,
    position_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNorm of the sum of three embeddings; how many tokens each mask keeps; the sum."""
    places = torch.arange(tokens.shape[1], device=tokens.device) if position_ids is None else position_ids.long()
    total = words[tokens.long()] + positions[places]
    if segments is not None and segment_table is not None:
        total = total + segment_table[segments.long()]
    y = F.layer_norm(total, total.shape[-1:], gamma, beta, call.get("epsilon", 1e-12))
    kept = torch.zeros_like(tokens[:, 0]) if mask is None else (mask == 1).sum(1)
    return y, kept.to(torch.int32), total


def _sum(x: Tensor, skip: Tensor, bias: Tensor | None) -> Tensor:
    total = x + skip
    return total if bias is None else total + bias


# --- general ------------------------------------------------------------------------------------------------------


@operator("Inverse", domain=DOMAIN)
def inverse(call: Call, x: Tensor) -> Tensor:
    """The inverse of each matrix."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return torch.linalg.inv(x.to(wide)).to(x.dtype)


@operator("Trilu", domain=DOMAIN)
def trilu(call: Call, x: Tensor, k: Tensor | None = None) -> Datum:
    """The part of each matrix above or below a diagonal."""
    return run_standard(call, "Trilu", x, k)


@operator("GridSample", domain=DOMAIN)
def grid_sample(call: Call, x: Tensor, grid: Tensor) -> Datum:
    """x read at the places that a grid names."""
    return run_standard(call, "GridSample", x, grid)


@operator("Range", domain=DOMAIN)
def range_(call: Call, start: Tensor, limit: Tensor, delta: Tensor | None = None) -> Datum:
    """start, start + delta, ... below limit."""
    step = torch.ones_like(start) if delta is None else delta
    return run_standard(call, "Range", start.reshape(()), limit.reshape(()), step.reshape(()))


@operator("ExpandDims", domain=DOMAIN)
def expand_dims(call: Call, x: Tensor, axis: Tensor) -> Tensor:
    """x with a new axis."""
    return x.unsqueeze(int(axis))


@operator("NhwcMaxPool", domain=DOMAIN)
def nhwc_max_pool(call: Call, x: Tensor) -> Tensor:
    """MaxPool of a tensor with channels last."""
    y: Tensor = run_standard(call, "MaxPool", x.movedim(-1, 1))
    return y.movedim(1, -1)


@operator("CropAndResize", domain=DOMAIN)
def crop_and_resize(call: Call, x: Tensor, boxes: Tensor, images: Tensor, size: Tensor) -> Tensor:
    """Boxes of images, their corners between 0 and 1, at one size."""
    down = _samples(boxes[:, 0], boxes[:, 2], int(size[0]), x.shape[2])[:, :, None]
    right = _samples(boxes[:, 1], boxes[:, 3], int(size[1]), x.shape[3])[:, None, :]
    inside = (down >= 0) & (down <= x.shape[2] - 1) & (right >= 0) & (right <= x.shape[3] - 1)
    image = images.long()[:, None, None]

    def read(y: Tensor, z: Tensor) -> Tensor:
        return x[image, :, y.long().clamp(0, x.shape[2] - 1), z.long().clamp(0, x.shape[3] - 1)]

    if call.get("mode", "bilinear") == "nearest":
        values = read((down + 0.5).floor(), (right + 0.5).floor())
    else:
        below, beside = (down - down.floor()).unsqueeze(-1), (right - right.floor()).unsqueeze(-1)
        upper = torch.lerp(read(down.floor(), right.floor()), read(down.floor(), right.ceil()), beside)
        lower = torch.lerp(read(down.ceil(), right.floor()), read(down.ceil(), right.ceil()), beside)
        values = torch.lerp(upper, lower, below)
    outside = torch.full_like(values, call.get("extrapolation_value", 0.0))
    return torch.where(inside.unsqueeze(-1), values, outside).movedim(-1, 1)


def _samples(start: Tensor, end: Tensor, count: int, length: int) -> Tensor:
    """Where an axis of this length is read: (boxes, count)."""
    if count == 1:
        return 0.5 * (start + end)[:, None] * (length - 1)
    steps = torch.arange(count, device=start.device, dtype=start.dtype)
    return start[:, None] * (length - 1) + steps * ((end - start) * (length - 1) / (count - 1))[:, None]
