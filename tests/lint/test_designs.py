"""Designs that are known to train: no rule, preview ones included, calls anything about them an error."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from tests.lint.judging import errors, findings_of
from tests.models import CASES, HELD_OUT, Case, designs
from tests.models import failures as made
from tests.models.convnext import convnext_tiny
from tests.models.resnet import resnet18, resnet50
from tests.models.transformer import gpt2, llama
from tests.models.vit import vit
from tests.sampling import is_sampled, slow_unless

PLAIN = ("a_", "b_", "c_", "d_", "e_", "plain_", "residual_conv")
"""Names of cases that are mistakes or their corrections; tests/lint/test_failures.py judges those."""

IMAGE, VECTORS, TOKENS = (4, 3, 64, 64), (32, 128), (2, 64)

ASKED_ELSEWHERE = frozenset({"densenet121"})
"""Large networks that test_rules.py checks as well."""

PUBLISHED = [
    pytest.param(case, id=name, marks=[pytest.mark.slow] if name in HELD_OUT or name in ASKED_ELSEWHERE else [])
    for name, case in (CASES | HELD_OUT).items()
    if not name.startswith(PLAIN)
]

FULL = (
    Case("resnet18 of 1000 classes", partial(resnet18, classes=1000, zero_init_residual=True), (2, 3, 224, 224)),
    Case("resnet50 of 1000 classes", partial(resnet50, classes=1000, zero_init_residual=True), (2, 3, 224, 224)),
    Case("ViT-S/16", partial(vit, image=224, patch=16, width=384, heads=6, classes=1000), (1, 3, 224, 224)),
    Case(
        "GPT-2 small", partial(gpt2, vocabulary=50257, context=1024, width=768, depth=12, heads=12), (1, 128),
        vocabulary=50257,
    ),
    Case(
        "Llama-like", partial(llama, vocabulary=4096, width=512, depth=16, heads=8, kv_heads=4), (1, 64),
        vocabulary=4096,
    ),
)  # fmt: skip

LOOK_WRONG = (
    Case("Fixup", designs.fixup, IMAGE),
    Case("Fixup, 50 blocks", partial(designs.fixup, depth=50, channels=24), IMAGE),
    Case("SkipInit", designs.skip_init, IMAGE),
    Case("SkipInit at 0.1", partial(designs.skip_init, scale=0.1), IMAGE),
    Case("ReZero", designs.rezero, VECTORS),
    Case("ReZero, 128 layers", partial(designs.rezero, depth=128), VECTORS),
    Case("LayerScale 1e-6", designs.layer_scale, (4, 16, 128)),
    Case("LayerScale 1e-5 at a class token", designs.class_token, (4, 16, 128)),
    Case("LayerScale 1e-4", partial(designs.layer_scale, scale=1e-4), (4, 16, 128)),
    Case("ConvNeXt-T at 1e-6", convnext_tiny, IMAGE),
    Case("bottlenecks by fan_out", designs.bottlenecks, (4, 128, 16, 16)),
    Case("residual bottlenecks by fan_out", designs.residual_bottlenecks, IMAGE),
    Case("projections scaled", partial(made.transformer, scaled=True), (4, 32, 256)),
    Case("projections scaled, 24 layers", partial(made.transformer, depth=24, width=128, scaled=True), (4, 32, 128)),
    Case("tied, logits scaled", designs.tied_scaled, TOKENS, vocabulary=1000),
    Case("small head", designs.small_head, IMAGE),
    Case("zero head", partial(designs.small_head, std=0.0), IMAGE),
    Case("last scale zero", partial(made.normalized_residual, last=0.0), (4, 32, 16, 16)),
    Case("pre-activation", partial(made.normalized_residual, order="pre", depth=40), (4, 32, 16, 16)),
)


def judge(case: Case, record_property: Callable[[str, object], None]) -> None:
    found = errors(findings_of(case.build, case.example_inputs()))
    record_property(f"design {case.name}", bool(found))
    assert found == []


@pytest.mark.parametrize("case", PUBLISHED)
def test_published_architectures(case: Case, record_property: Callable[[str, object], None]) -> None:
    judge(case, record_property)


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=slow_unless(is_sampled(case.name, 2))) for case in LOOK_WRONG]
)
def test_designs_that_look_wrong(case: Case, record_property: Callable[[str, object], None]) -> None:
    judge(case, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("case", FULL, ids=lambda case: case.name)
def test_architectures_at_their_size(case: Case, record_property: Callable[[str, object], None]) -> None:
    judge(case, record_property)


@pytest.mark.parametrize("case", LOOK_WRONG, ids=lambda case: case.name)
def test_they_do_pass_a_gradient(case: Case) -> None:
    """What is called good here sends its gradient to the first layer that reads the input, or has a zero last layer."""
    module = case.module()
    (inputs,) = case.example_inputs()
    if inputs.is_floating_point():
        inputs.requires_grad_()
    output = module(inputs)
    (gradient,) = torch.autograd.grad(output, _first_weight(module, inputs), torch.randn_like(output))
    zero_head = case.name in ("Fixup", "Fixup, 50 blocks", "zero head")
    assert bool(gradient.any()) != zero_head


def _first_weight(module: nn.Module, inputs: Tensor) -> Tensor:
    return inputs if inputs.is_floating_point() else next(module.parameters())
