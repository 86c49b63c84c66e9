"""Second moment normalisation against its formula by hand, and against BatchNorm where the two must agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gnelint.nn import SecondMomentNorm1d, SecondMomentNorm2d, SecondMomentNorm3d

SHAPES = [
    (SecondMomentNorm1d, nn.BatchNorm1d, (6, 3)),
    (SecondMomentNorm1d, nn.BatchNorm1d, (6, 3, 5)),
    (SecondMomentNorm2d, nn.BatchNorm2d, (4, 3, 5, 2)),
    (SecondMomentNorm3d, nn.BatchNorm3d, (4, 3, 2, 3, 2)),
]
shapes = pytest.mark.parametrize(("kind", "batch_norm", "shape"), SHAPES)


def drawn(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * 1.5 + 0.7).to(dtype)


def by_hand(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    moved = np.moveaxis(x, 1, -1)
    return np.moveaxis(weight * moved / (np.sqrt(second_moment(x)) + eps) + bias, -1, 1)


def second_moment(x: np.ndarray) -> np.ndarray:
    return (np.moveaxis(x, 1, -1).reshape(-1, x.shape[1]) ** 2).mean(0)


def with_affine(norm: nn.Module) -> nn.Module:
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, -1.5, 2.0]))
        norm.bias.copy_(torch.tensor([0.1, 0.0, -3.0]))
    return norm


@shapes
def test_training_is_the_formula(kind: type[nn.Module], batch_norm: type[nn.Module], shape: tuple[int, ...]) -> None:
    norm, x = with_affine(kind(3, eps=0.25, dtype=torch.float64)), drawn(shape)
    expected = by_hand(x.numpy(), norm.weight.detach().numpy(), norm.bias.detach().numpy(), 0.25)
    np.testing.assert_allclose(norm(x).detach().numpy(), expected, rtol=1e-12)


@shapes
def test_gradients_are_those_of_the_formula(
    kind: type[nn.Module], batch_norm: type[nn.Module], shape: tuple[int, ...]
) -> None:
    norm, x = with_affine(kind(3, eps=0.25, dtype=torch.float64)), drawn(shape).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, w, b: torch.func.functional_call(norm, {"weight": w, "bias": b}, (x,)),
        (x, norm.weight, norm.bias),
    )
    assert torch.autograd.gradgradcheck(norm, (x,))


@shapes
def test_running_moment_is_averaged_like_batch_norms(
    kind: type[nn.Module], batch_norm: type[nn.Module], shape: tuple[int, ...]
) -> None:
    batches = [drawn(shape), drawn(shape) * 2, drawn(shape) - 1]
    moments = [second_moment(x.numpy()) for x in batches]
    for momentum in (0.1, 0.5, 0.0, None):
        norm = kind(3, momentum=momentum, dtype=torch.float64)
        expected = np.ones(3)
        for count, (x, moment) in enumerate(zip(batches, moments, strict=True), start=1):
            share = 1 / count if momentum is None else momentum
            expected = (1 - share) * expected + share * moment
            norm(x)
        np.testing.assert_allclose(norm.running_second_moment.numpy(), expected, rtol=1e-12)
        assert norm.num_batches_tracked == 3


@shapes
def test_evaluation_uses_the_running_moment(
    kind: type[nn.Module], batch_norm: type[nn.Module], shape: tuple[int, ...]
) -> None:
    norm, x = with_affine(kind(3, dtype=torch.float64)).eval(), drawn(shape)
    norm.running_second_moment.copy_(torch.tensor([4.0, 0.25, 1.0]))
    root = np.array([2.0, 0.5, 1.0]) + norm.eps
    expected = np.moveaxis(x.numpy(), 1, -1) / root * norm.weight.detach().numpy() + norm.bias.detach().numpy()
    np.testing.assert_allclose(norm(x).detach().numpy(), np.moveaxis(expected, -1, 1), rtol=1e-12)
    assert norm.num_batches_tracked == 0


@shapes
def test_loads_the_state_of_a_batch_norm_and_its_own(
    kind: type[nn.Module], batch_norm: type[nn.Module], shape: tuple[int, ...]
) -> None:
    old = with_affine(batch_norm(3, dtype=torch.float64))
    old(drawn(shape))
    state = old.state_dict()
    norm = kind(3, dtype=torch.float64)
    assert norm.load_state_dict(state).missing_keys == []
    assert "running_var" in state, "the caller's dictionary stays as it is"
    torch.testing.assert_close(norm.running_second_moment, old.running_var + old.running_mean**2)
    assert torch.equal(norm.weight, old.weight)
    assert torch.equal(norm.bias, old.bias)
    assert norm.num_batches_tracked == 1
    again = kind(3, dtype=torch.float64)
    again.load_state_dict(norm.state_dict())
    torch.testing.assert_close(again.running_second_moment, norm.running_second_moment)
    assert list(norm.state_dict()) == ["weight", "bias", "running_second_moment", "num_batches_tracked"]


def test_loads_inside_a_network_and_without_a_count() -> None:
    old = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    state = old.state_dict()
    del state["1.num_batches_tracked"]
    new = nn.Sequential(nn.Conv2d(3, 4, 1), SecondMomentNorm2d(4))
    new.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"size mismatch for 1\.running_second_moment"):
        nn.Sequential(nn.Conv2d(3, 4, 1), SecondMomentNorm2d(5)).load_state_dict(state)
    del state["1.running_mean"]
    with pytest.raises(RuntimeError, match=r"1\.running_second_moment"):
        new.load_state_dict(state)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("tracked", [True, False])
def test_options_give_the_keys_of_batch_norm(affine: bool, tracked: bool) -> None:
    norm, old = (kind(3, affine=affine, track_running_stats=tracked) for kind in (SecondMomentNorm2d, nn.BatchNorm2d))
    moments = {"running_second_moment"} if tracked else set()
    assert set(norm.state_dict()) == {key for key in old.state_dict() if key[8:] not in ("mean", "var")} | moments
    norm.load_state_dict(old.state_dict())
    x = drawn((4, 3, 5, 2), torch.float32)
    trained = norm(x)
    assert torch.equal(norm.eval()(x), trained) is not tracked


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_types_are_computed_in_single_precision(dtype: torch.dtype) -> None:
    x = drawn((64, 3, 8, 8), dtype) * 100  # squares that float16 does not hold
    for norm in (SecondMomentNorm2d(3), SecondMomentNorm2d(3).to(dtype)):
        y = norm(x)
        assert y.dtype == dtype
        torch.testing.assert_close(y, SecondMomentNorm2d(3)(x.float()).to(dtype), rtol=0, atol=0)
        assert torch.isfinite(norm.running_second_moment).all()


def test_channels_last_stays() -> None:
    x = drawn((4, 3, 5, 2), torch.float32)
    norm = with_affine(SecondMomentNorm2d(3))
    last = norm(x.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, norm(x))


@shapes
@pytest.mark.parametrize("last", [False, True])
def test_what_is_behind_may_work_in_place(
    kind: type[nn.Module], batch_norm: type[nn.Module], shape: tuple[int, ...], last: bool
) -> None:
    x = drawn(shape, torch.float32)
    x = x.movedim(1, -1).contiguous().movedim(-1, 1) if last else x
    norm, found = with_affine(kind(3)), []
    for rectified in (torch.relu, torch.relu_):
        given = x.clone().requires_grad_()
        rectified(norm(given)).square().sum().backward()
        found.append(given.grad)
    torch.testing.assert_close(*found)


def test_an_empty_batch_leaves_the_statistics() -> None:
    norm = SecondMomentNorm2d(3)
    y = norm(torch.zeros(0, 3, 4, 4, requires_grad=True))
    y.sum().backward()
    assert y.shape == (0, 3, 4, 4)
    assert torch.equal(norm.weight.grad, torch.zeros(3))
    assert torch.equal(norm.running_second_moment, torch.ones(3))
    assert norm.num_batches_tracked == 1


def test_a_channel_of_zeros_has_a_finite_gradient() -> None:
    x = drawn((4, 3, 5, 2), torch.float32)
    x[:, 1] = 0.0
    x.requires_grad_()
    norm = SecondMomentNorm2d(3, eps=1e-2)
    norm(x).square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(norm.weight.grad).all()


@pytest.mark.parametrize(
    ("norm", "x", "error"),
    [
        (SecondMomentNorm1d(3), torch.zeros(2, 3, 4, 4), ValueError),
        (SecondMomentNorm2d(3), torch.zeros(2, 3, 4), ValueError),
        (SecondMomentNorm3d(3), torch.zeros(2, 3, 4), ValueError),
        (SecondMomentNorm2d(3), torch.zeros(1, 3, 1, 1), ValueError),
        (SecondMomentNorm2d(3), torch.zeros(2, 4, 4, 4), RuntimeError),
        (SecondMomentNorm2d(3), torch.zeros(2, 3, 4, 4, dtype=torch.int64), NotImplementedError),
    ],
)
def test_errors_are_batch_norms(norm: nn.Module, x: torch.Tensor, error: type[Exception]) -> None:
    twin = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[int(type(norm).__name__[-2])](3)
    with pytest.raises(error):
        twin(x)
    with pytest.raises(error):
        norm(x)


def test_a_saved_program_computes_the_same(tmp_path: Path) -> None:
    norm, x = with_affine(SecondMomentNorm2d(3)), drawn((4, 3, 5, 2), torch.float32)
    program = torch.export.export(norm, (x,))
    torch.export.save(program, tmp_path / "norm.pt2")
    loaded = torch.export.load(tmp_path / "norm.pt2").module()
    torch.testing.assert_close(loaded(x), norm(x))
    torch.testing.assert_close(loaded.running_second_moment, norm.running_second_moment)
