"""Whole processes timed side by side: `gnelint check` and onnx's own full check, `gnelint --help` and bare Python.

    python -m tests.benchmarks.speed

A full-size ResNet-50 is exported to a temporary folder (100 MB of weights). The two commands of a pair take turns, so
that whatever else the machine does falls on both; the medians of all turns are compared.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.models import CASES, Case
from tests.models.export import export_onnx

REPORTS = Path(__file__).resolve().parents[2] / "reports" / "benchmarks"
ONNX_CHECK = "import onnx, sys; onnx.checker.check_model(sys.argv[1], full_check=True)"
GNELINT = str(Path(sys.executable).with_name("gnelint"))


@dataclass(frozen=True)
class Comparison:
    """Two commands timed in turns, seconds."""

    name: str
    against: str
    seconds: float
    against_seconds: float
    runs: tuple[tuple[float, float], ...]

    @property
    def ratio(self) -> float:
        """First over second; below 1 the first is faster."""
        return self.seconds / self.against_seconds


def seconds(command: Sequence[str], allowed: tuple[int, ...] = (0,)) -> float:
    """Time of a whole process.

    Raises:
        RuntimeError: it ended with a status that is not allowed.
    """
    begin = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    spent = time.perf_counter() - begin
    if done.returncode not in allowed:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return spent


def compare(name: str, command: Sequence[str], against: str, other: Sequence[str], repeats: int) -> Comparison:
    """Run both once to warm the file cache, then `repeats` times in turns. Findings (status 1) are no failure."""
    seconds(command, (0, 1)), seconds(other)
    runs = tuple((seconds(command, (0, 1)), seconds(other)) for _ in range(repeats))
    return Comparison(
        name, against, statistics.median(run[0] for run in runs), statistics.median(run[1] for run in runs), runs
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path, default=REPORTS / "speed.json")
    chosen = parser.parse_args(arguments)
    full = Case("resnet50", lambda: CASES["resnet50"].build(classes=1000), (1, 3, 224, 224))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resnet50.onnx"
        export_onnx(full, path, opset=17, training=True, dynamo=False)
        size = sum(file.stat().st_size for file in Path(folder).iterdir()) / 1e6
        found = [
            compare(
                "gnelint check resnet50.onnx",
                [GNELINT, "check", "--no-cache", str(path)],
                "onnx.checker, full check",
                [sys.executable, "-c", ONNX_CHECK, str(path)],
                chosen.repeats,
            ),
            compare(
                "gnelint --help", [GNELINT, "--help"], "python -c pass", [sys.executable, "-c", "pass"], chosen.repeats
            ),
        ]
    print(f"resnet50.onnx: {size:.0f} MB; medians of {chosen.repeats} runs in turns; {platform.machine()}")
    for one in found:
        print(
            f"{one.name:28} {one.seconds:6.3f} s   {one.against:26} {one.against_seconds:6.3f} s"
            f"   ratio {one.ratio:5.2f}   difference {one.seconds - one.against_seconds:+.3f} s"
        )
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    report = {"megabytes": size, "repeats": chosen.repeats, "comparisons": [asdict(one) for one in found]}
    chosen.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
