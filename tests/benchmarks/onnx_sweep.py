"""Reads every model that the onnx package carries or generates for its backend tests, and counts what became of each.

    python tests/benchmarks/onnx_sweep.py [--list]

A model is analysed, or refused with one clear line; a traceback is a failure (exit code 1). For the nine light_*.onnx
networks the coverage is printed: the fraction of nodes on a gradient path that are modelled. The counts go to
reports/benchmarks/onnx_sweep.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx.backend.test.case import model, node

from gnelint.errors import GnelintError
from gnelint.ir.graph import UNMODELLED, Graph
from gnelint.readers.onnx.reader import read

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
OUTPUT = ROOT / "reports" / "benchmarks" / "onnx_sweep.json"


@dataclass(frozen=True)
class Outcome:
    """What became of one model: "analysed", "refused" or "traceback", with a line about it."""

    name: str
    kind: str
    result: str
    line: str = ""
    coverage: float | None = None


def analyser() -> Callable[[Graph], Any] | None:
    """`gnelint.analysis.propagation.analyse`, None as long as there is none."""
    try:
        from gnelint.analysis.propagation import analyse
    except ImportError:
        return None
    return analyse


def models(directory: Path) -> Iterator[tuple[str, str, Path]]:
    """(kind, name, file) of every model; generated ones are written into `directory`."""
    for path in sorted(DATA.rglob("*.onnx")):
        yield path.relative_to(DATA).parts[0], str(path.relative_to(DATA)), path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = [*node.collect_testcases(), *model.collect_testcases()]
    for case in sorted(cases, key=lambda case: case.name):
        if case.model is None:
            continue
        path = directory / f"{case.name}.onnx"
        onnx.save(case.model, path)
        yield case.kind, case.name, path
        path.unlink()


def coverage(graph: Graph) -> float:
    """Fraction of the nodes on a gradient path that have a canonical operation."""
    nodes = graph.gradient_nodes
    return sum(node.op != UNMODELLED for node in nodes) / len(nodes) if nodes else 1.0


def try_one(kind: str, name: str, path: Path, analyse: Callable[[Graph], Any] | None) -> Outcome:
    """Read and analyse one model."""
    try:
        graph = read(path)
        found = coverage(graph)
        if analyse is not None:
            found = analyse(graph).coverage
        unmodelled = sorted({node.source_op for node in graph.gradient_nodes if node.op == UNMODELLED})
        return Outcome(name, kind, "analysed", f"unmodelled: {', '.join(unmodelled)}" if unmodelled else "", found)
    except GnelintError as error:
        return Outcome(name, kind, "traceback" if "\n" in str(error) else "refused", str(error))
    except Exception:
        return Outcome(name, kind, "traceback", traceback.format_exc())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print every refusal and every unmodelled operator")
    arguments = parser.parse_args()
    analyse = analyser()
    with tempfile.TemporaryDirectory() as directory:
        outcomes = [try_one(*found, analyse) for found in models(Path(directory))]
    kinds = sorted({outcome.kind for outcome in outcomes})
    table = {kind: Counter(outcome.result for outcome in outcomes if outcome.kind == kind) for kind in kinds}
    print(f"{'models':22} {'analysed':>9} {'refused':>9} {'traceback':>9}")
    for kind, counts in [*table.items(), ("all", Counter(outcome.result for outcome in outcomes))]:
        print(f"{kind:22} {counts['analysed']:9} {counts['refused']:9} {counts['traceback']:9}")
    light = {outcome.name: outcome.coverage for outcome in outcomes if outcome.kind == "light"}
    for name, found in light.items():
        print(f"{name:40} coverage {found if found is None else format(found, '.3f')}")
    for outcome in outcomes:
        if outcome.result == "traceback" or (arguments.list and outcome.line):
            print(f"{outcome.result} {outcome.name}: {outcome.line}")
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(
        json.dumps(
            {
                "onnx": onnx.__version__,
                "analysis": analyse is not None,
                "counts": table,
                "light_coverage": light,
                "refused": {o.name: o.line.split(": ", 1)[-1] for o in outcomes if o.result == "refused"},
            },
            indent=1,
        )
        + "\n"
    )
    return 1 if any(outcome.result == "traceback" for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
