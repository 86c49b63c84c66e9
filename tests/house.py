"""The house: layers, files, the arrows between them, the longest modules; and what breaks its order.

    python -m tests.house

Fails on an import that runs up or goes in a circle, a module without a docstring, an import of torch where it must not
be, and a citation of the theory that points at no heading of gnelint/theory/README.md.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gnelint"
THEORY = PACKAGE / "theory" / "README.md"

LAYERS: tuple[tuple[str, ...], ...] = (
    ("__main__", "cli", "pytest_plugin", "callbacks", "__init__"),
    ("server",),
    ("api",),
    ("app",),
    ("output",),
    ("writers",),
    ("measure",),
    ("fixes",),
    ("settings",),
    ("lint",),
    ("analysis",),
    ("components",),
    ("readers",),
    ("fusion",),
    ("theory", "onnxfile"),
    ("ir", "nn"),
    ("ops",),
    ("budget", "errors", "files", "progress", "version", "words"),
    ("records",),
)
"""From the doors down. A module may import its own part and what stands below, never what stands beside or above."""

WITH_TORCH = ("readers/torch", "measure", "nn", "writers/torch")
"""Where torch may be imported."""

WORDS = ("TODO", "FIXME")
LONGEST = 10
_CITATION = re.compile(r"\btheory (\d+(?:\.\d+)*)")
_HEADING = re.compile(r"^#+ (\d+(?:\.\d+)*)\.? ", re.MULTILINE)


@dataclass(frozen=True)
class Import:
    """A module that another reads, and the line where it does."""

    source: str
    target: str
    line: int


@dataclass(frozen=True)
class Module:
    """A file of the package.

    Attributes:
        path: relative to the package.
        text: what is in it.
    """

    path: str
    text: str

    @property
    def name(self) -> str:
        """As it is imported."""
        parts = Path(self.path).with_suffix("").parts
        return ".".join(("gnelint", *(parts[:-1] if parts[-1] == "__init__" else parts)))

    @property
    def part(self) -> str:
        """The folder or file of the top level that it belongs to."""
        return Path(self.path).parts[0].removesuffix(".py")

    @property
    def lines(self) -> int:
        """How many it has."""
        return self.text.count("\n")

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax."""
        return ast.parse(self.text)


def modules(package: Path = PACKAGE) -> dict[str, Module]:
    """All of them by name."""
    found = [
        Module(path.relative_to(package).as_posix(), path.read_text(encoding="utf-8"))
        for path in sorted(package.rglob("*.py"))
    ]
    return {module.name: module for module in found}


def imports(module: Module, known: Mapping[str, Module]) -> Iterator[Import]:
    """What a module reads of the package, wherever in it that stands."""
    for node in ast.walk(module.tree):
        for target in _targets(node, known):
            if target != module.name:
                yield Import(module.name, target, node.lineno)  # type: ignore[attr-defined]


def _targets(node: ast.AST, known: Mapping[str, Module]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in known)
    elif isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
            below = f"{node.module}.{alias.name}"
            yield from [name for name in (below, node.module) if name in known][:1]


def running_up(known: Mapping[str, Module], layers: Sequence[Sequence[str]] = LAYERS) -> Iterator[str]:
    """Imports of a layer above, or of another part of the same layer; a part that has no layer."""
    height = {part: len(layers) - at for at, layer in enumerate(layers) for part in layer}
    for part in sorted({module.part for module in known.values()} - set(height)):
        yield f"gnelint/{part} is in no layer: give it a place in tests/house.py"
    for module in known.values():
        for read in imports(module, known):
            above, below = module.part, known[read.target].part
            if above != below and height.get(above, 0) <= height.get(below, 0) and height.get(above) != len(layers):
                yield f"gnelint/{module.path}:{read.line}: {above} imports {below}, which is not below it"


def circles(known: Mapping[str, Module]) -> Iterator[str]:
    """Modules that read each other, at import, in a call or for types."""
    reads = {name: {read.target for read in imports(module, known)} for name, module in known.items()}
    for group in _strongly_connected(reads):
        if len(group) > 1:
            yield "a circle of imports: " + ", ".join(sorted(group))


def _strongly_connected(reads: Mapping[str, set[str]]) -> list[set[str]]:
    """The components of a directed graph in which each node reaches each other (Kosaraju's two passes)."""
    order: list[str] = []
    seen: set[str] = set()
    for start in reads:
        order += _reached(start, reads, seen)
    back: dict[str, set[str]] = defaultdict(set)
    for name, targets in reads.items():
        for target in targets:
            back[target].add(name)
    seen = set()
    groups = [set(_reached(start, back, seen)) for start in reversed(order)]
    return [group for group in groups if group]


def _reached(start: str, reads: Mapping[str, set[str]], seen: set[str]) -> list[str]:
    """What is reached from a node and was not seen before, each behind all that it reaches."""
    if start in seen:
        return []
    seen.add(start)
    stack, order = [(start, iter(sorted(reads.get(start, ()))))], []
    while stack:
        name, targets = stack[-1]
        target = next((each for each in targets if each not in seen), None)
        if target is None:
            order.append(name)
            stack.pop()
        else:
            seen.add(target)
            stack.append((target, iter(sorted(reads.get(target, ())))))
    return order


def without_words(known: Mapping[str, Module]) -> Iterator[str]:
    """Modules without a docstring, or with one that still has to be written."""
    for module in known.values():
        said = ast.get_docstring(module.tree)
        if not said:
            yield f"gnelint/{module.path}: no docstring"
        elif any(word in said for word in WORDS):
            yield f"gnelint/{module.path}: docstring to be written"


def wrong_torch(known: Mapping[str, Module]) -> Iterator[str]:
    """Imports of torch at the top of a module where only `WITH_TORCH` may."""
    for module in known.values():
        if module.path.startswith(tuple(f"{place}/" for place in WITH_TORCH)):
            continue
        for node in module.tree.body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "torch" for name in names):
                yield f"gnelint/{module.path}:{node.lineno}: imports torch"


def loose_citations(known: Mapping[str, Module], theory: str) -> Iterator[str]:
    """Citations "theory 3.2" of a heading that the theory does not have."""
    headings = set(_HEADING.findall(theory))
    for module in known.values():
        for cited in _CITATION.finditer(module.text):
            if cited[1] not in headings:
                line = module.text.count("\n", 0, cited.start()) + 1
                yield f"gnelint/{module.path}:{line}: theory {cited[1]} is no heading of gnelint/theory/README.md"


def complaints(known: Mapping[str, Module]) -> list[str]:
    """Everything that breaks the order."""
    theory = THEORY.read_text(encoding="utf-8") if THEORY.exists() else ""
    return [
        *running_up(known),
        *circles(known),
        *without_words(known),
        *wrong_torch(known),
        *loose_citations(known, theory),
    ]


def described(known: Mapping[str, Module]) -> Iterator[str]:
    """Layers with their files, arrows and lines, and the longest modules."""
    arrows: dict[str, Counter[str]] = defaultdict(Counter)
    for module in known.values():
        for read in imports(module, known):
            if (below := known[read.target].part) != module.part:
                arrows[module.part][below] += 1
    files, lines = Counter(module.part for module in known.values()), Counter[str]()
    for module in known.values():
        lines[module.part] += module.lines
    for layer in LAYERS:
        for part in layer:
            if files[part]:
                targets = ", ".join(f"{name} {count}" for name, count in arrows[part].most_common())
                yield f"{part:<14}{files[part]:>4} files {lines[part]:>6} lines   {'-> ' + targets if targets else ''}"
    yield f"{'all':<14}{len(known):>4} files {sum(lines.values()):>6} lines"
    yield "longest modules:"
    for module in sorted(known.values(), key=lambda module: -module.lines)[:LONGEST]:
        yield f"{module.lines:>6} {module.path}"


def main() -> None:
    """Print it; exit with 1 if something breaks the order."""
    known = modules()
    print("\n".join(described(known)))
    wrong = complaints(known)
    print("\n".join(["", *wrong, f"{len(wrong)} complaints"]))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
