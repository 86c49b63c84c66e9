"""Multi-layer perceptron."""

from __future__ import annotations

from torch import nn

from tests.models.common import ACTIVATIONS, initialize_layer_


def mlp(
    *,
    inputs: int = 256,
    width: int = 256,
    depth: int = 8,
    classes: int = 10,
    activation: str = "relu",
    init: str = "he",
    gain: float = 1.0,
    batch_norm: bool = False,
) -> nn.Sequential:
    """`depth` hidden layers of `width` units, then a linear head."""
    layers: list[nn.Module] = []
    for index in range(depth):
        layers.append(nn.Linear(inputs if index == 0 else width, width))
        if batch_norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(ACTIVATIONS[activation]())
    layers.append(nn.Linear(width, classes))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            initialize_layer_(layer, init, gain)
    return nn.Sequential(*layers)
