"""What is said to keep the function keeps it: networks drawn, edited and run before and after."""

from __future__ import annotations

import copy
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gnelint.fixing import Fixing, plan_fixes
from gnelint.lint.rulefile import load_rules
from gnelint.lint.selection import Settings
from gnelint.measure.onnx_on_torch.call import Settings as RunSettings
from gnelint.measure.onnx_on_torch.interpreter import open_interpreter
from gnelint.readers.onnx import read
from gnelint.readers.torch import read_module
from gnelint.writers.onnx import write_onnx
from gnelint.writers.torch_module import fixed_module
from tests.fixes.drawn_networks import BATCH, CHANNELS, SIDE, DrawnFile, DrawnModule
from tests.measure.onnx_on_torch.agreement import reference

RULES = [rule for rule in load_rules().rules if rule.fix is not None and rule.fix.safety == "preserving"]
CHOSEN = Settings(
    select=tuple(rule.id for rule in RULES),
    preview=True,
    stage="trained",
    params={"GNE508": {"layers": 2, "notice": 1}},
)
FIXING = Fixing(RULES, CHOSEN)
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
        worst = apart(*(reference(path, feeds) for path in (source, output)))
        found = []
        for path in (source, output):
            interpreter = open_interpreter(path, RunSettings(torch.device("cpu"), normalization="batch"))
            with torch.no_grad():
                found.append(interpreter.run({name: torch.from_numpy(array) for name, array in feeds.items()}))
        return +made, max(worst, apart(*found))


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
