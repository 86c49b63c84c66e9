"""Second moment normalisation across processes: two with parts of a batch are one with the whole."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from gnelint.nn import CentredConv2d, SyncSecondMomentNorm

if not distributed.is_available():
    pytest.skip("this torch has no torch.distributed", allow_module_level=True)

PARTS = (3, 5)
"""Samples of each process."""


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [CentredConv2d(3, 4, 3), SyncSecondMomentNorm(4, eps=0.1, relu=True), nn.Flatten(), nn.Linear(64, 2)]
    return nn.Sequential(*layers).double()


def batch() -> torch.Tensor:
    return torch.randn(sum(PARTS), 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def work(rank: int, folder: str) -> None:
    """What one process does: a step on its part of the batch; the gradients are left in a file."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=len(PARTS))
    module = network()
    parallel = DistributedDataParallel(copy.deepcopy(module))
    part = batch().split(PARTS)[rank]
    # DistributedDataParallel averages over the processes what one would sum over the batch
    (parallel(part).square().sum() * len(PARTS)).backward()
    found = {name: parameter.grad for name, parameter in parallel.module.named_parameters()}
    found["moment"] = parallel.module[1].running_second_moment
    empty = SyncSecondMomentNorm(4).double()  # one process may have nothing
    given = torch.ones(2 * rank, 4, 2, 2, dtype=torch.float64)
    found["empty"] = empty(given)
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path) -> None:
    multiprocessing.spawn(work, (str(tmp_path),), nprocs=len(PARTS))
    alone = network()
    alone(batch()).square().sum().backward()
    for rank in range(len(PARTS)):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, parameter in alone.named_parameters():
            torch.testing.assert_close(found[name], parameter.grad)
        torch.testing.assert_close(found["moment"], alone[1].running_second_moment)
        assert found["empty"].shape == (2 * rank, 4, 2, 2)
        torch.testing.assert_close(found["empty"], torch.ones_like(found["empty"]) / (1 + 1e-5))


def test_alone_it_is_the_layer_itself() -> None:
    module, x = network(), batch()
    assert torch.autograd.gradcheck(module[1], (module[0](x).detach()[:2, :, :2, :2].requires_grad_(),))
    with pytest.raises(ValueError, match="2D or 3D or 4D or 5D"):
        module[1](torch.zeros(3))
