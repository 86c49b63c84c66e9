"""Networks that read integers and no embedding: the gradient is taken at what the integers are cast to."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import gnelint


class Bytes(nn.Module):
    """Layers on an image of bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU())

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image.float() / 255)


class Classes(nn.Module):
    """Layers on classes one by one, or on counts."""

    def __init__(self, counts: bool) -> None:
        super().__init__()
        self.layers, self.counts = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 4)), counts

    def forward(self, x: Tensor) -> Tensor:
        given = torch.log1p(x) if self.counts else nn.functional.one_hot(x, 16).float()
        return self.layers(given)


def measured(layers: nn.Module, given: Tensor) -> float:
    x = given.requires_grad_()
    y = layers(x)
    total = 0.0
    for _ in range(8):
        back = torch.randn_like(y)
        (gradient,) = torch.autograd.grad(y, x, back, retain_graph=True)
        total += float(gradient.square().sum() / back.square().sum()) / 8
    return math.log2(total)


def test_bytes_and_classes_are_read_at_what_they_are_cast_to() -> None:
    torch.manual_seed(0)
    image, classes = torch.randint(0, 256, (4, 3, 12, 12), dtype=torch.uint8), torch.randint(0, 16, (64,))
    of_bytes, of_classes = Bytes(), Classes(counts=False)
    found = [gnelint.check(net, (x,)).prediction.gradient_log2 for net, x in ((of_bytes, image), (of_classes, classes))]
    assert found == [
        pytest.approx(measured(of_bytes.layers, image.float() / 255), abs=0.5),
        pytest.approx(measured(of_classes.layers, nn.functional.one_hot(classes, 16).float()), abs=0.5),
    ]


def test_of_integers_that_are_not_known_that_is_said() -> None:
    prediction = gnelint.check(Classes(counts=True), (torch.randint(0, 9, (8, 16)),)).prediction
    assert prediction.gradient_log2 is None
    assert any(note.startswith('The numbers of input "x", which are integers') for note in prediction.notes)
