"""Predicted against measured gradient norms, layer by layer.

    python -m tests.benchmarks.accuracy                  the seven architectures
    python -m tests.benchmarks.accuracy --all --seeds 3  every fixture network
    python -m tests.benchmarks.accuracy --held-out       those that nothing was developed on
    python -m tests.benchmarks.accuracy --deep           plain stacks of 50 and 100 layers, each activation
    python -m tests.benchmarks.accuracy --vision         designs from papers, of which every third is kept unseen
    python -m tests.benchmarks.accuracy --case resnet50  one of them
    python -m tests.benchmarks.accuracy --layers vit     every layer of one, side by side
    python -m tests.benchmarks.accuracy --onnx           also: the same network read from ONNX, layer by layer

Autograd measures the squared norm of the gradient at every value of the traced graph, for an isotropic cotangent at the
output, inputs N(0, 1), training mode, dropout neutral. Errors are |log2(predicted / measured)|: one
bit is a factor of two. A layer without a prediction counts as infinitely wrong.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gnelint.analysis.prediction import NodePrediction, Prediction
from gnelint.analysis.propagation import analyse
from gnelint.measure.program import RunSettings
from gnelint.measure.regions.sampler import TorchSampler
from gnelint.measure.regions.torch_network import TorchNetwork
from gnelint.measure.tape import Moments, Tape
from gnelint.measure.torch_program import TorchProgram
from gnelint.readers.torch.reader import Traced, trace_module
from tests.benchmarks.vision import UNSEEN, VISION
from tests.models import CASES, DEEP, HELD_OUT, SEVEN, Case

REPORTS = Path(__file__).resolve().parents[2] / "reports" / "benchmarks"


@dataclass(frozen=True)
class Measured:
    """What one value of the graph was found to be.

    Attributes:
        moments: over the whole tensor.
        gradient_log2: log2 of the squared gradient norm relative to the cotangent's; -inf for zero, None where the
            cotangent's value does not depend on it.
    """

    moments: Moments
    gradient_log2: float | None


@dataclass(frozen=True)
class Layer:
    """One node on a gradient path, predicted and (where the graph run has a value of that name) measured."""

    predicted: NodePrediction
    measured: Measured | None

    @property
    def signed_bits(self) -> float:
        """log2(predicted / measured); nan where nothing was measured, inf where only one of them is zero or known."""
        if self.measured is None or self.measured.gradient_log2 is None:
            return math.nan
        predicted, measured = self.predicted.gradient_log2, self.measured.gradient_log2
        if predicted is None or math.isnan(predicted):
            return math.inf
        return 0.0 if predicted == measured else predicted - measured

    @property
    def bits(self) -> float:
        """Size of the error."""
        return abs(self.signed_bits)


@dataclass(frozen=True)
class Run:
    """One network at one seed."""

    prediction: Prediction
    layers: tuple[Layer, ...]
    end_to_end: float
    read_seconds: float
    analysis_seconds: float
    step_seconds: float


@dataclass(frozen=True)
class Row:
    """A line of the table: figures over the layers of all seeds."""

    case: str
    layers: int
    unmatched: int
    median_bits: float
    p95_bits: float
    end_to_end_bits: float
    within_1_bit: float
    within_half_bit: float
    within_bound: float
    bound_bits: float
    coverage: float
    read_seconds: float
    analysis_seconds: float
    step_seconds: float
    cotangent_at: str
    onnx: dict[str, object] = field(default_factory=dict)


def run(case: Case, *, seed: int, probes: int) -> Run:
    """Predict and measure a network whose weights, inputs and cotangents are drawn from `seed`."""
    module, inputs = case.module(seed), case.example_inputs(seed)
    begin = time.perf_counter()
    traced = trace_module(module, inputs, name=case.name)
    read = time.perf_counter() - begin
    begin = time.perf_counter()
    # the designs are to be covered as a whole, the other tables show what formulas alone do
    prediction = analyse(traced.graph, (lambda: TorchSampler(TorchNetwork(traced))) if case.name in VISION else None)
    seconds = time.perf_counter() - begin
    measured = measure(traced, prediction, probes=probes, seed=seed)
    layers = tuple(Layer(node, measured.get(node.output)) for node in prediction.nodes)
    end = math.nan
    if prediction.gradient_at is not None and prediction.gradient_at in measured:
        truth = measured[prediction.gradient_at].gradient_log2
        if truth is not None and prediction.gradient_log2 is not None:
            end = 0.0 if truth == prediction.gradient_log2 else abs(prediction.gradient_log2 - truth)
    step = step_seconds(module, inputs)
    return Run(prediction, layers, end, read, seconds, step)


def measure(traced: Traced, prediction: Prediction, *, probes: int, seed: int) -> dict[str, Measured]:
    """Autograd's answer for every value on a gradient path, by its name; the cotangents are drawn from `seed`."""
    program = TorchProgram(traced, RunSettings())
    at = None if prediction.cotangent_at == "output" else prediction.cotangent_at
    tape = Tape(program, program.examples, prediction.blocks, at, parameters=False)
    generator = torch.Generator().manual_seed(seed)
    chains = [tape.chain_sample(generator).gradients for _ in range(probes)]
    return {name: Measured(moments, _mean_log2(chains, name)) for name, moments in tape.moments.items()}


def _mean_log2(chains: Sequence[Mapping[str, float]], name: str) -> float | None:
    logs = [chain[name] for chain in chains if name in chain]
    if not logs or max(logs) == -math.inf:
        return -math.inf if logs else None
    return max(logs) + math.log2(statistics.mean(2.0 ** (log - max(logs)) for log in logs))


def step_seconds(module: nn.Module, inputs: tuple[Tensor, ...], repeats: int = 3) -> float:
    """Seconds of one forward and backward pass of the module, the best of `repeats` after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        module(*inputs).sum().backward()
        times.append(time.perf_counter() - begin)
        module.zero_grad(set_to_none=True)
    return min(times[1:])


def row(case: Case, runs: Sequence[Run]) -> Row:
    """Figures over several runs of one network; values that the run graph does not have are counted, not judged."""
    bits = np.array([layer.bits for one in runs for layer in one.layers])
    judged = bits[~np.isnan(bits)]
    stated = (layer.predicted.error_bits for one in runs for layer in one.layers)
    bounds = np.array([0.0 if bound is None else bound for bound in stated])[~np.isnan(bits)]
    first = runs[0]
    return Row(
        case=case.name,
        layers=len(first.layers),
        unmatched=int(np.isnan(bits).sum()) // len(runs),
        median_bits=_quantile(judged, 0.5),
        p95_bits=_quantile(judged, 0.95),
        end_to_end_bits=statistics.mean(one.end_to_end for one in runs),
        within_1_bit=float(np.mean(judged <= 1.0)) if judged.size else math.nan,
        within_half_bit=float(np.mean(judged <= 0.5)) if judged.size else math.nan,
        within_bound=float(np.mean(judged <= bounds)) if judged.size else math.nan,
        bound_bits=_quantile(bounds, 0.5),
        coverage=first.prediction.coverage,
        read_seconds=statistics.median(one.read_seconds for one in runs),
        analysis_seconds=statistics.median(one.analysis_seconds for one in runs),
        step_seconds=statistics.median(one.step_seconds for one in runs),
        cotangent_at=first.prediction.cotangent_at,
    )


def _quantile(values: np.ndarray, share: float) -> float:
    return float(np.quantile(values, share, method="higher")) if values.size else math.nan


def onnx_agreement(case: Case, *, seed: int) -> dict[str, object]:
    """How far the ONNX readings of both exporters are from the torch reading: every layer's gradient in bits, phi."""
    from gnelint.readers.onnx.reader import read
    from gnelint.readers.torch.reader import read_module
    from tests.models.export import OPSETS, apart, export_onnx, matched_layers, unmatched_layers

    inputs = case.example_inputs(seed)
    torch_side = analyse(read_module(case.module(seed), inputs, name=case.name, training=True))
    found: dict[str, object] = {}
    for dynamo in (True, False):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{case.name}.onnx"
            export_onnx(case, path, opset=OPSETS[dynamo][-1], training=True, dynamo=dynamo, seed=seed)
            onnx_side = analyse(read(path, training=True))
        pairs = matched_layers(torch_side, onnx_side)
        worst = max(pairs, key=lambda pair: pair.bits, default=None)
        found["dynamo" if dynamo else "torchscript"] = {
            "coverage": onnx_side.coverage,
            "matched": len(pairs),
            "unmatched": len(unmatched_layers(torch_side, pairs)),
            "worst_bits": worst.bits if worst else math.nan,
            "worst_layer": worst.first.node.name if worst else "",
            "end_to_end_bits": apart(torch_side.gradient_log2, onnx_side.gradient_log2),
            "worst_phi": max((pair.difference for pair in pairs), default=math.nan),
        }
    return found


HEAD = (
    ("network", "<"), ("layers", ">"), ("median", ">"), ("p95", ">"), ("end to end", ">"), ("<= 1 bit", ">"),
    ("bound", ">"), ("inside", ">"), ("coverage", ">"), ("read s", ">"), ("analysis s", ">"), ("fwd+bwd s", ">"),
    ("ratio", ">"),
)  # fmt: skip


def cells(one: Row) -> tuple[str, ...]:
    """A row as text."""
    missing = f" (-{one.unmatched})" if one.unmatched else ""
    return (
        one.case,
        f"{one.layers}{missing}",
        f"{one.median_bits:.2f}",
        f"{one.p95_bits:.2f}",
        f"{one.end_to_end_bits:.2f}",
        f"{one.within_1_bit:.1%}",
        f"{one.bound_bits:.2f}",
        f"{one.within_bound:.1%}",
        f"{one.coverage:.3f}",
        f"{one.read_seconds:.2f}",
        f"{one.analysis_seconds:.2f}",
        f"{one.step_seconds:.3f}",
        f"{one.analysis_seconds / one.step_seconds:.1f}",
    )


def text_table(rows: Sequence[Row]) -> str:
    """The table in aligned columns."""
    lines = [tuple(name for name, _ in HEAD), *(cells(one) for one in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(HEAD))]
    return "\n".join(
        "  ".join(f"{cell:{side}{width}}" for cell, (_, side), width in zip(line, HEAD, widths, strict=True))
        for line in lines
    )


def summary(rows: Sequence[Row]) -> list[str]:
    """How many networks are within which errors, of all and of those that are kept unseen."""
    lines = []
    groups = {"All": list(rows), "Unseen": [one for one in rows if one.case in UNSEEN]}
    for name, group in groups.items():
        if not group:
            continue
        near = sum(one.median_bits <= 0.3 and one.p95_bits <= 1.0 and one.end_to_end_bits <= 1.0 for one in group)
        close = sum(one.median_bits <= 0.1 and one.p95_bits <= 0.5 and one.end_to_end_bits <= 0.3 for one in group)
        layers = sum(one.layers - one.unmatched for one in group)
        inside = sum((one.layers - one.unmatched) * one.within_bound for one in group) / max(layers, 1)
        lines.append(
            f"{name}: {near} of {len(group)} within 0.3 (median), 1.0 (p95), 1.0 (end to end); {close} within "
            f"0.1, 0.5, 0.3; {inside:.1%} of the layers inside their bound; median of medians "
            f"{statistics.median(one.median_bits for one in group):.3f}."
        )
    return lines


def markdown(rows: Sequence[Row], command: str) -> str:
    """The table and what it says, as Markdown."""
    lines = [
        "# Predicted against measured squared gradient norms",
        "",
        f"Printed by `{command}` (torch {torch.__version__}). Errors in bits, |log2(predicted / measured)|, over the",
        "values of the traced graph; training mode, inputs N(0, 1), fresh weights. (-n): values not measured.",
        "bound: the stated 90% bound of the error, median; inside: layers whose error is within their own.",
        "",
        "| " + " | ".join(name for name, _ in HEAD) + " |",
        "|" + "|".join("---" if side == "<" else "---:" for _, side in HEAD) + "|",
        *("| " + " | ".join(cells(one)) + " |" for one in rows),
        "",
        *(line for each in summary(rows) for line in (each, "")),
    ]
    if any(one.onnx for one in rows):
        lines += [
            "## The same network read from ONNX",
            "",
            "Each layer's predicted gradient, and the input's, against those of the torch reading; phi relatively.",
            "(-n): layers with weights that were not found again.",
            "",
            "| network | exporter | coverage | layers | worst bits | end to end bits | worst phi |",
            "|---|---|---:|---:|---:|---:|---:|",
        ]
        for one in rows:
            for exporter, figures in one.onnx.items():
                assert isinstance(figures, dict)
                missing = f" (-{figures['unmatched']})" if figures["unmatched"] else ""
                bits = f"{figures['worst_bits']:.1e} | {figures['end_to_end_bits']:.1e}"
                numbers = (
                    f"{figures['coverage']:.3f} | {figures['matched']}{missing} | {bits} | {figures['worst_phi']:.1e}"
                )
                lines.append(f"| {one.case} | {exporter} | {numbers} |")
        lines.append("")
    return "\n".join(lines)


def print_layers(one: Run) -> None:
    """Every layer: forward mean and second moment and the gradient in bits, predicted beside measured.

    `step` is the part of the gradient's error that arises between this value and its first consumer: look there first.
    """
    errors = {layer.predicted.output: layer.signed_bits for layer in one.layers}
    consumers = one.prediction.graph.consumers
    print(f"{'':4} {'node':44.44} {'op':14} {'shape':20} {'mean':>19} {'second moment':>21} {'bits':>6}"
          f" {'gradient log2':>15} {'error':>7} {'step':>6}  basis")  # fmt: skip
    for index, layer in enumerate(one.layers):
        predicted, measured = layer.predicted, layer.measured
        ahead = [errors.get(node.outputs[0], math.nan) for node in consumers.get(predicted.output, ()) if node.outputs]
        step = layer.signed_bits - next((error for error in ahead if not math.isnan(error)), 0.0)
        moments, moment = measured.moments if measured else None, math.nan
        if moments is not None and predicted.second_moment and moments.second_moment > 0:
            moment = math.log2(predicted.second_moment / moments.second_moment)
        shape = "x".join(map(str, predicted.shape)) if predicted.shape is not None else "?"
        print(
            f"{index:4} {predicted.node.name:44.44} {predicted.node.op:14.14} {shape:20.20}"
            f" {_short(predicted.mean)}|{_short(moments.mean if moments else None)}"
            f" {_short(predicted.second_moment)}|{_short(moments.second_moment if moments else None)} {moment:6.2f}"
            f" {_log(predicted.gradient_log2)}|{_log(measured.gradient_log2 if measured else None)}"
            f" {layer.signed_bits:7.2f} {step:6.2f}  {predicted.basis}"
        )
    print(f"end to end at {one.prediction.gradient_at}: {one.end_to_end:.2f} bits; "
          f"cotangent at {one.prediction.cotangent_at}; coverage {one.prediction.coverage:.3f}")  # fmt: skip
    print(f"read {one.read_seconds:.2f} s, analysis {one.analysis_seconds:.2f} s, fwd+bwd {one.step_seconds:.3f} s")
    for note in one.prediction.notes:
        print("note:", note)


def _short(number: float | None) -> str:
    return f"{'-':>9}" if number is None else f"{number:9.3g}"


def _log(number: float | None) -> str:
    return f"{'-':>7}" if number is None else f"{number:7.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every fixture network")
    parser.add_argument("--held-out", action="store_true", help="every network that nothing was developed on")
    parser.add_argument("--deep", action="store_true", help="every plain stack of 50 and 100 layers")
    parser.add_argument("--vision", action="store_true", help="designs from papers")
    parser.add_argument("--seen", action="store_true", help="of these only what may be looked at while formulas change")
    parser.add_argument("--case", action="append", default=[], metavar="NAME", help="this network (repeatable)")
    parser.add_argument("--layers", metavar="NAME", help="print every layer of one network and write nothing")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--probes", type=int, default=4)
    parser.add_argument("--onnx", action="store_true", help="compare with what is read from ONNX exports")
    parser.add_argument("-o", "--output", type=Path, default=None, help="stem of the files to write, or - for none")
    chosen = parser.parse_args(arguments)
    warnings.simplefilter("ignore", FutureWarning)
    vision = {name: case for name, case in VISION.items() if not (chosen.seen and name in UNSEEN)}
    cases = {**VISION, **CASES, **HELD_OUT, **DEEP}
    unknown = [name for name in [*chosen.case, *filter(None, [chosen.layers])] if name not in cases]
    if unknown:
        parser.error(f"no network {', '.join(unknown)}; there are {', '.join(cases)}")
    if chosen.layers:
        print_layers(run(cases[chosen.layers], seed=0, probes=chosen.probes))
        return
    groups = {"all": CASES, "held-out": HELD_OUT, "deep": DEEP, "vision": vision}
    group = next((name for name in groups if getattr(chosen, name.replace("-", "_"))), None)
    names = list(groups[group]) if group else chosen.case or list(SEVEN)
    rows = []
    for name in names:
        found = row(cases[name], [run(cases[name], seed=seed, probes=chosen.probes) for seed in range(chosen.seeds)])
        if chosen.onnx:
            found.onnx.update(onnx_agreement(cases[name], seed=0))
        rows.append(found)
        print(" ".join(text_table([found]).splitlines()[1].split()), *found.onnx.items(), flush=True)
    print()
    print(text_table(rows), *summary(rows), sep="\n")
    if str(chosen.output) == "-" or (chosen.case and chosen.output is None):
        return
    stem = chosen.output or REPORTS / ("accuracy" + (f"_{group.replace('-', '_')}" if group else ""))
    command = "python -m tests.benchmarks.accuracy" + (f" --{group}" if group else "") + f" --seeds {chosen.seeds}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps([asdict(one) for one in rows], indent=1) + "\n")
    stem.with_suffix(".md").write_text(markdown(rows, command + (" --onnx" if chosen.onnx else "")))


if __name__ == "__main__":
    main()
