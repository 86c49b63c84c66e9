"""What a weight is computed by: the two normalisations of weights are told apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from gnelint.readers.torch.reader import read_module


@pytest.mark.parametrize(
    ("norm", "transform"),
    [
        (nn.utils.parametrizations.spectral_norm, "spectral_norm"),
        (nn.utils.spectral_norm, "spectral_norm"),
        (nn.utils.parametrizations.weight_norm, "weight_norm"),
        (nn.utils.parametrizations.orthogonal, "computed"),
    ],
    ids=["spectral", "spectral by a hook", "weight", "orthogonal"],
)
def test_normalised_weights(norm: Callable[[nn.Module], nn.Module], transform: str) -> None:
    net = nn.Sequential(norm(nn.Linear(8, 8)), nn.ReLU())
    (layer,) = (node for node in read_module(net, (torch.randn(4, 8),), name="net").nodes if node.op == "linear")
    assert layer.parameters["weight"].transform == transform
