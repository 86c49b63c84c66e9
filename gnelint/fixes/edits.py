"""What fixes are made of: small changes of one network, said once for every world.

An edit names tensors as the model stores them, nodes and values as the graph names them. Applied to the graph it gives
the graph of the edited network, so that a fix can be predicted before anything is written; the writers make the same
change in the user's file or module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from functools import cache, partial
from typing import Any, Literal

import numpy as np

from gnelint.ir.graph import Graph, Mapped, Node, Parameter, TensorKind, Value
from gnelint.lint.facts import unit_axis
from gnelint.records import dataclass

Array = np.ndarray


class Change(ABC):
    """What becomes of a tensor's numbers, in the layout that `Parameter.array` of the layer gives."""

    @abstractmethod
    def __call__(self, array: Array) -> Array:
        """The new numbers, of the same shape; computed and returned in double precision."""

    @property
    @abstractmethod
    def text(self) -> str:
        """What is done, a clause for people ("multiply by 1.41")."""


@dataclass(frozen=True)
class Scale(Change):
    """w -> factor w."""

    factor: float

    def __call__(self, array: Array) -> Array:
        return array * self.factor

    @property
    def text(self) -> str:
        return f"multiply by {self.factor:.4g}"


@dataclass(frozen=True)
class Fill(Change):
    """w -> value, everywhere."""

    value: float

    def __call__(self, array: Array) -> Array:
        return np.full_like(array, self.value)

    @property
    def text(self) -> str:
        return f"set to {self.value:.4g}"


@dataclass(frozen=True)
class Centre(Change):
    """w -> w - E w over all axes but `kept`: every filter sums to zero, so a constant input gives no output.

    Attributes:
        kept: the axis that counts the filters.
    """

    kept: int = 0

    def __call__(self, array: Array) -> Array:
        axes = tuple(axis for axis in range(array.ndim) if axis != self.kept % array.ndim)
        return np.asarray(array - array.mean(axis=axes, keepdims=True))

    @property
    def text(self) -> str:
        return "subtract the mean of each filter"


@dataclass(frozen=True)
class Subtract(Change):
    """w -> w - amounts, entry by entry.

    Attributes:
        amounts: one for each entry, in the order in which they are stored.
        of: what they are, for people ("the bias of conv1").
    """

    amounts: tuple[float, ...]
    of: str

    def __call__(self, array: Array) -> Array:
        return np.asarray(array - np.reshape(self.amounts, array.shape))

    @property
    def text(self) -> str:
        return f"subtract {self.of}"


Draw = Literal["normal", "orthogonal", "delta_orthogonal"]


@dataclass(frozen=True)
class Redraw(Change):
    """w -> a new draw with E w^2 = second_moment, whatever the old numbers are.

    orthogonal: a Haar orthogonal matrix of (filters, everything else), scaled (arXiv 1312.6120); delta_orthogonal: the
    same between channels at the kernel's centre, zero elsewhere (arXiv 1806.05393).

    Attributes:
        draw: the distribution.
        second_moment: of the new numbers, over the whole tensor.
        seed: of the draw; the tensor's shape enters it too.
        kept: the axis that counts the filters.
    """

    draw: Draw
    second_moment: float
    seed: int
    kept: int = 0

    def __call__(self, array: Array) -> Array:
        rng = np.random.default_rng([self.seed, *array.shape])
        moved = np.moveaxis(array, self.kept, 0)
        found = self._drawn(rng, moved.shape)
        power = float(np.mean(found**2))
        scaled = found * (np.sqrt(self.second_moment / power) if power > 0 else 0.0)
        return np.ascontiguousarray(np.moveaxis(scaled, 0, self.kept))

    def _drawn(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        if self.draw == "normal":
            return rng.standard_normal(shape)
        if self.draw == "orthogonal" or len(shape) == 2:
            return _orthogonal(rng, shape[0], int(np.prod(shape[1:]))).reshape(shape)
        found = np.zeros(shape)
        taps = found.reshape(shape[0], shape[1], -1)
        taps[:, :, np.ravel_multi_index([size // 2 for size in shape[2:]], shape[2:])] = _orthogonal(rng, *shape[:2])
        return found

    @property
    def text(self) -> str:
        return f"draw again, {self.draw.replace('_', '-')}, std {self.second_moment**0.5:.4g}"


def _orthogonal(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """A matrix with orthonormal rows or columns, Haar distributed."""
    tall = rng.standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(tall)
    q = np.asarray(q * np.sign(np.diagonal(r)))
    return q if rows >= columns else q.T


class Action(ABC):
    """One change of a network."""

    @abstractmethod
    def applied(self, graph: Graph) -> Graph:
        """The graph of the changed network."""

    @property
    @abstractmethod
    def subject(self) -> str:
        """Name of the tensor, node or value that is changed."""

    @property
    @abstractmethod
    def what(self) -> str:
        """What is done to it, a clause for people."""

    @property
    def text(self) -> str:
        """Both."""
        return f"{self.subject}: {self.what}"


@dataclass(frozen=True)
class EditTensor(Action):
    """Other numbers in a stored tensor.

    Attributes:
        tensor: its name in the model.
        change: what becomes of it.
        permutation: axes order that brings the stored tensor to the layout `change` wants, None for none.
    """

    tensor: str
    change: Change
    permutation: tuple[int, ...] | None = None

    def numbers(self, stored: Array) -> Array:
        """The new numbers, in the type and layout of the stored ones.

        Args:
            stored: the tensor as the model stores it.

        Raises:
            OverflowError: a new number does not fit the stored type.
        """
        wide = stored.astype(np.float64)
        laid = wide if self.permutation is None else wide.transpose(self.permutation)
        found = self.change(laid)
        if self.permutation is not None:
            found = found.transpose(tuple(np.argsort(self.permutation)))
        with np.errstate(over="ignore"):
            kept = np.asarray(found, order="C").astype(stored.dtype)
        if not np.all(np.isfinite(kept.astype(np.float64)) | ~np.isfinite(wide)):
            raise OverflowError(f"a number of {self.tensor} does not fit {stored.dtype.name} once changed")
        return kept

    def applied(self, graph: Graph) -> Graph:
        return with_tensors(graph, [self])

    @property
    def subject(self) -> str:
        return self.tensor

    @property
    def what(self) -> str:
        return self.change.text


@dataclass(frozen=True)
class DropBias(Action):
    """A node loses its bias; a normalisation behind it that takes the bias out loses it from its running mean.

    Attributes:
        node: a node with a parameter of the role "bias".
        norm: the normalisation, "" where there is none or it stores no running mean.
        amounts: what the bias is where the normalisation reads it, one number a channel.
        tensors: stored tensors on whose numbers `amounts` rests: none of them may be another one when the model runs.
    """

    node: str
    norm: str = ""
    amounts: tuple[float, ...] = ()
    tensors: tuple[str, ...] = ()

    def applied(self, graph: Graph) -> Graph:
        node = graph.node(self.node)
        parameters = {role: parameter for role, parameter in node.parameters.items() if role != "bias"}
        if node.op == "bias":
            return with_node(graph, replace(node, op="identity", parameters={}, attributes={}))
        graph = with_node(graph, replace(node, parameters=parameters))
        if not self.norm:
            return graph
        norm = graph.node(self.norm)
        mean = norm.parameters["running_mean"]
        moved = replace(
            mean,
            name=f"{mean.name} (without a bias)",
            load=Mapped(mean, self.moved),
            permutation=None,
            transform="computed",
        )
        return with_node(graph, replace(norm, parameters={**norm.parameters, "running_mean": moved}))

    def moved(self, mean: Array) -> Array:
        """The running mean without the bias, in the type of the one with it."""
        return Subtract(self.amounts, "the bias")(mean.astype(np.float64)).astype(mean.dtype)

    @property
    def subject(self) -> str:
        return self.node

    @property
    def what(self) -> str:
        return "drop the bias" + (f", and take it out of the running mean of {self.norm}" if self.norm else "")


@dataclass(frozen=True)
class Substitute(Action):
    """Another pointwise operation in the place of one.

    Attributes:
        node: a node with one input and one output.
        op: the canonical operation that takes its place ("identity" removes it).
        attributes: of the new operation.
    """

    node: str
    op: str
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def applied(self, graph: Graph) -> Graph:
        node = graph.node(self.node)
        return with_node(
            graph, replace(node, op=self.op, attributes=self.attributes, parameters={}, inputs=node.inputs[:1])
        )

    @property
    def subject(self) -> str:
        return self.node

    @property
    def what(self) -> str:
        values = ", ".join(f"{name} {value:.6g}" for name, value in self.attributes.items())
        new = "nothing" if self.op == "identity" else f"{self.op}({values})" if values else self.op
        return f"{new} in its place"


@dataclass(frozen=True)
class InsertScale(Action):
    """A constant factor on a value, for all that read it.

    Attributes:
        value: the graph's name of the value.
        factor: what it is multiplied by.
    """

    value: str
    factor: float

    def applied(self, graph: Graph) -> Graph:
        return with_follower(graph, self.value, "scale", {"factor": self.factor})

    @property
    def subject(self) -> str:
        return self.value

    @property
    def what(self) -> str:
        return f"multiply by {self.factor:.4g}"


@dataclass(frozen=True)
class SecondMoment(Action):
    """Second moment normalisation (arXiv 2001.00254) in the place of a batch normalisation.

    It keeps the scale and the bias; its running second moment is the running variance plus the squared running mean.

    Attributes:
        node: the batch normalisation.
        note: what comes of it, for people.
    """

    node: str
    note: str = ""

    def applied(self, graph: Graph) -> Graph:
        node = graph.node(self.node)
        parameters = {role: node.parameters[role] for role in ("scale", "bias") if role in node.parameters}
        mean, variance = (node.parameters.get(role) for role in ("running_mean", "running_var"))
        if mean is not None and variance is not None:
            parameters["running_second_moment"] = replace(
                variance,
                name=f"{variance.name}+{mean.name}^2",
                load=partial(_second_moment, mean, variance),
                permutation=None,
                transform="computed",
            )
        attributes = {"epsilon": float(node.attribute("epsilon")) ** 0.5, "training": node.attribute("training")}
        return with_node(graph, replace(node, op="second_moment_norm", parameters=parameters, attributes=attributes))

    @property
    def subject(self) -> str:
        return self.node

    @property
    def what(self) -> str:
        return f"second moment normalisation in its place{self.note and f' ({self.note})'}"


def _second_moment(mean: Parameter, variance: Parameter) -> Array:
    return np.asarray(variance.array() + mean.array().astype(np.float64) ** 2, dtype=variance.array().dtype)


@dataclass(frozen=True)
class InsertSecondMoment(Action):
    """A new second moment normalisation, with scale 1 and bias 0, behind a layer.

    Attributes:
        value: the graph's name of the layer's output.
        channels: size of its second axis.
        note: what comes of it, for people.
    """

    value: str
    channels: int
    note: str = ""

    def applied(self, graph: Graph) -> Graph:
        parameters = {
            "scale": self._filled("scale", 1.0, "parameter"),
            "bias": self._filled("bias", 0.0, "parameter"),
            "running_second_moment": self._filled("running_second_moment", 1.0, "buffer"),
        }
        attributes = {"epsilon": 1e-5, "training": True}
        return with_follower(graph, self.value, "second_moment_norm", attributes, parameters)

    def _filled(self, role: str, number: float, kind: TensorKind) -> Parameter:
        array = np.full(self.channels, number, np.float32)
        return Parameter(f"{self.value}/{role}", array.shape, "float32", partial(_same, array), kind=kind)

    @property
    def subject(self) -> str:
        return self.value

    @property
    def what(self) -> str:
        return f"second moment normalisation behind it{self.note and f' ({self.note})'}"


def _same(array: Array) -> Array:
    return array


@dataclass(frozen=True)
class CentreFilters(Action):
    """A layer whose filters are centred in every pass: w - E w takes the place of w, and w is what is trained.

    Attributes:
        node: a linear layer or convolution with a constant weight.
    """

    node: str

    def applied(self, graph: Graph) -> Graph:
        node = graph.node(self.node)
        weight = node.parameters["weight"]
        centre = Centre(unit_axis(node))
        centred = replace(
            weight,
            name=f"{weight.name} (centred)",
            load=Mapped(weight, partial(_centred, centre)),
            permutation=None,
            transform="computed",
        )
        return with_node(graph, replace(node, parameters={**node.parameters, "weight": centred}))

    @property
    def subject(self) -> str:
        return self.node

    @property
    def what(self) -> str:
        return "centre its filters in every pass"


def _centred(centre: Centre, array: Array) -> Array:
    return centre(array.astype(np.float64)).astype(array.dtype)


@dataclass(frozen=True)
class Edit:
    """An action and why it is taken.

    Attributes:
        action: the change.
        rule: id of the rule that asked for it.
        nodes: names of the nodes that the finding is about.
        kind, safety: of the fix.
        group: edits of one name are made together or not at all; "" for one that stands alone.
    """

    action: Action
    rule: str
    nodes: tuple[str, ...]
    kind: str
    safety: str
    group: str = ""


def applied(graph: Graph, actions: Sequence[Action]) -> Graph:
    """The graph after all of the actions, in their order."""
    waiting: list[EditTensor] = []
    for action in actions:
        if isinstance(action, EditTensor):
            waiting.append(action)
            continue
        graph = action.applied(with_tensors(graph, waiting))
        waiting = []
    return with_tensors(graph, waiting)


def with_tensors(graph: Graph, edits: Sequence[EditTensor]) -> Graph:
    """The graph with other numbers in stored tensors; they are computed when they are asked for."""
    if not edits:
        return graph
    stored: dict[str, Parameter] = {}
    for parameter in graph.parameters():
        for leaf in parameter.leaves:
            stored.setdefault(leaf.name, leaf)
    changes: dict[str, Callable[[], Array]] = {}
    for edit in edits:
        before = changes.get(edit.tensor) or stored[edit.tensor].load
        change = partial(_changed, edit, before)
        # a draw is expensive and asked for many times; what is only scaled is not worth the memory
        changes[edit.tensor] = cache(change) if isinstance(edit.change, Redraw) else change
    changed = _Lazy(changes)
    return replace(graph, nodes=tuple(_with_stored(node, changed) for node in graph.nodes))


def _with_stored(node: Node, changed: Mapping[str, Array]) -> Node:
    parameters = {role: parameter.with_stored(changed) for role, parameter in node.parameters.items()}
    same = all(parameters[role] is parameter for role, parameter in node.parameters.items())
    return node if same else replace(node, parameters=parameters)


def _changed(edit: EditTensor, before: Callable[[], Array]) -> Array:
    return edit.numbers(before())


class _Lazy(Mapping[str, Array]):
    """Arrays that are made when they are asked for, and not kept: together they may not fit into memory."""

    def __init__(self, makers: Mapping[str, Callable[[], Array]]) -> None:
        self._makers = makers

    def __getitem__(self, name: str) -> Array:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __contains__(self, name: object) -> bool:
        return name in self._makers


def with_node(graph: Graph, node: Node) -> Graph:
    """The graph with another node in the place of the one of its name."""
    return replace(graph, nodes=tuple(node if old.name == node.name else old for old in graph.nodes))


def with_follower(
    graph: Graph, value: str, op: str, attributes: Mapping[str, Any], parameters: Mapping[str, Parameter] | None = None
) -> Graph:
    """The graph with a node of one input behind a value: everything that read the value reads the node's output."""
    new = replace(graph.values[value], name=f"{value}/{op}")
    before = graph.producers.get(value)
    follower = Node(
        name=f"{value}/{op}",
        op=op,
        inputs=(value,),
        outputs=(new.name,),
        parameters=parameters or {},
        attributes=attributes,
        source_op=op,
        scope="" if before is None else before.scope,
    )
    nodes: list[Node] = [follower] if before is None else []
    for node in graph.nodes:
        reads = tuple(new.name if name == value else name for name in node.inputs)
        nodes.append(node if reads == node.inputs else replace(node, inputs=reads))
        if node is before:
            nodes.append(follower)
    outputs = tuple(new.name if name == value else name for name in graph.outputs)
    values: dict[str, Value] = {**graph.values, new.name: new}
    return replace(graph, nodes=tuple(nodes), outputs=outputs, values=values)
