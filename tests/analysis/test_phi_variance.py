"""phi_variance against measured values: single maps exactly, whole networks within bounds.

`python -m tests.benchmarks.phi_variance` measures every network; these are the quick ones.
"""

from __future__ import annotations

import statistics

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gnelint.analysis.propagation import analyse
from gnelint.readers.torch.reader import read_module
from gnelint.theory.spectrum import Spectrum, Structure, concatenated, identity, serial
from tests.benchmarks.phi_variance import WIDE, judge
from tests.models import CASES


def spectrum_of(module: nn.Module, x: Tensor) -> tuple[float, float]:
    """phi and phi_variance of a module at x, from its whole Jacobian."""
    jacobian = torch.autograd.functional.jacobian(module, x)
    assert isinstance(jacobian, Tensor)
    out = module(x).numel()
    gram = jacobian.reshape(out, -1) @ jacobian.reshape(out, -1).T
    phi = float(gram.trace()) / out
    return phi, float(gram.square().sum()) / out - phi**2


def predicted(module: nn.Module, x: Tensor) -> tuple[float | None, float | None]:
    """phi and phi_variance of the module's only block."""
    (block,) = analyse(read_module(module, (x,), name="one", training=True)).blocks
    return block.phi, block.phi_variance


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, stride=2, padding=1),
        nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
        nn.AdaptiveAvgPool2d(3),
        nn.AdaptiveAvgPool2d((1, 5)),
    ],
)
@pytest.mark.parametrize("size", [5, 8])
def test_an_average_has_the_spectrum_of_its_matrix(pool: nn.Module, size: int) -> None:
    x = torch.randn(1, 2, size, size, dtype=torch.float64)
    assert predicted(pool, x) == pytest.approx(spectrum_of(pool, x), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1)])
def test_a_maximum_shares_its_winners(kernel: int, stride: int, padding: int) -> None:
    pool = nn.MaxPool2d(kernel, stride, padding)
    x = torch.randn(1, 8, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert predicted(pool, x) == pytest.approx(spectrum_of(pool, x), rel=0.1, abs=1e-12)


@pytest.mark.parametrize(("channels", "out", "groups", "stride"), [(12, 8, 1, 2), (8, 12, 1, 1), (8, 8, 4, 2)])
def test_a_transposed_kernel_s_spectrum(channels: int, out: int, groups: int, stride: int) -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(channels, out, 4, stride, 1, groups=groups, bias=False).double()
    nn.init.normal_(layer.weight)
    x = torch.randn(1, channels, 5, 5, dtype=torch.float64)
    assert predicted(layer, x) == pytest.approx(spectrum_of(layer, x), rel=0.15)


def test_a_depthwise_kernel_s_own_row_norms_are_read() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False).double()
    nn.init.normal_(layer.weight)
    with torch.no_grad():
        layer.weight[:16] *= 3.0
    x = torch.randn(1, 32, 6, 6, dtype=torch.float64)
    assert predicted(layer, x) == pytest.approx(spectrum_of(layer, x), rel=0.1)


def test_row_norms_that_a_scale_undoes_do_not_count() -> None:
    rows = np.array([0.5, 1.5])
    kernel = Spectrum(1.0, 1.25, 20, Structure(everywhere=True, rows=rows))
    undo = 1.0 / rows / np.mean(1.0 / rows)
    scale = Spectrum(1.0, float(undo.var()), 20, Structure(everywhere=True, rows=undo))
    both = serial(serial(identity(20), kernel), scale)
    assert both.phi == pytest.approx(0.75)  # the mean of rows * undo, not of either
    assert both.relative_variance == pytest.approx(1.25 - rows.var())


def test_an_average_over_positions_keeps_what_is_the_same_at_all() -> None:
    kernel = serial(identity(40), Spectrum(1.0, 0.6, 40, Structure(everywhere=True)))
    average = Spectrum(0.25, 0.0, 10, Structure(averages=True))
    assert serial(kernel, average).relative_variance == pytest.approx(0.6)
    mask = Spectrum(0.5, 0.25, 40, Structure(coherence=0.25))
    # the mask's own 1 is averaged over 4; of the kernel's 0.6 a quarter is coherent
    assert serial(serial(kernel, mask), average).relative_variance == pytest.approx(0.25 + 0.6 * (0.25 + 0.75 / 4))


def test_branches_that_begin_with_one_mask_lean_on_it_together() -> None:
    rng = np.random.default_rng(0)
    n, m = 300, 200
    mask = rng.integers(0, 2, n).astype(float)
    parts = [rng.normal(size=(m, n)) * mask / np.sqrt(n) for _ in range(2)]
    whole = np.concatenate(parts)
    gram = whole @ whole.T
    phi = np.trace(gram) / (2 * m)
    masked = serial(identity(n), Spectrum(0.5, 0.25, n))
    branch = serial(masked, Spectrum(1.0, m / n, m, weighted=True))
    found = concatenated([branch, branch], n)
    assert found.phi == pytest.approx(phi, rel=0.1)
    assert found.variance == pytest.approx(np.sum(gram**2) / (2 * m) - phi**2, rel=0.1)


FALLS_SHORT = pytest.mark.xfail(
    strict=True, reason="10 of 13 blocks: three on maps of 4x4 are 24 to 34 % low (one was at 3f989a7)"
)


@pytest.mark.parametrize(
    ("name", "median", "within"),
    [("mlp", 0.05, 1.0), ("vgg11_bn", 0.12, 0.8), ("resnet18", 0.12, 0.8), ("se_resnet18", 0.15, 0.8),
     ("dcgan_generator", 0.12, 0.8), pytest.param("mobilenet_v3_small", 0.15, 0.8, marks=FALLS_SHORT)],
)  # fmt: skip
def test_blocks_of_quick_networks(name: str, median: float, within: float) -> None:
    """Every wide block has a number; most are within 20% of what is measured, the median is closer."""
    blocks = [block for block in judge(CASES[name], seed=0, probes=4) if block.width >= WIDE]
    assert all(block.variance_predicted is not None for block in blocks)
    assert statistics.median(abs(block.ratio - 1.0) for block in blocks) <= median
    assert sum(block.within for block in blocks) >= within * len(blocks)
