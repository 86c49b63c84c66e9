"""ONNX files of the world on the torch interpreter beside ONNX Runtime: who matches, and who cannot be run.

    python -m tests.benchmarks.onnx_agreement [FILE_OR_FOLDER ...] [--out FILE]

Without arguments: the light models of the onnx package. Folders are searched for .onnx files; for instance what
`pip download --no-deps rapidocr-onnxruntime silero-vad magika` fetches, unpacked.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx

from tests.measure.onnx_on_torch.agreement import LIMIT, compared

OUT = Path(__file__).parents[2] / "reports" / "benchmarks" / "onnx_agreement.json"
LIGHT = Path(os.path.dirname(onnx.__file__)) / "backend" / "test" / "data" / "light"


def inputs_for(path: Path) -> dict[str, np.ndarray]:
    """Inputs of files that take only certain ones, and sizes that a picture really has."""
    generator = np.random.default_rng(0)
    noise = generator.standard_normal
    if path.name.startswith("silero_vad"):
        return {
            "input": noise((1, 576)).astype(np.float32),
            "state": np.zeros((2, 1, 128), np.float32),
            "sr": np.array(16000, np.int64),
        }
    if "PP-OCRv4_det" in path.name:
        return {"x": _page()}
    if "PP-OCRv4_rec" in path.name:
        return {"x": noise((2, 3, 48, 160)).astype(np.float32)}
    if "mobile_v2.0_cls" in path.name:
        return {"x": noise((2, 3, 48, 192)).astype(np.float32)}
    if "magika" in str(path):
        text = np.frombuffer(Path(__file__).read_bytes(), np.uint8)[:1024].astype(np.int32)
        return {"bytes": np.stack([np.concatenate([text, text[::-1]])] * 2)}
    return {}


def _page() -> np.ndarray:
    """A white page with lines of dark marks: on noise the detector answers nothing but numbers too small to compare."""
    generator = np.random.default_rng(0)
    page = np.full((1, 3, 96, 160), 2.0, np.float32)
    for top in range(12, 84, 24):
        marks = generator.random((12, 120)) < 0.5
        page[:, :, top : top + 12, 20:140] = np.where(marks, -2.0, 2.0)
    return page


def files(places: Sequence[Path]) -> Iterator[Path]:
    """The .onnx files among these and below them, in order."""
    for place in places:
        yield from sorted(place.rglob("*.onnx")) if place.is_dir() else (place,)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="*", type=Path, default=[LIGHT])
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    rows = []
    for path in files(arguments.places):
        begin = time.perf_counter()
        found = compared(path, inputs_for(path))
        seconds = round(time.perf_counter() - begin, 2)
        rows.append({"file": path.name, **vars(found), "seconds": seconds})
        error = "" if found.error is None else f"{found.error:.1e}"
        print(f"{path.name:40} {found.result:15} {error:8} {found.line}")
    counts = Counter(row["result"] for row in rows)
    print(", ".join(f"{count} {result}" for result, count in sorted(counts.items())), f"of {len(rows)}, limit {LIMIT}")
    arguments.out.write_text(json.dumps({"limit": LIMIT, "counts": counts, "files": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
