"""Damaged and hostile .pt2 files through check: members, programs and weights changed at random; nothing may run.

    python -m tests.fuzz.pt2 [--cases 5000] [--seed 0] [-j 2] [--state fuzz_pt2.json] [--case K]

Case K of a seed is the same change of the same small exported program. A case fails that ends in a traceback, in
"gnelint itself failed" or in the end of its process, that takes more than 10 seconds of computing or 1 GB more than
PyTorch itself, whose own bytes change, or that runs what the file says: hostile pickles and expressions would make a
directory.
"""

from __future__ import annotations

import io
import json
import pickle
import resource
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from gnelint.app import batch
from gnelint.budget import MEMORY, TORCH_MEMORY, Budget, hold
from gnelint.output.report import Unread
from gnelint.readers.target import Target
from gnelint.settings.jobs import Job
from tests.fuzz.campaign import Outcome, arguments, go_on, show
from tests.fuzz.mutations import EDGES, FLOATS, NAMES

SECONDS, BYTES = 10.0, 1_000_000_000
RAN = "gnelint_fuzz_ran"
"""The directory that hostile code would make."""

Members = dict[str, bytes]


@dataclass(frozen=True)
class Case:
    """One file of a seed."""

    seed: int
    number: int

    def data(self) -> bytes:
        """Its bytes."""
        random = Random(f"{self.seed}:{self.number}")
        members = dict(random.choice(_programs()))
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            random.choice(CHANGES)(members, random)
        data = bytearray(_archive(members, random))
        if random.random() < 0.1:
            for _ in range(random.randint(1, 8)):
                data[random.randrange(len(data))] = random.getrandbits(8)
        if random.random() < 0.03:
            del data[random.randrange(len(data)) :]
        return bytes(data)


@cache
def _programs() -> tuple[Members, ...]:
    """The members of some small programs as torch saves them."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    size = torch.export.Dim("batch", min=2, max=64)
    plain = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    maps = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.Linear(256, 2))
    tokens = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    given = ((plain, torch.randn(4, 8), ({0: size},)), (maps, torch.randn(2, 3, 8, 8), None),
             (tokens, torch.randn(2, 5, 8), None))  # fmt: skip
    found = []
    for module, x, shapes in given:
        buffer = io.BytesIO()
        torch.export.save(torch.export.export(module, (x,), dynamic_shapes=shapes), buffer)
        with zipfile.ZipFile(buffer) as archive:
            found.append({info.filename: archive.read(info) for info in archive.infolist()})
    return tuple(found)


def _archive(members: Mapping[str, bytes], random: Random) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            packed = zipfile.ZIP_DEFLATED if random.random() < 0.01 else zipfile.ZIP_STORED
            archive.writestr(name, content, packed)
    return buffer.getvalue()


class _Evil:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, (f"import os; os.mkdir({RAN!r})",))


_PICKLE = pickle.dumps(_Evil())
_EXPRESSIONS = (f"__import__('os').mkdir('{RAN}')", "s0 + 9**9**9", "(" * 5000, "s0.__class__", "Max(s0, zoo)", "1/0",
                f"exec('import os; os.mkdir(\"{RAN}\")')")  # fmt: skip
_TARGETS = ("torch.ops.aten.add.Tensor", "os.system", "torch.ops.aten.nothing.default", "builtins.eval",
            "torch.ops.aten.view.default", "torch.hub.load", "_operator.add")  # fmt: skip


def _any(members: Members, random: Random) -> str:
    return random.choice(list(members)) if members else "archive/version"


def _drop(members: Members, random: Random) -> None:
    members.pop(_any(members, random), None)


def _swap(members: Members, random: Random) -> None:
    one, other = _any(members, random), _any(members, random)
    members[one], members[other] = members.get(other, b""), members.get(one, b"")


def _rename(members: Members, random: Random) -> None:
    name = _any(members, random)
    members[random.choice((f"../{name}", name.replace("/", "//"), name[:-1], f"/{name}", *NAMES[3:7]))] = members.pop(
        name, b""
    )


def _cut(members: Members, random: Random) -> None:
    name = _any(members, random)
    content = members.get(name, b"")
    members[name] = random.choice((content[: len(content) // 2], content * 2, b"", content[1:]))


def _bytes(members: Members, random: Random) -> None:
    name = _any(members, random)
    content = bytearray(members.get(name, b""))
    for _ in range(random.randint(1, 6) if content else 0):
        content[random.randrange(len(content))] = random.getrandbits(8)
    members[name] = bytes(content)


def _pickled(members: Members, random: Random) -> None:
    """A pickle that runs code where torch keeps pickles, or where a weight's bytes stand."""
    name = random.choice([*members, "data/sample_inputs/model.pt", "archive/data/sample_inputs/model.pt"])
    members[name] = _PICKLE


def _text(members: Members, random: Random) -> None:
    """A value somewhere in a member of JSON."""
    names = [name for name in members if name.endswith(".json")]
    if not names:
        return
    name = random.choice(names)
    try:
        document = json.loads(members[name])
    except ValueError:
        return
    holder, key = _place(document, random)
    if holder is not None:
        _change(holder, key, random)
    members[name] = json.dumps(document).encode()


def _place(document: Any, random: Random) -> tuple[Any, Any]:
    """A container somewhere in a document, and one of its keys."""
    found: tuple[Any, Any] = (None, None)
    here = document
    while isinstance(here, (dict, list)) and here:
        key = random.choice(list(here)) if isinstance(here, dict) else random.randrange(len(here))
        found = here, key
        if random.random() < 0.12:
            break
        here = here[key]
    return found


def _change(holder: Any, key: Any, random: Random) -> None:
    old = holder[key]
    if isinstance(old, (dict, list)) and random.random() < 0.4:
        copies = random.choice((0, 2, 50))
        holder[key] = [*old] * copies if isinstance(old, list) else {}
    elif random.random() < 0.15:
        holder.pop(key)
    elif isinstance(old, str) and random.random() < 0.7:
        holder[key] = random.choice((*NAMES, *_EXPRESSIONS, *_TARGETS))
    elif isinstance(old, bool):
        holder[key] = not old
    else:
        holder[key] = random.choice((*EDGES, *(x for x in FLOATS if x == x and abs(x) < 1e39), None, True, [], {}, "x"))


CHANGES: tuple[Callable[[Members, Random], None], ...] = (
    _drop, _swap, _rename, _cut, _bytes, _pickled, *[_text] * 12
)  # fmt: skip


def run(case: Case) -> Outcome:
    """One case in this process."""
    data = case.data()
    _loaded()
    hold(Budget(MEMORY + TORCH_MEMORY, 60.0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.process_time()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt2"
        path.write_bytes(data)
        found = batch.answer(Job(Target("model.pt2", "pt2", path=path)))
        if path.read_bytes() != data:
            wrong.append("the file itself was changed")
    if isinstance(found, Unread) and ("itself failed" in found.reason or "\n" in found.reason):
        wrong.append(f"{found.reason}\n{found.trace}")
    if Path(RAN).exists():
        Path(RAN).rmdir()
        wrong.append("the file ran code")
    seconds = time.process_time() - begun
    if seconds > SECONDS:
        wrong.append(f"takes {seconds:.1f} s")
    if (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 > BYTES:
        wrong.append("takes more than 1 GB")
    return Outcome(case.number, "refused" if isinstance(found, Unread) else "checked", False, seconds, tuple(wrong))


@cache
def _loaded() -> None:
    """Read one whole program: what PyTorch loads for it counts for no case."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt2"
        path.write_bytes(_archive(_programs()[0], Random(1)))
        batch.answer(Job(Target("model.pt2", "pt2", path=path)))


def _lost(case: Case, code: int, place: str) -> Outcome:
    return Outcome(case.number, "lost", wrong=(f"the process ended with {code} at {place}",))


def main() -> int:
    """Run cases until there are as many as were asked for; 1 if one of them failed."""
    given = arguments(__doc__ or "", 5_000, Path("fuzz_pt2.json"))
    if given.case is not None:
        case = Case(given.seed, given.case)
        Path(f"case{case.number}.pt2").write_bytes(case.data())
        return show(run(case))
    return go_on(given, lambda number: Case(given.seed, number), run, _lost)


if __name__ == "__main__":
    sys.exit(main())
