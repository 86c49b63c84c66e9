"""Are fresh networks called fresh and trained ones trained?

    python -m tests.benchmarks.stage [--jobs 2] [--only developed|held_out]

Networks of `stage_networks` are judged as they start (also as a copy in 16 bits, exported to ONNX, built on the meta
device, or with some batches sent through), after training, and after what is done to trained ones: copies in 16 bits,
pruning, a new head on the frozen body, export to ONNX with the normalisations folded. The thresholds were set on the
designs called "developed"; "held_out" has other widths (8 to 512), depths (1 to 30), draws and data. A network that was
trained to less than 90 % of its task is counted apart. Writes reports/benchmarks/stage.json and .md.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import nn

from gnelint.analysis.stage import judge
from gnelint.ir.graph import Graph
from gnelint.readers.onnx.reader import read as read_onnx
from gnelint.readers.torch.initializers import InitializerRecorder
from gnelint.readers.torch.reader import read_module
from tests.benchmarks.accuracy import REPORTS
from tests.benchmarks.stage_networks import Design, built, changed, designs, example, see, train

ENOUGH = 0.9
"""Share of its task to which a network counts as trained."""
PARTS = ("developed", "held_out")


@dataclass(frozen=True)
class Judged:
    """One network.

    Attributes:
        part: developed or held_out.
        design: how it was made, in words.
        stage: fresh, trained, or weak where training came to less than `ENOUGH`.
        done: share of the task that is done, None for a fresh one.
        verdict, log_odds, reason: what was said of it.
    """

    part: str
    design: str
    stage: str
    done: float | None
    verdict: str
    log_odds: float
    reason: str | None


@dataclass(frozen=True)
class _Bench:
    """What judges one design's network in its states; `graph` reads the module's tensors as they are at the time."""

    part: str
    design: Design
    graph: Graph

    def judged(self, what: str, done: float | None = None, graph: Graph | None = None) -> Judged:
        found = judge(graph or self.graph, {})
        stage = "fresh" if done is None else "trained" if done >= ENOUGH else "weak"
        words = " ".join(str(value) for value in asdict(replace(self.design, variant=what)).values())
        return Judged(self.part, words, stage, done, found.verdict, round(found.log_odds, 2), found.reason)


def judged_states(part: str, design: Design) -> list[Judged]:
    """The network of a design, fresh and trained."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    return list(_states(part, design))


def _states(part: str, design: Design) -> Iterator[Judged]:
    module, x = built(design), example(design)
    bench = _Bench(part, design, read_module(module, (x,), name="network"))
    start = copy.deepcopy(module.state_dict())
    yield bench.judged("fresh")
    for variant in ("fp16", "bf16"):
        changed(module, replace(design, variant=variant))
        yield bench.judged(f"fresh {variant}")
        module.load_state_dict(start)
    if design.norm == "batch":
        see(module, design, 10)
        yield bench.judged("fresh seen")
        module.load_state_dict(start)
    if design.seed % 6 == 1:
        yield bench.judged("fresh onnx", graph=_exported(module, x))
    if design.seed % 6 == 2:
        yield bench.judged("fresh meta", graph=_recorded(design, x))
    done = train(module, design)
    yield bench.judged("trained", done)
    yield from _later(bench, module, done)


def _later(bench: _Bench, module: nn.Module, done: float) -> Iterator[Judged]:
    """What is done to trained networks; each from the trained one."""
    design, trained = bench.design, copy.deepcopy(module.state_dict())
    if design.variant in ("onnx", "frozen"):
        yield bench.judged("trained onnx", done, _exported(module, example(design)))
    for variant in ("fp16", "bf16", "pruned", "frozen"):
        again = changed(module, replace(design, variant=variant))
        yield bench.judged(f"trained {variant}", done if again is None else again)
        module.load_state_dict(trained)
        module.requires_grad_(True)


def _exported(module: nn.Module, x: torch.Tensor) -> Graph:
    """Through a file, for inference: what the exporter folds is folded."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "network.onnx"
        torch.onnx.export(module.eval(), (x,), path, dynamo=False, opset_version=17, verbose=False)
        module.train()
        return read_onnx(path)


def _recorded(design: Design, x: torch.Tensor) -> Graph:
    with torch.device("meta"), InitializerRecorder() as recorder:
        module = built(replace(design, init="default"))
    return read_module(module, (x.to("meta"),), name="network", recorder=recorder)


def table(found: Sequence[Judged]) -> list[str]:
    """Rows in Markdown: of each part and stage how many networks were called what."""
    lines = ["| designs | networks | how many | called fresh | unsure | trained |", "|---|---|---:|---:|---:|---:|"]
    for part in PARTS:
        for stage in ("fresh", "trained", "weak"):
            verdicts = Counter(each.verdict for each in found if (each.part, each.stage) == (part, stage))
            counts = [verdicts[name] for name in ("fresh", "unsure", "trained")]
            lines.append(f"| {part} | {stage} | {sum(verdicts.values())} | {' | '.join(map(str, counts))} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", choices=PARTS)
    options = parser.parse_args()
    asked = [(part, design) for part in PARTS if options.only in (None, part) for design in designs(part == PARTS[1])]
    found: list[Judged] = []
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for each in pool.map(judged_states, *zip(*asked, strict=True)):
            found += each
            wrong = [one for one in each if one.stage != "weak" and one.verdict != one.stage]
            for one in wrong:
                print(f"{one.stage} called {one.verdict} ({one.log_odds:.1f}): {one.design}: {one.reason}", flush=True)
    lines = table(found)
    print("\n".join(lines))
    if options.only is None:
        (REPORTS / "stage.json").write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")
        text = ["# Fresh and trained networks", "", *(__doc__ or "").strip().splitlines()[4:], "", *lines, ""]
        (REPORTS / "stage.md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
