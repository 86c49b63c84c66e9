"""What the network ends in against the loss that the user names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import gnelint
from gnelint.errors import UsageError
from gnelint.readers.target import resolve
from gnelint.settings.config import read_config
from gnelint.settings.jobs import Options, plan
from tests.models import network

HEADS = {
    "none": nn.Identity(), "softmax": nn.Softmax(-1), "log_softmax": nn.LogSoftmax(-1), "sigmoid": nn.Sigmoid(),
    "relu": nn.ReLU(), "log_sigmoid": nn.LogSigmoid(),
}  # fmt: skip
FITS = {
    "cross_entropy": {"none", "log_softmax", "log_sigmoid"},
    "bce_with_logits": {"none"},
    "nll": {"log_softmax", "log_sigmoid"},
    "bce": {"softmax", "sigmoid"},
    "mse": set(HEADS),
}


@pytest.mark.parametrize("loss", FITS)
def test_which_heads_fit_which_loss(loss: str) -> None:
    silent = set()
    for name, head in HEADS.items():
        network = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4), head)
        found = gnelint.check(network, torch.randn(4, 8), loss=loss, select=["GNE516"]).findings
        silent |= set() if found else {name}
    assert silent == FITS[loss]


def test_nothing_is_said_without_a_loss_and_a_wrong_name_is_refused() -> None:
    network = nn.Sequential(nn.Linear(8, 4), nn.Sigmoid())
    assert gnelint.check(network, torch.randn(4, 8), select=["GNE516"]).findings == ()
    with pytest.raises(UsageError, match="none of cross_entropy"):
        gnelint.check(network, torch.randn(4, 8), loss="hinge")


def test_the_configuration_names_it_and_the_command_line_wins(tmp_path: Path) -> None:
    from gnelint.lint.rulefile import load_rules

    (tmp_path / "gnelint.toml").write_text('loss = "bce"\n')
    config = tmp_path / "gnelint.toml"
    assert read_config(config).loss == "bce"
    (tmp_path / "net.py").write_text("")
    targets = resolve(f"{tmp_path / 'net.py'}:net")
    for given, expected in ((None, "bce"), ("mse", "mse")):
        (job,) = plan(targets, Options(loss=given, config=config), lambda paths: load_rules(list(paths)))
        assert job.settings.loss == expected


def test_targets_that_a_loss_picks_entries_by_are_read() -> None:
    """The places are worked out of the example's integers, and no path of numbers leads from them."""
    module, (x, _) = network("likelihood(given='picked')")
    assert gnelint.check(module, (x, torch.randint(5, (16,))), select=["GNE522"]).findings == ()


class Marked(nn.Module):
    """Rows of one input put at the places of another that a mask marks."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.pictures = nn.Linear(6, 8), nn.Linear(4, 8)

    def forward(self, x: torch.Tensor, pictures: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        found = self.words(x).clone()
        found[mask.bool()] = self.pictures(pictures)
        return found


@pytest.mark.parametrize("rows", [6, 9])
def test_a_mask_that_marks_where_rows_are_put_is_read(rows: int) -> None:
    """A mask that was made up by its shape may mark fewer places than there are rows."""
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 0, 0]])
    given = (torch.randn(2, 5, 6), torch.randn(rows, 4), mask)
    analysis = gnelint.check(Marked(), given, select=["GNE522", "GNE901"])
    assert analysis.findings == ()
    assert analysis.prediction.coverage == 1.0
