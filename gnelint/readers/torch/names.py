"""Names, scopes and source lines of traced operations, from the metadata that tracing leaves on each fx node."""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import fx

from gnelint.ir.graph import Graph, Location
from gnelint.ops import VOCABULARY
from gnelint.readers.emitter import Draft
from gnelint.records import dataclass

_ENTRY_BY_ENTRY = ("activation", "pointwise")
"""Families of operations that make of each entry one."""
_BESIDE = frozenset({"add", "bias", "div", "identity", "mul", "scale", "sub"})
"""Others that do, if their operands are of one size."""
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_LIBRARY = os.path.join(os.path.dirname(contextlib.__file__), "")
_OWN = str(Path(__file__).parents[2])
_NOT_THE_USERS = tuple(os.path.join(folder, "") for folder in (os.path.dirname(str(torch.__file__)), _OWN))


def is_user_code(file: str) -> bool:
    """Whether a source file is neither torch's nor gnelint's nor the standard library's."""
    if file.startswith((*_NOT_THE_USERS, "<")):
        return False
    return not file.startswith(_LIBRARY) or "site-packages" in file


@dataclass(frozen=True)
class ModuleCall:
    """One call of one module: `key` tells the calls of a shared module apart, `path` is its qualified name."""

    key: str
    path: str


def module_stack(node: fx.Node) -> tuple[ModuleCall, ...]:
    """The module calls that an operation was traced in, outermost (the root) first."""
    stack: Mapping[str, tuple[str, object]] = node.meta.get("nn_module_stack") or {}
    return tuple(ModuleCall(key, _qualified(path)) for key, (path, _) in stack.items())


def _qualified(path: str) -> str:
    """ "layer1.0" of "L['self'].layer1[0]", of "self.layer1.0" and of "layer1.0@1"."""
    path = re.sub(r"@\d+$", "", path)
    path = re.sub(r"^(L\['self'\]|L__self__|self)\.?", "", path)
    return re.sub(r"\[['\"]?([^\]'\"]+)['\"]?\]", r".\1", path).strip(".")


@lru_cache(maxsize=4096)
def user_location(stack_trace: str | None) -> Location | None:
    """The innermost frame of a stack trace that is not inside torch."""
    frames = [(m["file"], int(m["line"])) for m in _FRAME.finditer(stack_trace or "")]
    for file, line in reversed(frames):
        if is_user_code(file):
            return Location(file, line)
    return None


@dataclass(frozen=True)
class Step:
    """A node without a name yet and the traced operation that it comes from."""

    draft: Draft
    origin: fx.Node


@dataclass(frozen=True)
class Label:
    """What the graph's node gets besides its operation."""

    name: str
    scope: str


def label(steps: Sequence[Step]) -> tuple[Label, ...]:
    """Names and scopes for all steps, in order.

    In the call of a module without submodules, the one operation there is (or the only one with weights) has the
    module's qualified name. Any other is "scope.op", numbered from the second on.
    """
    stacks = {step.origin: module_stack(step.origin) for step in steps}
    inner = {call.path for stack in stacks.values() for call in stack[:-1]}
    groups: dict[str, list[int]] = {}
    for index, step in enumerate(steps):
        stack = stacks[step.origin]
        if stack and stack[-1].path:
            groups.setdefault(stack[-1].key, []).append(index)
    owners: dict[int, str] = {}
    for indices in groups.values():
        path = stacks[steps[indices[0]].origin][-1].path
        owner = None if path in inner else _owner([steps[index] for index in indices])
        if owner is not None:
            owners[indices[owner]] = path
    names = _Names()
    given = {index: names.unique(path) for index, path in owners.items()}
    owned = {stacks[steps[index].origin][-1].key for index in owners}
    labels = []
    for index, step in enumerate(steps):
        stack = stacks[step.origin]
        path = stack[-1].path if stack else ""
        scope = path.rpartition(".")[0] if stack and stack[-1].key in owned else path
        labels.append(Label(given.get(index) or names.unique(f"{path}.{_kind(step)}".lstrip(".")), scope))
    return tuple(labels)


def named_by_modules(graph: Graph) -> Graph:
    """The graph with each composite that is all that is left of a module's call under the module's qualified name.

    Tracing sees a written-out normalisation as several operations, none of which stands for the module.
    """
    taken = {node.name for node in graph.nodes}
    scopes = Counter(node.scope for node in graph.nodes if node.op != "identity")
    outer = {parent for scope in scopes for parent in _parents(scope)}
    nodes = tuple(
        replace(node, name=node.scope, scope=node.scope.rpartition(".")[0])
        if node.sources and node.scope not in taken | outer and scopes[node.scope] == 1
        else node
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes)


def _parents(scope: str) -> set[str]:
    """The qualified names of the modules around one, "" (the root) among them."""
    parts = scope.split(".")
    return {".".join(parts[:end]) for end in range(len(parts))}


def _owner(steps: Sequence[Step]) -> int | None:
    """Index of the step that stands for the module itself, None if no single one does. A number of the program, as the
    epsilon of a normalisation is, is no weight. Of stacked recurrent layers it is the last, whose states the module
    gives out; of two directions it is what puts them side by side. Where the module works on what that step makes entry
    by entry (scales the rows of a table, gates what it has normalised), it is the last of these steps."""
    weighted = [index for index, step in enumerate(steps) if _has_weights(step.draft)]
    if len({step.origin for step in steps}) == 1:
        joins = [index for index, step in enumerate(steps) if step.draft.op == "concat"]
        both = any(step.draft.attributes.get("reverse") for step in steps)
        return joins[-1] if both and joins else weighted[-1] if weighted else len(steps) - 1
    operations = [steps[index].draft.op for index in weighted]  # what scales a table's rows may be a buffer
    alone = len(weighted) == 1 or (operations[:1] == ["embedding"] and set(operations[1:]) == {"scale"})
    return _handed_on(steps, weighted[0]) if alone else None


def _handed_on(steps: Sequence[Step], owner: int) -> int:
    """Index of the last step of those that work entry by entry on what a step makes; its own if anything else does."""
    reached, last = {steps[owner].origin}, owner
    for index, step in enumerate(steps[owner + 1 :], owner + 1):
        known = VOCABULARY.get(step.draft.op)
        if step.draft.op not in _BESIDE and (known is None or known.family not in _ENTRY_BY_ENTRY):
            return owner
        if reached & {step.origin, *step.origin.all_input_nodes}:
            reached.add(step.origin)
            last = last if step.draft.op == "identity" else index
    return last


def _has_weights(draft: Draft) -> bool:
    return draft.op != "constant" and any(each.kind != "constant" for each in draft.parameters.values())


def _kind(step: Step) -> str:
    if step.draft.op != "unmodelled":
        return step.draft.op
    target = step.origin.target
    return str(target.overloadpacket.__name__ if isinstance(target, torch._ops.OpOverload) else step.origin.name)


class _Names:
    """Hands out each name once; the second asker gets "name_1"."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._counts: Counter[str] = Counter()

    def unique(self, wanted: str) -> str:
        name = wanted
        while name in self._taken:
            self._counts[wanted] += 1
            name = f"{wanted}_{self._counts[wanted]}"
        self._taken.add(name)
        return name
