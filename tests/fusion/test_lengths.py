"""Lengths that are written out come back as a norm, and what is none stays."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gnelint
from gnelint.fusion import fuse
from gnelint.readers.torch import reader
from tests.fusion.test_torch import assert_same_function, read
from tests.models import network


class Magnitude(nn.Module):
    """Two projections as the parts of a complex number, of which the magnitude is taken in one of several ways."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(16, 24), nn.Linear(16, 24), nn.Linear(24, 4)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 16) to (batch, 4)."""
        z = torch.stack([self.first(x), self.second(x)], -1)
        if self.kind == "squares":
            return self.head((z**2).sum(-1).sqrt())
        if self.kind == "products":
            return self.head((z * z).sum(-1) ** 0.5)
        if self.kind == "epsilon":
            return self.head(((z**2).sum(-1) + 1e-6).sqrt())
        if self.kind == "others":
            return self.head((z * z.flip(-1)).sum(-1).abs().sqrt())
        return self.head(z.norm(dim=-1))


@pytest.mark.parametrize(("kind", "fused"), [("squares", 1), ("products", 1), ("epsilon", 0), ("others", 0)])
def test_roots_of_sums_of_squares_are_lengths(kind: str, fused: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 16)
    before = read(monkeypatch, Magnitude(kind), (x,))
    after = fuse(before)
    assert sum(node.op == "reduce_l2" and node.attribute("exposed") for node in after.nodes) == fused
    assert_same_function(before, after, (x,))


def test_a_length_is_predicted_however_it_is_written() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 16)
    written, plain = Magnitude("squares"), Magnitude("norm")
    plain.load_state_dict(written.state_dict())
    found = [gnelint.check(module, (x,)).prediction for module in (written, plain)]
    assert [prediction.coverage for prediction in found] == [1.0, 1.0]
    heads = [[node.phi for node in prediction.nodes if node.node.op == "reduce_l2"] for prediction in found]
    assert heads[0] == heads[1] == [1.0]


def test_normalisations_keep_their_own_form() -> None:
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 24)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            found: Tensor = y / (y**2).sum(-1, keepdim=True).sqrt()
            return found

    graph = reader.read_module(Normalised(), (torch.randn(8, 16),), name="network")
    assert [node.op for node in graph.nodes] == ["linear", "l2_normalize"]


class Pair(nn.Module):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.function = nn.Linear(6, 6), nn.Linear(6, 6), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.first(x), self.second(x))


@pytest.mark.parametrize(
    ("function", "added"),
    [
        (lambda a, b: torch.sqrt(a * a + b**2), 0.0),
        (lambda a, b: (a.square() + b.square() + 1e-6) ** 0.5, 1e-6),
        (torch.hypot, 0.0),
        (lambda a, b: torch.complex(a, b).abs(), 0.0),
        (lambda a, b: torch.sqrt(a * a + b), None),
        (lambda a, b: torch.sqrt(a * a + (a * a)), None),
        (lambda a, b: torch.sqrt((a * a + b * b).clamp(min=0.1)), None),
        (lambda a, b: torch.sqrt(a * a - b * b), None),
    ],
    ids=["written", "epsilon", "hypot", "complex", "one square", "one value", "clamped", "difference"],
)
def test_roots_of_squares_added_up_are_lengths(
    function: Callable[[Tensor, Tensor], Tensor], added: float | None
) -> None:
    graph = reader.read_module(Pair(function), (torch.randn(4, 6),), name="pair")
    found = [node.attribute("added") for node in graph.nodes if node.op == "hypot"]
    assert found == ([] if added is None else [pytest.approx(added)])


@pytest.mark.parametrize("power", ["square", "length", "complex"])
def test_a_spectrogram_is_predicted_by_formulas(power: str) -> None:
    """Logarithms of energies in bands: no zeros are in a sum of squares, though a rectified Gaussian of its mean and
    variance would have 3 % (it was said to explode by 34 bits)."""
    module, inputs = network(f"spectrogram(power='{power}')")
    report = gnelint.check(module, example_inputs=inputs, sampling=False).to_dict()
    assert report["summary"]["coverage"] == 1.0
    assert not [finding for finding in report["findings"] if finding["severity"] != "info"]
    (target,) = gnelint.verify(module, example_inputs=inputs, probes=16).to_dict()["targets"]
    measured = target["summary"]["measured"]
    assert math.log2(measured["gradient_ratio"]) == pytest.approx(report["summary"]["gradient_log2"], abs=1.0)
