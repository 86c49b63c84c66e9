"""Public reports of training that failed, rebuilt small: the cause is named at its place, and the correction is silent.

tests/models/reports.md says where each was reported, what people saw and what it was.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

import gnelint
from gnelint.lint.finding import Finding
from tests.models import network


@dataclass(frozen=True)
class Report:
    """A mistake and its correction.

    Attributes:
        bad, good: as `tests.models.network` names them.
        rule: that names the cause.
        node: a pattern for the first node of one of its findings; "" where it is about the whole network.
        says: a pattern in its message.
        loss: what stands behind the output, where the report is about that.
    """

    bad: str
    good: str
    rule: str
    node: str
    says: str = ""
    loss: str | None = None

    def __str__(self) -> str:
        return f"{self.rule}-{self.bad}"


def changed(name: str, rule: str, node: str, says: str = "", loss: str | None = None) -> Report:
    """A network of tests/models/reported.py."""
    return Report(f"{name}(wrong=True)", name, rule, node, says, loss)


KNOWN = (
    changed("norms_plus_one", "GNE309", "scale"),
    changed("norms_of_zeros", "GNE309", "scale"),
    Report("low_rank(zeros='both')", "low_rank", "GNE507", "0.linear", "all zero and never move either"),
    Report("small_classifier(head='twice')", "small_classifier", "GNE511", "5"),
    Report("rectified_regressor(bias=-4.0)", "rectified_regressor", "GNE204", "2"),
    Report("normalized_convs(scale=0.2)", "normalized_convs", "GNE309", ""),
    Report("weight_normed_branch(zero='direction')", "weight_normed_branch", "GNE602", "last"),
    Report("causal_attention(diagonal=0)", "causal_attention", "GNE601", "matmul"),
    Report("sine_network(first='hidden')", "sine_network", "GNE209", "0"),
    Report("token_codes(scale=1.0)", "token_codes", "GNE411", "embedding"),
    changed("lone_output", "GNE204", "4"),
    changed("encoder_without_gradient", "GNE507", "image.0", "stops the gradient"),
    changed("zero_gated", "GNE403", "add", "together by 2\\^-inf"),
    changed("scaled_residuals", "GNE412", "add", "Scale the branch alone"),
    changed("drawn_about", "GNE108", "0", "have mean 0.1"),
    changed("no_shortcuts", "GNE102", "stem"),
    Report("dropped_layers(used=False)", "dropped_layers", "GNE510", "", "convs"),
    Report("hypernetwork(default=True)", "hypernetwork", "GNE116", ""),
    changed("hard_choice", "GNE507", "choose.0", "derivative of table"),
    Report("own_norms(power=2.0)", "own_norms", "GNE313", "0.norm"),
    Report("gates_of_zero(zeros='both')", "gates_of_zero", "GNE507", "0"),
    Report("root_of_layer(guard='behind')", "root_of_layer", "GNE604", "sqrt"),
    Report("spatial_transformer(zero=False)", "spatial_transformer", "GNE117", "theta"),
    Report("sequence_classifier(forget=0.0)", "sequence_classifier", "GNE210", "lstm"),
    Report("half_norm(epsilon=1e-12)", "half_norm", "GNE603", "scale"),
    Report("small_classifier(activation=False)", "small_classifier", "GNE512", "0"),
    changed("summed_messages", "GNE413", "reduce_sum"),
    changed("neighbourhoods", "GNE414", "linear"),
    Report("listed_layers(registered=False)", "listed_layers", "GNE509", "linear", "layers.0"),
)
"""Of the kinds of the 29 pairs that the issue gives."""

FURTHER = (
    changed("batch_axis_encoder", "GNE514", "layers.0.self_attn.attention"),
    changed("merged_heads", "GNE513", "0.reshape", "an axis of 12"),
    changed("pooled_over_batch", "GNE514", "softmax"),
    changed("pooled_over_one", "GNE507", "score", "runs over a single entry"),
    changed("scorer", "GNE516", "2", "applies its own sigmoid", "bce_with_logits"),
    changed("classes", "GNE516", "2", "applies its own log-softmax", "cross_entropy"),
    changed("rectified_logits", "GNE518", "2"),
    changed("copied_features", "GNE507", "encoder.0", "stops the gradient"),
    changed("unit_features", "GNE606", "mul"),
    changed("unit_embedding", "GNE606", "div"),
    changed("perceptual_features", "GNE606", "div"),
    changed("pooled_statistics", "GNE608", "reduce_mean"),
    changed("pooled_moments", "GNE604", "sqrt"),
    changed("angle", "GNE610", "acos"),
    changed("neighbour_means", "GNE607", "scale", "3 of its constants"),
    changed("half_squares", "GNE609", "scale", "float16"),
    changed("copied_experts", "GNE519", "experts.1.0", "weights of experts.0.0"),
    changed("converted_parameter", "GNE509", "bias", "offset"),
    changed("frames_classifier", "GNE514", "lstm"),
    changed("token_decoder", "GNE515", "matmul", "its mask hides the earlier ones"),
    changed("leaking_decoder", "GNE515", "mix", "before it hides them"),
    changed("rounded_code", "GNE507", "encoder.0", "derivative of step"),
    changed("multiplied_branches", "GNE415", "mul"),
    changed("text_pyramid", "GNE521", "", "blocks.2"),
    changed("contrastive", "GNE520", "matmul", "2.72"),
    changed("latent_attention", "GNE112", "matmul"),
    changed("constant_start", "GNE110", "0"),
    changed("normalised_vector", "GNE307", "3"),
    changed("utterance_norm", "GNE313", "div", "power 0.5"),
    changed("unread_condition", "GNE522", "", "condition"),
    changed("plain_memory", "GNE210", "rnn"),
    changed("exponential", "GNE609", "exp"),
)
"""Found since, see reports.md."""


def said(model: str, loss: str | None) -> list[Finding]:
    """Errors and warnings but those about what gnelint cannot see."""
    module, inputs = network(model)
    findings = gnelint.check(module, inputs, loss=loss).findings
    return [each for each in findings if each.severity in ("error", "warning") and not each.rule.startswith("GNE9")]


@pytest.mark.parametrize("report", [*KNOWN, *FURTHER], ids=str)
def test_the_cause_is_named_at_its_place(report: Report) -> None:
    found = [each for each in said(report.bad, report.loss) if each.rule == report.rule]
    assert any(
        re.search(report.says, each.message) and (not report.node or re.match(report.node, each.nodes[0]))
        for each in found
    ), found


@pytest.mark.parametrize(
    "report", list({each.good: each for each in (*KNOWN, *FURTHER)}.values()), ids=lambda each: each.good
)
def test_the_correction_is_blamed_for_nothing(report: Report) -> None:
    assert said(report.good, report.loss) == []
