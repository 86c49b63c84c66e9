"""Rolls written as two slices: one node, and with it the same profile from ONNX as from torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gnelint.analysis import analyse
from gnelint.readers.onnx import read
from gnelint.readers.torch import read_module
from tests.models import CASES
from tests.models.export import OPSETS, export_onnx, matched_layers


class Cut(nn.Module):
    """Slices [start:] and [:stop] of axis 1, laid side by side."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, self.start :], x[:, : self.stop]], dim=1)


@pytest.mark.parametrize("cut", [1, 3, 7])
def test_two_slices_in_the_other_order_are_a_roll(cut: int) -> None:
    x = torch.randn(2, 8, 5)
    graph = read_module(Cut(cut, cut), (x,), name="cut")
    (node,) = graph.nodes
    assert node.op == "roll"
    rolled = torch.roll(x, node.attribute("shifts"), node.attribute("axes"))
    assert torch.equal(rolled, Cut(cut, cut)(x))


@pytest.mark.parametrize(("start", "stop"), [(3, 4), (4, 3), (0, 8)])
def test_slices_that_overlap_or_leave_something_out_are_none(start: int, stop: int) -> None:
    graph = read_module(Cut(start, stop), (torch.randn(2, 8, 5),), name="cut")
    assert all(node.op != "roll" for node in graph.nodes)


@pytest.mark.parametrize("dynamo", [True, False])
def test_shifted_windows_have_one_profile_in_both_worlds(tmp_path: Path, dynamo: bool) -> None:
    case = CASES["swin"]
    expected = analyse(read_module(case.module(), case.example_inputs(), name="swin", training=True))
    path = tmp_path / "swin.onnx"
    export_onnx(case, path, opset=OPSETS[dynamo][-1], training=True, dynamo=dynamo)
    found = analyse(read(path, training=True))
    pairs = matched_layers(expected, found)
    assert len(pairs) >= sum("weight" in node.node.parameters for node in expected.nodes)
    for pair in pairs:
        assert pair.first.gradient_log2 == pytest.approx(pair.second.gradient_log2, abs=0.05)
    assert found.gradient_log2 == pytest.approx(expected.gradient_log2, abs=0.05)
