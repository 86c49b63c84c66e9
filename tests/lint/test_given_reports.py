"""The pairs of ../shared/reports.py, where a checkout has them beside it: causes at their places, corrections silent.

`test_reports.py` has siblings of all of them.
"""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import gnelint
from gnelint.lint.finding import Finding

PAIRS = Path(__file__).parents[3] / "shared" / "reports.py"

CAUSES = {
    "argmax_between": ("GNE507", r"first\.0"),
    "bias_kill": ("GNE208", r"layers\.2"),
    "bn_gamma_zero": ("GNE309", r"bn0"),
    "causal_mask": ("GNE601", r"matmul"),
    "detached_encoder": ("GNE507", r"encoder\.0"),
    "double_softmax": ("GNE511", r"softmax"),
    "egnn_sum": ("GNE413", r"reduce_sum"),
    "gate_two_zeros": ("GNE507", r"g1\.0"),
    "gcn_smooth": ("GNE414", r"linear"),
    "gemma_norm": ("GNE309", r"norms\."),
    "half_eps": ("GNE603", r"scale"),
    "hypernet": ("GNE116", r"hyper\.0"),
    "lora_zero": ("GNE507", r"layers\.0\.linear"),
    "lstm_forget": ("GNE210", r"lstm"),
    "no_activation": ("GNE512", r"fc1"),
    "no_skip": ("GNE535", r"c1-2\.0-7 are blocks"),
    "norm_squared": ("GNE313", r"norm\.0\.div"),
    "plain_list": ("GNE509", r"linear"),
    "pos_drown": ("GNE411", r"emb"),
    "relu_output": ("GNE204", r"out"),
    "rezero_side": ("GNE403", r"add"),
    "rms_zero": ("GNE309", r"norms\."),
    "scale_after_sum": ("GNE412", r"add"),
    "siren_first": ("GNE209", r"layers\.0"),
    "std_as_mean": ("GNE108", r"layers\.0"),
    "stn_init": ("GNE117", r"theta"),
    "unused_layer": ("GNE510", r"No output depends on convs\.0-3"),
    "weight_norm_zero": ("GNE602", r"b$"),
    "where_sqrt": ("GNE604", r"sqrt"),
}
"""By pair: the rule that names the cause, and a pattern for the first node of one of its findings (or the beginning of
the message, where it is about the whole network)."""


@cache
def _pairs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("given_reports", PAIRS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def said(name: str) -> list[Finding]:
    """Errors and warnings but those about what gnelint cannot see."""
    module, inputs = getattr(_pairs(), name)()
    findings = gnelint.check(module, inputs).findings
    return [each for each in findings if each.severity in ("error", "warning") and not each.rule.startswith("GNE9")]


@pytest.mark.slow
@pytest.mark.skipif(not PAIRS.is_file(), reason="no shared folder beside this checkout")
@pytest.mark.parametrize("name", CAUSES)
def test_the_cause_is_named_and_the_correction_silent(name: str) -> None:
    rule, place = CAUSES[name]
    found = [each for each in said(f"{name}_bad") if each.rule == rule]
    assert any(re.match(place, each.nodes[0] if each.nodes else each.message) for each in found), found
    assert said(f"{name}_ok") == []
