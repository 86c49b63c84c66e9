"""Does another checkout say the same? The JSON of every network of this one, byte for byte.

    python -m tests.benchmarks.same_answers write FOLDER [--jobs N] [--no-onnx]
    python -m tests.benchmarks.same_answers compare BEFORE AFTER

For a change that is to move code and no number: write before and after it (in another checkout by the path of this
file, with PYTHONPATH set to that checkout), and compare. Networks are those that rule files name, in both modes that
they name, as modules and as ONNX files, and all cases of tests/models. Exit code 1 where a network's JSON differs.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml

SHOWN = 12


@dataclass(frozen=True)
class Asked:
    """A network, a mode and a form: "torch" or "onnx"."""

    model: str
    mode: str
    form: str

    @property
    def file(self) -> str:
        """A file name that no other has."""
        digest = hashlib.sha256(self.model.encode()).hexdigest()[:8]
        return f"{re.sub(r'[^a-z0-9]+', '_', self.model.lower())[:60]}-{digest}-{self.mode}-{self.form}.json"


def asked(onnx: bool = True) -> Iterator[Asked]:
    """What rule files name, in both forms, and the cases of tests/models."""
    from tests import models

    rules = Path(models.__file__).parents[2] / "rules"
    named = {
        (test["model"], test.get("mode", "train"))
        for path in sorted(rules.glob("*.yaml"))
        for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]
    }
    for model, mode in sorted(named):
        yield Asked(model, mode, "torch")
        if onnx:
            yield Asked(model, mode, "onnx")
    for name in models.CASES | models.DEEP | models.HELD_OUT:
        if (name, "train") not in named:
            yield Asked(name, "train", "torch")


def answer(what: Asked) -> str:
    """The entry of the JSON report, with all rules."""
    import gnelint
    from tests.models import network
    from tests.models.export import write_onnx

    module, inputs = network(what.model)
    if what.form == "torch":
        found = gnelint.check(module, inputs, mode=what.mode, preview=True)  # type: ignore[arg-type]
        return _text(found.to_dict())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        write_onnx(module.train(what.mode == "train"), inputs, path, opset=18, dynamo=False, fold=False)
        entry = gnelint.check(path, mode=what.mode, preview=True).to_dict()  # type: ignore[arg-type]
    return _text(entry).replace(folder, "")


def _text(entry: dict[str, Any]) -> str:
    entry.pop("sha256", None)
    return json.dumps(entry, indent=1, sort_keys=True) + "\n"


def _written(what: Asked, folder: Path) -> None:
    (folder / what.file).write_text(answer(what), encoding="utf-8")


def write(folder: Path, jobs: int, onnx: bool) -> None:
    """One file a network."""
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(_written, what, folder) for what in asked(onnx)]:
            done.result()
    print(f"{len(list(folder.glob('*.json')))} files in {folder}")


def compare(before: Path, after: Path) -> int:
    """Print what differs; the number of networks."""
    names = sorted({path.name for folder in (before, after) for path in folder.glob("*.json")})
    differing = 0
    for name in names:
        old, new = (
            (folder / name).read_text(encoding="utf-8").splitlines() if (folder / name).exists() else []
            for folder in (before, after)
        )
        if old != new:
            differing += 1
            print(name)
            changed = [line for line in difflib.unified_diff(old, new, lineterm="", n=0) if line[:1] in "+-"]
            print("\n".join(f"    {line}" for line in changed[2 : 2 + SHOWN]))
    print(f"{differing} of {len(names)} differ")
    return differing


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write")
    writing.add_argument("folder", type=Path)
    writing.add_argument("--jobs", type=int, default=2)
    writing.add_argument("--no-onnx", action="store_true", help="modules alone")
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    given = parser.parse_args()
    if given.command == "write":
        write(given.folder, given.jobs, not given.no_onnx)
    else:
        sys.exit(1 if compare(given.before, given.after) else 0)


if __name__ == "__main__":
    main()
