"""Predicted against measured phi_variance of every block, for networks without attention.

    python -m tests.benchmarks.phi_variance                  every such network
    python -m tests.benchmarks.phi_variance --case resnet50  one of them
    python -m tests.benchmarks.phi_variance --blocks vgg16   every block of one, side by side

A block's Jacobian is multiplied to Rademacher probes by a backward pass and then by a forward pass with tangents, all
blocks in the same passes (measure.tape): phi_variance = E||J J^T g||^2 / m - phi^2, phi^2 from pairs of different
probes. Training mode, inputs N(0, 1), fresh weights. Blocks with fewer than 64 channels (or features) at the narrower
of their two ends are counted apart: the theory is of wide layers. A block without a prediction counts as wrong.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from gnelint.analysis.prediction import Block
from gnelint.analysis.propagation import analyse
from gnelint.ir.graph import Graph
from gnelint.measure.estimate import estimate, spectrum_variance
from gnelint.measure.program import RunSettings
from gnelint.measure.tape import BlockSample, Tape
from gnelint.measure.torch_program import TorchProgram
from gnelint.readers.torch.reader import trace_module
from tests.benchmarks.accuracy import REPORTS
from tests.models import CASES, HELD_OUT, Case

WIDE = 64
WITHIN = 0.2
_WITH_ATTENTION = ("vit", "swin", "deit")
_BELOW_ROUNDING = 1e-4
"""Relative variances below this are those of an orthogonal map or of rounding: both must be below it."""


@dataclass(frozen=True)
class Judged:
    """One block, predicted and measured.

    Attributes:
        width: channels (features) at the narrower end.
        error: half the 95% interval of the measured variance over its value.
    """

    name: str
    kind: str
    width: int
    ops: str
    phi: float
    phi_predicted: float | None
    variance: float
    variance_predicted: float | None
    error: float

    @property
    def relative(self) -> float:
        """phi_variance / phi^2, measured."""
        return self.variance / self.phi**2 if self.phi > 0 else 0.0

    @property
    def relative_predicted(self) -> float | None:
        """phi_variance / phi^2, predicted."""
        if self.variance_predicted is None or not self.phi_predicted:
            return None
        return self.variance_predicted / self.phi_predicted**2

    @property
    def ratio(self) -> float:
        """Predicted over measured; nan without a prediction, 1 where both are nothing but rounding."""
        if self.variance_predicted is None:
            return math.nan
        small = _BELOW_ROUNDING * self.phi**2
        if abs(self.variance) <= small and self.variance_predicted <= small:
            return 1.0
        return self.variance_predicted / self.variance if self.variance > 0 else math.inf

    @property
    def within(self) -> bool:
        """Whether the prediction is within 20%."""
        return abs(self.ratio - 1.0) <= WITHIN  # False for nan


@dataclass(frozen=True)
class Row:
    """Figures over some blocks of all seeds of one network."""

    case: str
    blocks: int
    predicted: int
    within: int
    median_ratio: float
    median_error: float
    worst: str
    worst_width: int
    worst_ratio: float


def judge(case: Case, *, seed: int, probes: int) -> list[Judged]:
    """Predict and measure every block of a network whose weights, inputs and probes are drawn from `seed`."""
    traced = trace_module(case.module(seed), case.example_inputs(seed), name=case.name)
    prediction = analyse(traced.graph)
    program = TorchProgram(traced, RunSettings())
    tape = Tape(program, program.examples, prediction.blocks, None, parameters=False)
    generator = torch.Generator().manual_seed(seed)
    samples: dict[str, list[BlockSample]] = {}
    for _ in range(probes):
        for name, sample in tape.block_samples(generator, squares=True).items():
            samples.setdefault(name, []).append(sample)
    blocks = {block.name: block for block in prediction.blocks}
    return [_judged(traced.graph, blocks[name], found) for name, found in samples.items()]


def _judged(graph: Graph, block: Block, samples: Sequence[BlockSample]) -> Judged:
    both = [(sample.phi, sample.square) for sample in samples if sample.square is not None]
    variance = spectrum_variance([x for x, _ in both], [y for _, y in both])
    ops = {node.name: node.op for node in graph.nodes}
    return Judged(
        name=block.name,
        kind=block.kind,
        width=min(_width(graph, block.entry), _width(graph, block.exit)),
        ops=" ".join(ops[name] for name in block.nodes),
        phi=estimate([sample.phi for sample in samples]).value,
        phi_predicted=block.phi,
        variance=variance.value,
        variance_predicted=block.phi_variance,
        error=variance.relative_error,
    )


def _width(graph: Graph, name: str) -> int:
    """Channels of an image, features of anything else."""
    shape = graph.values[name].concrete_shape
    if shape is None or len(shape) < 2:
        return 0
    return shape[-1] if len(shape) <= 3 else shape[1]


def row(case: str, blocks: Sequence[Judged]) -> Row:
    """The line of one network."""
    ratios = [one.ratio for one in blocks if not math.isnan(one.ratio)]
    worst = max(blocks, key=_wrong, default=None)
    return Row(
        case=case,
        blocks=len(blocks),
        predicted=len(ratios),
        within=sum(one.within for one in blocks),
        median_ratio=statistics.median(ratios) if ratios else math.nan,
        median_error=statistics.median(one.error for one in blocks) if blocks else math.nan,
        worst=worst.name if worst else "",
        worst_width=worst.width if worst else 0,
        worst_ratio=worst.ratio if worst else math.nan,
    )


def _wrong(one: Judged) -> float:
    """The size of a block's error in bits; no prediction is the worst."""
    if math.isnan(one.ratio) or one.ratio <= 0 or math.isinf(one.ratio):
        return math.inf
    return abs(math.log2(one.ratio))


def table(rows: Iterable[Row]) -> list[str]:
    """Markdown lines."""
    lines = [
        "| network | blocks | predicted | within 20% | median ratio | measurement +- | worst (width, ratio) |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for one in rows:
        share = f"{one.within / one.blocks:.0%}" if one.blocks else "-"
        worst = f"{one.worst} ({one.worst_width}, {one.worst_ratio:.2f})" if one.blocks else "-"
        lines.append(
            f"| {one.case} | {one.blocks} | {one.predicted} | {one.within} ({share}) | {one.median_ratio:.2f} | "
            f"{one.median_error:.1%} | {worst} |"
        )
    return lines


def print_blocks(blocks: Sequence[Judged]) -> None:
    """Every block, side by side."""
    for one in blocks:
        predicted = one.relative_predicted
        text = "-" if predicted is None else f"{predicted:.4g}"
        phi = math.nan if one.phi_predicted is None else one.phi_predicted
        print(
            f"{one.name:44.44} {one.kind:9} {one.width:5} phi {phi:9.3g}|{one.phi:9.3g}"
            f"  c {text:>8}|{one.relative:8.4g} +-{one.error:5.1%}"
            f"  ratio {one.ratio:6.2f} {' ' if one.within else '*'} {one.ops:.90}"
        )


def without_attention() -> dict[str, Case]:
    """The cases that read images or vectors and have no attention in them."""
    return {
        name: case
        for name, case in {**CASES, **HELD_OUT}.items()
        if case.vocabulary is None and not name.startswith(_WITH_ATTENTION)
    }


def markdown(wide: Sequence[Row], narrow: Sequence[Row], command: str) -> str:
    """Both tables."""
    return "\n".join(
        [
            "# Predicted against measured phi_variance of blocks",
            "",
            f"Printed by `{command}` (torch {torch.__version__}). Training mode, inputs N(0, 1), fresh weights;",
            "measured as E||J J^T g||^2 / m - phi^2 with Rademacher probes; `measurement +-` is the median 95%",
            "half-interval. A",
            "block without a prediction counts as not within 20%; blocks whose relative variance is below",
            f"{_BELOW_ROUNDING} both measured and predicted (zero-initialised branches, averages) count as within.",
            "",
            f"## Blocks at least {WIDE} wide at both ends",
            "",
            *table(wide),
            "",
            "## Narrower blocks",
            "",
            *table(narrow),
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", default=[], metavar="NAME", help="this network (repeatable)")
    parser.add_argument(
        "--blocks", action="append", default=[], metavar="NAME", help="print every block; write nothing"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--probes", type=int, default=16)
    parser.add_argument("-o", "--output", default=None, help="stem of the files to write, or - for none")
    chosen = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    cases = without_attention()
    unknown = [name for name in [*chosen.case, *chosen.blocks] if name not in cases]
    if unknown:
        parser.error(f"no network {', '.join(unknown)}; there are {', '.join(cases)}")
    if chosen.blocks:
        for name in chosen.blocks:
            print(f"--- {name}")
            print_blocks(judge(cases[name], seed=0, probes=chosen.probes))
        return
    names = chosen.case or list(cases)
    found: dict[str, list[Judged]] = {}
    for name in names:
        found[name] = [b for seed in range(chosen.seeds) for b in judge(cases[name], seed=seed, probes=chosen.probes)]
        print(table([row(name, [b for b in found[name] if b.width >= WIDE])])[-1], flush=True)
    wide = [row(name, [b for b in blocks if b.width >= WIDE]) for name, blocks in found.items()]
    narrow = [row(name, [b for b in blocks if b.width < WIDE]) for name, blocks in found.items()]
    for rows in (wide, narrow):
        total = sum(one.blocks for one in rows)
        within, predicted = sum(one.within for one in rows), sum(one.predicted for one in rows)
        print(f"{total} blocks, {predicted} predicted, {within} within 20%")
    if chosen.output == "-":
        return
    stem = Path(chosen.output) if chosen.output else REPORTS / "phi_variance"
    command = "python -m tests.benchmarks.phi_variance" + "".join(f" --case {name}" for name in chosen.case)
    command += f" --seeds {chosen.seeds} --probes {chosen.probes}"
    stem.with_suffix(".md").write_text(markdown(wide, narrow, command))
    blocks = {name: [asdict(one) for one in judged] for name, judged in found.items()}
    whole = {"wide": [asdict(one) for one in wide], "narrow": [asdict(one) for one in narrow], "blocks": blocks}
    stem.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
