"""Residual branches that hold the same numbers: layers that are shared, or that start as copies.

The multiplication theorem takes neighbours as independent. nn.TransformerEncoder copies one layer, others use one layer
many times: along a stream x_{i+1} = x_i + f_i(x_i) what a branch adds goes along with what its copies added before,

    <f_i, x_i> = sum_{m < i, m a copy of i} <f_i, f_m>            <f_i, f_m> = K(r_im) |f_i| |f_m|

where r_im is the correlation of x_i and x_m, and so does its gradient. Towards the input u_{i+1} = u_i + A_i^T u_i, and

    <A_i^T u_i, u_j> = sum_{m < j, m a copy of i} rho(r_im) sqrt(a_i a_m) <u_i, u_m>,  a_i = |A_i^T u_i|^2 / |u_i|^2

from which all products follow one by one. A value beside the stream that copies read (what a decoder's layers attend
to) gets from them sum_ij sqrt(e_i e_j) c_ij, c_ij being the correlation of the gradients at the copies' ends and e_i
what each sends. Of branches with an activation, K is what a rectifier keeps of a correlation and rho the share of its
masks that agree; of others K is r and rho 1. Source: theory 2.7; theory 4.1 for independent branches.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import field, replace

import numpy as np

from gnelint.ir.graph import Graph, Node, Parameter
from gnelint.ops import VOCABULARY
from gnelint.records import dataclass
from gnelint.theory.fields.cells import refine, total_average
from gnelint.theory.fields.field import Effect, set_average
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments
from gnelint.theory.weights.statistics import WeightStatistics

_MOST = 1000
"""Sums of one run up to which their products are followed: there are as many as its square."""
_MOST_NODES = 200
"""Nodes of one branch up to which it is looked for."""
_COPIES = frozenset({"identity", "dropout", "reshape", "transpose", "bias"})
"""Operations that a shortcut may pass."""


@dataclass(frozen=True)
class Residual:
    """A sum of a value and of what a branch makes of it, which nothing else reads.

    Attributes:
        entry: the value.
        added: what the branch makes.
        exit: the sum.
        join: name of the node that adds.
        branch: the nodes of the branch.
    """

    entry: str
    added: str
    exit: str
    join: str
    branch: tuple[Node, ...]


@dataclass(frozen=True)
class _Run:
    """Residual sums with nothing between them but normalisations.

    Attributes:
        sums: in topological order.
        kinds: a number for each; those of copies are one.
        bends: whether an activation stands in the branch.
    """

    sums: tuple[Residual, ...]
    kinds: np.ndarray
    bends: np.ndarray


class Repeats:
    """What the residual sums of a network have in common, found while it is walked forward.

    Args:
        graph: the network.
        weights: what is known of its weights; copies agree in all of it.

    Attributes:
        bits: by fork, log2 of what copies made of the gradient's energy on the last walk back.
    """

    def __init__(self, graph: Graph, weights: Mapping[str, WeightStatistics]) -> None:
        runs = (_run(sums, weights) for sums in residual_runs(graph)) if _repeat(graph, weights) else ()
        self._streams = [_Stream(run) for run in runs if run is not None]
        self._at = {one.join: (s, i) for s in self._streams for i, one in enumerate(s.run.sums)}
        self._beside = [read for s in self._streams for read in _read_beside(graph, s)]
        self.bits: dict[str, float] = {}

    def joined(self, node: str, y: Moments, moments: Mapping[str, Moments]) -> Moments:
        """What a node has written, with what its operands have in common; nodes come in topological order."""
        stream, index = self._at.get(node, (None, 0))
        if stream is None:
            return y
        one = stream.run.sums[index]
        x, f = (_variance(moments[name]) if name in moments else 0.0 for name in (one.entry, one.added))
        factor = stream.join(index, f / x) if x > 0 else 1.0
        if factor == 1.0:
            return y
        added, cells = moments[one.added], refine(y.axes, moments[one.added].axes)
        if f <= 0 or cells != y.axes or any(line is not None for line in added.profile):
            return replace(y, variance=y.variance * factor, position_covariance=y.position_covariance * factor)
        # it has a share of what the branch adds at each token, and is as common to them as that is
        added, more = added.refined(cells), (factor - 1.0) * _variance(y) / f
        variance = np.maximum(y.variance + more * added.variance, 0.0)
        covariance = y.position_covariance + more * added.position_covariance
        return replace(y, variance=variance, position_covariance=np.clip(covariance, -variance, variance))

    def backward(self) -> Meetings:
        """For one walk from the outputs to the inputs."""
        return Meetings(self._streams, self._beside, self.bits)


def _variance(x: Moments) -> float:
    """Of an entry about its own mean, on average."""
    return total_average(x.variance, x.axes)


class _Stream:
    """The products <x_i, x_m> along one run, relative to the size of x_0.

    Attributes:
        run: its sums.
    """

    def __init__(self, run: _Run) -> None:
        self.run = run
        count = len(run.sums)
        self._sizes = np.ones(count + 1)
        self._added = np.zeros(count)
        self._products = [np.ones(1)] * (count + 1)

    def join(self, index: int, added: float) -> float:
        """What the variance of the sum is of that of independent operands.

        Args:
            index: of the sum; those before it have been told of.
            added: |f|^2 / |x|^2.
        """
        row, size = self._products[index], self._sizes[index]
        self._added[index] = added
        r = np.clip(row[:index] / np.sqrt(size * self._sizes[:index]), -1.0, 1.0)
        kept = np.where(self.run.bends[:index], _rectified(r), r)
        kept = np.where(self.run.kinds[:index] == self.run.kinds[index], kept, 0.0)
        parts = kept * np.sqrt(added * size * self._added[:index] * self._sizes[:index])
        along = np.concatenate([[0.0], np.cumsum(parts)])
        whole = size * (1.0 + added) + 2.0 * along[-1]
        self._sizes[index + 1] = whole
        self._products[index + 1] = np.append(row + along, whole)
        return float(whole / (size * (1.0 + added)))

    def masks(self, index: int, behind: Sequence[int]) -> np.ndarray:
        """rho of a branch with those behind it, 0 with those that are no copies of it."""
        others = np.array(behind, dtype=int)
        products = np.array([self._products[other][index] for other in behind])
        r = np.clip(products / np.sqrt(self._sizes[others] * self._sizes[index]), -1.0, 1.0)
        agreeing = 0.5 + np.arcsin(r) / math.pi if self.run.bends[index] else np.ones(len(others))
        return np.asarray(np.where(self.run.kinds[others] == self.run.kinds[index], agreeing, 0.0))


@dataclass(frozen=True)
class _Read:
    """A value beside a stream that copies of one branch read.

    Attributes:
        value: which.
        stream: the stream that they add to.
        branches: the copies, the first one first.
    """

    value: str
    stream: _Stream
    branches: tuple[int, ...]


def _read_beside(graph: Graph, stream: _Stream) -> Iterator[_Read]:
    """The values that only copies of one branch read."""
    readers: dict[str, dict[int, set[str]]] = {}
    for index, one in enumerate(stream.run.sums):
        inside = {name for node in one.branch for name in node.outputs}
        for node in one.branch:
            for value in set(node.present_inputs) & graph.gradient_values - inside - {one.entry}:
                readers.setdefault(value, {}).setdefault(index, set()).add(node.name)
    for value, found in readers.items():
        known = set().union(*found.values())
        alike = len({int(stream.run.kinds[index]) for index in found}) == 1
        if len(found) > 1 and alike and all(node.name in known for node in graph.consumers[value]):
            yield _Read(value, stream, tuple(sorted(found)))


def _rectified(r: np.ndarray) -> np.ndarray:
    """The correlation that rectified values of correlation r have (theory 2.7)."""
    at_zero = 1.0 / math.pi
    kernel = (np.sqrt(1.0 - r**2) + r * (math.pi - np.arccos(r))) / math.pi
    return np.asarray((kernel - at_zero) / (1.0 - at_zero))


class Meetings:
    """The products <u_i, u_j> of the gradients along each run, found on one walk from the outputs to the inputs.

    What copies add has its own size at every token: beside a class token, which alone is read in the end, the others
    have nothing but what branches add.
    """

    def __init__(self, streams: Sequence[_Stream], beside: Sequence[_Read], bits: dict[str, float]) -> None:
        """Start at the outputs; what is found at a fork goes to `bits`, too."""
        self._beside = {read.value: read for read in beside}
        self._alike: dict[tuple[int, int], np.ndarray] = {}
        self._at = {one.entry: (s, i) for s in streams for i, one in enumerate(s.run.sums)}
        self._bits = bits
        self._met: dict[int, _Met] = {}

    def exit_of(self, value: str) -> str | None:
        """The sum whose gradient comes to this value by the shortcut; None where none is followed."""
        stream, index = self._at.get(value, (None, 0))
        return None if stream is None else stream.run.sums[index].exit

    def read_again(self, value: str) -> float:
        """What copies that read a value beside their stream send it, relative to what independent branches would."""
        read = self._beside.get(value)
        met = None if read is None else self._met.get(id(read.stream))
        if read is None or met is None:
            return 1.0
        order = (*met.branches, met.branches[-1] - 1)  # of the one in front of the last fork only the exit has been met
        if not set(read.branches) <= set(order):
            return 1.0
        sizes, newest = np.append(met.sizes, 1.0), met.products[:-1] / np.sqrt(met.sizes)
        sent = np.sqrt([sizes[order.index(branch)] for branch in read.branches])
        whole = float((sent**2).sum())
        more = 0.0
        for place, branch in enumerate(read.branches):
            behind = read.branches[place + 1 :]
            rows = newest if branch == order[-1] else self._alike[id(read.stream), branch]
            alike = rows[[order.index(other) for other in behind]] * read.stream.masks(branch, behind)
            more += 2.0 * sent[place] * float(alike @ sent[place + 1 :])
        factor = max(1.0 + more / whole, 1.0 / len(sent)) if whole > 0 else 1.0
        self._bits[value] = math.log2(factor)
        return factor

    def joined(self, value: str, arrived: Gradient, behind: Gradient) -> Gradient:
        """What arrives at a fork, with what copies have in common; forks come from the last to the first.

        Args:
            value: the fork.
            arrived: its gradient, where independent branches are taken for granted.
            behind: that at the sum's exit, in the same unit.
        """
        stream, index = self._at[value]
        whole, own = _by_tokens(arrived, behind)
        if not own.sum() > 0:  # too small beside what the branch sends to be compared with it
            return arrived
        before = self._met.get(id(stream))
        if before is None or before.branches[-1] != index + 1:
            before = _Met((), np.zeros((0, own.size)), np.zeros(0), np.ones(1))
        self._alike[id(stream), index] = before.products[:-1] / np.sqrt(before.sizes)
        before = before.passed_on(own / own.sum())
        added = np.maximum(whole - own, 0.0) / own.sum()
        found = before.behind(index, added, stream.masks(index, before.branches), own / own.sum())
        self._met[id(stream)] = found
        self._bits[value] = math.log2(1.0 + float(found.more.sum()) / (1.0 + float(added.sum())))
        shares = own / own.sum() + added
        more = found.more if len(found.more) == len(shares) else found.more.sum() * shares / shares.sum()
        factor = 1.0 + np.divide(more, shares, out=np.zeros_like(shares), where=shares > 0)
        if len(factor) == 1:
            return arrived.scaled(float(factor[0]))
        tokens = factor.reshape(1, -1, *(1,) * (len(arrived.axes) - 2))
        return arrived.behind(Effect.SCALED, arrived.weighted(tokens))


@dataclass(frozen=True)
class _Met:
    """What has been met of one run, in units of the newest gradient's own size.

    Attributes:
        branches: the last one first.
        added: |A^T u|^2 of each, at each cell of tokens.
        sizes: |u|^2 at the exit of each.
        products: of the newest gradient with those, and with itself: 1.
        tokens: how the newest is shared out among the cells.
        more: what the newest gets besides, at each cell.
    """

    branches: tuple[int, ...]
    added: np.ndarray
    sizes: np.ndarray
    products: np.ndarray
    tokens: np.ndarray = field(default_factory=lambda: np.ones(1))
    more: np.ndarray = field(default_factory=lambda: np.zeros(1))

    def passed_on(self, tokens: np.ndarray) -> _Met:
        """In front of what has shared the newest gradient out like this: a normalisation multiplies that of a small
        token, and with it what branches have added there."""
        if len(tokens) < 2 or len(tokens) != len(self.tokens) or self.added.shape[1] != len(tokens):
            return self
        moved = np.divide(tokens, self.tokens, out=np.ones_like(tokens), where=self.tokens > 0)
        return replace(self, added=self.added * moved, tokens=tokens)

    def behind(self, branch: int, added: np.ndarray, masks: np.ndarray, own: np.ndarray) -> _Met:
        """With one more branch.

        Args:
            branch: its index.
            added: what it adds.
            masks: rho with each of those before.
            own: how what comes by the shortcut is shared out among the cells.
        """
        others = self.added
        if others.shape[1] != len(added):
            others, added, own = others.sum(1, keepdims=True), added.sum(keepdims=True), own.sum(keepdims=True)
        alike = masks * self.products[:-1] / np.sqrt(self.sizes)
        parts = alike[:, None] * np.sqrt(others * added)
        along = np.concatenate([[0.0], np.cumsum(parts.sum(1))])
        whole = 1.0 + float(added.sum()) + 2.0 * float(along[-1])
        tokens = np.maximum(own + added + 2.0 * parts.sum(0), 0.0)
        return _Met(
            (*self.branches, branch),
            np.concatenate([others, added[None]]) / whole,
            np.append(self.sizes, 1.0) / whole,
            np.append(self.products + along, whole) / whole,
            tokens / max(float(tokens.sum()), 1e-300),
            2.0 * parts.sum(0),
        )


def _by_tokens(arrived: Gradient, behind: Gradient) -> tuple[np.ndarray, np.ndarray]:
    """The energy of two gradients of one value at each cell of axis 1."""
    cut = len(arrived.axes) > 2 and arrived.axes[1] == behind.axes[1]
    found = []
    for g in (arrived, behind):
        share = set_average(g.energy, g, [i for i in range(len(g.axes)) if i != 1 or not cut]).reshape(-1)
        lengths = g.axes[1].lengths / g.axes[1].size if cut else 1.0
        found.append(g.total * share * lengths / float((share * lengths).sum()))
    return found[0], found[1]


def residual_runs(graph: Graph) -> list[tuple[Residual, ...]]:
    """The residual sums of a network, those together that nothing but normalisations and copies parts."""
    runs: dict[str, list[Residual]] = {}
    for node in graph.gradient_nodes:
        found = _residual(graph, node) if node.op == "add" and len(node.present_inputs) == 2 else None
        if found is not None:
            before = (value for value in _copied(graph, found.entry, ("normalization",)) if value in runs)
            runs[found.exit] = [*runs.pop(next(before, ""), []), found]
    return [tuple(run) for run in runs.values()]


def _residual(graph: Graph, join: Node) -> Residual | None:
    """The sum that a node writes; None where it adds anything else."""
    for shortcut, added in (join.present_inputs, join.present_inputs[::-1]):
        inside = {join.name}
        for entry in _copied(graph, shortcut):
            branch = _branch(graph, entry, added)
            if branch is not None:
                inside.update(node.name for node in branch)
                alone = all(node.name in inside for node in graph.consumers[entry])
                return Residual(entry, added, join.outputs[0], join.name, branch) if alone else None
            inside.update(() if entry not in graph.producers else (graph.producers[entry].name,))
    return None


def _copied(graph: Graph, value: str, families: Sequence[str] = ()) -> Iterator[str]:
    """A value, and in turn what it is a copy of, or one normalised."""
    yield value
    while (node := graph.producers.get(value)) is not None and node.present_inputs:
        if node.op not in _COPIES and not (node.op in VOCABULARY and VOCABULARY[node.op].family in families):
            return
        value = node.present_inputs[0]
        yield value


def _branch(graph: Graph, entry: str, added: str) -> tuple[Node, ...] | None:
    """The nodes behind one value that make another of it; None where they do not."""
    first = graph.positions[graph.producers[entry].name] if entry in graph.producers else -1
    found: dict[str, Node] = {}
    waiting, met = [added], False
    while waiting:
        value = waiting.pop()
        met |= value == entry
        node = graph.producers.get(value)
        if value == entry or node is None or node.name in found or graph.positions[node.name] <= first:
            continue
        found[node.name] = node
        waiting += node.present_inputs
        if len(found) > _MOST_NODES:
            return None
    return tuple(found.values()) if met else None


def _repeat(graph: Graph, weights: Mapping[str, WeightStatistics]) -> bool:
    """Whether any two nodes hold the same matrix."""
    held = [numbers_of(each, weights) for node in graph.nodes for each in matrices(node)]
    return len(set(held)) < len(held)


def matrices(node: Node) -> list[Parameter]:
    """The parameters of a node that are no vectors."""
    return [each for each in node.parameters.values() if len(each.shape) > 1]


def _run(sums: Sequence[Residual], weights: Mapping[str, WeightStatistics]) -> _Run | None:
    """A run of sums; None where no branch is a copy of another."""
    held = [_held(one, weights) for one in sums]
    if len(sums) > _MOST or all(count == 1 for what, count in Counter(held).items() if what):
        return None
    numbers: dict[Hashable, int] = {}
    kinds = [numbers.setdefault(what or index, len(numbers)) for index, what in enumerate(held)]
    families = [{VOCABULARY[node.op].family for node in one.branch if node.op in VOCABULARY} for one in sums]
    return _Run(tuple(sums), np.array(kinds), np.array(["activation" in found for found in families]))


def _held(one: Residual, weights: Mapping[str, WeightStatistics]) -> tuple[Hashable, ...]:
    """What tells the matrices of a branch from others."""
    return tuple(numbers_of(each, weights) for node in one.branch for each in matrices(node))


def numbers_of(parameter: Parameter, weights: Mapping[str, WeightStatistics]) -> Hashable:
    """What tells a matrix from those that do not hold its numbers; a constant or unknown one is like no other."""
    known = weights.get(parameter.name)
    drawn = known is None or known.is_constant or parameter.law is not None
    return parameter.name if drawn else (parameter.shape, known)
