"""Failures that people reported, and cases like them: the mistake is flagged, its correction is not called an error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from tests.lint.judging import errors, findings_of
from tests.models import failures as made
from tests.models import side_by_side
from tests.sampling import is_sampled, slow_unless

VECTORS, PLANES, TOKENS = (64, 256), (8, 32, 16, 16), (4, 32, 256)


@dataclass(frozen=True)
class Row:
    """A mistake and its correction.

    Attributes:
        name: the row of failures.md, with a word if there are several.
        shape: of the input.
        bad, good: make the networks.
        rules: ids or prefixes one of which must speak of the bad one.
        mode, good_mode: in which they are read.
        vocabulary: for networks that read tokens.
        severity: that one of those findings must have; None for any.
    """

    name: str
    shape: tuple[int, ...]
    bad: Callable[[], nn.Module]
    good: Callable[[], nn.Module]
    rules: tuple[str, ...]
    mode: str = "train"
    good_mode: str = "train"
    vocabulary: int | None = None
    severity: str | None = None

    def inputs(self) -> tuple[Tensor, ...]:
        """What the networks read."""
        generator = torch.Generator().manual_seed(0)
        if self.vocabulary is not None:
            return (torch.randint(self.vocabulary, self.shape, generator=generator),)
        return (torch.randn(self.shape, generator=generator),)


def dropout(kind: type[nn.Module], p: float) -> Callable[[], nn.Module]:
    """SELU layers with this dropout behind each."""
    return partial(made.selu_dropout, dropout=partial(kind, p))


GAIN = ("GNE1",)
TABLE = (
    Row("F01", PLANES, partial(made.convs, init="default"), made.convs, ("GNE102",), severity="error"),
    Row("F02", VECTORS, partial(made.linears, init="xavier"), made.linears, GAIN, severity="error"),
    Row(
        "F03", VECTORS, partial(made.linears, init="xavier", act=nn.Sigmoid),
        partial(made.linears, init="lecun", act=nn.Tanh), ("GNE202",), severity="error",
    ),
    Row(
        "F04", VECTORS, partial(made.linears, init="lecun", gain=5 / 3, act=nn.Tanh),
        partial(made.linears, init="lecun", act=nn.Tanh), ("GNE1", "GNE2"),
    ),
    Row(
        "F06", VECTORS, partial(made.linears, act=nn.SELU), partial(made.linears, init="lecun", act=nn.SELU),
        ("GNE107",),
    ),
    Row("F07 dropout", VECTORS, dropout(nn.Dropout, 0.2), dropout(nn.Dropout, 0.0), ("GNE205",)),
    Row("F07 alpha", VECTORS, dropout(nn.AlphaDropout, 0.2), dropout(nn.AlphaDropout, 0.05), ("GNE205",)),
    Row("F08 a=0", VECTORS, partial(made.leaky, slope=0.2, a=0), partial(made.leaky, slope=0.2, a=0.2), ("GNE106",)),
    Row(
        "F08 a=sqrt5", VECTORS, partial(made.leaky, slope=0.01, a=5**0.5), partial(made.leaky, slope=0.01, a=0.01),
        ("GNE106",), severity="error",
    ),
    Row("F10", (8, 8, 16, 16), partial(made.widening, init="he_out"), partial(made.widening, init="he"), ("GNE103",)),
    Row(
        "F11", PLANES, partial(made.convs, groups=32, init="he_out"), partial(made.convs, groups=32),
        ("GNE104",), severity="error",
    ),
    Row("F14", PLANES, made.residual, partial(made.residual, first=20**-0.5), ("GNE4",), severity="error"),
    Row("F14 fixup", PLANES, made.residual, partial(made.residual, first=20**-0.5, last=0.0), ("GNE4",)),
    Row(
        "F15", PLANES, partial(made.normalized_residual, order="behind"),
        partial(made.normalized_residual, order="pre"), ("GNE302",),
    ),
    Row("F16", TOKENS, partial(made.transformer, post=True), made.transformer, ("GNE303",)),
    Row(
        "F16 deepnorm", TOKENS, partial(made.transformer, post=True),
        partial(made.transformer, post=True, alpha=24**0.25, beta=96**-0.25), ("GNE303",),
    ),
    Row(
        "F17", PLANES, made.normalized_residual, partial(made.normalized_residual, last=0.0), ("GNE402",),
    ),
    Row("F18", TOKENS, made.transformer, partial(made.transformer, scaled=True), ("GNE405",)),
    Row(
        "F21", (2, 16), made.language, partial(made.language, std=512**-0.5), ("GNE1", "GNE5"), vocabulary=4096,
    ),
    Row(
        "F21 tied", (2, 16), partial(made.language, tied=True), partial(made.language, tied=True, scale=512**-0.5),
        ("GNE1", "GNE5"), vocabulary=4096,
    ),
    Row("F22 none", TOKENS, partial(made.attention, scale="none"), made.attention, ("GNE112",)),
    Row("F22 reversed", TOKENS, partial(made.attention, scale="reversed"), made.attention, ("GNE112",)),
    Row("F22 behind", TOKENS, partial(made.attention, scale="behind"), made.attention, ("GNE112",)),
    Row("F24", (4, 3, 32, 32), partial(made.vgg, std=0.01), made.vgg, GAIN, severity="error"),
    Row(
        "F25", PLANES, partial(made.convs, init="default", norm=nn.BatchNorm2d),
        partial(made.convs, init="default", norm=nn.BatchNorm2d), ("GNE308",), mode="eval",
    ),
    Row(
        "F25 He", PLANES, partial(made.convs, init="default", norm=nn.BatchNorm2d),
        partial(made.convs, norm=nn.BatchNorm2d), ("GNE308",), mode="eval", good_mode="eval",
    ),
    Row("F27", VECTORS, partial(made.weight_norm, g=1.0), partial(made.weight_norm, g=2**0.5), ("GNE305",)),
    Row(
        "F28 1", PLANES, partial(made.standardized, gamma=1.0), partial(made.standardized, gamma=2**0.5),
        ("GNE306",),
    ),
    Row(
        "F28 1.7139", PLANES, partial(made.standardized, gamma=1.7139), partial(made.standardized, gamma=2**0.5),
        ("GNE306",),
    ),
    Row("F30", VECTORS, made.normalized_linears, partial(made.normalized_linears, skips=True), ("GNE312",)),
    Row("F30 shallow", VECTORS, made.normalized_linears, partial(made.normalized_linears, depth=5), ("GNE312",)),
)  # fmt: skip

SIDE_BY_SIDE = (
    Row("A", (4, 3, 16, 16), side_by_side.a_bad, side_by_side.a_ok, ("GNE101",), severity="error"),
    Row("A double", (4, 3, 16, 16), side_by_side.a_double, side_by_side.a_ok, ("GNE101",), severity="error"),
    Row("B", (4, 3, 16, 16), side_by_side.b_bad, side_by_side.b_ok, ("GNE401",), severity="error"),
    Row("C", VECTORS, side_by_side.c_bad, side_by_side.c_ok, ("GNE202",), severity="error"),
    Row("D", (4, 3, 16, 16), side_by_side.d_bad, side_by_side.a_ok, ("GNE102",), severity="error"),
    Row("E", (4, 3, 16, 16), side_by_side.e_bad, side_by_side.a_ok, ("GNE101",), severity="error"),
)

MORE = (
    Row(
        "nested GELU", (32, 144), partial(made.nested_gelu, factor=0.7), partial(made.nested_gelu, factor=1.481),
        GAIN, severity="error",
    ),
    Row(
        "audio", (4, 48, 64), partial(made.audio, init="default"), partial(made.audio, init="he"), GAIN,
        severity="error",
    ),
    Row(
        "separable", (4, 24, 16, 16), partial(made.separable, fan="out"), partial(made.separable, fan="in"),
        ("GNE104",), severity="error",
    ),
    Row(
        "orthogonal", (64, 160), partial(made.orthogonal, gain=1.0), partial(made.orthogonal, gain=2**0.5),
        GAIN, severity="error",
    ),
    Row(
        "decoder", (4, 16, 8, 8), partial(made.decoder, stride_aware=False), partial(made.decoder, stride_aware=True),
        ("GNE105",),
    ),
    Row("shifted", (64, 200), partial(made.shifted, mean=0.2), partial(made.shifted, mean=0.0), GAIN),
    Row("constant", (64, 100), partial(made.constant, value=0.01), partial(made.constant, value=None), GAIN),
    Row("cut", (64, 80), partial(made.cut, zero=True), partial(made.cut, zero=False), ("GNE1", "GNE5")),
    Row(
        "residual MLP", (64, 96), made.residual_mlp, partial(made.residual_mlp, last=24**-0.5), ("GNE4",),
        severity="error",
    ),
    Row(
        "tanh saturated", (64, 128), partial(made.tanh_saturated, gain=8.0), partial(made.tanh_saturated, gain=1.2),
        ("GNE1", "GNE2"),
    ),
    Row("dead", (64, 128), partial(made.dead_bias, bias=-3.0), partial(made.dead_bias, bias=0.0), ("GNE204",)),
    Row(
        "deep sigmoid", PLANES, partial(made.convs, depth=12, init="lecun", gain=2.0, act=nn.Sigmoid),
        partial(made.convs, depth=12, act=nn.ReLU), ("GNE202",), severity="error",
    ),
    Row(
        "post-norm, 24 layers", (4, 16, 64), partial(made.transformer, depth=24, width=64, heads=2, post=True),
        partial(made.transformer, depth=24, width=64, heads=2, scaled=True), ("GNE303",),
    ),
    Row(
        "unscaled GPT", (4, 32, 192), partial(made.transformer, depth=24, width=192, std=0.05),
        partial(made.transformer, depth=24, width=192, std=0.05, scaled=True), ("GNE405",),
    ),
    Row(
        "small softmax", (4, 24, 96), partial(made.attention, scale="reversed", width=96),
        partial(made.attention, width=96), ("GNE112",),
    ),
    Row(
        "loud head", (2, 16), partial(made.language, width=192, vocabulary=900, std=0.6),
        partial(made.language, width=192, vocabulary=900, std=0.02), ("GNE1", "GNE5"), vocabulary=900,
    ),
)  # fmt: skip

ROWS = (*TABLE, *SIDE_BY_SIDE, *MORE)

MISSED: dict[str, str] = {}
"""What no rule catches, and why; an entry that is caught fails, so that it is taken out."""


SAMPLED = 3
"""Of about so many rows the quick run asks one; test_rules.py and test_reports.py ask rules about their likes."""


def marked(row: Row) -> object:
    """The row, expected to fail if it is one of those that are missed."""
    missed = [pytest.mark.xfail(strict=True, reason=MISSED[row.name])] if row.name in MISSED else []
    return pytest.param(row, id=row.name, marks=[*missed, *slow_unless(is_sampled(row.name, SAMPLED))])


@pytest.mark.parametrize("row", [marked(row) for row in ROWS])
def test_the_mistake_is_flagged(row: Row, record_property: Callable[[str, object], None]) -> None:
    found = [
        finding
        for finding in findings_of(row.bad, row.inputs(), row.mode)
        if finding.rule.startswith(row.rules) and row.severity in (None, finding.severity)
    ]
    record_property(f"failure {row.name}", not found)
    assert found


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=row.name, marks=slow_unless(is_sampled(row.name, SAMPLED))) for row in ROWS]
)
def test_the_correction_is_no_error(row: Row, record_property: Callable[[str, object], None]) -> None:
    found = errors(findings_of(row.good, row.inputs(), row.good_mode))
    record_property(f"design correction of {row.name}", bool(found))
    assert found == []
