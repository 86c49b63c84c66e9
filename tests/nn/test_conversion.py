"""Networks converted and folded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gnelint.nn import (
    Centred,
    CentredConv2d,
    CentredLinear,
    L1Norm2d,
    SecondMomentNorm1d,
    SecondMomentNorm2d,
    SyncSecondMomentNorm,
    convert,
    fold,
)


class Residual(nn.Module):
    """A block, a shortcut and a head; the path branches on nothing, so torch.fx can trace it."""

    def __init__(self, norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 6, 3, padding=1), norm(6)
        self.conv, self.norm = nn.Conv2d(6, 6, 3, padding=1, bias=False), norm(6)
        self.shared = norm(6)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(self.stem(x)))
        y = self.conv(x)
        y = torch.relu(self.norm(y) + x)
        return self.head(self.pool(self.shared(y) + self.shared(x)).flatten(1))


class Branching(Residual):
    """What torch.fx cannot trace."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if float(x.sum()) < 1e9 else x


def trained(module: nn.Module) -> nn.Module:
    """With running statistics and parameters that are not those of the start."""
    torch.manual_seed(0)
    for part in module.modules():
        if getattr(part, "num_features", None) is not None and part.weight is not None:
            nn.init.normal_(part.weight, 1.0, 0.3)
            nn.init.normal_(part.bias)
    for _ in range(20):
        module(torch.randn(8, 3, 6, 6) * 2 + 0.5)
    return module.eval()


def test_batch_norm_becomes_second_moment_norm() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5))
    network(torch.randn(8, 3, 6, 6))
    old = network[1]
    network[4].eval()
    assert convert(network, "batchnorm->smn") is network
    assert isinstance(network[1], SecondMomentNorm2d)
    assert isinstance(network[4], SecondMomentNorm1d)
    assert network[1].weight is old.weight
    assert network[1].eps == pytest.approx(old.eps**0.5)
    assert (network[1].training, network[4].training) == (True, False)
    torch.testing.assert_close(network[1].running_second_moment, old.running_var + old.running_mean**2)
    assert isinstance(convert(nn.SyncBatchNorm(3), "batchnorm->smn"), SyncSecondMomentNorm)
    assert isinstance(convert(nn.BatchNorm2d(3, affine=False), "batchnorm->l1"), L1Norm2d)


def test_one_layer_at_two_places_stays_one_and_subclasses_stay() -> None:
    class Own(nn.BatchNorm2d):
        pass

    norm = nn.BatchNorm2d(3)
    network = convert(nn.ModuleDict({"a": norm, "b": norm, "c": Own(3)}), "batchnorm->smn")
    assert network["a"] is network["b"]
    assert type(network["c"]) is Own


def test_second_moment_norms_are_synchronised() -> None:
    network = nn.Sequential(SecondMomentNorm2d(3, eps=0.1, momentum=None, relu=True, bias=False)).double()
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    expected = network(x)
    synchronised = convert(network, "smn->syncsmn")
    assert isinstance(synchronised[0], SyncSecondMomentNorm)
    torch.testing.assert_close(synchronised(x), expected)  # alone it is the layer itself
    assert synchronised[0].num_batches_tracked == 2


def test_filters_are_centred_and_plain_again() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 5), nn.Conv2d(1, 1, 1))
    parametrize.register_parametrization(network[3], "weight", Centred())
    weight, x = network[0].weight, torch.randn(2, 3, 6, 6)
    convert(network, "plain->centred")
    assert isinstance(network[0], CentredConv2d)
    assert isinstance(network[2], CentredLinear)
    assert network[0].weight is weight
    expected = network[:3](x)
    convert(network, "centred->plain")
    assert [type(part) for part in network] == [nn.Conv2d, nn.Flatten, nn.Linear, nn.Conv2d]
    torch.testing.assert_close(network[:3](x), expected)
    assert not parametrize.is_parametrized(network[3])


def test_the_parametrization_is_the_layer() -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 6, 6)
    centred = CentredConv2d(3, 4, 3)
    centred.load_state_dict(layer.state_dict())
    parametrize.register_parametrization(layer, "weight", Centred())
    for one in (layer, centred):
        one(x).square().sum().backward()
    torch.testing.assert_close(layer(x), centred(x))
    torch.testing.assert_close(layer.parametrizations.weight.original.grad, centred.weight.grad)


def test_a_conversion_that_is_none() -> None:
    with pytest.raises(ValueError, match="batchnorm->smn"):
        convert(nn.Linear(2, 2), "batchnorm->swish")


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, SecondMomentNorm2d, L1Norm2d])
def test_folded_computes_the_same(norm: type[nn.Module]) -> None:
    network, x = trained(convert(Residual(norm), "plain->centred")), torch.randn(4, 3, 6, 6)
    expected, state = network(x), {name: value.clone() for name, value in network.state_dict().items()}
    folded = fold(network)
    torch.testing.assert_close(folded(x), expected)
    assert [type(folded.get_submodule(name)) for name in ("first", "norm", "stem")] == [
        nn.Identity,
        nn.Identity,
        nn.Conv2d,
    ]
    assert isinstance(folded.shared, norm)  # called twice
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())


def test_folding_where_nothing_can_be_traced() -> None:
    network, x = trained(Branching()), torch.randn(4, 3, 6, 6)
    torch.testing.assert_close(fold(network)(x), network(x))
    stacked = trained(nn.Sequential(nn.Conv2d(3, 4, 3), SecondMomentNorm2d(4, relu=True), Branching2()))
    folded = fold(stacked)
    assert isinstance(folded[1], nn.ReLU)
    torch.testing.assert_close(folded(x), stacked(x))


class Branching2(nn.Module):
    """Passes on what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) < 1e9 else -x


def test_what_cannot_be_folded_stays() -> None:
    for norm in (SecondMomentNorm2d(4, track_running_stats=False), SecondMomentNorm2d(4)):
        network = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(3, 4, 1), norm) if norm.track_running_stats else None
        network = network or nn.Sequential(nn.Conv2d(3, 4, 1), norm)
        x = torch.randn(2, 3, 4, 4)
        torch.testing.assert_close(fold(network)(x), network.eval()(x))
    assert isinstance(fold(nn.Sequential(nn.Conv2d(3, 4, 1), SecondMomentNorm2d(4, track_running_stats=False)))[1],
                      SecondMomentNorm2d)  # fmt: skip
