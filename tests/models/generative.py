"""U-Net (arXiv 1505.04597) and the DCGAN generator (1511.06434)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from tests.models.common import kaiming_fan_out_


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3x3 convolutions with BatchNorm and ReLU."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Contracting and expanding path with a concatenated skip at each size."""

    def __init__(self, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(double_conv(a, b) for a, b in zip((3, *widths[:-1]), widths, strict=True))
        self.pool = nn.MaxPool2d(2)
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in pairs)
        self.merge = nn.ModuleList(double_conv(2 * b, b) for _, b in pairs)
        self.head = nn.Conv2d(widths[0], classes, 1)
        kaiming_fan_out_(self)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.down:
            x = block(self.pool(x) if skips else x)
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            x = merge(torch.cat([skip, up(x)], 1))
        return self.head(x)


def unet(*, widths: tuple[int, ...] = (32, 64, 128, 256), classes: int = 8) -> UNet:
    """A U-Net of four sizes."""
    return UNet(widths, classes)


def dcgan_generator(*, latent: int = 100, width: int = 64) -> nn.Sequential:
    """(batch, latent, 1, 1) to (batch, 3, 64, 64): transposed convolutions N(0, 0.02), scales N(1, 0.02), tanh."""
    channels = [latent, 8 * width, 4 * width, 2 * width, width]
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(pairwise(channels)):
        stride, padding = (1, 0) if index == 0 else (2, 1)
        layers.append(nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False))
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
    layers += [nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh()]
    for layer in layers:
        if isinstance(layer, nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, 0.02)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)
    return nn.Sequential(*layers)
