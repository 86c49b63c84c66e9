"""A classifier of sounds behind a fixed transform: magnitudes of a spectrum, a filter bank, a logarithm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WINDOW = 64
HOP = 16
BANDS = 12


class Spectrogram(nn.Module):
    """Log energies in bands, and convolutions over time."""

    def __init__(self, power: str, width: int, classes: int) -> None:
        super().__init__()
        self.power = power
        self.register_buffer("window", torch.hann_window(WINDOW))
        bins = torch.linspace(0.0, BANDS, WINDOW // 2 + 1)[:, None]
        self.register_buffer("bank", (1.0 - (bins - torch.arange(BANDS) - 0.5).abs()).clamp(min=0.0))
        layers: list[nn.Module] = []
        for inputs in (BANDS, width):
            layers += [nn.Conv1d(inputs, width, 3, padding=1), nn.BatchNorm1d(width), nn.ReLU()]
        self.network = nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, classes))

    def forward(self, sound: Tensor) -> Tensor:
        spectrum = torch.stft(sound, WINDOW, HOP, window=self.window, return_complex=True)
        if self.power == "length":
            energy = torch.sqrt(spectrum.real**2 + spectrum.imag**2)
        elif self.power == "complex":
            energy = spectrum.abs()
        else:
            energy = torch.view_as_real(spectrum).pow(2).sum(-1)
        bands = energy.transpose(1, 2) @ self.bank
        return self.network(torch.log(bands + 1e-6).transpose(1, 2))


def spectrogram(*, power: str = "square", width: int = 32, classes: int = 10) -> Spectrogram:
    """`power` of the magnitudes: "square", "length" (written out) or "complex" (of complex numbers)."""
    return Spectrogram(power, width, classes)
