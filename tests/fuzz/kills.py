"""gnelint ended at random moments: no file may be damaged, and no process may stay.

    python -m tests.fuzz.kills [--seed 0] [--fixes 100] [--checks 50] [-o reports/benchmarks/kills.json]

`fix --in-place` and `check -j 3` are started in a session of their own and sent SIGTERM, SIGINT or SIGKILL after a
time that the seed draws from the time that the command takes. After a fix the file must hold the bytes from before or
those of a fix that was let run, and nothing else may lie beside it once the next fix has ended; 2 seconds after the
end no process of the session may be left. Exit code 1 where one of these does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

from tests.test_cli import write_mlp

REPORT = Path(__file__).resolve().parents[2] / "reports" / "benchmarks" / "kills.json"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
GRACE = 2.0
"""Seconds after which no process may be left."""
FIX = ("fix", "--in-place", "--no-verify", "model.onnx")
CHECK = ("check", "--no-cache", "-j", "3", ".")


@dataclass
class Count:
    """What became of the runs of one command.

    Attributes:
        runs: how many there were.
        ended: how many of them ended by themselves before the signal came.
        signals: how often each signal was sent.
        wrong: what does not hold, a sentence for each.
    """

    runs: int = 0
    ended: int = 0
    signals: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fixes", type=int, default=100)
    parser.add_argument("--checks", type=int, default=50)
    parser.add_argument("-o", "--output", type=Path, default=REPORT)
    chosen = parser.parse_args(arguments)
    random = Random(chosen.seed)
    with tempfile.TemporaryDirectory() as folder:
        found = {
            " ".join(FIX): fixes(Path(folder) / "fix", chosen.fixes, random),
            " ".join(CHECK): checks(Path(folder) / "check", chosen.checks, random),
        }
    for name, count in found.items():
        told = ", ".join(f"{number} {each}" for each, number in sorted(count.signals.items()))
        print(f"{name}: {count.runs} runs, {told}; {count.ended} had ended before; {len(count.wrong)} wrong")
        for sentence in count.wrong:
            print(f"  {sentence}")
    chosen.output.write_text(
        json.dumps({"seed": chosen.seed, **{name: asdict(count) for name, count in found.items()}}, indent=1) + "\n"
    )
    return int(any(count.wrong for count in found.values()))


def fixes(folder: Path, runs: int, random: Random) -> Count:
    """`fix --in-place`, again and again from the same file."""
    folder.mkdir()
    model, kept = folder / "model.onnx", folder.with_suffix(".onnx")
    before = write_mlp(kept, depth=12, gain=0.5, width=64).read_bytes()
    shutil.copyfile(kept, model)
    takes = _let_run(FIX, folder)
    after = model.read_bytes()
    assert after != before, "there was nothing to fix"
    count = Count()
    for run in range(runs):
        shutil.copyfile(kept, model)
        _killed(FIX, folder, takes, random, count, f"run {run}")
        if model.read_bytes() not in (before, after):
            count.wrong.append(f"run {run}: the model file is neither as it was nor fixed")
    shutil.copyfile(kept, model)
    _let_run(FIX, folder)
    beside = sorted(path.name for path in folder.iterdir() if path != model)
    if beside or model.read_bytes() != after:
        count.wrong.append(f"after another fix there is {', '.join(beside) or 'another file'}")
    return count


def checks(folder: Path, runs: int, random: Random) -> Count:
    """`check -j 3` over a folder."""
    folder.mkdir()
    files = [write_mlp(folder / f"m{index}.onnx", depth=12, width=64) for index in range(12)]
    contents = [file.read_bytes() for file in files]
    takes = _let_run(CHECK, folder)
    count = Count()
    for run in range(runs):
        _killed(CHECK, folder, takes, random, count, f"run {run}")
        if [file.read_bytes() for file in files] != contents:
            count.wrong.append(f"run {run}: a model file was changed")
    beside = sorted(path.name for path in folder.iterdir() if path not in files)
    if beside:
        count.wrong.append(f"left behind: {', '.join(beside)}")
    return count


def _start(command: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "gnelint", *command],
        cwd=folder,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _let_run(command: Sequence[str], folder: Path) -> float:
    """The seconds that a command takes that is let run."""
    begun = time.monotonic()
    _start(command, folder).wait()
    return time.monotonic() - begun


def _killed(command: Sequence[str], folder: Path, takes: float, random: Random, count: Count, run: str) -> None:
    """One run that is sent a signal at a moment that the seed draws."""
    number = random.choice(SIGNALS)
    process = _start(command, folder)
    time.sleep(random.uniform(0.0, takes))
    count.runs += 1
    count.ended += process.poll() is not None
    count.signals[number.name] = count.signals.get(number.name, 0) + 1
    process.send_signal(number)
    until = time.monotonic() + GRACE
    while (left := _session(process.pid)) and time.monotonic() < until:
        process.poll()
        time.sleep(0.02)
    if left:
        count.wrong.append(f"{run}: {len(left)} processes are left {GRACE:.0f} s after {number.name}")
        for each in left:
            os.kill(each, signal.SIGKILL)
    process.wait()


def _session(leader: int) -> list[int]:
    """The processes of a session that are still there; one that has ended and is waited for by nobody is not."""
    found = subprocess.run(["pgrep", "-s", str(leader)], capture_output=True, text=True, check=False)
    return [each for each in map(int, found.stdout.split()) if _runs(each)]


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return state.rpartition(")")[2].split()[0] != "Z"


if __name__ == "__main__":
    sys.exit(main())
