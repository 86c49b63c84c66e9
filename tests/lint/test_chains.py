"""What belongs to a chain of layers, and what its layers do together."""

from __future__ import annotations

import math

import pytest

from gnelint.analysis.propagation import analyse
from gnelint.ir.graph import Graph
from gnelint.lint.chains import chain_bits, layers_of_chains, layers_outside_branches
from gnelint.readers.torch.reader import read_module
from tests.models import network


def read(model: str) -> Graph:
    module, inputs = network(model)
    return read_module(module, inputs, name=model)


@pytest.mark.parametrize(("model", "layers"), [("plain_unet", 11), ("fire_modules(depth=2)", 6)])
def test_concatenations_do_not_end_a_chain(model: str, layers: int) -> None:
    (run,) = layers_of_chains(analyse(read(model)))
    assert len(run) == layers


def test_a_chain_ends_at_a_sum_and_at_a_normalisation() -> None:
    for model in ("rounded", "resnet18"):
        prediction = analyse(read(model))
        assert layers_of_chains(prediction) == layers_outside_branches(prediction)


def test_of_layers_side_by_side_those_count_that_one_path_meets() -> None:
    prediction = analyse(read("fire_modules(depth=2, gain=0.5)"))
    (run,) = layers_of_chains(prediction)
    phis = {layer.node.name: [prediction.by_node[node.name].phi or 0.0 for node in layer.nodes] for layer in run}
    own = {name: math.fsum(map(math.log2, found)) for name, found in phis.items()}
    bits = chain_bits(prediction)
    assert bits["0.three"] - bits["0.one"] == pytest.approx(own["0.three"] - own["0.one"])
    assert math.fsum(own.values()) < bits["0.three"] < 3 * max(own.values())
