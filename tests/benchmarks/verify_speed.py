"""How long `gnelint verify` takes on a ResNet-50 at 224 pixels, batch 2, every block to 5%, as a whole process.

    python -m tests.benchmarks.verify_speed [--device cuda] [--runs 3]

The module and its ONNX export are verified in turn. The JSON names the device; results of CPUs and GPUs stand beside
each other in it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tests.models import Case
from tests.models.export import export_onnx
from tests.models.resnet import resnet50

OUT = Path(__file__).resolve().parents[2] / "reports" / "benchmarks" / "verify_speed.json"
SHAPE = (2, 3, 224, 224)
PRECISION = 0.05


def timed(target: str, device: str) -> dict[str, Any]:
    """Seconds of one run, its probes, and the least precise of its blocks."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        options = ["--rel-error", str(PRECISION), "--device", device, "--format", "json", "-o", str(out)]
        command = [sys.executable, "-m", "gnelint", "verify", target, "--input", ",".join(map(str, SHAPE)), *options]
        begin = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        spent = time.perf_counter() - begin
        if done.returncode not in (0, 1):
            raise RuntimeError(done.stderr[-2000:])
        (entry,) = json.loads(out.read_text())["targets"]
    errors = [max(high - phi, phi - low) / phi for phi, (low, high) in map(measured_phi, entry["blocks"])]
    return {
        "seconds": round(spent, 2),
        "probes": entry["verification"]["probes"],
        "blocks": len(errors),
        "worst_relative_error": round(max(errors), 4),
        "holds": done.returncode == 0,
    }


def measured_phi(block: dict[str, Any]) -> tuple[float, Sequence[float]]:
    return block["measured"]["phi"], block["interval"]["phi"]


def device_name(device: str) -> str:
    """The GPU's name, or the CPU's architecture and cores."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} cores, {platform.machine()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    found: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    rows: dict[str, Any] = {"device": device_name(arguments.device), "torch": torch.__version__}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resnet50.onnx"
        export_onnx(Case("resnet50", resnet50, SHAPE), path, opset=17, training=True, dynamo=False)
        for name, target in (("module", "tests/models/resnet.py:resnet50"), ("onnx", str(path))):
            runs = [timed(target, arguments.device) for _ in range(arguments.runs)]
            rows[name] = runs
            for run in runs:
                print(f"{rows['device']:24} {name:8} {run}")
    found[arguments.device] = rows
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
