"""The monitor in a training loop: what it measures, what it warns of, and that it leaves no trace."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gnelint
from gnelint.errors import ModelError, UsageError
from gnelint.measure.loggers import writing
from gnelint.measure.monitor import GradientNormWarning, Monitor, Place, Plan, Reading, alerts
from tests.models import network


def train(module: nn.Module, inputs: tuple[Tensor, ...], steps: int = 1) -> None:
    for _ in range(steps):
        module.zero_grad()
        module(*inputs).square().sum().backward()


def chain(depth: int = 4, gain: float = 1.0) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential()
    for _ in range(depth):
        layer = nn.Linear(32, 32)
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        with torch.no_grad():
            layer.weight.mul_(gain)
        nn.init.zeros_(layer.bias)
        net.extend([layer, nn.ReLU()])
    return net.append(nn.Linear(32, 8))


def test_it_measures_what_autograd_says() -> None:
    net, x = chain(), torch.randn(16, 32)
    kept: list[Tensor] = []
    for place in (net[1], net):
        place.register_forward_hook(lambda module, args, output: output.retain_grad() or kept.append(output))
    with gnelint.monitor(net, every=1) as monitor:
        kept.clear()
        train(net, (x,))
    inner, end = (float(value.grad.double().square().sum()) for value in kept[-2:])
    assert monitor.history[0].gradients["1"] == pytest.approx(math.log2(inner / end), abs=1e-4)
    assert monitor.alerts == []


def test_a_bad_network_is_warned_of_in_the_blocks_that_the_check_names() -> None:
    module, inputs = chain(16, gain=0.4), (torch.randn(16, 32),)
    named = {finding.block for finding in gnelint.check(module, inputs).findings if finding.rule == "GNE101"}
    said = r"step 0: the gradient vanishes: 2\^\d+ .* GNE101 gain-mismatch"
    with pytest.warns(GradientNormWarning, match=said), gnelint.monitor(module) as monitor:
        train(module, inputs)
    assert set(monitor.alerts[0].parts) <= named


@pytest.mark.parametrize("model", ["plain_unet", "mlp"])
def test_nothing_is_said_of_a_good_network(model: str) -> None:
    module, inputs = network(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with gnelint.monitor(module) as monitor:
            train(module, inputs)
    assert len(monitor.history) == 1
    assert monitor.plan is not None
    predicted = [place.predicted for place in monitor.plan.places]
    assert all(bits is not None for bits in predicted)


def test_it_measures_one_pass_in_so_many_and_only_passes_that_train() -> None:
    net, x = chain(), torch.randn(4, 32)
    with gnelint.monitor(net, every=3) as monitor:
        train(net, (x,), 7)
        net.eval()
        net(x)
        net.train()
        with torch.no_grad():
            net(x)
    assert [reading.step for reading in monitor.history] == [0, 3, 6]


def test_it_leaves_no_hook_and_no_other_gradient() -> None:
    x = torch.randn(4, 32)
    watched, alone = chain(), chain()
    with gnelint.monitor(watched, every=2):
        train(watched, (x,), 3)
    train(alone, (x,))
    for one, other in zip(watched.parameters(), alone.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    assert all(not part._forward_hooks and not part._forward_pre_hooks for part in watched.modules())


class _Inner(nn.Module):
    """Gets its numbers by name, and hands them back in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.body = chain()

    def forward(self, *, pixels: Tensor) -> dict[str, Tensor]:
        return {"logits": self.body(pixels)}


def test_keywords_and_mappings() -> None:
    net = _Inner()
    with gnelint.monitor(net, every=1) as monitor:
        net(pixels=torch.randn(4, 32))["logits"].sum().backward()
    assert set(monitor.history[0].gradients) >= {"body.1", "body.3"}


class _WithLoss(nn.Module):
    """Returns its loss beside the logits that it is computed from, in an object."""

    def __init__(self) -> None:
        super().__init__()
        self.body = chain()

    def forward(self, x: Tensor) -> SimpleNamespace:
        logits = self.body(x)
        return SimpleNamespace(loss=1000.0 * logits.square().mean(), logits=logits)


def test_norms_are_relative_to_the_outputs_that_the_analysis_starts_at() -> None:
    torch.manual_seed(0)
    x, net = torch.randn(16, 32), _WithLoss()
    with gnelint.monitor(net, every=1) as monitor:
        net(x).loss.backward()
    with gnelint.monitor(net.body, every=1) as alone:
        net.body(x).square().mean().backward()
    assert monitor.history[0].gradients["body.3"] == pytest.approx(alone.history[0].gradients["3"], abs=1e-4)


class _Functions(nn.Module):
    """Its activations are functions: no module returns what the blocks begin at."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(depth))
        self.kept: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.kept = []
        for layer in self.layers:
            x = torch.relu(layer(x))
            self.kept.append(x)
        return x


def test_functions_between_layers_are_measured_where_a_layer_takes_what_they_give() -> None:
    net = _Functions(6)
    with gnelint.monitor(net, every=1) as monitor:
        output = net(torch.randn(16, 32))
        for value in net.kept:
            value.retain_grad()
        output.square().mean().backward()
    norms = [float(value.grad.double().square().sum()) for value in net.kept if value.grad is not None]
    assert monitor.history[0].gradients == {
        f"layers.{at + 1}:input": pytest.approx(math.log2(norms[at] / norms[-1]), abs=1e-4) for at in range(5)
    }
    assert all(not part._forward_hooks and not part._forward_pre_hooks for part in net.modules())


class _Formulas(nn.Module):
    """Whose parts are no modules at all."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(32, 32) / 4 for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = torch.relu(x @ weight)
        return x


def test_a_network_without_a_place_to_measure_is_told() -> None:
    net = _Formulas()
    monitor = gnelint.monitor(net)
    with pytest.warns(GradientNormWarning, match="at the output alone: no block begins"):
        train(net, (torch.randn(4, 32),))
    monitor.close()
    assert monitor.history[0].gradients == {}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
def test_scripted_modules() -> None:
    """They take no hooks; a part that is one is measured around."""
    with pytest.raises(ModelError, match="is a TorchScript module"):
        gnelint.monitor(torch.jit.script(chain()))
    net = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), torch.jit.script(chain()), nn.Linear(8, 8), nn.ReLU())
    with gnelint.monitor(net, every=1) as monitor:
        train(net, (torch.randn(16, 32),), 2)
    assert len(monitor.history) == 2
    assert "1" in monitor.history[0].gradients


def test_what_cannot_be_read_is_said_once_and_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise ModelError("Net", "cannot be traced", "Not this one.")

    monkeypatch.setattr("gnelint.api.check", refuse)
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    said = "the gradient is not monitored: Net: cannot be traced. Not this one."
    with pytest.warns(GradientNormWarning, match=re.escape(said)) as caught, gnelint.monitor(net, every=1):
        train(net, (torch.randn(2, 4),), 3)
    assert len(caught) == 1


def test_a_module_that_is_never_called_is_told() -> None:
    said = "was not called in training mode"
    with pytest.warns(GradientNormWarning, match=said), gnelint.monitor(chain()):
        pass


PLACES = (
    Place("a", ("A",), -3.0, ("GNE101 gain-mismatch (error)",)),
    Place("b", ("B",), -2.0),
    Place("c", ("C",), -1.0),
)


@pytest.mark.parametrize(
    ("gradients", "kind", "said"),
    [
        ((math.nan, 1.0, 1.0), "not finite", "the gradient at a is no finite number. The check says: GNE101"),
        ((-math.inf, -math.inf, 1.0), "zero", "no gradient arrives at b. The check of the start says nothing"),
        ((-30.0, -8.0, -4.0), "spread", "vanishes: 2^26"),
        ((30.0, 4.0, 4.0), "spread", "explodes: 2^26"),
        ((-9.0, -2.0, -1.0), "part", "A multiplies the squared gradient norm by 2^-7.0 (2^-1.0 was predicted"),
    ],
)
def test_what_is_said(gradients: tuple[float, ...], kind: str, said: str) -> None:
    reading = Reading(40, dict(zip("abc", gradients, strict=True)))
    first = alerts(reading, Plan(PLACES))[0]
    assert first.kind == kind
    assert first.text.startswith("step 40: ")
    assert said in first.text


def test_even_norms_are_no_alert() -> None:
    assert alerts(Reading(0, {"a": 1.0, "b": -2.0, "c": 0.5}), Plan(PLACES)) == []


class _Writer:
    """Records what loggers of three kinds would be told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.told.append((name, value, step))


def test_numbers_go_to_the_logger_that_is_there() -> None:
    writer = _Writer()
    writing(writer)({"a": 1.0}, 7)
    assert writer.told == [("a", 1.0, 7)]
    told: list[tuple[Mapping[str, float], int]] = []
    net = chain()
    with gnelint.monitor(net, every=1, logger=lambda metrics, step: told.append((metrics, step))) as monitor:
        train(net, (torch.randn(4, 32),))
    assert isinstance(monitor, Monitor)
    assert told[0][0]["gnelint/spread_log2"] == monitor.history[0].spread
    with pytest.raises(UsageError, match="logger: int is not known"):
        writing(3)


def test_no_step_is_a_mistake() -> None:
    with pytest.raises(UsageError, match="every: 0 steps"):
        gnelint.monitor(chain(), every=0)
