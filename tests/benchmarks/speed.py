"""Whole processes side by side: what `gnelint check` takes, and what others take that open the same file.

    python -m tests.benchmarks.speed [--repeats 3] [--large] [--files FOLDER] [--only TEXT] [-o speed.json]

Files are made on the spot: chains of 1 to 10,000 nodes, exports of a ResNet-50 of 100 MB, a BERT, recurrent layers, an
ensemble of trees, a gigabyte of external data that is sparse on the disk; `--large` adds 100,000 nodes and 16 GB.
`--files` takes .onnx files as well, for instance those of packages that were unpacked. The commands of a file take
turns, so that whatever else the machine does falls on all; counted are processor seconds and the peak of resident
memory of a process and its children, as the system tells them, and the ratio within each turn, whose median is shown.
Opponents that are not installed are left out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from tests.models import CASES, Case
from tests.models.export import export_onnx

REPORTS = Path(__file__).resolve().parents[2] / "reports" / "benchmarks"
GNELINT = str(Path(sys.executable).with_name("gnelint"))
WRAPPED = """
import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""
"""A small process starts each command: a child's peak of memory counts what its parent was when it forked."""


@dataclass(frozen=True)
class Command:
    """A program that is given a file last; `codes` are those that it ends with when it did its work."""

    name: str
    words: tuple[str, ...]
    codes: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Taken:
    """What one command took for one file, medians over the turns.

    Attributes:
        seconds: of processor time.
        megabytes: of memory, the most of all turns.
        ratio: what gnelint took over what this took, processor seconds.
    """

    command: str
    seconds: float
    megabytes: float
    ratio: float


@dataclass(frozen=True)
class Measured:
    """A file and what all commands took for it; `megabytes` with its external data, as they claim to be."""

    file: str
    megabytes: float
    nodes: int
    taken: tuple[Taken, ...]


def python(text: str) -> tuple[str, ...]:
    """A program of one line."""
    return (sys.executable, "-c", text)


CHECK = Command("gnelint check --no-cache", (GNELINT, "check", "--no-cache"), (0, 1))
CACHED = Command("gnelint check, known", (GNELINT, "check", "--cache-dir", "cache"), (0, 1))
IMPORTS = Command("import click, numpy, onnx", python("import click, numpy, onnx"))
OPPONENTS = (
    Command("onnx.checker, full", python("import onnx, sys; onnx.checker.check_model(sys.argv[1], full_check=True)")),
    Command("onnx.load", python("import onnx, sys; onnx.load(sys.argv[1])")),
    Command("onnx-doctor check", ("onnx-doctor", "check"), (0, 1)),
    Command("polygraphy inspect", ("polygraphy", "inspect", "model")),
)


# --- files -----------------------------------------------------------------------------------------------------------


def chain(count: int) -> Callable[[Path], None]:
    """Residual blocks of a layer, an activation and a sum, until there are so many nodes."""

    def write(path: Path) -> None:
        drawn, nodes, weights, last = np.random.default_rng(0), [], [], "x"
        for k in range(count // 3 if count > 2 else 0):
            matrix = (drawn.standard_normal((8, 8)) * 0.05).astype(np.float32)
            weights.append(numpy_helper.from_array(matrix, f"w{k}"))
            nodes += [
                helper.make_node("MatMul", [last, f"w{k}"], [f"m{k}"], f"layer{k}"),
                helper.make_node("Relu", [f"m{k}"], [f"r{k}"], f"act{k}"),
                helper.make_node("Add", [f"r{k}", last], [f"s{k}"], f"sum{k}"),
            ]
            last = f"s{k}"
        for k in range(count - len(nodes)):
            nodes.append(helper.make_node("Relu", [last], [f"e{k}"], f"end{k}"))
            last = f"e{k}"
        _save(path, nodes, weights, [4, 8], last)

    return write


def _save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[onnx.TensorProto],
    shape: Sequence[int],
    last: str,
    domain: str = "",
) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", last)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 3)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))


class Recurrent(nn.Module):
    """A layer in front, two recurrent ones, a head."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.front, self.cells, self.head = nn.Linear(32, 64), kind(64, 128, 2, batch_first=True), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, step, 32) to (batch, step, 10)."""
        found: Tensor = self.head(self.cells(self.front(x))[0])
        return found


def exported(case: Case) -> Callable[[Path], None]:
    """A module as its exporter writes it."""
    return lambda path: export_onnx(case, path, opset=17, training=True, dynamo=False)


def trees(count: int) -> Callable[[Path], None]:
    """An ensemble of stumps with so many nodes."""

    def write(path: Path) -> None:
        places = np.arange(count)
        leaf = places % 3 > 0
        kinds = ["LEAF" if each else "BRANCH_LEQ" for each in leaf]
        per_node = {
            "nodes_treeids": (places // 3).tolist(), "nodes_nodeids": (places % 3).tolist(),
            "nodes_featureids": [0] * count, "nodes_values": [0.5] * count, "nodes_modes": kinds,
            "nodes_truenodeids": np.where(leaf, 0, 1).tolist(), "nodes_falsenodeids": np.where(leaf, 0, 2).tolist(),
        }  # fmt: skip
        ends = int(leaf.sum())
        per_leaf = {
            "target_treeids": (places // 3)[leaf].tolist(), "target_nodeids": (places % 3)[leaf].tolist(),
            "target_ids": [0] * ends, "target_weights": [1.0] * ends,
        }  # fmt: skip
        node = helper.make_node(
            "TreeEnsembleRegressor", ["x"], ["y"], "trees", domain="ai.onnx.ml", n_targets=1, **per_node, **per_leaf
        )
        _save(path, [node], [], [8, 1], "y", "ai.onnx.ml")

    return write


def external(gigabytes: int) -> Callable[[Path], None]:
    """Linear layers of half precision whose numbers lie in a file of this size, sparse on the disk."""

    def write(path: Path) -> None:
        width = 16384
        each = width * width * 2
        nodes, weights, last = [], [], "x"
        for k in range(gigabytes * 10**9 // each):
            tensor = TensorProto(name=f"w{k}", data_type=TensorProto.FLOAT16, dims=(width, width))
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", f"{path.stem}.bin"), ("offset", k * each), ("length", each)):
                tensor.external_data.add(key=key, value=str(value))
            weights.append(tensor)
            nodes.append(helper.make_node("MatMul", [last, f"w{k}"], [f"m{k}"], f"layer{k}"))
            last = f"m{k}"
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [4, width]) for name in ("x", last)]
        graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        path.write_bytes(model.SerializeToString())
        with path.with_suffix(".bin").open("wb") as file:
            file.truncate(len(weights) * each)

    return write


def made(large: bool) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Names of files, and what writes them."""
    for count in (1, 100, 1_000, 10_000, *([100_000] if large else [])):
        yield f"nodes_{count}", chain(count)
    yield "resnet50", exported(Case("resnet50", lambda: CASES["resnet50"].build(classes=1000), (1, 3, 224, 224)))
    yield "bert", exported(CASES["bert"])
    for kind in (nn.LSTM, nn.GRU, nn.RNN):
        yield kind.__name__.lower(), exported(Case("cells", lambda kind=kind: Recurrent(kind), (4, 50, 32)))
    yield "trees", trees(900_000)
    for gigabytes in (1, *([16] if large else [])):
        yield f"external_{gigabytes}_gb", external(gigabytes)


# --- measuring -------------------------------------------------------------------------------------------------------


def cost(command: Command, file: Path, folder: Path) -> tuple[float, float]:
    """Processor seconds and megabytes of one run.

    Raises:
        RuntimeError: it ended with a status that is not one of its own.
    """
    words = [sys.executable, "-c", WRAPPED, *command.words, str(file)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True, env=os.environ)
    code, seconds, megabytes = json.loads(done.stdout)
    if code not in command.codes:
        raise RuntimeError(f"{command.name} {file.name} ended with {code}")
    return seconds, megabytes


def measure(file: Path, repeats: int, folder: Path) -> Measured:
    """All commands in turns, after one turn that fills the file cache; one that cannot do the file is left out."""
    runs: dict[str, list[tuple[float, float]]] = {}
    commands = [CHECK, CACHED, IMPORTS, *(each for each in OPPONENTS if shutil.which(each.words[0]))]
    for turn in range(repeats + 1):
        for command in list(commands):
            try:
                found = cost(command, file, folder)
            except RuntimeError as error:
                print(f"{error}: left out")
                commands.remove(command)
                continue
            if turn:
                runs.setdefault(command.name, []).append(found)
    own = runs[CHECK.name]
    model = onnx.load(str(file), load_external_data=False)
    data = sum(each.stat().st_size for each in (file, file.with_suffix(".bin")) if each.is_file())
    return Measured(file.name, data / 1e6, len(model.graph.node), tuple(_taken(name, own, runs[name]) for name in runs))


def _taken(name: str, own: Sequence[tuple[float, float]], found: Sequence[tuple[float, float]]) -> Taken:
    ratio = statistics.median(mine[0] / theirs[0] for mine, theirs in zip(own, found, strict=False))
    return Taken(name, statistics.median(run[0] for run in found), max(run[1] for run in found), ratio)


def slope(measured: Sequence[Measured]) -> float | None:
    """That of log seconds over log nodes, between the two longest chains: 1 where time is linear."""
    chains = sorted((each for each in measured if each.file.startswith("nodes_")), key=lambda each: each.nodes)[-2:]
    if len(chains) < 2:
        return None
    (less, more), nodes = (each.taken[0].seconds for each in chains), [each.nodes for each in chains]
    return math.log(more / less) / math.log(nodes[1] / nodes[0])


def main(arguments: Sequence[str] | None = None) -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--files", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("-o", "--output", type=Path, default=REPORTS / "speed.json")
    chosen = parser.parse_args(arguments)
    measured = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for label, write in made(chosen.large):
            if chosen.only in label:
                write(folder / f"{label}.onnx")
                measured.append(measure(folder / f"{label}.onnx", chosen.repeats, folder))
                show(measured[-1])
        for file in sorted(chosen.files.rglob("*.onnx")) if chosen.files else ():
            measured.append(measure(file.resolve(), chosen.repeats, folder))
            show(measured[-1])
    report = {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "repeats": chosen.repeats,
        "slope over nodes": slope(measured),
        "files": [asdict(each) for each in measured],
    }
    chosen.output.write_text(json.dumps(report, indent=1) + "\n")


def show(measured: Measured) -> None:
    """A line for each command."""
    print(f"{measured.file}: {measured.megabytes:.3g} MB, {measured.nodes} nodes", flush=True)
    for each in measured.taken:
        print(f"  {each.command:26} {each.seconds:8.3f} s {each.megabytes:7.0f} MB   {each.ratio:6.2f}", flush=True)


if __name__ == "__main__":
    main()
