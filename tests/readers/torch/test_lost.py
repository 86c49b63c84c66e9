"""Statements whose result nothing keeps are named with their lines; what changes its tensor or is read is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gnelint.readers.torch.reader import read_module


class Base(nn.Module):
    """Two layers; what stands between them is what a test is about."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.first, self.second = nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 8)


class Masked(Base):
    """A mask that is not kept."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x.masked_fill(x > 1, 0.0)
        return torch.relu(self.second(x))


class Rectified(Base):
    """A function of the framework's, over several lines."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        functional.normalize(
            x,
            dim=-1,
        )
        return torch.relu(self.second(x))


class Called(Base):
    """A module without weights."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        self.act(x)
        return torch.relu(self.second(x))


class Widened(Base):
    """A cast."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x.double()
        return torch.relu(self.second(x))


class Kept(Base):
    """What changes its tensor, what is kept though nothing reads it, and what is looked at."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x.masked_fill_(x > 1, 0.0)
        functional.relu(x, inplace=True)
        unread = x.relu()
        print(x.relu().shape, end="")
        torch._assert(bool(x.relu().shape), "")
        return torch.relu(self.second(x)) if unread.shape else x


def read(kind: type[Base]) -> tuple[str, ...]:
    return read_module(kind(), (torch.randn(2, 8),), name="between").lost


@pytest.mark.parametrize(
    ("kind", "says"), [(Masked, "masked_fill"), (Rectified, "normalize"), (Called, "act"), (Widened, "double")]
)
def test_what_a_statement_drops_is_named(kind: type[Base], says: str) -> None:
    (found,) = read(kind)
    assert found.startswith(f"{says} (test_lost.py:")


def test_what_is_kept_or_changes_its_tensor_is_not() -> None:
    assert read(Kept) == ()
