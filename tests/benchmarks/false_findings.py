"""What gnelint says of networks that others wrote and that train: small configurations of transformers, all families.

    python -m tests.benchmarks.false_findings [--only NAME ...] [--limit N] [--seconds N] [--out FILE]
    python -m tests.benchmarks.false_findings --own

Runs in an environment of its own with transformers beside torch==2.13.0 (`pip install --no-deps transformers`, and what
it asks for but torch). Each family's configuration is made small, its model is drawn as the package draws it, and
checked as a module with the stable rules. Every error and warning is listed, to be judged by a person: the judgements
are kept in `JUDGED`, by rule and family. Written to reports/benchmarks/false_findings.json and .md.

With --own every network that one rule's tests or a report call right, and no rule's tests call wrong, is checked with
all other rules (no other package is needed). Their rows are kept in false_findings_own.json and in the same table;
In either form --only replaces the rows of those named.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import FrameType

import torch
from torch import nn

import gnelint
from gnelint.lint.rulefile import load_rules
from tests.benchmarks.small_models import SmallModel, transformers_models
from tests.lint.test_reports import ALL
from tests.models import CASES, network

OUT = Path(__file__).parents[2] / "reports" / "benchmarks" / "false_findings.json"
OWN = OUT.with_name("false_findings_own.json")

JUDGED: Mapping[tuple[str, str], str] = {
    ("GNE203", "bailing_hybrid"): "right: what the forget gate's sigmoid reads has the second moment 1061, measured",
    ("GNE901", "bailing_hybrid"): "right: `masked_fill` by a computed mask has no formula",
    ("GNE901", "bamba"): "right: `masked_fill` by a computed mask has no formula",
    ("GNE510", "canine"): "right: this head reads the pooled output alone, the final encoder is not used",
    ("GNE112", "cpmant"): "right: its configuration draws all weights with deviation 1",
    ("GNE705", "cvt"): "right: its drop_path is given the sum with the shortcut (CvtLayer), and zeroes whole samples",
    ("GNE307", "cvt"): "right: the last stage has maps of 1x1 and a batch of 2 here",
    ("GNE901", "deepseek_v4"): "right: `div` of what has no formula has none",
    ("GNE510", "deepseek_v4"): "right: 16 tokens are too few for its compressor, whose result is dropped",
    ("GNE101", "deimv2"): "right: its batch norms are frozen at 0 and 1, the signal falls by 2^34 over ten layers",
    ("GNE502", "deimv2"): "right: autograd measures 2^60 from its logits to the pixels",
    ("GNE307", "deimv2"): "right: the last stages have maps of 1x1 and a batch of 2 here",
    ("GNE510", "dpt"): "right: the last norm of its backbone is not read, nor the auxiliary head without labels",
    ("GNE307", "falcon_mamba"): "right: the norm of the step size is over 4 values in this configuration",
    ("GNE108", "funnel"): "right: its relative attention is drawn from U(0, 0.1), whose mean is 0.05",
    ("GNE203", "glm5_next_text"): "right: what the forget gate's sigmoid reads has the second moment 22.9, measured",
    ("GNE512", "glm5_next_text"): "right: of this width the two layers without an activation between them save nothing",
    ("GNE901", "glm5_next_text"): "right: `masked_fill` by a computed mask has no formula",
    ("GNE307", "hgnet_v2"): "right: the last stage has maps of 1x1 and a batch of 2 here",
    ("GNE502", "hgnet_v2"): "right: autograd measures the gradient's way through it within 0.7 bits of what is said",
    ("GNE507", "hy_v4"): "right: the indexer picks keys by top-k, and the output's gradient never reaches it",
    ("GNE307", "jamba"): "right: the norm of the step size is over 4 values in this configuration",
    ("GNE112", "muse_spark"): "right: the logits' second moment is 29.6, measured",
    ("GNE112", "muse_spark_text"): "right: the logits' second moment is 29.6, measured",
    ("GNE901", "olmo_hybrid"): "right: `masked_fill` by a computed mask has no formula",
    ("GNE901", "openai_privacy_filter"): "right: `index` and `index_add` by computed places have no formula",
    ("GNE411", "pegasus"): "right: tokens have the deviation 0.02, codes of positions 0.7, and nothing scales either",
    ("GNE307", "pp_lcnet"): "right: the last stages have maps of few values here",
    ("GNE512", "kimi_linear"): "right: of this width the two layers without an activation between them save nothing",
    ("GNE901", "kimi_linear"): "right: `masked_fill` by a computed mask has no formula",
    ("GNE901", "lara_mini"): "right: `masked_fill` by a computed mask has no formula",
    ("GNE901", "led"): "right: `where` by a computed condition has no formula",
    ("GNE901", "longformer"): "right: `where` by a computed condition has no formula",
    ("GNE411", "marian"): "right: tokens have the deviation 0.02, codes of positions 0.7, and nothing scales either",
    ("GNE901", "minicpm_ocr"): "right: `masked_fill` by a computed mask has no formula",
    ("GNE211", "mobilenet_v1"): "right: its configuration drops 999 of 1000 entries in front of the head",
    ("GNE307", "mobilenet_v1"): "right: the last stages have maps of few values here",
    ("GNE211", "mobilenet_v2"): "right: its configuration drops 4 of 5 entries in front of the head",
    ("GNE307", "mobilenet_v2"): "right: the last stages have maps of few values here",
    ("GNE307", "mobilevit"): "right: the last stages have maps of few values here",
    ("GNE309", "mobilevit"): "right: its initialiser draws the scales of batch normalisations about 0",
    ("GNE507", "mra"): "right: without its CUDA kernel the attention returns zeros, all that its last layer reads",
    ("GNE510", "mra"): "right: without its CUDA kernel the attention returns zeros",
    ("GNE309", "muse_glimmer"): "right: it multiplies by 1 + w, and w starts at 1",
    ("GNE309", "muse_glimmer_text"): "right: it multiplies by 1 + w, and w starts at 1",
    ("GNE901", "qwen3_5_moe_text"): "right: `masked_fill` by a computed mask has no formula",
    ("GNE901", "recurrent_gemma"): "right: its root has a backward of its own, which nothing describes",
    ("GNE901", "shieldgemma2"): "right: `index` by the places of two words has no formula as it is used there",
    ("GNE901", "xlstm"): "right: the maximum of two running logarithms has no formula",
    ("GNE903", "vits"): "right: predicted durations decide how long its sound is",
    # networks of tests/models
    ("GNE901", "likelihood"): "right: `div` of what has no formula has none",
    (
        "GNE401",
        "bounded_trunk",
    ): "right: autograd measures +7.0 bits; residual perceptrons of 20 such blocks end at 0.33, "
    "those that add nothing at first at 0.12, and SGD at 1e-2 diverges",
    ("GNE307", "few_values(norm='group')"): "right: three layers normalised in groups of 4 end at 0.38, of 64 at 0.17",
    ("GNE101", "half_mlp(gain=0.6, depth=60, bfloat16=True)"): "right: it is drawn to lose 88 bits, for GNE115",
    ("GNE501", "half_mlp(gain=0.6, depth=60, bfloat16=True)"): "right: it is drawn to lose 88 bits, for GNE115",
    ("GNE403", "last_norm(keep=0.0)"): "right: its shortcuts are multiplied by 0, for GNE402",
    ("GNE403", "last_norm(keep=0.8)"): "right: its shortcuts are multiplied by 0.8 twenty times, for GNE402",
    ("GNE523", "learnt_slots"): "right: slot attention divides by the sums over positions, this one does not",
    ("GNE304", "normalized_chain(skips=True)"): "right: its branches end in ReLU, for GNE312",
    ("GNE401", "residual_conv"): "right: autograd measures +24.1 bits",
    ("GNE502", "residual_conv"): "right: autograd measures +24.1 bits",
    ("GNE101", "vgg11"): "right: autograd measures -17.0 bits; torchvision draws it so",
    ("GNE101", "vgg16"): "right: torchvision draws it so, and its linear layers lose most",
    ("GNE901", "distilled"): "right: `where` between a number and a value has no formula",
    ("GNE901", "power_pool"): "right: a power that is no whole number has none about 0",
    ("GNE901", "reduced_units(how='power')"): "right: a power that is no whole number has none about 0",
    ("GNE901", "root_of_layer(guard='relu')"): "right: a root has none about 0",
    ("GNE901", "root_of_layer(guard='relu_epsilon')"): "right: a root has none about 0",
    ("GNE901", "root_of_layer(guard='softplus')"): "right: a root has none about 0",
    ("GNE901", "scaled_action"): "right: a logarithm has none about 0",
    ("GNE901", "squashed_action"): "right: a logarithm has none about 0",
    ("GNE901", "qwen3_5_text"): "right: `masked_fill` by a computed mask has no formula",
    ("GNE901", "qwen4_exp_text"): "right: `masked_fill` by a computed mask has no formula",
    ("GNE513", "prophetnet"): "right: (batch, position, gram, head) is viewed as (batch, gram, head, position)",
    ("GNE307", "regnet"): "right: the last stage has maps of 1x1 and a batch of 2 here",
    ("GNE502", "regnet"): "right: autograd measures 2^35 to 2^40 from the output to the input",
    ("GNE307", "resnet"): "right: the last stage has maps of 1x1 and a batch of 2 here",
    ("GNE510", "rf_detr"): "right: the last layer of its backbone is not read",
    ("GNE307", "rt_detr"): "right: the last stages have maps of 1x1 and a batch of 2 here",
    ("GNE307", "rt_detr_v2"): "right: the last stages have maps of 1x1 and a batch of 2 here",
    ("GNE309", "rt_detr"): "right: it draws the scales of its norms with deviation 0.01, as layers",
    ("GNE309", "rt_detr_v2"): "right: it draws the scales of its norms with deviation 0.01, as layers",
    ("GNE502", "rwkv"): "right: autograd measures 2^25 from the output to the embedding",
    ("GNE503", "rwkv"): "right: the first block reads embeddings of deviation 1e-4, which its first norm divides by",
    ("GNE501", "sam_hq_vision_model"): "right: as sam_vision_model",
    ("GNE501", "sam_vision_model"): "right: autograd measures 2^-135 from the output to the pixels, 2^-135 predicted",
    ("GNE510", "siglip"): "right: outputs are taken before the pooling head",
    ("GNE307", "swiftformer"): "right: the last stages have maps of 1x1 and a batch of 2 here",
    ("GNE501", "swiftformer"): "right: autograd measures 2^-18.5",
    ("GNE507", "swiftformer"): "right: its softmax runs over the last axis, which holds one score a token",
    ("GNE307", "textnet"): "right: the last stages have maps of 1x1 and a batch of 2 here",
    ("GNE403", "textnet"): "right: its shortcut is a batch norm, one of four operands of the sum",
    ("GNE307", "upernet"): "right: the last stage has maps of 1x1 and a batch of 2 here",
    ("GNE502", "upernet"): "right: autograd measures 2^53 to 2^60 from the output to the input",
    ("GNE510", "upernet"): "right: the auxiliary head is not read without labels",
    ("GNE507", "vits"): "right of what forward returns: durations are rounded there, their own loss is elsewhere",
    ("GNE505", "yolos"): "right: autograd gives the patches' weights 2^21 times the head layers' squared gradient",
    ("GNE610", "yoso"): "right: the derivative of acos is infinite where a key equals its query",
    ("GNE501", "zoedepth"): "right: autograd measures 2^-43 from the depths to the pixels, 2^-48 predicted",
    (
        "GNE531",
        "copied_blocks(wrong='shared')",
    ): "right: one block is used three times, which is what its argument asks",
    ("GNE113", "excited_maps(width=4, bias=-0.4)"): "right: the squeeze's biases start at -0.4, beyond what it reads",
    ("GNE101", "forks(gain=0.01, scaled=True)"): "right: the weights of these branches are a hundred times too small",
    ("GNE512", "identity_mixers"): "right: no activation stands behind the layers that start as the identity",
    ("GNE101", "masked_order"): "right: autograd measures 2^-14.9 from the outputs to the inputs, 2^-15.0 predicted",
    ("GNE512", "padded_offsets"): "right: queries and codes of offsets, both learnt, make one layer",
}
"""By rule and family: "right" or "false", and why."""


@dataclass(frozen=True)
class Row:
    """What was said of one family.

    Attributes:
        family: its `model_type`.
        model: the class.
        outcome: "checked", or why not: "not built", "not read", "too slow".
        findings: rule, severity, node and message of each error and warning.
        seconds: of the check.
        problem: of what was not checked.
    """

    family: str
    model: str
    outcome: str
    findings: tuple[tuple[str, str, str, str], ...] = ()
    seconds: float = 0.0
    problem: str = ""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=120, help="of the processor, for a network")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--own", action="store_true", help="the networks of tests/models instead")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.own:
        own(given.only, given.seconds)
        return
    rows: list[Row] = []
    for model in transformers_models(given.only):
        rows.append(checked(model, given.seconds))
        print(line(rows[-1]), flush=True)
        again = {row.family for row in rows}
        before = [row for row in kept(given.out) if row.family not in again] if given.only else []
        write((*before, *rows), given.out)
        if sum(row.outcome == "checked" for row in rows) >= given.limit:
            break
    print(summary(rows))


def own(only: Sequence[str], seconds: int) -> None:
    """Check the right networks of tests/models."""
    rows = []
    for name in only or right_networks():
        rows.append(
            checked(SmallModel("tests", name, name, (partial(_module, name),)), seconds, partial(_inputs, name))
        )
        if rows[-1].findings or rows[-1].outcome != "checked":
            print(line(rows[-1]), flush=True)
    print(summary(rows))
    names = set(right_networks())
    before = {row.family: row for row in kept(OWN) if only and row.family in names}
    rows = sorted((before | {row.family: row for row in rows}).values(), key=lambda row: row.family)
    OWN.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    write(kept(OUT), OUT)


def right_networks() -> list[str]:
    """What tests of rules and reports call right, and none of them wrong."""
    tests = [test for rule in load_rules().rules for test in rule.tests if ":" not in test["model"]]
    named = {test["model"] for test in tests if not test["findings"] and not test["model"].endswith(".onnx")}
    pairs = ALL
    wrong = {test["model"] for test in tests if test["findings"]} | {report.bad for report in pairs}
    right = {report.good for report in pairs if report.good and not report.loss}
    return sorted((named | right | set(CASES)) - wrong)


def _module(name: str) -> nn.Module:
    return network(name)[0]


def _inputs(name: str, model: nn.Module) -> tuple[torch.Tensor, ...]:
    half = any(parameter.dtype == torch.float16 for parameter in model.parameters())
    return tuple(each.half() if half and each.is_floating_point() else each for each in network(name)[1])


def kept(path: Path) -> list[Row]:
    """Rows as they were written."""
    if not path.exists():
        return []
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [Row(**{**row, "findings": tuple(tuple(each) for each in row["findings"])}) for row in rows]


def inputs(model: nn.Module) -> tuple[torch.Tensor]:
    """What its `forward` takes first: token ids or pixels."""
    if getattr(model, "main_input_name", "input_ids") == "pixel_values":
        return (torch.randn(2, 3, 32, 32),)
    return (torch.randint(3, 120, (2, 16)),)


def checked(small: SmallModel, seconds: int, given_by: Callable[[nn.Module], tuple[torch.Tensor, ...]] = inputs) -> Row:
    """Build and check one, within a time."""
    signal.signal(signal.SIGPROF, _stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)  # of the processor, however busy the machine is
    started, stage = time.perf_counter(), "not built"
    try:
        torch.manual_seed(0)
        model = small.builds[0]()
        stage = "not read"
        given = given_by(model)
        started = time.perf_counter()
        analysis = gnelint.check(model, given)
    except TimeoutError:
        return Row(small.family, small.name, "too slow")
    except Exception as error:
        return Row(small.family, small.name, stage, problem=f"{type(error).__name__}: {error}"[:160])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    said = tuple(
        (finding.rule, finding.severity, ", ".join(finding.nodes[:2]), finding.message[:200])
        for finding in analysis.findings
        if finding.severity in ("error", "warning")
    )
    return Row(small.family, small.name, "checked", said, time.perf_counter() - started)


def _stop(number: int, frame: FrameType | None) -> None:
    raise TimeoutError


def line(row: Row) -> str:
    """A row for the screen."""
    counts = Counter(f"{rule} {severity}" for rule, severity, _, _ in row.findings)
    said = ", ".join(f"{name} x{count}" for name, count in counts.items()) or row.problem or "nothing"
    return f"{row.family:<28}{row.outcome:<10}{row.seconds:6.1f} s  {said}"


def judgement(rule: str, family: str) -> str:
    """What a person said of a finding."""
    return JUDGED.get((rule, family), "not judged")


def summary(rows: Sequence[Row]) -> str:
    """The figures."""
    read = [row for row in rows if row.outcome == "checked"]
    told = [row for row in read if row.findings]
    false = [row for row in told if any(judgement(f[0], row.family).startswith("false") for f in row.findings)]
    errors = sum(any(f[1] == "error" for f in row.findings) for row in read)
    return (
        f"{len(rows)} families: {len(read)} checked, {len(told)} with an error or a warning ({errors} with an error), "
        f"{len(false)} of them judged false"
    )


def write(rows: Sequence[Row], out: Path) -> None:
    """The rows, and a table of what was said."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    lines = ["# What is said of small configurations of transformers", "", summary(rows), ""]
    lines += [*table(rows), "", "# What is said of the right networks of tests/models", "", summary(kept(OWN)), ""]
    lines += table(kept(OWN))
    out.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def table(rows: Sequence[Row]) -> list[str]:
    """What was said, and what a person says of it."""
    lines = ["| family | model | rule | severity | times | first | judged |", "|---|---|---|---|--:|---|---|"]
    for row in rows:
        grouped: dict[tuple[str, str], list[tuple[str, str, str, str]]] = {}
        for finding in row.findings:
            grouped.setdefault(finding[:2], []).append(finding)
        for (rule, severity), found in grouped.items():
            cells = (row.family, row.model, rule, severity, str(len(found)), found[0][2], judgement(rule, row.family))
            lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
