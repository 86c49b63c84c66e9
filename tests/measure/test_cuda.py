"""On a GPU: the same numbers as on the CPU, and memory that runs out is handled."""

from __future__ import annotations

import pytest
import torch

import gnelint
from gnelint.measure.verify import Verified
from tests.models import CASES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def verified(name: str, device: str, **options) -> Verified:
    case = CASES[name]
    result = gnelint.verify(case.module(), example_inputs=case.example_inputs(), device=device, **options)
    return result.verification.target


@pytest.mark.parametrize("name", ["mlp", "resnet18", "vit", "gpt2"])
def test_the_gpu_measures_what_the_cpu_does(name: str) -> None:
    """Probes differ, so intervals overlap; values of the same forward pass are the same."""
    cpu, gpu = verified(name, "cpu", probes=16), verified(name, "cuda", probes=16)
    for block, found in cpu.measurement.blocks.items():
        other = gpu.measurement.blocks[block].phi
        assert found.phi.low <= 1.05 * other.high
        assert other.low <= 1.05 * found.phi.high
    for value, moments in cpu.measurement.moments.items():
        assert gpu.measurement.moments[value].second_moment == pytest.approx(moments.second_moment, rel=1e-3, abs=1e-6)


def test_a_run_repeats_on_the_gpu() -> None:
    first, second = (verified("mlp", "cuda", probes=4).measurement.blocks for _ in "ab")
    assert first == second


def test_memory_that_runs_out_halves_the_batch() -> None:
    """The allocator is given 1 GiB, which nobody told the estimate of what fits."""
    total = torch.cuda.get_device_properties(0).total_memory
    module = torch.nn.Sequential(torch.nn.Linear(4096, 4096), torch.nn.ReLU())
    inputs = (torch.zeros(16384, 1).expand(16384, 4096),)
    torch.cuda.set_per_process_memory_fraction(2**30 / total)
    try:
        found = gnelint.verify(module, example_inputs=inputs, probes=2, device="cuda").verification.target
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert found.batch < 16384
    assert f"do not fit into memory: measured on {found.batch}" in " ".join(found.notes)
