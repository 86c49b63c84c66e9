"""The one graph that ONNX files and PyTorch programs are read into.

A reader lowers what it finds to the canonical operations of `vocabulary.py`; everything behind the readers (components,
analysis, rules, fixes) sees only this graph. It holds no framework's objects and no weights: a `Parameter` knows where
its numbers are and reads them when asked.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np

from gnelint.ir.laws import Drawn, Law
from gnelint.ops import default_attribute, families
from gnelint.records import cached_property, dataclass, replace

Found = TypeVar("Found")

LARGEST = {"float16": 65504.0, "bfloat16": 3.39e38, "float32": 3.4e38, "float64": 1.79e308}
"""About the largest number of each floating type."""

Dim = int | str
"""A dimension: its size, or the name of a symbolic one that nothing has fixed."""

FLOATING = frozenset(
    {"float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz",
     "float8_e8m0fnu", "float4_e2m1fn", "complex64", "complex128"}
)  # fmt: skip
"""Names of the data types that carry a gradient."""

UNMODELLED = "unmodelled"
"""The `op` of a node that no canonical operation describes; `source_op` tells what it was."""

Provenance = Literal["data", "placeholder", "initializer"]

TensorKind = Literal["parameter", "unregistered", "frozen", "buffer", "constant"]
"""What a tensor is to the optimiser: trained, a parameter of a layer that the module does not know of (kept in a plain
list), one that is not trained (`requires_grad=False`), a buffer, a number that is part of the program. Only the first
kind changes in training."""


def foremost(kinds: Iterable[TensorKind]) -> TensorKind:
    """What numbers made of several tensors are: trained as soon as one of them is, constants if there is none."""
    found = set(kinds)
    order: tuple[TensorKind, ...] = ("parameter", "unregistered", "frozen", "buffer")
    return next((kind for kind in order if kind in found), "constant")


@dataclass(frozen=True)
class Location:
    """Where in the user's source a node comes from; `line` counts from 1."""

    file: str
    line: int | None = None


KEPT_BYTES = 1 << 18
"""Size up to which computed numbers are kept."""

Stored = Mapping[str, np.ndarray]
"""Numbers that take the place of a model's own, by the name of the tensor it stores; in the layout it stores them."""


class Derivation(ABC):
    """The `load` of a parameter that the model computes from tensors it stores."""

    @abstractmethod
    def leaves(self) -> tuple[Parameter, ...]:
        """The stored tensors that the numbers are computed from, each once."""

    @abstractmethod
    def evaluate(self, changed: Stored) -> np.ndarray:
        """The numbers as they are once some of the stored tensors are changed."""

    def slopes(self) -> Mapping[str, float]:
        """By the name of a trained tensor: the largest entry of what comes back to it of a gradient of random numbers.

        0 where the recipe is flat at the numbers as they are, and stays so whatever others of its tensors become; no
        number where its derivative is none. What is not asked, as of large tensors, is missing.
        """
        return {}

    def __call__(self) -> np.ndarray:
        """The numbers as they are; small ones are worked out once, because many rules and components ask for them."""
        kept: np.ndarray | None = self.__dict__.get("_kept")
        if kept is None:
            kept = self.evaluate({})
            if kept.nbytes <= KEPT_BYTES:
                kept.flags.writeable = False
                self.__dict__["_kept"] = kept
        return kept


@dataclass(frozen=True)
class Parameter:
    """A constant tensor of the model, read only when asked.

    Attributes:
        name: the model's own name for it. Two uses of one tensor (tied weights) share one name.
        shape: sizes as the canonical operation wants them, after `permutation`.
        dtype: storage type, one of numpy's or ml_dtypes' names.
        load: returns the stored array (a view on the file where possible), before `permutation`; a `Derivation` where
            the model computes it.
        permutation: axes order that brings the stored array to the canonical layout, None if it is stored that way.
        provenance: `data` (numbers of the file), `placeholder` (one repeated value standing in for absent weights, so
            there is no initialisation to judge) or `initializer` (drawn from a recorded initialiser, for meta devices).
        transform: how the numbers were derived from other parameters ("weight_norm", "weight_standardization",
            "dequantize", ...), None if they are stored as they are.
        kind: what it is to the optimiser, as far as the model says: a file of weights does not tell all of its
            parameters from its constants. Of computed numbers: what the foremost of its tensors is.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], np.ndarray] = field(repr=False, compare=False)
    permutation: tuple[int, ...] | None = None
    provenance: Provenance = "data"
    transform: str | None = None
    kind: TensorKind = "parameter"

    @property
    def trainable(self) -> bool:
        """Whether training changes the numbers."""
        return self.kind == "parameter"

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def law(self) -> Law | None:
        """That of its entries where they are independent draws which nobody has made; None where it has numbers."""
        return self.load.law if isinstance(self.load, Drawn) else None

    def once(self, key: str, find: Callable[[], Found]) -> Found:
        """What was found of the numbers under this key before, else what `find` returns."""
        kept: dict[str, Found] = self.__dict__.setdefault("_found", {})
        if key not in kept:
            kept[key] = find()
        return kept[key]

    def array(self) -> np.ndarray:
        """The numbers in the canonical layout and storage type; a view on the stored array where that is possible."""
        stored = self.load()
        return stored if self.permutation is None else stored.transpose(self.permutation)

    @property
    def leaves(self) -> tuple[Parameter, ...]:
        """The tensors that the model stores for it: itself, unless it is computed."""
        return self.load.leaves() if isinstance(self.load, Derivation) else (self,)

    def with_stored(self, changed: Stored) -> Parameter:
        """The same parameter of a model whose stored tensors of these names hold other numbers."""
        if not any(leaf.name in changed for leaf in self.leaves):
            return self
        load = self.load
        if isinstance(load, Derivation):
            return replace(self, load=Changed(load, changed))
        return replace(self, load=partial(changed.__getitem__, self.name))

    def permuted(self, permutation: Sequence[int]) -> Parameter:
        """The same tensor seen with its axes in another order (`numpy.transpose`)."""
        current = self.permutation or tuple(range(len(self.shape)))
        return replace(
            self,
            shape=tuple(self.shape[axis] for axis in permutation),
            permutation=tuple(current[axis] for axis in permutation),
        )


@dataclass(frozen=True, eq=False)
class Mapped(Derivation):
    """The `load` of a parameter that is made of another one.

    Attributes:
        source: the other one.
        function: of its numbers in the canonical layout.
    """

    source: Parameter
    function: Callable[[np.ndarray], np.ndarray]

    def leaves(self) -> tuple[Parameter, ...]:
        return self.source.leaves

    def evaluate(self, changed: Stored) -> np.ndarray:
        return self.function(self.source.with_stored(changed).array())


@dataclass(frozen=True, eq=False)
class Changed(Derivation):
    """What another derivation computes once stored tensors hold other numbers."""

    source: Derivation
    changed: Stored

    def leaves(self) -> tuple[Parameter, ...]:
        return tuple(leaf.with_stored(self.changed) for leaf in self.source.leaves())

    def evaluate(self, changed: Stored) -> np.ndarray:
        needed = {leaf.name for leaf in self.source.leaves()}
        inner = {name: self.changed[name] for name in self.changed if name in needed and name not in changed}
        return self.source.evaluate({**inner, **changed})


@dataclass(frozen=True)
class Value:
    """A tensor that flows along an edge. `shape` is None when even the rank is unknown."""

    name: str
    shape: tuple[Dim, ...] | None
    dtype: str | None

    @property
    def is_floating(self) -> bool:
        """Whether a gradient can pass. A type that is not known counts as floating: nothing is skipped silently."""
        return self.dtype is None or self.dtype in FLOATING

    @cached_property
    def concrete_shape(self) -> tuple[int, ...] | None:
        """The shape if every dimension is a number, else None."""
        if self.shape is None or any(not isinstance(dim, int) for dim in self.shape):
            return None
        return tuple(int(dim) for dim in self.shape)


@dataclass(frozen=True)
class Node:
    """One canonical operation.

    Attributes:
        name: unique in the graph: the qualified module name (torch) or the ONNX node's name.
        op: a key of `ops.VOCABULARY`, or `unmodelled`.
        inputs: names of the values read, in the order of the vocabulary; None for an optional one left out.
        outputs: names of the values written.
        parameters: constant operands by role ("weight", "bias", "scale", ...).
        attributes: as the vocabulary lists them; defaults are filled in by `attribute`.
        source_op: the operation's name in the model ("Conv", "aten.conv2d.default"); for a composite the idiom's name.
        scope: qualified name of the innermost module the node belongs to ("layer1.0"), "" if unknown.
        location: source file and line, if the model records them.
        sources: names of the original nodes that a recognised composite replaced (empty for a one to one lowering).
    """

    name: str
    op: str
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    source_op: str = ""
    scope: str = ""
    location: Location | None = None
    sources: tuple[str, ...] = ()

    @property
    def missing_weights(self) -> tuple[Parameter, ...]:
        """Weights of this layer that the model does not hold: one repeated value stands in for them.

        A constant of one value in any other role (strides of anchors, a state of zeros, a mask) is a number that the
        model computes with, and so are a weight of ones or of equal shares, which make a sum or a mean, and a
        normalisation's scale of one.
        """
        return tuple(
            parameter
            for role, parameter in self.parameters.items()
            if parameter.provenance == "placeholder" and _stands_in(self, role, parameter)
        )

    @cached_property
    def present_inputs(self) -> tuple[str, ...]:
        """The names of the inputs that are not left out."""
        return tuple(name for name in self.inputs if name is not None)

    def attribute(self, name: str) -> Any:
        """The attribute's value, or the vocabulary's default for it."""
        return self.attributes[name] if name in self.attributes else default_attribute(self.op, name)


_NORMALIZATIONS = families()["normalization"]


def _stands_in(node: Node, role: str, parameter: Parameter) -> bool:
    """Whether a constant of one value is in the place of numbers that training finds."""
    if role not in ("weight", "recurrent") and not (role == "scale" and node.op in _NORMALIZATIONS):
        return False
    array = parameter.array()
    if array.size == 0:
        return False
    value = float(array.flat[0])
    if any(array.strides) and not bool(np.all(array == array.flat[0])):
        return False  # computed from a constant, and no constant any more
    shares = {1.0} if role == "scale" or len(array.shape) < 2 else {1.0, 1.0 / np.prod(array.shape[1:])}
    return not any(abs(value - share) <= 1e-6 * share for share in shares)


@dataclass(frozen=True)
class Slips:
    """What the code of a module gets wrong where no node tells; each with its line.

    Attributes:
        numbers: stored tensors that are read as a number (`.item()`), so that no gradient comes back to them.
        dropouts: calls of a dropout that is not told whether this is training.
        axes: softmaxes of three axes that are not told along which.
        masks: comparisons with the id of padding whose result hides all words but the padding.
        broken: what gives outputs that are computed of stored tensors alone and are no number.
        deaf: calls of functions whose own backward gives the same, whatever comes back to it.
        unheard: modules with a method that is called backward, which nobody calls.
    """

    numbers: tuple[tuple[str, str], ...] = ()
    dropouts: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    deaf: tuple[str, ...] = ()
    unheard: tuple[str, ...] = ()


@dataclass(frozen=True)
class Beside:
    """What computes losses that a program gives beside its outputs.

    Attributes:
        graph: whose outputs the losses are.
        nodes: names of those of its nodes that no output of the program depends on.
    """

    graph: Graph
    nodes: frozenset[str]


@dataclass(frozen=True)
class Graph:
    """A directed acyclic graph of canonical operations, nodes in topological order.

    Attributes:
        name: what the user calls the model (the target).
        source: the world it was read from.
        training: whether normalisation uses batch statistics in this reading (`--mode`).
        nodes: in topological order.
        inputs: names of the values a caller feeds (no initializers).
        outputs: names of the values returned.
        values: every value by name, inputs and node outputs.
        notes: what the reader wants a person to know ("normalisation was folded at export"), one sentence each.
        subgraphs: bodies of If, Loop and Scan nodes as graphs of their own, by "node name/attribute".
        deciding: values that say which branch of an If runs, of those that were entered since only one branch fits; and
            inputs of which masks and indices were computed that are constants here.
        ignores: rules that the model file itself asks to ignore, by the node's name in the file; "" is the model.
        data_files: files beside the model that hold weights, as the model names them.
        returned: names of the stored tensors that the model returns, or returns something computed of them alone.
        returned_entries: entries of the outputs that are trained tensors, or computed of them alone.
        unread: names of the trained tensors that the model holds and that no output depends on.
        unread_shapes: the shapes of those.
        uncalled: those that nothing in the program reads at all.
        in_losses: names of the stored tensors that get a gradient from a loss beside the outputs.
        loss_inputs: inputs that such a loss depends on.
        losses: what computes those losses.
        aliases: the other names at which a module holds a stored tensor, by the name that it is read under.
        classes: what the class of each module is called, by its qualified name; of a module only.
        lost: results that a statement computes and does not keep, each with its place; of a module only.
        slips: other things that its code gets wrong; of a module only.
    """

    name: str
    source: Literal["onnx", "torch"]
    training: bool
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    values: Mapping[str, Value]
    notes: tuple[str, ...] = ()
    subgraphs: Mapping[str, Graph] = field(default_factory=dict)
    deciding: frozenset[str] = frozenset()
    ignores: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    data_files: tuple[str, ...] = ()
    returned: frozenset[str] = frozenset()
    returned_entries: int = 0
    unread: tuple[str, ...] = ()
    unread_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    uncalled: frozenset[str] = frozenset()
    in_losses: frozenset[str] = frozenset()
    loss_inputs: frozenset[str] = frozenset()
    losses: Beside | None = None
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    classes: Mapping[str, str] = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    slips: Slips = Slips()

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        """The node that writes each value."""
        return {name: node for node in self.nodes for name in node.outputs}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Node, ...]]:
        """The nodes that read each value, one entry a use (a node that reads a value twice is there twice)."""
        found: dict[str, list[Node]] = defaultdict(list)
        for node in self.nodes:
            for name in node.present_inputs:
                found[name].append(node)
        return {name: tuple(nodes) for name, nodes in found.items()}

    @cached_property
    def uses(self) -> Mapping[str, tuple[tuple[Node, str], ...]]:
        """The nodes that use each stored tensor and the roles in which they do, by its name; bodies are looked into."""
        found: dict[str, list[tuple[Node, str]]] = defaultdict(list)
        for node in self.nodes:
            for role, parameter in node.parameters.items():
                for leaf in parameter.leaves:
                    found[leaf.name].append((node, role))
        for body in self.subgraphs.values():
            for name, uses in body.uses.items():
                found[name].extend(uses)
        return {name: tuple(uses) for name, uses in found.items()}

    @cached_property
    def users(self) -> Mapping[str, frozenset[str]]:
        """Names of the nodes that read each stored tensor, by its name; those of bodies are left out."""
        found: dict[str, set[str]] = defaultdict(set)
        for node in self.nodes:
            for parameter in node.parameters.values():
                for leaf in parameter.leaves:
                    found[leaf.name].add(node.name)
        return {name: frozenset(users) for name, users in found.items()}

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Index of each node, by name, in topological order."""
        return {node.name: index for index, node in enumerate(self.nodes)}

    def node(self, name: str) -> Node:
        """The node of this name; KeyError if there is none."""
        return self.nodes[self.positions[name]]

    def parameters(self) -> Iterator[Parameter]:
        """Every distinct parameter once, in the order of first use."""
        seen: set[str] = set()
        for node in self.nodes:
            for parameter in node.parameters.values():
                if parameter.name not in seen:
                    seen.add(parameter.name)
                    yield parameter

    @cached_property
    def captured(self) -> frozenset[str]:
        """Names that the bodies of If, Loop and Scan nodes may read from the graph around them."""
        found: set[str] = set()
        for body in self.subgraphs.values():
            found.update(body.inputs, body.captured, *(node.present_inputs for node in body.nodes))
        return frozenset(found)

    @cached_property
    def bottlenecks(self) -> frozenset[str]:
        """Values that hold all that the nodes behind them are told of the inputs and of the nodes before."""
        last = {name: index for index, node in enumerate(self.nodes) for name in node.present_inputs}
        awaited = {name for name in self.inputs if name in last} | self.captured
        found = set()
        for index, node in enumerate(self.nodes):
            awaited.difference_update(name for name in node.present_inputs if last[name] == index)
            awaited.update(name for name in node.outputs if name in last)
            if len(awaited) == 1:
                found.update(awaited.intersection(node.outputs))
        return frozenset(found)

    @cached_property
    def gradient_values(self) -> frozenset[str]:
        """Names of the values on a gradient path.

        A value is on one if it is floating, depends on a floating input of the graph or on an embedding table, and an
        output of the graph depends on it through floating values alone. Where there is none, what integers of the
        input are cast to counts as an input: bytes of an image, counts, classes one by one.
        """
        return self._between(self.cast_values) if self.starts_at_integers else self._from_floating

    def _between(self, read: Collection[str]) -> frozenset[str]:
        """The floating values between these, or an embedding, and an output."""
        ahead = set(read)
        for node in self.nodes:
            if node.op == "embedding" or any(name in ahead for name in node.present_inputs):
                ahead.update(name for name in node.outputs if self.values[name].is_floating)
        behind = {name for name in self.outputs if name in ahead}
        for node in reversed(self.nodes):
            if any(name in behind for name in node.outputs):
                behind.update(name for name in node.present_inputs if name in ahead)
        return frozenset(behind)

    @cached_property
    def moving_outputs(self) -> tuple[str, ...]:
        """The outputs that a gradient leaves: floating, and computed of a floating input or of trained tensors by what
        is not detached."""
        moving = {name for name in self.inputs if self.values[name].is_floating}
        for node in self.nodes:
            trained = any(parameter.trainable for parameter in node.parameters.values())
            if node.op != "stop_gradient" and (trained or any(name in moving for name in node.present_inputs)):
                moving.update(name for name in node.outputs if self.values[name].is_floating)
        return tuple(name for name in self.outputs if name in moving)

    @cached_property
    def starts_at_integers(self) -> bool:
        """Whether the gradient's path starts at what integers are cast to, for lack of anything floating."""
        return not self._from_floating and not self.cast_values.isdisjoint(self._between(self.cast_values))

    @cached_property
    def _from_floating(self) -> frozenset[str]:
        return self._between({name for name in self.inputs if self.values[name].is_floating})

    @cached_property
    def cast_values(self) -> frozenset[str]:
        """The floating values that are computed of integer inputs, and of nothing floating that is."""
        whole = {name for name in self.inputs if not self.values[name].is_floating}
        found: set[str] = set()
        for node in self.nodes:
            if any(name in whole for name in node.present_inputs):
                floating = {name for name in node.outputs if self.values[name].is_floating}
                found |= floating
                whole.update(set(node.outputs) - floating)
        return frozenset(found)

    @cached_property
    def gradient_source(self) -> str | None:
        """Where the network's gradient is taken: the first floating input on a gradient path, for tokens the first
        embedding's output (a bag's, if it sums what it looks up), for integers that are cast what layers read."""
        on_path = self.gradient_values
        looked_up = (self._looked_up(node) for node in self.nodes if node.op == "embedding")
        found = (name for name in looked_up if name in on_path)
        cast = (name for node in self.nodes for name in node.outputs if name in self.cast_values and name in on_path)
        prepared = map(self._prepared, cast)
        return (
            next((name for name in self.inputs if name in on_path), None) or next(found, None) or next(prepared, None)
        )

    def _prepared(self, value: str) -> str:
        """What a value is once it is moved and scaled by numbers: bytes by 255 and their mean."""
        while value not in self.outputs:
            readers = self.consumers.get(value, ())
            if len(readers) != 1 or readers[0].op not in ("identity", "scale", "bias", "reshape", "transpose"):
                break
            (value,) = readers[0].outputs
        return value

    def _looked_up(self, embedding: Node) -> str:
        """What the operation of the model that looks rows up hands on, which may be several nodes here, or the module
        of its own: some scale the rows by the root of their length."""
        node, module = embedding, embedding.name.removesuffix(".embedding")
        same = (embedding.source_op, embedding.scope, embedding.location)
        while self.source == "torch":
            readers = self.consumers.get(node.outputs[0], ())
            if len(readers) != 1:
                break
            (reader,) = readers
            inside = embedding.scope != module and f"{reader.name}.".startswith(f"{module}.")
            if (
                not (inside and reader.op in ("scale", "bias"))
                and (reader.source_op, reader.scope, reader.location) != same
            ):
                break
            node = reader
        return node.outputs[0]

    @cached_property
    def main_values(self) -> frozenset[str]:
        """The values on a gradient path that depend on `gradient_source`, itself among them.

        Not those that come from other inputs alone: the step of a diffusion model, a class, a second embedding.
        """
        found = set() if self.gradient_source is None else {self.gradient_source}
        for node in self.gradient_nodes:
            if any(name in found for name in node.present_inputs):
                found.update(name for name in node.outputs if name in self.gradient_values)
        return frozenset(found)

    @cached_property
    def gradient_nodes(self) -> tuple[Node, ...]:
        """The nodes that write a value on a gradient path, in topological order."""
        on_path = self.gradient_values
        return tuple(node for node in self.nodes if any(name in on_path for name in node.outputs))
