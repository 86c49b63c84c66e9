"""Centred layers: what they compute, and that nothing else differs from the plain ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from gnelint.nn import CentredConv1d, CentredConv2d, CentredConv3d, CentredLinear

LAYERS: list[tuple[type[nn.Module], type[nn.Module], tuple[int, ...], dict[str, Any], tuple[int, ...]]] = [
    (CentredLinear, nn.Linear, (4, 6), {}, (5, 4)),
    (CentredLinear, nn.Linear, (4, 6), {"bias": False}, (2, 5, 4)),
    (CentredConv1d, nn.Conv1d, (4, 6, 3), {"padding": 1}, (2, 4, 7)),
    (CentredConv2d, nn.Conv2d, (4, 6, 3), {"padding": 1, "groups": 2}, (2, 4, 7, 5)),
    (CentredConv2d, nn.Conv2d, (4, 6, (3, 1)), {"padding": "same", "bias": False}, (2, 4, 7, 5)),
    (CentredConv2d, nn.Conv2d, (4, 4, 3), {"padding": 1, "padding_mode": "reflect", "groups": 4}, (2, 4, 7, 5)),
    (CentredConv2d, nn.Conv2d, (4, 6, 3), {"padding": 2, "padding_mode": "circular", "dilation": 2}, (2, 4, 7, 5)),
    (CentredConv3d, nn.Conv3d, (2, 3, 2), {"stride": 2, "padding_mode": "replicate", "padding": 1}, (2, 2, 4, 4, 4)),
]


@pytest.mark.parametrize(("centred", "plain", "sizes", "options", "shape"), LAYERS)
def test_is_the_plain_layer_with_centred_filters(
    centred: type[nn.Module], plain: type[nn.Module], sizes: tuple[int, ...], options: Any, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    layer, twin = centred(*sizes, **options, dtype=torch.float64), plain(*sizes, **options, dtype=torch.float64)
    twin.load_state_dict(layer.state_dict())
    assert list(twin.state_dict()) == list(layer.state_dict())
    with torch.no_grad():
        rows = twin.weight.flatten(1)
        twin.weight.copy_((rows - rows.mean(1, keepdim=True)).view_as(twin.weight))
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(layer(x), twin(x))
    assert torch.autograd.gradcheck(
        lambda x, w: torch.func.functional_call(layer, {"weight": w}, (x,)), (x, layer.weight)
    )


@pytest.mark.parametrize(("centred", "plain", "sizes", "options", "shape"), LAYERS)
def test_a_filter_learns_nothing_along_its_mean(
    centred: type[nn.Module], plain: type[nn.Module], sizes: tuple[int, ...], options: Any, shape: tuple[int, ...]
) -> None:
    layer = centred(*sizes, **options, dtype=torch.float64)
    layer(torch.randn(shape, dtype=torch.float64)).square().sum().backward()
    assert layer.weight.grad.flatten(1).sum(1).abs().max() < 1e-10
    assert layer.weight.grad.abs().max() > 1e-3


def test_half_precision_and_no_batch() -> None:
    layer = CentredConv2d(3, 4, 3).bfloat16()
    assert layer(torch.randn(2, 3, 8, 8).bfloat16()).dtype == torch.bfloat16
    assert layer(torch.randn(3, 8, 8).bfloat16()).shape == (4, 6, 6)
    assert layer(torch.zeros(0, 3, 8, 8).bfloat16()).shape == (0, 4, 6, 6)
    with pytest.raises(RuntimeError, match="expected input"):
        layer(torch.randn(2, 5, 8, 8).bfloat16())
