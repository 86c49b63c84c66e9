"""VGG (arXiv 1409.1556), with and without BatchNorm, initialised as in torchvision."""

from __future__ import annotations

from torch import Tensor, nn

from tests.models.common import kaiming_fan_out_

STAGES = {
    11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    16: ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
}


class VGG(nn.Module):
    """Stages of 3x3 convolutions, each closed by a max-pool, then two hidden linear layers and a head."""

    def __init__(self, depth: int, *, batch_norm: bool, pool: int, hidden: int, classes: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage in STAGES[depth]:
            for width in stage:
                layers.append(nn.Conv2d(channels, width, 3, padding=1))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(width))
                layers.append(nn.ReLU(inplace=True))
                channels = width
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(pool)
        self.classifier = nn.Sequential(
            nn.Linear(channels * pool * pool, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes),
        )
        kaiming_fan_out_(self)
        for layer in self.classifier:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, 0.0, 0.01)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def vgg11(
    *, batch_norm: bool = False, pool: int = 2, hidden: int = 512, classes: int = 100, dropout: float = 0.5
) -> VGG:
    """VGG-11; the published size is `pool=7, hidden=4096, classes=1000` on 224x224."""
    return VGG(11, batch_norm=batch_norm, pool=pool, hidden=hidden, classes=classes, dropout=dropout)


def vgg16(
    *, batch_norm: bool = False, pool: int = 2, hidden: int = 512, classes: int = 100, dropout: float = 0.5
) -> VGG:
    """VGG-16; the published size is `pool=7, hidden=4096, classes=1000` on 224x224."""
    return VGG(16, batch_norm=batch_norm, pool=pool, hidden=hidden, classes=classes, dropout=dropout)


def vgg11_bn(**options: object) -> VGG:
    """VGG-11 with BatchNorm."""
    return vgg11(batch_norm=True, **options)  # type: ignore[arg-type]


def vgg16_bn(**options: object) -> VGG:
    """VGG-16 with BatchNorm."""
    return vgg16(batch_norm=True, **options)  # type: ignore[arg-type]
