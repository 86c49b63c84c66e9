"""gnelint beside tools that run a batch, on the reports of tests/lint/test_reports.py: caught, named, blamed, time.

    python -m tests.benchmarks.peers --peers FOLDER [--newest] [--only NAME ...] [--out FILE]

FOLDER holds each peer in a directory of its own (`pip install --no-deps --target FOLDER/torchtest2 torchtest2`, and so
torch-audit, torchdiag, pytest-torch): none of them is imported beside another. Every network is checked by every tool
with one batch, a mean squared error against random numbers (or the loss that the report is about) and Adam. torchtest2
runs without its overfitting check. A tool catches a network if it fails it or warns; it names the place if what it says
holds the name of the layer or operation that the report is about. Written to reports/benchmarks/peers.json and .md;
with --newest, of the pairs of the fifth search, those that gnelint does not name among them, to peers_newest.json and
.md.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.lint.test_reports import FURTHER, KNOWN, NEWEST, Report, drawn_in_type

OUT = Path(__file__).parents[2] / "reports" / "benchmarks" / "peers.json"
Loss = Callable[[Any, Tensor], Tensor]


UNNAMED = tuple(
    Report(f"{name}(wrong=True)", name, "", node)
    for name, node in (
        ("resting_angles", "head"), ("elu_kernel", r"\d.div"), ("cluster_sizes", "decoder.0"),
        ("turned_heads", r"\d.query"), ("step_rows", "time"), ("flow_times", "time"), ("tiny_steps", "step"),
        ("siamese_views", "encoder"), ("shut_thresholds", "threshold"), ("divided_pixels", "body.0"),
        ("negative_features", "maker"), ("normalised_gate", r"\d.gate"),
    )
)  # fmt: skip
"""Pairs of reports.md that no rule names at the cause."""


@dataclass(frozen=True)
class Row:
    """What one tool said of one network.

    Attributes:
        tool, network: their names.
        wrong: whether the network has a mistake.
        said: its failures and warnings, or that it failed itself.
        named: whether they name the place of the mistake.
        seconds: of the check.
    """

    tool: str
    network: str
    wrong: bool
    said: tuple[str, ...]
    named: bool
    seconds: float


def gnelint_says(module: nn.Module, inputs: tuple[Tensor, ...], report: Report) -> list[str]:
    """Errors and warnings of the stable rules."""
    import gnelint

    found = gnelint.check(module, inputs, loss=report.loss).findings
    spoken = (each for each in found if each.severity in ("error", "warning") and not each.rule.startswith("GNE9"))
    return [f"{each.rule} {' '.join(each.nodes)}: {each.message}" for each in spoken]


def torchtest2_says(module: nn.Module, inputs: tuple[Tensor, ...], report: Report) -> list[str]:
    """Checks that fail or warn."""
    tool = importlib.import_module("torchtest2")
    loss, target = _loss(module, inputs, report)
    done = tool.check_model(module, inputs, target, loss_fn=loss, optimizer=_adam(module), skip=["overfit_batch"])
    return [f"{each.name}: {each.message}" for each in (*done.failures, *done.warnings)]


def torch_audit_says(module: nn.Module, inputs: tuple[Tensor, ...], report: Report) -> list[str]:
    """Findings of three steps."""
    tool = importlib.import_module("torch_audit")
    loss, target = _loss(module, inputs, report)
    optimizer = _adam(module)
    with tool.audit_dynamic(module, optimizer=optimizer, every_n_steps=1, reporters=[]) as auditor:
        for _ in range(3):
            optimizer.zero_grad()
            auditor.backward(loss(auditor.forward(*inputs), target))
            auditor.optimizer_step()
    found = auditor.finish(report=False).findings
    return [f"{each.module_path or ''}: {each.message}" for each in found if each.severity.name != "INFO"]


def torchdiag_says(module: nn.Module, inputs: tuple[Tensor, ...], report: Report) -> list[str]:
    """Lines that it prints with the mark of an issue or a failure."""
    tool = importlib.import_module("torchdiag")
    loss, target = _loss(module, inputs, report)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        tool.verify_step(module, _adam(module), loss, inputs[0], target)
        loss(module(*inputs), target).backward()
        tool.check_gradients(module)
        tool.check_dead_neurons(module, inputs[0])
    return [line for line in printed.getvalue().splitlines() if re.search("[\u2022\u2717]|not finite", line)]


def pytest_torch_says(module: nn.Module, inputs: tuple[Tensor, ...], report: Report) -> list[str]:
    """Assertions about gradients and the inference contract that do not hold."""
    tool = importlib.import_module("pytest_torch")
    loss, target = _loss(module, inputs, report)
    said = []
    for check in (
        lambda: tool.assert_gradients_finite(module, inputs, lambda out: loss(out, target)),
        lambda: tool.assert_all_params_receive_grad(module, inputs, lambda out: loss(out, target)),
        lambda: tool.check_inference_contract(module.eval(), inputs),
    ):
        try:
            check()
        except AssertionError as error:
            said.append(str(error))
    return said


TOOLS: Mapping[str, Callable[[nn.Module, tuple[Tensor, ...], Report], list[str]]] = {
    "gnelint": gnelint_says,
    "torchtest2": torchtest2_says,
    "torch-audit": torch_audit_says,
    "torchdiag": torchdiag_says,
    "pytest-torch": pytest_torch_says,
}


def _adam(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam([each for each in module.parameters() if each.requires_grad], lr=1e-3)


def _loss(module: nn.Module, inputs: tuple[Tensor, ...], report: Report) -> tuple[Loss, Tensor]:
    """A loss and a target of the output's shape; the loss that the report names."""
    with torch.no_grad():
        output = module(*inputs)
    generator = torch.Generator().manual_seed(1)
    if report.loss == "cross_entropy":
        return nn.functional.cross_entropy, torch.randint(output.shape[-1], output.shape[:-1], generator=generator)
    if report.loss == "bce_with_logits":
        target = torch.randint(2, output.shape, generator=generator).float()
        return nn.functional.binary_cross_entropy_with_logits, target
    return nn.functional.mse_loss, torch.randn(output.shape, generator=generator).to(output.dtype)


def one(tool: str, report: Report, wrong: bool) -> Row:
    """Check one network with one tool."""
    model = report.bad if wrong else report.good
    torch.manual_seed(0)
    module, inputs = drawn_in_type(model)
    warnings.simplefilter("ignore")
    started = time.perf_counter()
    try:
        said = TOOLS[tool](module, inputs, report)
    except Exception as error:  # of the tool: it says nothing of the network
        print(f"{tool} fails on {model}: {type(error).__name__}: {error}"[:200], file=sys.stderr)
        said = []
    taken = time.perf_counter() - started
    place = report.node.rstrip("0123456789") if re.fullmatch(r"[a-z_]+\d*", report.node) else report.node
    named = bool(place) and any(re.search(rf"(?<![\w.]){place}", line) for line in said)
    return Row(tool, model, wrong, tuple(line[:300] for line in said), named or (not place and bool(said)), taken)


def child(tool: str, names: Sequence[str], newest: bool) -> None:
    """In a process of the tool's own: a line of JSON for each network."""
    seen: set[str] = set()
    for report in (*NEWEST, *UNNAMED) if newest else (*KNOWN, *FURTHER):
        if names and report.good not in names:
            continue
        for wrong in (True, False):
            model = report.bad if wrong else report.good
            if model and model not in seen:
                seen.add(model)
                print(json.dumps(asdict(one(tool, report, wrong))), flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--tools", nargs="*", default=list(TOOLS))
    parser.add_argument("--newest", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        sys.path.append(str(given.peers / given.child))
        child(given.child, given.only, given.newest)
        return
    out = given.out or (OUT.with_name("peers_newest.json") if given.newest else OUT)
    rows: list[Row] = []
    for tool in given.tools:
        command = [sys.executable, "-m", "tests.benchmarks.peers", "--peers", str(given.peers), "--child", tool]
        done = subprocess.run(
            [*command, *["--newest"] * given.newest, "--only", *given.only],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        lines = (line for line in done.stdout.splitlines() if line.startswith('{"tool"'))
        rows += [Row(**json.loads(line)) for line in lines]
        write(rows, out)
        print(table(rows).splitlines()[-1])


def table(rows: Sequence[Row]) -> str:
    """One line a tool."""
    lines = [
        "| tool | wrong | caught | place named | right | blamed | median seconds |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for tool in dict.fromkeys(row.tool for row in rows):
        wrong = [row for row in rows if row.tool == tool and row.wrong]
        right = [row for row in rows if row.tool == tool and not row.wrong]
        times = sorted(row.seconds for row in (*wrong, *right))
        cells = (
            tool, len(wrong), sum(bool(row.said) for row in wrong), sum(row.named for row in wrong), len(right),
            sum(bool(row.said) for row in right), f"{times[len(times) // 2]:.2f}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def write(rows: Sequence[Row], out: Path) -> None:
    """The rows, the table, and who caught what."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    tools = list(dict.fromkeys(row.tool for row in rows))
    lines = ["# gnelint beside tools that run a batch", "", table(rows), "", f"| network | {' | '.join(tools)} |"]
    lines.append(f"|---|{'---|' * len(tools)}")
    for name in dict.fromkeys(row.network for row in rows):
        found = {row.tool: row for row in rows if row.network == name}
        cells = ["" if tool not in found else _cell(found[tool]) for tool in tools]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    out.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cell(row: Row) -> str:
    if not row.wrong:
        return "blamed" if row.said else "silent"
    return "place named" if row.named else "caught" if row.said else "missed"


if __name__ == "__main__":
    main()
