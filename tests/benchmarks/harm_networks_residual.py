"""Networks with shortcuts for `tests.benchmarks.harm`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(inputs: int, outputs: int, size: int = 3, **options: object) -> nn.Conv2d:
    """A convolution that keeps the size."""
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **options)  # type: ignore[arg-type]


class ConvNet(nn.Module):
    """A stem, blocks of one width, the mean over positions and a head."""

    def __init__(self, block: Callable[[int], nn.Module], depth: int, width: int = 16) -> None:
        super().__init__()
        self.stem = conv(3, width)
        self.blocks = nn.Sequential(*[block(width) for _ in range(depth)])
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class PreActivation(nn.Module):
    def __init__(self, norm: Callable[[int], nn.Module], width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(width), conv(width, width, bias=False)
        self.norm2, self.conv2 = norm(width), conv(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(y)))


class PostActivation(nn.Module):
    def __init__(self, width: int, zero: bool = False) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv(width, width), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = conv(width, width), nn.BatchNorm2d(width)
        if zero:
            nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class Plain(nn.Module):
    """No normalisation, PyTorch's own initialisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(width, width), conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv2(F.relu(self.conv1(x))))


class Fixup(nn.Module):
    """arXiv 1901.09321: the first layer scaled down by the depth, the last one zero, scalar biases and a scale."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(width, width, bias=False), conv(width, width, bias=False)
        nn.init.normal_(self.conv1.weight, std=(2 / (9 * width)) ** 0.5 * depth**-0.5)
        nn.init.zeros_(self.conv2.weight)
        self.bias = nn.Parameter(torch.zeros(4))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(x + self.bias[0]) + self.bias[1])
        return F.relu(x + self.conv2(y + self.bias[2]) * self.scale + self.bias[3])


class SkipInit(nn.Module):
    """arXiv 2002.10444: a scalar that starts at zero on the branch, no normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(width, width), conv(width, width)
        nn.init.kaiming_normal_(self.conv1.weight)
        nn.init.kaiming_normal_(self.conv2.weight)
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.alpha * self.conv2(F.relu(self.conv1(F.relu(x))))


class Halved(nn.Module):
    """The whole sum is scaled so that the variance is kept."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(width, width), conv(width, width)
        for each in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(each.weight)
            nn.init.zeros_(each.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.conv2(F.relu(self.conv1(x)))) * 0.5**0.5


class Grouped(nn.Module):
    def __init__(self, groups: int, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            conv(width, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            conv(width, width, 3, groups=groups, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            conv(width, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.inner(x))


class Inverted(nn.Module):
    """Wide inside, a convolution of every channel for itself, narrow and linear at the end."""

    def __init__(self, width: int, norm: bool = True) -> None:
        super().__init__()
        wide = 3 * width
        parts: list[nn.Module] = []
        for layer in (conv(width, wide, 1), conv(wide, wide, 3, groups=wide), conv(wide, width, 1)):
            parts.append(layer)
            if norm:
                parts.append(nn.BatchNorm2d(layer.out_channels))
            parts.append(nn.ReLU6())
        self.inner = nn.Sequential(*parts[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Squeezed(nn.Module):
    """Squeeze and excitation behind a pair of convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv(width, width, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = conv(width, width, bias=False), nn.BatchNorm2d(width)
        self.down, self.up = nn.Linear(width, width // 4), nn.Linear(width // 4, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        gate = torch.sigmoid(self.up(F.relu(self.down(y.mean((2, 3))))))
        return F.relu(x + y * gate[:, :, None, None])


class ConvNeXt(nn.Module):
    """A depthwise convolution, a normalisation over channels, two linear layers, and a tiny scale."""

    def __init__(self, scale: float, width: int) -> None:
        super().__init__()
        self.spatial = conv(width, width, 5, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), scale))
        for each in (self.spatial, self.up, self.down):
            nn.init.trunc_normal_(each.weight, std=0.02)
            nn.init.zeros_(each.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.spatial(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)


class VectorNet(nn.Module):
    """A linear stem, blocks of one width, a head."""

    def __init__(self, block: Callable[[int], nn.Module], depth: int, width: int = 48) -> None:
        super().__init__()
        self.stem = nn.Linear(32, width)
        self.blocks = nn.Sequential(*[block(width) for _ in range(depth)])
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


class VectorBlock(nn.Module):
    def __init__(self, init: str, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)
        if init == "he":
            nn.init.kaiming_normal_(self.up.weight)
            nn.init.kaiming_normal_(self.down.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.relu(self.up(x)))


class Shared(nn.Module):
    """One block, used again and again."""

    def __init__(self, times: int, act: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.times = times
        self.stem, self.head = nn.Linear(32, 48), nn.Linear(48, 10)
        self.block = nn.Sequential(nn.Linear(48, 48), act(), nn.Linear(48, 48))
        nn.init.kaiming_normal_(self.block[0].weight)
        nn.init.kaiming_normal_(self.block[2].weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(self.times):
            x = x + self.block(x)
        return self.head(x)


class ReZero(nn.Module):
    """arXiv 2003.04887."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.alpha = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.alpha * F.relu(self.layer(x))


class LayerScale(nn.Module):
    """A pre-normalised pair of layers with a small scale for every feature."""

    def __init__(self, scale: float, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.gamma = nn.Parameter(scale * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * self.down(F.gelu(self.up(self.norm(x))))


class Highway(nn.Module):
    """arXiv 1505.00387, the gate biased towards carrying."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.constant_(self.gate.bias, -2.0)

    def forward(self, x: Tensor) -> Tensor:
        t = torch.sigmoid(self.gate(x))
        return t * F.relu(self.value(x)) + (1 - t) * x


class DenseNet(nn.Module):
    """Every layer sees all the maps before it."""

    def __init__(self, depth: int, norm: bool, growth: int = 8) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        widths = [16 + growth * index for index in range(depth)]
        self.layers = nn.ModuleList([conv(width, growth) for width in widths])
        self.norms = nn.ModuleList([nn.BatchNorm2d(width) if norm else nn.Identity() for width in widths])
        self.head = nn.Linear(widths[-1] + growth, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = torch.cat([x, layer(F.relu(norm(x)))], 1)
        return self.head(x.mean((2, 3)))


class UNet(nn.Module):
    """Two levels, maps carried across by concatenation."""

    def __init__(self, norm: bool, width: int = 12) -> None:
        super().__init__()
        self.down1, self.down2 = self._pair(1, width, norm), self._pair(width, 2 * width, norm)
        self.middle = self._pair(2 * width, 2 * width, norm)
        self.up2 = self._pair(4 * width, width, norm)
        self.up1 = self._pair(2 * width, width, norm)
        self.head = nn.Conv2d(width, 1, 1)

    @staticmethod
    def _pair(inputs: int, outputs: int, norm: bool) -> nn.Sequential:
        parts: list[nn.Module] = []
        for index in range(2):
            parts.append(conv(inputs if index == 0 else outputs, outputs))
            parts += [nn.BatchNorm2d(outputs)] if norm else []
            parts.append(nn.ReLU())
        return nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.middle(F.max_pool2d(b, 2))
        d = self.up2(torch.cat([F.interpolate(c, scale_factor=2.0), b], 1))
        return self.head(self.up1(torch.cat([F.interpolate(d, scale_factor=2.0), a], 1)))


class LoraLinear(nn.Module):
    """A frozen layer and a product of two thin ones, the second zero."""

    def __init__(self, inputs: int, outputs: int, rank: int = 4) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs)
        self.base.requires_grad_(False)
        self.a = nn.Parameter(torch.empty(rank, inputs))
        self.b = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.a, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + F.linear(F.linear(x, self.a), self.b) * 2.0


class Lora(nn.Module):
    """Layers that are adapted, and a head that is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([LoraLinear(32 if index == 0 else 48, 48) for index in range(5)])
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.head(x)
