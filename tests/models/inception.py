"""Inception v3 (arXiv 1512.00567) without its auxiliary head, initialised as in torchvision."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def unit(inputs: int, outputs: int, kernel: tuple[int, int], stride: int = 1, *, pad: bool = True) -> nn.Sequential:
    """Convolution, BatchNorm with the paper's epsilon, ReLU; `pad` keeps the size at stride 1."""
    padding = (kernel[0] // 2, kernel[1] // 2) if pad else (0, 0)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs, eps=1e-3), nn.ReLU())


def run(inputs: int, *plan: tuple[int, tuple[int, int]], shrink: bool = False) -> nn.Sequential:
    """Units in a row, each given by its width and kernel; `shrink` makes the last one an unpadded stride of two."""
    units = []
    for index, (width, kernel) in enumerate(plan):
        last = shrink and index == len(plan) - 1
        units.append(unit(inputs, width, kernel, 2 if last else 1, pad=not last))
        inputs = width
    return nn.Sequential(*units)


ONE, THREE, FIVE = (1, 1), (3, 3), (5, 5)


class Branches(nn.Module):
    """Branches on the same input, concatenated along the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def pooled(inputs: int, outputs: int) -> nn.Sequential:
    """The branch of an average pooling (zeros at the border counted) and a 1x1 unit."""
    return nn.Sequential(nn.AvgPool2d(3, 1, 1), unit(inputs, outputs, ONE))


def block_a(inputs: int, outputs: int) -> Branches:
    """1x1, 5x5, twice 3x3 and pooling; `outputs` of the pooled branch, 224 more of the others."""
    return Branches(
        run(inputs, (64, ONE)),
        run(inputs, (48, ONE), (64, FIVE)),
        run(inputs, (64, ONE), (96, THREE), (96, THREE)),
        pooled(inputs, outputs),
    )


def block_b(inputs: int) -> Branches:
    """Half the size: 3x3, twice 3x3, and the maximum of the input."""
    return Branches(
        run(inputs, (384, THREE), shrink=True),
        run(inputs, (64, ONE), (96, THREE), (96, THREE), shrink=True),
        nn.MaxPool2d(3, 2),
    )


def block_c(inputs: int, inner: int) -> Branches:
    """1x1, 7x7 and twice 7x7 (each as a row and a column) and pooling."""
    row, column = (1, 7), (7, 1)
    return Branches(
        run(inputs, (192, ONE)),
        run(inputs, (inner, ONE), (inner, row), (192, column)),
        run(inputs, (inner, ONE), (inner, column), (inner, row), (inner, column), (192, row)),
        pooled(inputs, 192),
    )


def block_d(inputs: int) -> Branches:
    """Half the size: 3x3, 7x7 with 3x3 behind it, and the maximum of the input."""
    return Branches(
        run(inputs, (192, ONE), (320, THREE), shrink=True),
        run(inputs, (192, ONE), (192, (1, 7)), (192, (7, 1)), (192, THREE), shrink=True),
        nn.MaxPool2d(3, 2),
    )


def block_e(inputs: int) -> Branches:
    """1x1, 3x3 and twice 3x3 (the last one as a row beside a column) and pooling."""

    def row_and_column() -> Branches:
        return Branches(unit(384, 384, (1, 3)), unit(384, 384, (3, 1)))

    return Branches(
        run(inputs, (320, ONE)),
        nn.Sequential(run(inputs, (384, ONE)), row_and_column()),
        nn.Sequential(run(inputs, (448, ONE), (384, THREE)), row_and_column()),
        pooled(inputs, 192),
    )


def inception_v3(*, classes: int = 100) -> nn.Sequential:
    """Inception v3 for images of at least 75x75: weights trunc_normal with std 0.1, the head's too."""
    network = nn.Sequential(
        unit(3, 32, THREE, 2, pad=False),
        unit(32, 32, THREE, pad=False),
        unit(32, 64, THREE),
        nn.MaxPool2d(3, 2),
        unit(64, 80, ONE),
        unit(80, 192, THREE, pad=False),
        nn.MaxPool2d(3, 2),
        block_a(192, 32),
        block_a(256, 64),
        block_a(288, 64),
        block_b(288),
        *(block_c(768, inner) for inner in (128, 160, 160, 192)),
        block_d(768),
        block_e(1280),
        block_e(2048),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(2048, classes),
    )
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.trunc_normal_(layer.weight, std=0.1, a=-2.0, b=2.0)
    return network
