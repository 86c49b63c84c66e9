"""Normalisations: over the batch, layers, groups, instances, neighbouring channels, and to length 1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.table import CannotRunError, operator

# --- over the batch -----------------------------------------------------------------------------------------------


@operator("BatchNormalization", since=14)
def batch_norm(
    call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor | tuple[Tensor, ...]:
    """(x - m) / sqrt(v + epsilon) scale + bias per channel; then, if asked for, the running statistics."""
    from_batch = _from_batch(call, bool(call.get("training_mode")))
    y = _batch_norm(call, x, scale, bias, mean, variance, from_batch)
    if not (call.used(1) or call.used(2)):
        return y
    return (y, *_running(call, x, mean, variance, from_batch))


@operator("BatchNormalization", since=7)
def batch_norm_by_outputs(
    call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor | tuple[Tensor, ...]:
    """As since opset 14, but it is the outputs named that tell training; the batch's statistics come last."""
    return _batch_norm_five(call, x, scale, bias, mean, variance, any(call.used(index) for index in range(1, 5)))


@operator("BatchNormalization", since=1)
def batch_norm_is_test(
    call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor | tuple[Tensor, ...]:
    """As since opset 7, but the attribute `is_test` tells training."""
    return _batch_norm_five(call, x, scale, bias, mean, variance, not call.get("is_test"))


def _batch_norm_five(
    call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, training: bool
) -> Tensor | tuple[Tensor, ...]:
    """Up to five outputs: y, running mean and variance, the batch's mean and variance."""
    from_batch = _from_batch(call, training)
    if call.version < 9 and not call.get("spatial"):  # each activation is a channel of its own
        flat = x.flatten(1)
        y = _batch_norm(call, flat, scale, bias, mean, variance, from_batch).reshape(x.shape)
    else:
        flat = x
        y = _batch_norm(call, x, scale, bias, mean, variance, from_batch)
    if not any(call.used(index) for index in range(1, 5)):
        return y
    statistics = (*_running(call, flat, mean, variance, from_batch), *_used(flat, mean, variance, from_batch))
    return (y, *(statistic.reshape(mean.shape) for statistic in statistics))


def _from_batch(call: Call, training: bool) -> bool:
    """Whether the batch's own statistics are used: as the run asks, or else as the file says."""
    return call.settings.normalization == "batch" or (call.settings.normalization == "file" and training)


def _batch_norm(
    call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, from_batch: bool
) -> Tensor:
    """Channels are in axis 1, or one channel if there is no such axis. What is stored is no part of the gradient."""
    dtype = _wide(x.dtype)
    stored = None if from_batch else (mean.detach().flatten().to(dtype), variance.detach().flatten().to(dtype))
    y = torch.batch_norm(
        x if x.dim() > 1 else x.unsqueeze(1),
        scale.flatten().to(dtype),
        bias.flatten().to(dtype),
        *(stored or (None, None)),
        from_batch,
        0.0,
        call.get("epsilon"),
        torch.backends.cudnn.enabled,
    )
    return y.reshape(x.shape)


def _used(x: Tensor, mean: Tensor, variance: Tensor, from_batch: bool) -> tuple[Tensor, Tensor]:
    """The statistics that are in use, in the types of the stored ones; the batch's variance is that of a population."""
    if not from_batch:
        return mean.detach(), variance.detach()
    axes = (0, *range(2, x.dim()))
    data = x.detach().to(_wide(x.dtype))
    found = data.mean(axes), data.var(axes, unbiased=False)
    return found[0].reshape(mean.shape).to(mean.dtype), found[1].reshape(variance.shape).to(variance.dtype)


def _running(call: Call, x: Tensor, mean: Tensor, variance: Tensor, from_batch: bool) -> tuple[Tensor, Tensor]:
    """The stored statistics after this batch, in tensors of their own: momentum weighs the old ones."""
    momentum = call.get("momentum")
    new = _used(x, mean, variance, from_batch)
    if not from_batch:
        return new
    return torch.lerp(new[0], mean.detach(), momentum), torch.lerp(new[1], variance.detach(), momentum)


# --- over axes of each sample -------------------------------------------------------------------------------------


@operator("LayerNormalization")
def layer_norm(
    call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """(x - mean) / sqrt(variance + epsilon) scale + bias over the axes from `axis` on; mean and 1 / deviation too."""
    axes = _trailing(x, call.get("axis"))
    shape = x.shape[axes[0] :]
    if scale.shape == shape and (bias is None or bias.shape == shape):
        y = torch.layer_norm(x, shape, scale, bias, call.get("epsilon"))
    else:
        y = torch.layer_norm(x, shape, None, None, call.get("epsilon")) * scale
        y = y if bias is None else y + bias
    if not (call.used(1) or call.used(2)):
        return y
    stash = call.dtype(call.get("stash_type"))
    wide = x.to(torch.promote_types(x.dtype, _wide(stash)))
    mean = wide.mean(axes, keepdim=True)
    inverse = (wide.var(axes, unbiased=False, keepdim=True) + call.get("epsilon")).rsqrt()
    return y, mean.to(stash), inverse.to(stash)


@operator("RMSNormalization")
def rms_norm(call: Call, x: Tensor, scale: Tensor) -> Tensor:
    """x / sqrt(mean of x^2 + epsilon) scale over the axes from `axis` on."""
    return root_mean_square(call, x)[0] * scale


@operator("SimplifiedLayerNormalization")
def simplified_layer_norm(call: Call, x: Tensor, scale: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    """ONNX Runtime's name for RMSNormalization, with 1 / sqrt(mean of x^2 + epsilon) as second output."""
    y, inverse = root_mean_square(call, x)
    y = y * scale
    return (y, inverse) if call.used(1) else y


def root_mean_square(call: Call, x: Tensor) -> tuple[Tensor, Tensor]:
    """x r in the type of x and r = 1 / sqrt(mean of x^2 + epsilon) in the type `stash_type`."""
    stash = call.dtype(call.get("stash_type", 1))
    wide = x.to(torch.promote_types(x.dtype, _wide(stash)))
    square = (wide * wide).mean(_trailing(x, call.get("axis", -1)), keepdim=True)
    inverse = (square + call.get("epsilon", 1e-5)).rsqrt()
    return (wide * inverse).to(x.dtype), inverse.to(stash)


@operator("GroupNormalization", since=21)
def group_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Each sample's groups of channels normalised; scale and bias for each channel."""
    return torch.group_norm(x, call.need("num_groups"), scale, bias, call.get("epsilon"))


@operator("GroupNormalization", since=18)
def group_norm_by_group(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Each sample's groups of channels normalised; scale and bias for each group."""
    size = x.shape[1] // call.need("num_groups")
    return group_norm(call, x, scale.repeat_interleave(size), bias.repeat_interleave(size))


@operator("InstanceNormalization")
def instance_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Each channel of each sample normalised over its positions."""
    return torch.group_norm(x, x.shape[1], scale, bias, call.get("epsilon"))


@operator("MeanVarianceNormalization", since=9)
def mean_variance_norm(call: Call, x: Tensor) -> Tensor:
    """(x - mean) / (deviation + 1e-9) over the axes named."""
    centred = x - x.mean(call.get("axes"), keepdim=True)
    return centred / (_root_mean(centred * centred, call.get("axes")) + 1e-9)


@operator("MeanVarianceNormalization", since=1)
def mean_variance_norm_by_channel(call: Call, x: Tensor) -> Tensor:
    """ONNX Runtime's reading of the early draft: over batch and positions, and the channels if `across_channels`; the
    deviation is left alone if told so."""
    axes = tuple(axis for axis in range(x.dim()) if axis != 1 or call.get("across_channels", 0))
    centred = x - x.mean(axes, keepdim=True)
    if not call.get("normalize_variance", 1):
        return centred
    return centred / (_root_mean(centred * centred, axes) + 1e-9)


def _root_mean(squares: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The root of the mean; where that is 0 its derivative is taken as 0 as well."""
    mean = squares.mean(axes, keepdim=True)
    nothing = mean == 0
    return mean.masked_fill(nothing, 1).sqrt().masked_fill(nothing, 0)


# --- to length 1, and by the neighbours ---------------------------------------------------------------------------


@operator("LpNormalization")
def lp_norm(call: Call, x: Tensor) -> Tensor:
    """x / |x|_p along an axis; 0 stays 0."""
    power = call.get("p")
    if power not in (1, 2):
        raise CannotRunError(f"p = {power}")
    norm = torch.linalg.vector_norm(x, power, call.get("axis"), keepdim=True)
    return x / norm.masked_fill(norm == 0, 1)


@operator("LRN")
def local_response_norm(call: Call, x: Tensor) -> Tensor:
    """x / (bias + alpha / size (sum of x^2 over `size` neighbouring channels))^beta; the extra one of an even size is
    above."""
    size = call.need("size")
    below = (size - 1) // 2
    padding = [0, 0] * (x.dim() - 2) + [below, size - 1 - below]
    squares = F.pad(x * x, padding).unfold(1, size, 1).sum(-1)
    return x / (call.get("bias") + call.get("alpha") / size * squares) ** call.get("beta")


def _trailing(x: Tensor, axis: int) -> tuple[int, ...]:
    """The axes from this one on."""
    return tuple(range(axis % x.dim(), x.dim()))


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The type in which statistics of this type are taken."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
