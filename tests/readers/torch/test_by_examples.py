"""Modules whose way depends on the values of tensors: read as the example inputs have it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gnelint.errors import ModelError
from gnelint.readers.torch.by_examples import program_of_examples
from gnelint.readers.torch.export import untouched
from gnelint.readers.torch.found_inputs import find_inputs
from gnelint.readers.torch.reader import read_module


class _Chooses(nn.Module):
    """Rows above a threshold, a part without gradient, a constant of its own and statistics that it writes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.gate = nn.Linear(4, 4)

    def forward(self, x: Tensor, rows: dict[str, Tensor]) -> Tensor:
        y = self.norm(self.layer(x))
        with torch.no_grad():
            gate = self.gate(y).sigmoid()
        if rows["first"].sum() > 100:
            return y
        count = int(rows["first"].max())
        return (y * gate)[:count] + torch.tensor([0.5, 1.0, 1.5, 2.0])


_ROWS = {"first": torch.tensor([3, 2])}


def test_what_it_runs_is_the_program_and_the_module_stays_as_it_was() -> None:
    module, x = _Chooses().train(), torch.randn(8, 4)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with untouched(module):
        program = program_of_examples(module, (x, _ROWS), {})
    assert all(tensor.equal(before[name]) for name, tensor in module.state_dict().items())
    assert program.graph_signature.user_inputs == ("x", "rows_first")
    held = (*program.graph_signature.parameters, *program.graph_signature.buffers)
    state = [program.state_dict[name].clone() for name in held]
    (found,) = program.graph_module(*state, *program.constants.values(), x, _ROWS["first"])
    assert torch.allclose(found, module(x, _ROWS))


def test_the_graph_has_the_sizes_of_the_examples_and_no_gradient_where_none_is_recorded() -> None:
    graph = read_module(_Chooses(), (torch.randn(8, 4), _ROWS), name="chooses")
    assert graph.values[graph.outputs[0]].shape == (3, 4)
    assert "gate.stop_gradient" in {node.name for node in graph.nodes}
    assert {node.scope for node in graph.nodes if node.name == "norm"} == {""}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
def test_a_scripted_part_is_run_and_stays_as_it_was() -> None:
    part = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    module = nn.Sequential(nn.Linear(4, 4), part)
    graph = read_module(module, (torch.randn(8, 4),), name="scripted")
    assert [node.op for node in graph.nodes] == ["linear", "linear", "relu"]
    assert [*part.state_dict()] == ["0.weight", "0.bias"]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
def test_a_scripted_part_keeps_its_numbers_while_inputs_are_looked_for() -> None:
    part = torch.jit.script(nn.Linear(4, 4))
    before = part.weight.clone()
    assert find_inputs(nn.Sequential(nn.Linear(4, 4), part)) is not None
    assert torch.equal(part.weight.detach(), before)


class _Counts(nn.Module):
    """Goes by numbers that numpy has read."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x)
        return found * (2.0 if x.detach().numpy().mean() > 0 else 3.0)


def test_inputs_are_found_for_a_module_that_reads_numbers_by_numpy() -> None:
    found = find_inputs(_Counts())
    assert found is not None
    assert [tuple(x.shape) for x in found.args] == [(8, 4)]


class _FailsBehind(nn.Module):
    """A branch on values, and behind it a mistake of the module's own."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e6:
            return x
        return x @ torch.ones(x.shape[0] + 1, 3)


def test_what_fails_behind_a_branch_on_values_is_what_is_said() -> None:
    with pytest.raises(ModelError, match=r"mat1 and mat2 shapes.*test_by_examples\.py.*Check the shapes"):
        read_module(_FailsBehind(), (torch.randn(4, 4),), name="fails")
