"""ai.onnx.ml: what scikit-learn and its kin write around a network."""

from __future__ import annotations

import torch
from torch import Tensor

from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.table import CannotRunError, operator

_DOMAIN = "ai.onnx.ml"


@operator("Scaler", domain=_DOMAIN)
def scaler(call: Call, x: Tensor) -> Tensor:
    """(x - offset) scale, along the last axis."""
    y = x.float()
    offset, scale = call.get("offset"), call.get("scale")
    y = y if offset is None else y - torch.tensor(offset)
    return y if scale is None else y * torch.tensor(scale)


@operator("LinearRegressor", domain=_DOMAIN)
def linear_regressor(call: Call, x: Tensor) -> Tensor:
    """x W' + b."""
    if call.get("post_transform", "NONE") != "NONE":
        raise CannotRunError("a transform behind a linear regression")
    weight = torch.tensor(call.get("coefficients")).reshape(call.get("targets", 1), x.shape[-1])
    added = call.get("intercepts")
    return torch.nn.functional.linear(x.float(), weight, None if added is None else torch.tensor(added))


@operator("Normalizer", domain=_DOMAIN)
def normalizer(call: Call, x: Tensor) -> Tensor:
    """x over its Euclidean norm along the last axis."""
    if call.get("norm", "MAX") != "L2":
        raise CannotRunError("another norm than the Euclidean one")
    return torch.nn.functional.normalize(x.float(), dim=-1)


@operator("ZipMap", domain=_DOMAIN)
def zip_map(call: Call, x: Tensor) -> Tensor:
    """The classes' names beside their probabilities: the numbers are the same."""
    return x
