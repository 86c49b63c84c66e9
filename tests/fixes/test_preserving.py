"""What is said to keep the function keeps it: networks drawn, edited and run before and after."""

from __future__ import annotations

import copy
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gnelint.fixes.planning import FixRequest, plan_fixes
from gnelint.lint.rulefile import load_rules
from gnelint.lint.selection import Settings
from gnelint.measure.onnx_on_torch.call import Settings as RunSettings
from gnelint.measure.onnx_on_torch.interpreter import open_interpreter
from gnelint.readers.onnx.reader import read
from gnelint.readers.torch.reader import read_module
from gnelint.writers.onnx.writer import write_onnx
from gnelint.writers.torch.module import fixed_module
from tests.fixes.drawn_networks import BATCH, CHANNELS, SIDE, DrawnFile, DrawnModule
from tests.measure.onnx_on_torch.agreement import reference

RULES = [
    rule for rule in load_rules().rules if rule.program.fix is not None and rule.program.fix.safety == "preserving"
]
CHOSEN = Settings(
    select=tuple(rule.id for rule in RULES),
    preview=True,
    stage="trained",
    params={"GNE508": {"layers": 2, "notice": 1}},
)
FIXING = FixRequest(RULES, CHOSEN)
KEPT = 1e-5
"""The largest difference that counts as rounding, over the output's deviation."""

Outcome = tuple[Counter[str], float]
"""The edits made, by rule, and the largest difference over the deviation of an output in any form."""


def of_file(seed: int) -> Outcome:
    """A drawn file, run by ONNX Runtime as it says and by the interpreter with the statistics of the batch."""
    drawn = DrawnFile(seed)
    with tempfile.TemporaryDirectory() as folder:
        source, output = drawn.save(Path(folder)), Path(folder, "fixed.onnx")
        graph = read(source)
        plan = plan_fixes(graph, FIXING)
        unmade = write_onnx(source, plan.edits, output, graph=graph)
        made = Counter(edit.rule for edit in plan.edits)
        made.subtract(each.edit.rule for each in unmade)
        feeds = {"x": np.random.default_rng(seed).standard_normal(drawn.shape).astype(np.float32)}
        before, after = (reference(path, feeds) for path in (source, output))
        batch = [interpreted(path, feeds, "batch") for path in (source, output)]
        worst = max(apart(before, after), apart(*batch))
        if worst >= KEPT and worst <= 2 * apart(before, interpreted(source, feeds, "file")):
            worst = 0.0  # two runtimes differ as much on the file as it was: a channel without spread enlarges rounding
        return +made, worst


def interpreted(path: Path, feeds: dict[str, np.ndarray], normalization: Any) -> dict[Any, Any]:
    """What the interpreter computes of a file."""
    interpreter = open_interpreter(path, RunSettings(torch.device("cpu"), normalization=normalization))
    with torch.no_grad():
        return dict(interpreter.run({name: torch.from_numpy(array) for name, array in feeds.items()}))


def of_module(seed: int) -> Outcome:
    """A drawn module that has seen some batches, run in both modes; in double precision, so that no rounding hides."""
    module = DrawnModule(seed).double()
    shape = (BATCH, CHANNELS, SIDE, SIDE)
    with torch.no_grad():
        for _ in range(3):
            module(torch.randn(shape).double() + 1)
    x = torch.randn(shape).double()
    graph = read_module(module, (x,), name="drawn")
    plan = plan_fixes(graph, FIXING)
    fixed, unmade = fixed_module(module, plan.edits, graph)
    assert unmade == ()
    worst = 0.0
    for training in (True, False):
        outputs = []
        for net in (module, fixed):
            torch.manual_seed(seed)
            with torch.no_grad():
                y = copy.deepcopy(net).train(training)(x)
            outputs.append(dict(enumerate(y if isinstance(y, tuple) else (y,))))
        worst = max(worst, apart(*outputs))
    return Counter(edit.rule for edit in plan.edits), worst


def apart(before: dict[Any, Any], after: dict[Any, Any]) -> float:
    """The largest difference over the deviation of an output."""
    worst = 0.0
    for name, array in before.items():
        one, other = (np.asarray(each, np.float64) for each in (array, after[name]))
        assert np.isfinite(one).all() == np.isfinite(other).all()
        worst = max(worst, float(np.abs(one - other).max() / max(one.std(), 1e-6)))
    return worst


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_a_drawn_file_computes_the_same(seed: int) -> None:
    made, worst = of_file(seed)
    assert worst < KEPT, made


@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_a_drawn_module_computes_the_same(seed: int) -> None:
    made, worst = of_module(seed)
    assert worst < KEPT, made


@pytest.mark.slow
def test_many_drawn_networks_compute_the_same_and_many_of_them_are_edited() -> None:
    outcomes = [of_file(seed) for seed in range(400)] + [of_module(seed) for seed in range(80)]
    assert max(worst for _, worst in outcomes) < KEPT
    edited = Counter(rule for made, _ in outcomes for rule in made)
    assert edited["GNE310"] > 100
    assert edited["GNE508"] > 20


class Chain(nn.Module):
    """Four uneven linear layers, put together by a function."""

    def __init__(self, forward: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.function = forward
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        for layer, size in zip(self.layers, (8.0, 0.2, 3.0, 0.1), strict=True):
            layer.weight.data.mul_(size)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def through(net: Any, x: Tensor, *indices: int) -> Tensor:
    for index in indices:
        x = F.relu(net.layers[index](x))
    return x


def moved(module: nn.Module, x: Tensor) -> tuple[int, float]:
    """How many tensors the moved scale changes, and what that does to the outputs in training mode."""
    graph = read_module(module, (x,), name="chain")
    plan = plan_fixes(graph, FIXING)
    fixed, unmade = fixed_module(module, plan.edits, graph)
    assert unmade == ()
    outputs = []
    for net in (module, fixed):
        torch.manual_seed(1)
        y = net.train()(x)
        outputs.append({i: each.detach().double() for i, each in enumerate(y if isinstance(y, tuple) else (y,))})
    return len(plan.edits), apart(*outputs)


STOPS: dict[str, tuple[int, Callable[[Any, Tensor], Any]]] = {
    "nothing": (8, lambda s, x: through(s, x, 0, 1, 2, 3)),
    "dropout": (8, lambda s, x: through(s, F.dropout(through(s, x, 0, 1), 0.3, s.training), 2, 3)),
    "an output": (0, lambda s, x: (lambda h: (through(s, h, 2, 3), h))(through(s, x, 0, 1))),
    "a clip": (0, lambda s, x: F.relu6(s.layers[1](F.relu6(s.layers[0](x))))),
    "alpha dropout": (0, lambda s, x: through(s, F.alpha_dropout(through(s, x, 0), 0.3, s.training), 1)),
    "a weight read twice": (0, lambda s, x: through(s, x, 0, 1, 2, 3) + s.layers[1].weight.mean()),
    "a weight returned": (0, lambda s, x: (through(s, x, 0, 1, 2, 3), s.layers[1].weight.norm(dim=1))),
}


@pytest.mark.parametrize("name", STOPS)
def test_scale_moves_as_far_as_the_function_lets_it(name: str) -> None:
    count, forward = STOPS[name]
    made, difference = moved(Chain(forward), torch.randn(32, 16))
    assert difference < KEPT
    assert made == count


def test_scale_of_narrow_types_moves_by_powers_of_two() -> None:
    module = Chain(STOPS["nothing"][1]).bfloat16()
    made, difference = moved(module, torch.randn(32, 16).bfloat16())
    assert (made, difference) == (8, 0.0)
