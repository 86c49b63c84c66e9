"""Functions with a backward of their own: the program says what that does, as autograd measures."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex
from torch.utils.checkpoint import checkpoint

import gnelint


class Step(torch.autograd.Function):
    """1 where a number is positive."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)


class Straight(Step):
    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class StraightWhileSmall(Step):
    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * (x.abs() <= 1)


class Nothing(Step):
    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.zeros_like(gradient)


class Surrogate(Step):
    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient / (1 + x.abs()) ** 2


class Swish(torch.autograd.Function):
    """x sigmoid(x), whose backward is the derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        share = x.sigmoid()
        return gradient * share * (1 + x * (1 - share))


class Reversed(torch.autograd.Function):
    """The same number, half of the gradient with the other sign."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -0.5 * gradient


class Mixed(Swish):
    """Its backward mixes entries: no slope of each says it."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.flip(1).cumsum(1)


class RunAgain(torch.autograd.Function):
    """Runs without gradients, and again with them for its backward, as adjoints and reversible layers do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            ctx.save_for_backward(x)
            return x.tanh() + x.cos()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            return torch.autograd.grad(x.tanh() + x.cos(), x, gradient)[0]


class Rounded(torch.autograd.Function):
    """To multiples of 1/8, straight through, in the form with a context of its own."""

    @staticmethod
    def forward(x: Tensor, steps: int) -> Tensor:
        return torch.round(x * steps) / steps

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class Between(nn.Module):
    """A function between two layers."""

    def __init__(self, function: Any, *more: Any) -> None:
        super().__init__()
        self.first, self.last, self.function, self.more = nn.Linear(64, 64), nn.Linear(64, 64), function, more

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.function.apply(self.first(x), *self.more))
        return found


def drawn(function: Any, *more: Any) -> tuple[Between, Tensor]:
    torch.manual_seed(0)
    return Between(function, *more), torch.randn(256, 64)


def measured(model: nn.Module, x: Tensor) -> float:
    """log2 of the squared gradient norm at the first layer's output over that at the network's."""
    kept: list[Tensor] = []
    model.get_submodule("first").register_forward_hook(lambda module, given, output: kept.append(output))
    output = model(x)
    back = torch.randn_like(output)
    (gradient,) = torch.autograd.grad(output, kept[0], back)
    return float((gradient.square().sum() / back.square().sum()).log2())


@pytest.mark.parametrize(
    ("function", "more"),
    [
        (Straight, ()),
        (StraightWhileSmall, ()),
        (Surrogate, ()),
        (Swish, ()),
        (Reversed, ()),
        (RunAgain, ()),
        (Rounded, (8,)),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_the_gradient_goes_the_way_that_the_function_says(function: Any, more: tuple[Any, ...]) -> None:
    model, x = drawn(function, *more)
    analysis = gnelint.check(model, (x,))
    first = next(each for each in analysis.prediction.nodes if each.node.name == "first")
    assert first.gradient_log2 == pytest.approx(measured(model, x), abs=0.25)
    assert {each.rule for each in analysis.findings if each.severity != "info"} <= {"GNE512"}


class OfTheSign(nn.Module):
    """Straight through a step; rows by a mask of numbers, made entry by entry, and as many as the numbers say."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        count = int((x[:, 0].abs() < 100).sum())
        with TransformGetItemToIndex():
            rows = torch.vmap(lambda row: (x[:, 0].detach().abs() < 100)[row])(torch.arange(count))
        found: Tensor = self.last(Straight.apply(self.first(x)[:count]) * rows[:, None])
        return found


def test_the_gradient_goes_that_way_where_the_way_depends_on_values_too() -> None:
    torch.manual_seed(0)
    model, x = OfTheSign(), torch.randn(256, 64)
    prediction = gnelint.check(model, (x,)).prediction
    first = next(each for each in prediction.nodes if each.node.name == "first")
    assert first.gradient_log2 == pytest.approx(measured(model, x), abs=0.25)


def test_a_backward_of_zeros_stops_the_gradient() -> None:
    model, x = drawn(Nothing)
    assert [(each.rule, each.nodes) for each in gnelint.check(model, (x,)).findings] == [("GNE507", ("first",))]


class Shake(torch.autograd.Function):
    """The mean of two branches, whose gradient is shared out by a draw of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        return 0.5 * x + 0.5 * y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        share = torch.rand(gradient.size(0), 1)
        return share * gradient, (1 - share) * gradient


class Turned(Shake):
    """Its backward is nothing that is known."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient.flip(1), gradient.roll(1, 0)


class Branches(nn.Module):
    """Two layers that a function puts together."""

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.first, self.second, self.head, self.function = (
            nn.Linear(8, 16),
            nn.Linear(8, 16),
            nn.Linear(16, 4),
            function,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function.apply(self.first(x), self.second(x)))


def test_a_backward_that_draws_is_read_with_its_draw() -> None:
    torch.manual_seed(0)
    module = Branches(Shake)
    analysis = gnelint.check(module, torch.randn(256, 8))
    assert analysis.prediction.coverage == 1.0
    assert not analysis.findings
    x = torch.randn(256, 8, requires_grad=True)
    y = module(x)
    (gradient,) = torch.autograd.grad(y, x, back := torch.randn_like(y))
    measured = math.log2(float(gradient.pow(2).sum() / back.pow(2).sum()))
    assert analysis.prediction.gradient_log2 == pytest.approx(measured, abs=0.4)


def test_an_unknown_backward_may_reach_all_that_the_function_reads() -> None:
    rules = {finding.rule for finding in gnelint.check(Branches(Turned), torch.randn(8, 8)).findings}
    assert {"GNE901", "GNE507"} & rules == {"GNE901"}


def test_another_backward_is_not_known() -> None:
    model, x = drawn(Mixed)
    assert {each.rule for each in gnelint.check(model, (x,)).findings if each.severity != "info"} == {"GNE901"}


straight = Straight.apply


class TakenOff(nn.Module):
    """Calls `apply` by a name of the file or of the module, as tutorials do."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 10)
        self.function = Straight.apply if own else straight

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.function(self.first(x)))
        return found


@pytest.mark.parametrize("own", [True, False])
def test_a_function_may_be_called_by_a_name_of_its_own(own: bool) -> None:
    torch.manual_seed(0)
    model, x = TakenOff(own), torch.randn(256, 64)
    first = next(each for each in gnelint.check(model, (x,)).prediction.nodes if each.node.name == "first")
    assert first.gradient_log2 == pytest.approx(measured(model, x), abs=0.25)


class Reversible(torch.autograd.Function):
    """x + f(x), kept without what f computes; the backward computes it again. `emptied` frees what it was given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, part: nn.Module, emptied: bool, *parameters: Tensor) -> Tensor:
        with torch.no_grad():
            read = x.clone()
            y = x + part(read)
            if emptied:
                read.set_()
        ctx.part = part
        ctx.save_for_backward(x)
        return y

    @staticmethod
    def backward(ctx: Any, back: Tensor) -> Any:
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            y = x + ctx.part(x)
        gradient, *more = torch.autograd.grad(y, (x, *ctx.part.parameters()), back)
        return (gradient, None, None, *more)


class Block(nn.Module):
    def __init__(self, emptied: bool) -> None:
        super().__init__()
        self.first, self.last, self.emptied = nn.Linear(64, 64), nn.Linear(64, 10), emptied
        self.part, self.run = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64)), Reversible.apply

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.run(self.first(x), self.part, self.emptied, *self.part.parameters()))
        return found


def test_a_backward_that_runs_a_module_again_is_what_the_module_has() -> None:
    torch.manual_seed(0)
    model, x = Block(emptied=False), torch.randn(256, 64)
    found = gnelint.check(model, (x,))
    first = next(each for each in found.prediction.nodes if each.node.name == "first")
    assert first.gradient_log2 == pytest.approx(measured(model, x), abs=0.25)
    assert not [each for each in found.findings if each.rule == "GNE507"]


def test_what_runs_without_gradients_and_cannot_be_run_apart_is_not_known() -> None:
    found = gnelint.check(Block(emptied=True), (torch.randn(256, 64),)).findings
    assert {each.rule for each in found if each.severity != "info"} == {"GNE901"}


class Checkpointed(nn.Module):
    """A part that is run again in the backward pass, behind a layer or right at the input."""

    def __init__(self, behind: bool) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(64, 64), nn.ReLU()) if behind else nn.Identity()
        self.part, self.last = nn.Sequential(nn.Linear(64, 64), nn.ReLU()), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(checkpoint(self.part, self.first(x), use_reentrant=True))
        return found


def without_gradient(model: nn.Module, x: Tensor) -> set[str]:
    model(x).sum().backward()
    return {name.rpartition(".")[0] for name, parameter in model.named_parameters() if parameter.grad is None}


@pytest.mark.parametrize("behind", [True, False])
@pytest.mark.filterwarnings("ignore:None of the inputs")
def test_a_reentrant_checkpoint_passes_a_gradient_where_it_is_given_one(behind: bool) -> None:
    torch.manual_seed(0)
    model, x = Checkpointed(behind), torch.randn(16, 64)
    stuck = {each.nodes[0] for each in gnelint.check(model, (x,)).findings if each.rule == "GNE507"}
    assert stuck == without_gradient(model, x) == (set() if behind else {"part.0"})


def test_numbers_of_what_is_shaped_like_itself_are_read() -> None:
    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            return y.view_as(y) + y.expand_as(y) + y.type_as(y)

    assert not math.isnan(gnelint.check(Same(), (torch.randn(4, 8),)).prediction.nodes[0].gradient_log2 or math.nan)
