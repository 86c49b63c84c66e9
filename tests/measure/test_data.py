"""What a network is run on: what the analysis assumes, or the user's own arrays and batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gnelint.errors import UsageError
from gnelint.measure.data import batches, drawn, drawn_input, fitted, read_arrays
from tests.measure.networks import program
from tests.models import CASES


class Two(nn.Module):
    """Reads numbers, a mask and tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 4)

    def forward(self, x: Tensor, mask: Tensor, ids: Tensor) -> Tensor:
        return x * mask + self.embedding(ids)


INPUTS = (torch.zeros(64, 4), torch.ones(64, 1, dtype=torch.bool), torch.full((64,), 3))


def test_floats_are_drawn_and_what_the_model_brought_is_kept() -> None:
    batch = drawn(program(Two(), *INPUTS), 0)
    assert abs(float(batch["x"].mean())) < 0.3
    assert float(batch["x"].std()) == pytest.approx(1.0, abs=0.2)
    assert torch.equal(batch["mask"], INPUTS[1])
    assert torch.equal(batch["ids"], INPUTS[2])


ROWS = 11


class Wrapped(nn.Module):
    """Looks rows up, counted from the end where negative; `form` is how that is written."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.embedding = form, nn.Embedding(ROWS, 4)

    def forward(self, ids: Tensor) -> Tensor:
        behind = ids + ROWS
        if self.form == "where":
            return self.embedding(torch.where(ids < 0, behind, ids))
        if self.form == "masks":
            below = ids < 0
            return self.embedding(behind * below.to(ids.dtype) + ids * (~below).to(ids.dtype))
        return self.embedding(ids + 3)


@pytest.mark.parametrize(("form", "rows"), [("where", ROWS), ("masks", ROWS), ("shifted", ROWS - 3)])
def test_row_numbers_are_drawn_through_what_wraps_them(form: str, rows: int) -> None:
    """All rows were ones: one token, whose attention has no gradient."""
    network = program(Wrapped(form), torch.zeros(64, 8, dtype=torch.int64))
    value = network.graph.values["ids"]
    ids = drawn_input(network.graph, value, None, torch.Generator().manual_seed(0))
    assert set(ids.flatten().tolist()) == set(range(rows))


def test_the_seed_repeats() -> None:
    network = program(Two(), *INPUTS)
    assert torch.equal(drawn(network, 5)["x"], drawn(network, 5)["x"])
    assert not torch.equal(drawn(network, 5)["x"], drawn(network, 6)["x"])


def test_arrays_of_a_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((64, 4), np.float32))
    assert list(read_arrays(tmp_path / "data.npz")) == ["x"]
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    for name in ("missing.npz", "bad.npz"):
        with pytest.raises(UsageError, match="--data"):
            read_arrays(tmp_path / name)


def test_one_array_is_for_the_one_input() -> None:
    network = program(CASES["mlp"].module(), *CASES["mlp"].example_inputs())
    data = np.ones((64, 256), np.float32)
    for given in (data, {"whatever": data}, [data], torch.from_numpy(data)):
        assert torch.equal(fitted(given, network, "--data")["input"], torch.ones(64, 256))


def test_more_examples_than_the_batch_are_cut() -> None:
    network = program(CASES["mlp"].module(), *CASES["mlp"].example_inputs())
    assert fitted(np.ones((100, 256), np.float32), network, "--data")["input"].shape == (64, 256)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"x": np.zeros((64, 4), np.float32)}, "has no array for input mask, ids"),
        ([np.zeros((64, 5), np.float32), *INPUTS[1:]], r"has shape \(64, 5\), not \(64, 4\)"),
        ([np.zeros((64, 4), np.int64), *INPUTS[1:]], "takes float32, not torch.int64"),
    ],
)
def test_data_that_does_not_fit_is_refused(given, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        fitted(given, program(Two(), *INPUTS), "--data")


def test_batches_start_again() -> None:
    network = program(CASES["mlp"].module(), *CASES["mlp"].example_inputs())
    source = batches(lambda: [torch.full((64, 256), float(n)) for n in range(2)], network, "--data")
    assert [float(next(source)["input"][0, 0]) for _ in range(5)] == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("source", [list, lambda: 1 / 0], ids=["none", "raises"])
def test_a_function_without_batches_is_refused(source) -> None:
    network = program(CASES["mlp"].module(), *CASES["mlp"].example_inputs())
    with pytest.raises(UsageError, match="--data"):
        next(batches(source, network, "--data"))
