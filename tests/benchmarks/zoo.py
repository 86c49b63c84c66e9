"""How much of what people bring is read: every model type of the installed transformers, and the main ones of others.

    python -m tests.benchmarks.zoo [--only NAME ...] [--again CAUSE ...] [--shuffled] [--limit N] [--seconds N]
        [--out FILE]

Runs in an environment of its own, with transformers, diffusers and x-transformers beside torch. Each model class is
built small from its own configuration and checked as it comes, with the inputs that gnelint finds for it, in a process
of its own with a time limit. A run goes on where the last one stopped: rows that the file has are kept, but for those
whose cause is named by --again ("all": every row that is not read with coverage 1). With --shuffled
they come in an order that a seed draws, so that what is done so far is a sample of all. Written to
reports/benchmarks/zoo.json and .md, with a table of causes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import re
import resource
import signal
import subprocess
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path

import torch

import gnelint
from gnelint.errors import GnelintError
from gnelint.readers.torch.found_inputs import find_inputs
from tests.benchmarks.small_model import SmallModel
from tests.benchmarks.small_models import families, models

OUT = Path(__file__).parents[2] / "reports" / "benchmarks" / "zoo.json"
WANTED_READ, WANTED_WHOLE = 0.97, 0.90
_WAITED = 5
"""Seconds waited for one of processor, on a machine that does other things too."""


@dataclass(frozen=True)
class Row:
    """What became of one network.

    Attributes:
        package, family, model: which.
        outcome: "read", or why not: "not built" (its own fault), "no inputs", "not read", "too slow".
        coverage: the share of nodes with a formula.
        causes: of a coverage below 1, or of a network that was not read.
        seconds: of reading and analysis.
        commit: of gnelint, as git names it in short; "" where nobody wrote it down.
    """

    package: str
    family: str
    model: str
    outcome: str
    coverage: float | None = None
    causes: tuple[str, ...] = ()
    seconds: float = 0.0
    commit: str = ""

    @property
    def whole(self) -> bool:
        """Whether every node has a formula."""
        return self.outcome == "read" and self.coverage == 1.0


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--again", nargs="*", default=[])
    parser.add_argument("--shuffled", action="store_true", help="in an order drawn from a fixed seed")
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=120, help="allowed for a network")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = {row.family: row for row in _known(given.out) if not _asked(row, given.again)}
    names = given.only or families()
    if given.shuffled:
        random.Random(0).shuffle(names)
    _commit()
    gnelint.check(torch.nn.Linear(2, 2), inputs="1,2")  # what reading imports is there when the processes fork
    for model in islice(models([name for name in names if given.only or name not in rows]), given.limit):
        rows[model.family] = replace(checked(model, given.seconds), commit=_commit())
        print(line(rows[model.family]), flush=True)
        write(list(rows.values()), given.out)
    write(list(rows.values()), given.out)
    print(summary(list(rows.values())))


def _known(file: Path) -> list[Row]:
    if not file.is_file():
        return []
    return [Row(**{**entry, "causes": tuple(entry["causes"])}) for entry in json.loads(file.read_text())]


def _asked(row: Row, again: Sequence[str]) -> bool:
    return any((word == "all" and not row.whole) or any(word in cause for cause in row.causes) for word in again)


def checked(model: SmallModel, seconds: int) -> Row:
    """Build and check one in a process of its own, which has so many seconds of processor."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_check, args=(model, theirs, seconds), daemon=True)
    process.start()
    theirs.close()
    row = Row(model.package, model.family, model.name, "too slow", causes=(f"over {seconds} s",))
    try:
        if ours.poll(seconds * _WAITED):
            row = ours.recv()
    except EOFError:
        process.join()
        if process.exitcode != -signal.SIGXCPU:
            row = Row(model.package, model.family, model.name, "not read", causes=("the process died",))
    finally:
        process.kill()
        process.join()
    return row


def _check(model: SmallModel, out: Connection, seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    named = (model.package, model.family, model.name)
    started, stage, found = time.process_time(), "not built", None
    try:
        for build in model.builds:
            try:
                torch.manual_seed(0)
                module = build()
            except Exception:
                if build is model.builds[-1] and stage == "not built":
                    raise
                continue
            if type(module).forward is torch.nn.Module.forward:
                raise NotImplementedError("has no forward of its own: its parts are called one by one")
            stage, found = "no inputs", find_inputs(module)
            if found is not None:
                break
        if found is None:
            out.send(Row(*named, stage, causes=("inputs not found",)))
            return
        stage, started = "not read", time.process_time()
        analysis = gnelint.check(module, found.args, example_kwargs=found.kwargs)
    except GnelintError as error:
        out.send(Row(*named, stage, causes=(_short(str(error)),), seconds=time.process_time() - started))
        return
    except Exception as error:
        cause = _short(f"{type(error).__name__}: {error}")
        out.send(Row(*named, stage, causes=(cause,), seconds=time.process_time() - started))
        return
    unknown = (re.search(r"no formula for (\S+)", finding.message) for finding in analysis.findings)
    causes = sorted({match[1] for match in unknown if match})
    if analysis.prediction.coverage < 1.0 and not causes:
        causes = ["behind what is not modelled"]
    seconds = time.process_time() - started
    out.send(Row(*named, "read", analysis.prediction.coverage, tuple(causes), seconds))


def _short(text: str) -> str:
    text = " ".join(text.split())
    text = re.sub(r"^\S+: cannot be traced: ", "", text)
    return re.sub(r"/\S+/", "", text)[:160]


def line(row: Row) -> str:
    """A row for the screen."""
    coverage = "" if row.coverage is None else f"{row.coverage:.3f}"
    return f"{row.family:<28}{row.outcome:<10}{coverage:>6}{row.seconds:6.1f} s  {', '.join(row.causes)}"


def summary(rows: Sequence[Row]) -> str:
    """The figures."""
    tried = [row for row in rows if row.outcome != "not built"]
    read, whole = sum(row.outcome == "read" for row in tried), sum(row.whole for row in tried)
    share = max(len(tried), 1)
    return (
        f"{len(tried)} networks were built: {read} read ({read / share:.1%}, {WANTED_READ:.0%} wanted), {whole} "
        f"of them with a formula for every node ({whole / share:.1%}, {WANTED_WHOLE:.0%} wanted). For "
        f"{sum(row.outcome == 'no inputs' for row in rows)} no inputs were found, which counts as not read. "
        f"{len(rows) - len(tried)} could not be built here, which does not count: they need a package that is not "
        f"here, or do not fit their own configuration. Networks that were tried: {len(rows)} of {_count()}."
    )


@lru_cache
def _commit() -> str:
    """What is measured; it is asked for once, when the run begins."""
    asked = ["git", "-C", str(Path(gnelint.__file__).parent), "rev-parse", "--short=7", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


@lru_cache
def _count() -> int:
    return len(families())


def _by_commit(rows: Sequence[Row]) -> str:
    counted = Counter(row.commit or "not written down" for row in rows)
    return ", ".join(f"{commit} {count}" for commit, count in counted.most_common())


def write(rows: Sequence[Row], out: Path) -> None:
    """The rows, and the table of causes."""
    out.parent.mkdir(parents=True, exist_ok=True)
    ordered = sorted(rows, key=lambda row: (row.package, row.family))
    out.write_text(json.dumps([asdict(row) for row in ordered], indent=1) + "\n", encoding="utf-8")
    causes: dict[str, list[str]] = {}
    for row in ordered:
        for cause in row.causes:
            causes.setdefault(f"{row.outcome}: {cause}".replace("|", "/"), []).append(row.family)
    counted = Counter({cause: len(families) for cause, families in causes.items()})
    lines = [
        "# Networks as people bring them",
        "",
        summary(rows),
        "",
        f"A run keeps the rows that are there, of several commits and limits of time: {_by_commit(rows)}.",
        "",
        "| cause | networks | such as |",
        "|---|--:|---|",
    ]
    lines += [f"| {cause} | {count} | {', '.join(causes[cause][:4])} |" for cause, count in counted.most_common()]
    lines += ["", "| package | family | model | outcome | coverage | s | commit |", "|---|---|---|---|--:|--:|---|"]
    for row in ordered:
        coverage = "" if row.coverage is None else f"{row.coverage:.3f}"
        cells = (row.package, row.family, row.model, row.outcome, coverage, f"{row.seconds:.1f}", row.commit)
        lines.append(f"| {' | '.join(cells)} |")
    out.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
