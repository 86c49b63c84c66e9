"""Slips of a module's code: which masks hide words, which numbers lose their gradient, which dropouts never end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gnelint.ir.graph import Slips
from gnelint.readers.torch.reader import read_module
from gnelint.readers.torch.slips import slips

Mask = Callable[[Tensor], Tensor]


class Attending(nn.Module):
    """One attention over words, which are ids with 0 for padding."""

    def __init__(self, mask: Mask, how: str) -> None:
        super().__init__()
        self.mask, self.how, self.words = mask, how, nn.Embedding(8, 4)
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, ids: Tensor) -> Tensor:
        x, mask = self.words(ids), self.mask(ids)[:, None]
        if self.how == "shows":
            return functional.scaled_dot_product_attention(x, x, x, attn_mask=mask.expand(-1, ids.shape[1], -1))
        logits = x @ x.transpose(1, 2)
        if self.how == "factor":
            return (logits + mask * -1e9).softmax(-1) @ x
        return logits.masked_fill(mask, -torch.inf).softmax(-1) @ x


def found(module: nn.Module) -> Slips:
    return slips(torch.export.export(module, (torch.tensor([[3, 5, 0], [2, 0, 0]]),), strict=False))


@pytest.mark.parametrize(
    ("mask", "how", "wrong"),
    [
        (lambda ids: ids != 0, "hides", True),
        (lambda ids: ids == 0, "hides", False),
        (lambda ids: ~(ids == 0), "hides", True),
        (lambda ids: (ids != 0) == 0, "hides", False),
        (lambda ids: ids == 0, "shows", True),
        (lambda ids: ids != 0, "shows", False),
        (lambda ids: (ids != 0).float(), "factor", True),
        (lambda ids: 1.0 - (ids != 0).float(), "factor", False),
        (lambda ids: (ids != 0) & (ids > -1), "hides", True),
        (lambda ids: ids > 5, "hides", False),
    ],
)
def test_masks_that_hide_all_words(mask: Mask, how: str, wrong: bool) -> None:
    assert bool(found(Attending(mask, how)).masks) == wrong


class Scaled(nn.Module):
    """A factor that is used as a tensor, or as the number that it holds."""

    def __init__(self, number: bool) -> None:
        super().__init__()
        self.number, self.factor = number, nn.Parameter(torch.ones(1))

    def forward(self, ids: Tensor) -> Tensor:
        return ids * (self.factor.view(()).item() if self.number else self.factor)


def test_numbers_of_parameters() -> None:
    ((name, place),) = found(Scaled(True)).numbers
    assert name == "factor"
    assert place.startswith("test_slips.py:")
    assert not found(Scaled(False)).numbers


class Dropped(nn.Module):
    """Calls of a dropout, each of which may be meant."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        return self.dropout(x) + functional.dropout(x, 0.5, self.training) + functional.dropout(x, training=True)


class Untold(nn.Module):
    """A dropout that is not told."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(
            x.float(),
            p=0.5,
        )


def test_dropouts_that_are_not_told() -> None:
    assert not found(Dropped()).dropouts
    assert len(found(Untold()).dropouts) == 1


class Beside(nn.Module):
    """An output of a parameter and of memory that was not written, or of the logarithms of numbers below zero."""

    def __init__(self, empty: bool) -> None:
        super().__init__()
        self.table, self.empty = nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4)), empty

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x + 1, self.table + torch.empty(3, 4) if self.empty else self.table.log()


@pytest.mark.parametrize("empty", [False, True])
def test_what_the_memory_held_breaks_no_output(empty: bool) -> None:
    torch.use_deterministic_algorithms(True)  # memory is filled with what is no number
    try:
        assert bool(found(Beside(empty)).broken) != empty
    finally:
        torch.use_deterministic_algorithms(False)


class Turns(nn.Module):
    """The identity, with a backward that nobody calls."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def backward(self, given: Tensor) -> Tensor:
        return -given


class Penalty(nn.Module):
    """The identity, and what a training loop calls for the error that was noted down on the way."""

    def forward(self, x: Tensor) -> Tensor:
        self.error = x.square().mean()
        return x

    def backward(self, retain: bool = True) -> Tensor:
        self.error.backward(retain_graph=retain)
        return self.error


class Through(nn.Module):
    """Calls one of its parts, and leaves the other alone."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.layer, self.part, self.spare = nn.Linear(4, 4), part, Turns()

    def forward(self, x: Tensor) -> Tensor:
        return self.part(self.layer(x))


def test_a_backward_is_unheard_of_modules_that_are_called_and_call_no_other() -> None:
    module = Through(Turns())
    assert read_module(module, (torch.randn(2, 4),), name="net").slips.unheard == ("part",)
    assert "forward" not in vars(module.part)
    assert not read_module(Through(Penalty()), (torch.randn(2, 4),), name="net").slips.unheard
