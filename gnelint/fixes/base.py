"""What a fix is: it turns findings into edits, or says why it cannot."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import ClassVar, TypeVar
from zlib import crc32

import numpy as np

from gnelint.analysis.prediction import Prediction
from gnelint.fixes.edits import Action, Draw, Edit
from gnelint.ir.graph import FLOATING, Graph, Node, Parameter, TensorKind
from gnelint.lint.finding import Finding
from gnelint.records import dataclass


@dataclass(frozen=True)
class FixOptions:
    """What a user chooses about fixes.

    Attributes:
        draw: None keeps the draw of the weights and scales it; else they are drawn again from this distribution.
        seed: of draws.
        centre: subtract the filters' means from weights that are rescaled.
        power: p of L^(-p/(2m)), the scale of the m weights in each of L residual branches.
    """

    draw: Draw | None = None
    seed: int = 0
    centre: bool = False
    power: float = 2.0


@dataclass(frozen=True)
class Site:
    """Where a fix is asked for.

    Attributes:
        prediction: of the network as it is by now.
        findings: those that ask for this kind of fix, of all rules, in topological order.
        options: the user's.
    """

    prediction: Prediction
    findings: tuple[Finding, ...]
    options: FixOptions = field(default_factory=FixOptions)

    @property
    def graph(self) -> Graph:
        """The network as it is by now."""
        return self.prediction.graph


@dataclass(frozen=True)
class Refusal:
    """A finding that is not fixed.

    Attributes:
        finding: what is left.
        reason: why, a clause for people.
        choice: the edit would be made if its rule were selected by its id.
    """

    finding: Finding
    reason: str
    choice: bool = False


@dataclass(frozen=True)
class Plan:
    """What a fix would do.

    Attributes:
        edits: in the order in which they are made.
        refused: findings that it does nothing about.
        notes: what one would not expect of the edits, in sentences for people.
    """

    edits: tuple[Edit, ...] = ()
    refused: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()


class Fix(ABC):
    """One way to put findings right. A subclass states its preconditions and the theorem that it rests on.

    Attributes:
        kind: what rule files call it (`fix: {kind: ...}`).
        order: fixes of a lower order come first: what changes layers before what scales them.
        evens: the fix is to bring the gradient at the network's input nearer to that at its output.
    """

    kind: ClassVar[str] = ""
    order: ClassVar[int] = 50
    evens: ClassVar[bool] = False

    @abstractmethod
    def plan(self, site: Site) -> Plan:
        """The edits that put the site's findings right; never raises for what it cannot do, but refuses."""

    def groups(self, site: Site) -> list[tuple[Finding, ...]]:
        """The site's findings in groups that can be put right one without the other."""
        return [(finding,) for finding in site.findings]

    def edit(self, finding: Finding, action: Action, group: str = "") -> Edit:
        """An action that this fix takes because of a finding; those of one group are made together or not at all."""
        safety = "display" if finding.fix is None else finding.fix.safety
        return Edit(action, finding.rule, finding.nodes, self.kind, safety, group)


_FIXES: dict[str, Fix] = {}

Class = TypeVar("Class", bound=type[Fix])


def fix(kind: str) -> Callable[[Class], Class]:
    """Register the class as the fix that rule files call `kind`."""

    def register(cls: Class) -> Class:
        cls.kind = kind
        _FIXES[kind] = cls()
        return cls

    return register


def fix_named(kind: str) -> Fix | None:
    """The fix that rule files call so, None if there is none."""
    return _FIXES.get(kind)


def target_node(site: Site, finding: Finding) -> Node | None:
    """The node that a finding's fix is to change, None if it names none (or a block)."""
    name = None if finding.fix is None else finding.fix.target
    return site.graph.node(name) if name in site.graph.positions else None  # type: ignore[arg-type]


_UNTRAINED: Mapping[TensorKind, str] = {
    "unregistered": "in no list of parameters",
    "buffer": "a buffer",
    "frozen": "frozen",
    "constant": "a constant",
}


def untrained(parameter: Parameter) -> str | None:
    """Why no fix may change a parameter's numbers, a clause for people; None where training changes them anyway."""
    floating = [leaf for leaf in parameter.leaves if leaf.dtype in FLOATING and leaf.size]
    if not floating or any(leaf.trainable for leaf in floating):
        return None
    return f"{floating[0].name} is {_UNTRAINED[floating[0].kind]}: not trained, left as it is"


def scalable(parameter: Parameter) -> Parameter | None:
    """The stored tensor that a parameter is proportional to: itself, or the gain of a weight normalisation.

    None if there is none, it is not trained, or its numbers are not at hand.
    """
    if parameter.provenance != "data":
        return None
    leaves = [leaf for leaf in parameter.leaves if "float" in leaf.dtype and leaf.size and leaf.trainable]
    if leaves == [parameter]:
        return parameter
    numbers = parameter.array().astype(np.float64)
    for leaf in sorted(leaves, key=lambda leaf: -leaf.size):
        stored = leaf.load()
        doubled = parameter.with_stored({leaf.name: (stored * 2).astype(stored.dtype)}).array().astype(np.float64)
        if np.allclose(doubled, 2 * numbers, rtol=1e-2, atol=0.0):
            return leaf
    return None


def seed_of(options: FixOptions, tensor: str) -> int:
    """The seed of a tensor's draw: tensors of one shape must not get the same numbers."""
    return (options.seed << 32) + crc32(tensor.encode())


def stored_layout(parameter: Parameter) -> tuple[Parameter, tuple[int, ...] | None] | None:
    """The stored tensor that holds a parameter's numbers and the axes order that gives the parameter's layout.

    None where the parameter is not a stored tensor seen with its axes in another order, or is not trained.
    """
    if (
        not parameter.trainable
        or parameter.provenance != "data"
        or parameter.transform is not None
        or len(parameter.leaves) != 1
    ):
        return None
    (leaf,) = parameter.leaves
    stored_shape = leaf.load().shape
    order = parameter.permutation or tuple(range(len(parameter.shape)))
    if len(stored_shape) != len(order) or tuple(stored_shape[axis] for axis in order) != parameter.shape:
        return None
    return leaf, None if order == tuple(range(len(order))) else order
