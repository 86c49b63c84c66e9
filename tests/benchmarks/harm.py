"""Does `gnelint fix` ever make a network worse? Over a hundred kinds of networks, fresh and trained, three draws each.

    python -m tests.benchmarks.harm [--stage fresh|trained] [--only NAME ...] [--shard I/N] [--draws N] [--no-onnx]

Every network is fixed as a module (`gnelint.fix`) and as an ONNX file (`gnelint fix`), with the defaults. Everything is
measured here, with autograd and hooks, in training form, from white cotangents at the true outputs. What became of a
file is measured on a module that computes what the file does: one in inference form holds no dropout, and neither has
the module then, before and after.

Fresh networks: what is fixed is to be no worse.
    lost        a parameter that had a gradient has none
    infinite    a gradient is not finite
    spread      bits between the largest and the smallest squared norm of the gradient at the inputs and the submodules'
                outputs: more than before by over 0.25 bits and three standard errors, over probes and draws
    scale       an output's root mean square leaves [1/8, 8] and is farther out than before
    frozen      a parameter that takes no gradient, or a buffer, changed
    loss        after 100 steps of Adam, the mean of the last ten, in units of what a network has that learned nothing:
                paired over the draws at 1e-3 and at the better of 3e-4, 1e-3 and 3e-3. Worse where the mean increase
                is more than 0.05 and more than two standard errors; then three more draws must say the same.
Trained networks (Adam, AdamW, SGD with momentum, a draw each):
    function    an output differs by over 1e-5 of its standard deviation, in inference or training form
Both:
    again       fixing what was fixed changes something
    failed      gnelint broke down, or what it wrote cannot be run

Written to reports/benchmarks/harm.json and .md; exit code 1 if there is a violation.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor, nn

import gnelint
from gnelint.errors import GnelintError
from tests.benchmarks.harm_measure import Measured, Training, measure, outputs, spread, train
from tests.benchmarks.harm_networks import Network, networks
from tests.benchmarks.harm_onnx import FORMS, Exported, as_in_file, carried, exported, fixed_file, run
from tests.benchmarks.harm_tasks import Batch

OUT = Path(__file__).parents[2] / "reports" / "benchmarks" / "harm.json"
DRAWS = 3
RATES = (3e-4, 1e-3, 3e-3)
STEPS = 100
BITS, RANGE, WORSE = 0.25, 3.0, 0.05
SAME = 1e-5
FLOOR, CEILING = 0.01, 3.0
TRAININGS = (Training("adam", 2e-3, 300), Training("adamw", 3e-3, 200), Training("sgd", 0.03, 400))
ANOTHER = (Training("adam", 2e-3, 600), Training("adam", 5e-4, 600))
LEARNED = 0.5


@dataclass(frozen=True)
class Violation:
    """Something that is worse than before.

    Attributes:
        kind: as above.
        way: "module", or the form of the ONNX file.
        draw: which, or -1 for all of them.
        text: what was found.
        rules: whose edits were made, of modules.
    """

    kind: str
    way: str
    draw: int
    text: str
    rules: tuple[str, ...] = ()


@dataclass
class Row:
    """What became of one network.

    Attributes:
        edited, left, refused: in how many draws and ways something was changed, nothing was, or it was not read.
        learned: loss before `fix`, relative to a network that learned nothing, for each draw of a trained one.
        losses: the same after 100 steps for fresh ones: (at the best rate before, after, at 1e-3 before, after).
        commit: of the working tree that was tried.
    """

    network: str
    stage: str
    parameters: int
    edited: int = 0
    left: int = 0
    refused: int = 0
    learned: list[float] = field(default_factory=list)
    losses: list[tuple[float, float, float, float]] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    draws: int = DRAWS
    commit: str = ""


def drawn(network: Network, seed: int) -> nn.Module:
    """A fresh network."""
    torch.manual_seed(seed)
    return network.make()


def fixed_module(net: nn.Module, batch: Batch) -> nn.Module:
    """As a user would have it."""
    return gnelint.fix(copy.deepcopy(net), some(batch).inputs)


def some(batch: Batch) -> Batch:
    """The first 16 samples: what the networks are traced with."""
    return batch.take(torch.arange(16))


def rules_of(net: nn.Module, batch: Batch) -> tuple[str, ...]:
    """Whose edits there are."""
    edits = gnelint.plan_fixes(copy.deepcopy(net), some(batch).inputs).edits
    return tuple(sorted(f"{rule} x{count}" for rule, count in Counter(edit.rule for edit in edits).items()))


def changed(before: nn.Module, after: nn.Module) -> list[str]:
    """Names of the tensors that differ, or that only one has."""
    a, b = before.state_dict(), after.state_dict()
    return [name for name in {**a, **b} if name not in a or name not in b or not _equal(a[name], b[name])]


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.equal(a, b))


# Fresh networks


def fresh(name: str, network: Network, onnx: bool, draws: int = DRAWS) -> Row:
    """Fresh draws of a network, fixed, measured and trained."""
    row = Row(name, "fresh", _count(network))
    begin = time.perf_counter()
    pairs: dict[str, list[tuple[nn.Module, nn.Module, int]]] = {}
    for seed in range(draws):
        net, batch = drawn(network, seed), network.task.samples(seed, False)
        for way, (before, after) in _fixed_ways(net, batch, seed, onnx, row).items():
            pairs.setdefault(way, []).append((before, after, seed))
    _judge_gradients(network, pairs, row)
    _judge_losses(network, pairs, row, draws)
    _attribute(network, row, easy=False)
    row.seconds = time.perf_counter() - begin
    return row


def _count(network: Network) -> int:
    return sum(each.numel() for each in drawn(network, 0).parameters())


def _fixed_ways(
    net: nn.Module, batch: Batch, seed: int, onnx: bool, row: Row
) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Networks before and after by way; only those that are changed."""
    found = {}
    after = _fixed(net, batch, seed, row)
    if after is not None:
        found["module"] = net, after
    if onnx:
        in_file = as_in_file(net, FORMS[seed % len(FORMS)])
        again = _fixed_onnx(in_file, batch, seed, row)
        if again is not None and (after is None or not _close(after, again)):
            found["onnx"] = in_file, again
    return found


def _fixed(net: nn.Module, batch: Batch, seed: int, row: Row) -> nn.Module | None:
    """The fixed module, None where it is as it was."""
    try:
        after = fixed_module(net, batch)
    except Exception as error:
        return _not_read(error, "module", seed, row)
    if not changed(net, after):
        row.left += 1
        return None
    row.edited += 1
    if seed == 0:
        different = changed(after, fixed_module(after, batch))
        if different:
            row.violations.append(Violation("again", "module", seed, f"changes {_few(different)}"))
    return after


def _not_read(error: Exception, way: str, seed: int, row: Row) -> None:
    row.refused += 1
    text = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
    if isinstance(error, GnelintError):
        row.notes.append(f"{way}: {text}")
    else:
        row.violations.append(Violation("failed", way, seed, text))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _close(a: nn.Module, b: nn.Module) -> bool:
    """Whether two fixed networks are the same to rounding, so that one need be measured."""
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(
        left[name].shape == right[name].shape
        and bool(torch.allclose(left[name].double(), right[name].double(), rtol=1e-4, atol=0))
        for name in left
    )


def _fixed_onnx(net: nn.Module, batch: Batch, seed: int, row: Row) -> nn.Module | None:
    """The module with the tensors of the fixed ONNX file; None where nothing changed or they cannot be found again."""
    with tempfile.TemporaryDirectory() as folder:
        pair = _onnx_pair(net, batch, seed, Path(folder), row)
        if pair is None:
            return None
        file, after, form = pair
        kept = run(file, some(batch))
        now = run(after, some(batch))
        for a, b in zip(kept, now, strict=True):
            problem = _out_of_range(_rms(a), _rms(b))
            if problem:
                row.violations.append(Violation("scale", form, seed, problem))
        return carried(net, file, after)


def _rms(y: Tensor) -> float:
    return float(y.double().square().mean().sqrt())


def _onnx_pair(net: nn.Module, batch: Batch, seed: int, folder: Path, row: Row) -> tuple[Path, Path, str] | None:
    """An exported network and what `gnelint fix` made of it; None where it made nothing."""
    form = FORMS[seed % len(FORMS)]
    try:
        file: Exported = exported(net, some(batch), folder / "a.onnx", form)
    except Exception as error:
        row.notes.append(f"{form}: not exported: {type(error).__name__}")
        return None
    try:
        after, said = fixed_file(file.path, folder / "b.onnx")
        if after is None:
            row.refused += "gnelint:" in said
            row.left += "gnelint:" not in said
            if "gnelint:" in said:
                row.notes.append(f"{form}: {said.splitlines()[0][:200]}")
            return None
        row.edited += 1
        again, _ = fixed_file(after, folder / "c.onnx")
        if again is not None:
            row.violations.append(Violation("again", form, seed, "a second fix writes a file"))
        run(after, some(batch))
    except Exception as error:
        return _not_read(error, form, seed, row)
    return file.path, after, form


def _out_of_range(before: float, after: float) -> str:
    """What is wrong with an output's scale, "" if nothing."""
    if not math.isfinite(after):
        return f"output {before:.3g} -> {after}"
    if before > 0 and after == 0:
        return f"output {before:.3g} -> 0"
    if before == 0:
        return ""
    was, now = abs(math.log2(before)), abs(math.log2(after))
    return f"output {before:.3g} -> {after:.3g}" if now > max(RANGE, was + 0.25) else ""


Pairs = dict[str, list[tuple[nn.Module, nn.Module, int]]]


def _judge_gradients(network: Network, pairs: Pairs, row: Row) -> None:
    for way, found in pairs.items():
        differences: list[float] = []
        spreads = []
        for net, after, seed in found:
            batch = network.task.samples(seed, False)
            try:
                was, now = measure(net, batch), measure(after, batch)
            except Exception as error:
                _not_read(error, way, seed, row)
                continue
            row.violations += [Violation(kind, way, seed, text) for kind, text in _worse(was, now)]
            frozen = _frozen_changes(net, after)
            if frozen:
                row.violations.append(Violation("frozen", way, seed, f"changes {_few(frozen)}"))
            found_spreads = _spreads(was, now)
            differences += [b - a for a, b in found_spreads]
            spreads.append((fmean(a for a, _ in found_spreads), fmean(b for _, b in found_spreads)))
        if differences and fmean(differences) > max(BITS, 3 * _error(differences)):
            text = ", ".join(f"{a:.1f} -> {b:.1f}" for a, b in spreads)
            row.violations.append(Violation("spread", way, -1, f"bits: {text}"))


def _error(values: Sequence[float]) -> float:
    """Standard error of the mean."""
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def _worse(was: Measured, now: Measured) -> list[tuple[str, str]]:
    """What is worse in one draw, as kind and text."""
    found = []
    lost = [name for name, reached in was.gradients.items() if reached and not now.gradients.get(name, True)]
    if lost:
        found.append(("lost", f"{len(lost)} of {len(was.gradients)} parameters: {_few(lost)}"))
    places = set(was.depth[0]) & set(now.depth[0])
    gone = [each for each in sorted(places) if was.depth[0][each] > -math.inf and now.depth[0][each] == -math.inf]
    if gone and not lost:
        found.append(("lost", f"no gradient at {_few(gone)}"))
    broken = [name for name in now.broken if name not in was.broken]
    if broken:
        found.append(("infinite", _few(broken)))
    scales = [_out_of_range(a, b) for a, b in zip(was.scales, now.scales, strict=True)]
    return found + [("scale", text) for text in scales if text]


def _spreads(was: Measured, now: Measured) -> list[tuple[float, float]]:
    """Spreads of both for each probe, over the places that both have and that a gradient reaches."""
    found = []
    for a, b in zip(was.depth, now.depth, strict=True):
        places = [each for each in a if math.isfinite(a[each]) and math.isfinite(b.get(each, math.inf))]
        found.append((spread(a, places), spread(b, places)))
    return found


def _frozen_changes(before: nn.Module, after: nn.Module) -> list[str]:
    """Parameters that take no gradient and buffers that changed; statistics of normalisations may."""
    held = {name for name, each in before.named_parameters() if not each.requires_grad}
    held |= {name for name, _ in before.named_buffers() if "running_" not in name and "num_batches" not in name}
    state = after.state_dict()
    return [name for name in sorted(held) if name in state and not _equal(before.state_dict()[name], state[name])]


def _judge_losses(network: Network, pairs: Pairs, row: Row, draws: int) -> None:
    """Train before and after. Where it looks worse, three more draws must agree."""
    for way, found in pairs.items():
        before: dict[tuple[int, float], float] = {}
        compared = [_losses(network, net, after, seed, before) for net, after, seed in found]
        unchanged = draws - len(found)
        increase = [_increase(each) for each in compared] + [0.0] * unchanged
        row.losses += compared if way == "module" else []
        if not _significant(increase):
            continue
        if way == "module":
            for seed in range(draws, 2 * draws):
                net, batch = drawn(network, seed), network.task.samples(seed, False)
                compared.append(_losses(network, net, fixed_module(net, batch), seed, before))
                increase.append(_increase(compared[-1]))
        if _significant(increase):
            best = ", ".join(f"{a:.3f} -> {b:.3f}" for a, b, _, _ in compared)
            fixed_rate = ", ".join(f"{a:.3f} -> {b:.3f}" for _, _, a, b in compared)
            row.violations.append(Violation("loss", way, -1, f"best rate: {best}; 1e-3: {fixed_rate}"))


def _losses(
    network: Network, net: nn.Module, after: nn.Module, seed: int, known: dict[tuple[int, float], float]
) -> tuple[float, float, float, float]:
    """Relative losses at the best rate and at 1e-3, before and after each."""
    batch = network.task.samples(seed, False)
    now = {}
    for rate in RATES:
        how = Training("adam", rate, STEPS)
        if (seed, rate) not in known:
            known[seed, rate] = _relative(network, train(net, network.task, batch, how, seed)[1])
        now[rate] = _relative(network, train(after, network.task, batch, how, seed)[1])
    return min(known[seed, rate] for rate in RATES), min(now.values()), known[seed, 1e-3], now[1e-3]


def _relative(network: Network, loss: float) -> float:
    """A loss in units of what a network has that learned nothing; nothing below 0.01 or above 3 counts."""
    return min(max(loss / network.task.trivial, FLOOR), CEILING)


def _increase(losses: tuple[float, float, float, float]) -> float:
    best_before, best_after, before, after = losses
    return ((best_after - best_before) + (after - before)) / 2


def _significant(increase: Sequence[float]) -> bool:
    return bool(increase) and fmean(increase) > max(WORSE, 2 * _error(increase))


# Trained networks


def trained(name: str, network: Network, onnx: bool, draws: int = DRAWS) -> Row:
    """Trained draws of a network, fixed; what they compute before and after."""
    row = Row(name, "trained", _count(network))
    begin = time.perf_counter()
    for seed in range(draws):
        batch = network.task.samples(seed, True)
        net, loss = _learned(network, batch, seed)
        row.learned.append(round(loss, 4))
        if loss > LEARNED:
            row.notes.append(f"draw {seed} did not learn; not judged")
            continue
        after = _fixed(net, batch, seed, row)
        if after is not None:
            row.violations += [Violation("function", "module", seed, text) for text in _difference(net, after, batch)]
        if onnx:
            _compare_onnx(net, batch, seed, row)
    _attribute(network, row, easy=True)
    row.seconds = time.perf_counter() - begin
    return row


def _learned(network: Network, batch: Batch, seed: int) -> tuple[nn.Module, float]:
    """A trained network and its relative loss; where one optimizer does not get there, another."""
    best: tuple[nn.Module, float] | None = None
    for how in (TRAININGS[seed % len(TRAININGS)], *ANOTHER):
        net, loss = train(drawn(network, seed), network.task, batch, how, seed)
        relative = loss / network.task.trivial
        if best is None or relative < best[1]:
            best = net, relative
        if relative <= LEARNED:
            break
    assert best is not None
    return best


def _difference(net: nn.Module, after: nn.Module, batch: Batch) -> list[str]:
    """How the outputs differ, in either form; in double precision, so that rounding does not count."""
    found = []
    exact = batch.double()
    for form in ("eval", "train"):
        both = []
        for each in (net, after):
            each = copy.deepcopy(each).double().train(form == "train")
            with torch.no_grad():
                both.append(outputs(each, exact))
        apart = max(map(_apart, *both))
        if not apart <= SAME:
            found.append(f"{form}: outputs differ by {apart:.3g} of their standard deviation")
    return found


def _apart(a: Tensor, b: Tensor) -> float:
    """Largest difference in standard deviations of the first."""
    if a.shape != b.shape:
        return math.inf
    deviation = float(a.double().std()) if a.numel() > 1 else 1.0
    return float((a.double() - b.double()).abs().max()) / max(deviation, 1e-12)


def _compare_onnx(net: nn.Module, batch: Batch, seed: int, row: Row) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pair = _onnx_pair(net, batch, seed, Path(folder), row)
        if pair is None:
            return
        file, after, form = pair
        apart = max(map(_apart, run(file, some(batch)), run(after, some(batch))))
        if not apart <= SAME:
            row.violations.append(
                Violation("function", form, seed, f"outputs differ by {apart:.3g} of their standard deviation")
            )


def _attribute(network: Network, row: Row, easy: bool) -> None:
    """Say of the first violation of a module whose edits were made."""
    for index, each in enumerate(row.violations):
        if each.way != "module" or each.kind == "failed":
            continue
        seed = max(each.draw, 0)
        batch = network.task.samples(seed, easy)
        net = _learned(network, batch, seed)[0] if easy else drawn(network, seed)
        row.violations[index] = Violation(each.kind, each.way, each.draw, each.text, rules_of(net, batch))
        return


# The program


def table(rows: Sequence[Row]) -> list[str]:
    """The rows as Markdown."""
    lines = [
        "| network | stage | draws | parameters | edited | left | refused | relative loss | violations | s | at |",
        "|---|---|--:|--:|--:|--:|--:|---|---|--:|---|",
    ]
    for row in rows:
        kinds = Counter(each.kind for each in row.violations)
        said = ", ".join(f"**{kind}** x{count}" for kind, count in kinds.items()) or "-"
        if row.stage == "fresh":
            losses = ", ".join(f"{a:.2f} -> {b:.2f}" for a, b, _, _ in row.losses) or "-"
        else:
            losses = ", ".join(f"{each:.2f}" for each in row.learned)
        lines.append(
            f"| {row.network} | {row.stage} | {row.draws} | {row.parameters} | {row.edited} | {row.left} | "
            f"{row.refused} | {losses} | {said} | {row.seconds:.0f} | {row.commit} |"
        )
    return lines


def summary(rows: Sequence[Row]) -> list[str]:
    """What all of them come to."""
    lines = []
    for stage in ("fresh", "trained"):
        chosen = [row for row in rows if row.stage == stage]
        kinds = Counter(kind for row in chosen for kind in {each.kind for each in row.violations})
        said = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())) or "none"
        bad = sum(bool(row.violations) for row in chosen)
        better = sum(_improved(row) for row in chosen)
        lines.append(
            f"{len(chosen)} {stage} networks: {bad} with violations (networks by kind: {said}); "
            f"{sum(row.edited for row in chosen)} fixes edited, {sum(row.left for row in chosen)} left alone, "
            f"{sum(row.refused for row in chosen)} refused"
            + (f"; {better} networks learn better" if stage == "fresh" else "")
        )
    return lines


def _improved(row: Row) -> bool:
    return _significant([-_increase(each) for each in row.losses])


def _written(rows: Sequence[Row], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    found = [
        f"- {row.network}, {row.stage}, {each.way}, {'all draws' if each.draw < 0 else f'draw {each.draw}'}: "
        f"{each.kind}: {each.text}" + (f" ({', '.join(each.rules)})" if each.rules else "")
        for row in rows
        for each in row.violations
    ]
    parts = ["# Does `gnelint fix` do harm?", "", *(f"{line}." for line in summary(rows)), "", *table(rows), "", *found]
    out.with_suffix(".md").write_text("\n".join(parts).rstrip() + "\n")


def _merged(rows: Sequence[Row], out: Path) -> list[Row]:
    """These rows and those of earlier pieces, in the order of the networks."""
    kept: dict[tuple[str, str], Row] = {}
    if out.exists():
        for entry in json.loads(out.read_text()):
            entry["violations"] = [Violation(**{**each, "rules": tuple(each["rules"])}) for each in entry["violations"]]
            kept[entry["stage"], entry["network"]] = Row(**entry)
    kept |= {(row.stage, row.network): row for row in rows}
    names = list(networks())
    return sorted(
        (row for row in kept.values() if row.network in names), key=lambda row: (row.stage, names.index(row.network))
    )


def _chosen(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """Stages and names."""
    stages = ("fresh", "trained") if arguments.stage == "both" else (arguments.stage,)
    names = [name for name in networks() if not arguments.only or name in arguments.only]
    work = [(stage, name) for stage in stages for name in names]
    index, count = (int(part) for part in arguments.shard.split("/"))
    return work[index - 1 :: count]


def _commit() -> str:
    """Of the working tree, "" outside one."""
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=("fresh", "trained", "both"), default="both")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="networks, all by default")
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="every Nth of them")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--no-onnx", action="store_true", help="modules alone")
    parser.add_argument("--out", type=Path, default=OUT, help="rows of other networks that are in it are kept")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    catalogue, commit = networks(), _commit()
    rows = []
    for stage, name in _chosen(arguments):
        judge: Any = fresh if stage == "fresh" else trained
        row = judge(name, catalogue[name], not arguments.no_onnx, arguments.draws)
        row.draws, row.commit = arguments.draws, commit
        rows.append(row)
        print(table([row])[-1], flush=True)
        for each in row.violations:
            print(f"    {each.kind}, {each.way}, draw {each.draw}: {each.text} {' '.join(each.rules)}", flush=True)
        for note in dict.fromkeys(row.notes):
            print(f"    note: {note}", flush=True)
        _written(_merged(rows, arguments.out), arguments.out)
    print("\n".join(["", *summary(rows)]))
    return int(any(row.violations for row in rows))


if __name__ == "__main__":
    sys.exit(main())
