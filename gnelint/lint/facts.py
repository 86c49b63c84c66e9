"""What the functions of the rule language ask about one prediction, each thing found once and only if a rule asks."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import field
from typing import Any, TypeVar

import numpy as np

from gnelint.analysis.axes.following import axes
from gnelint.analysis.axes.meeting import coded_samples, leaks, samples_that_meet
from gnelint.analysis.axes.walk import Axes, Mixing
from gnelint.analysis.hidden import hidden_entries
from gnelint.analysis.movement import Movement, movement
from gnelint.analysis.prediction import Block, NodePrediction, Prediction
from gnelint.analysis.ranges import Range, ranges
from gnelint.analysis.twins import twins
from gnelint.ir.graph import Graph, Node, Parameter
from gnelint.lint.cancelled import CancelledBias, cancelled_biases
from gnelint.lint.chains import LAYERS as LAYERS
from gnelint.lint.chains import chain_bits, is_plain
from gnelint.lint.pattern import TRANSPARENT
from gnelint.ops import families
from gnelint.records import cached_property, dataclass
from gnelint.theory.weights.rows import RowStatistics, row_statistics, singular_spread
from gnelint.theory.weights.statistics import WeightStatistics, weight_statistics

NORMALIZATIONS = families()["normalization"]

_CHANNELS_SECOND = frozenset(
    {"conv", "conv_transpose", "batch_norm", "second_moment_norm", "instance_norm", "group_norm", "local_response_norm"}
)
_CHANNELS_LAST = families()["recurrent"] | {"linear", "embedding", "attention", "layer_norm", "rms_norm"}
_HEAD_WALK = TRANSPARENT | families()["pooling"] | {"reduce_mean", "reduce_sum", "reduce_max"}
_OUTPUT_WALK = TRANSPARENT | {"softmax", "log_softmax"}
_PICKS = families()["shape"] | {"concat"}
"""What only moves entries loses gradient where most of it goes to others of them."""

Found = TypeVar("Found")


@dataclass(frozen=True)
class Facts:
    """One prediction, with what several functions need computed once. Every number may be None: not known.

    Attributes:
        prediction: of the network.
        loss: what stands behind its output, as far as the user says.
    """

    prediction: Prediction
    loss: str | None = None
    _found: dict[tuple[str, Any], Any] = field(default_factory=dict, compare=False)

    @property
    def graph(self) -> Graph:
        """What the prediction is of."""
        return self.prediction.graph

    def once(self, key: tuple[str, Any], find: Callable[[], Found]) -> Found:
        """What was found under this key before, else what `find` returns."""
        if key not in self._found:
            self._found[key] = find()
        found: Found = self._found[key]
        return found

    def of(self, node: Node) -> NodePrediction | None:
        """What is predicted for a node; None off the gradient path."""
        return self.prediction.by_node.get(node.name)

    # --- values ------------------------------------------------------------------------------------------

    def shape(self, node: Node) -> tuple[int, ...] | None:
        """The shape of the node's first output, None if a dimension is not a number."""
        value = self.graph.values.get(node.outputs[0])
        return None if value is None else value.concrete_shape

    def producer(self, node: Node, place: int = 0) -> Node | None:
        """The node that writes an input."""
        inputs = node.present_inputs
        return self.graph.producers.get(inputs[place]) if place < len(inputs) else None

    def source_beyond(self, node: Node | None, through: Container[str], alone: bool = False) -> Node | None:
        """The nearest node from this one back to first inputs whose operation is not in `through`.

        Args:
            node: where the way begins; it may be what is looked for.
            through: operations that are passed.
            alone: whether only those are passed that read one value.
        """
        known: dict[str, Node | None] = {}
        if isinstance(through, (frozenset, tuple)):  # every node of a row asks
            known = self.once(("source_beyond", (through, alone)), dict)
        way = []
        while node is not None and node.op in through and not (alone and len(node.present_inputs) != 1):
            if node.name in known:
                node = known[node.name]
                break
            way.append(node.name)
            node = self.producer(node)
        known.update(dict.fromkeys(way, node))
        return node

    def input_moments(self, node: Node, place: int = 0) -> tuple[float, float] | None:
        """E[x] and E[x^2] of what the node reads; an input of the network is taken as N(0, 1)."""
        inputs = node.present_inputs
        if place >= len(inputs):
            return None
        source = self.graph.producers.get(inputs[place])
        if source is None:
            value = self.graph.values.get(inputs[place])
            return (0.0, 1.0) if value is not None and value.is_floating else None
        predicted = self.of(source)
        if predicted is None or predicted.mean is None or predicted.second_moment is None:
            return None
        return predicted.mean, predicted.second_moment

    def channel_axis(self, node: Node) -> int | None:
        """The axis of the channels (features) of the node's output: the second of images, else the last.

        Of an operation that does not say, it is that of what it reads.
        """
        shape = self.shape(node)
        if not shape:
            return None
        second = self._channels_second[node.name]
        if second is None:
            second = len(shape) > 3
        return 1 if second and len(shape) > 1 else len(shape) - 1

    @cached_property
    def _channels_second(self) -> Mapping[str, bool | None]:
        """Whether the channels of each node's output lie on the second axis; None where nothing says."""
        found: dict[str, bool | None] = {}
        for node in self.graph.nodes:
            source = self.producer(node)
            if node.op in _CHANNELS_SECOND:
                found[node.name] = True
            elif node.op in _CHANNELS_LAST:
                found[node.name] = False
            elif node.op == "transpose" or source is None:
                found[node.name] = None
            else:
                found[node.name] = found[source.name]
        return found

    # --- weights -----------------------------------------------------------------------------------------

    @staticmethod
    def weight(node: Node) -> Parameter | None:
        """The node's weight, or its scale if it is a normalisation or a scaling."""
        return node.parameters.get("weight") or node.parameters.get("scale")

    def weights(self, node: Node) -> WeightStatistics | None:
        """Statistics of a node's weight, or of its scale."""
        parameter = self.weight(node)
        found = None if parameter is None else self.prediction.weights.get(parameter.name)
        return None if found is None or found.size == 0 else found

    def statistics(self, parameter: Parameter) -> WeightStatistics | None:
        """Statistics of any parameter; None if it is empty, or holds no finite number."""
        found = self._any_statistics(parameter)
        return None if found.size == 0 else found

    def is_finite(self, parameter: Parameter) -> bool:
        """Whether no entry is infinite or nan."""
        return self._any_statistics(parameter).finite

    def _any_statistics(self, parameter: Parameter) -> WeightStatistics:
        found = self.prediction.weights.get(parameter.name)
        if found is None:
            found = self.once(("statistics", parameter.name), lambda: weight_statistics(parameter))
        return found

    def rows(self, node: Node) -> RowStatistics | None:
        """Statistics of the rows of a layer's weight, one for each of its units."""
        parameter = self._matrix(node)
        if parameter is None:
            return None
        bias, axis = node.parameters.get("bias"), unit_axis(node)
        return self.once(("rows", node.name), lambda: row_statistics(parameter, bias, axis))

    def singular_spread(self, node: Node) -> float | None:
        """Relative variance of the squared singular values of a layer's weight as a matrix."""
        parameter = self._matrix(node)
        if parameter is None:
            return None
        return self.once(("spread", parameter.name), lambda: singular_spread(parameter, unit_axis(node)))

    def _matrix(self, node: Node) -> Parameter | None:
        parameter = node.parameters.get("weight")
        if parameter is None or len(parameter.shape) < 2 or parameter.provenance == "placeholder":
            return None
        return parameter if self.is_finite(parameter) else None

    @cached_property
    def users(self) -> Mapping[str, tuple[Node, ...]]:
        """The nodes that use each parameter, by its name."""
        found: dict[str, list[Node]] = {}
        for node in self.graph.nodes:
            for name in dict.fromkeys(parameter.name for parameter in node.parameters.values()):
                found.setdefault(name, []).append(node)
        return {name: tuple(nodes) for name, nodes in found.items()}

    @cached_property
    def weight_gradients(self) -> Mapping[str, float]:
        """log2 of the squared norm of the gradient of each layer's weight, by the node's name, where it is known."""
        found: dict[str, float] = {}
        for node in self.graph.gradient_nodes:
            value = self._weight_gradient(node)
            if value is not None:
                found[node.name] = value
        return found

    def _weight_gradient(self, node: Node) -> float | None:
        """dW = sum over positions of g x^T: E ||dW||^2 = ||g||^2 fan_in E[x^2] for g white over positions.

        The scale of a normalisation reads entries of second moment 1, an embedding's row is the gradient itself.
        """
        predicted = self.of(node)
        if predicted is None or predicted.gradient_log2 is None:
            return None
        if node.op == "embedding" or (node.op in NORMALIZATIONS and "scale" in node.parameters):
            return predicted.gradient_log2
        read = self.input_moments(node)
        terms = 1.0 if node.op == "scale" and "scale" in node.parameters else fan_in(node)
        if read is None or terms is None:
            return None
        factor = terms * read[1]
        return predicted.gradient_log2 + math.log2(factor) if factor > 0 else -math.inf

    @cached_property
    def movement(self) -> Movement:
        """When each trained parameter first moves."""
        return movement(self.graph)

    @cached_property
    def ranges(self) -> Mapping[str, Range]:
        """Between which numbers values lie, by their names."""
        return ranges(self.graph)

    @cached_property
    def hidden_entries(self) -> Mapping[str, np.ndarray]:
        """Where values are minus infinity for every input, by their names."""
        return hidden_entries(self.graph)

    @cached_property
    def twins(self) -> Mapping[str, str]:
        """Of each copy of another layer that reads the same: the other one."""
        return twins(self.graph)

    @cached_property
    def axes(self) -> Axes:
        """Where the axes of the main input are in each value."""
        return axes(self.graph)

    @cached_property
    def sample_mixings(self) -> frozenset[str]:
        """Names of the nodes at which the samples of a batch meet."""
        return frozenset(mixing.node for mixing in samples_that_meet(self.graph, self.axes))

    @cached_property
    def sample_codes(self) -> frozenset[str]:
        """Names of the nodes that give each sample of a batch numbers of its own."""
        return frozenset(mixing.node for mixing in coded_samples(self.graph, self.axes))

    @cached_property
    def learnt_values(self) -> frozenset[str]:
        """Values that a trained layer lies before."""
        found: set[str] = set()
        for node in self.graph.nodes:
            weight = node.parameters.get("weight")
            if (weight is not None and weight.trainable) or any(name in found for name in node.present_inputs):
                found.update(node.outputs)
        return frozenset(found)

    @cached_property
    def leaks(self) -> Mapping[str, Mixing]:
        """By the name of a node at which positions meet later ones: the causal attention before it."""
        return {mixing.node: cause for mixing, cause in leaks(self.graph, self.axes)}

    @cached_property
    def plain_blocks(self) -> frozenset[str]:
        """Names of the blocks that chains of layers run through."""
        return frozenset(block.name for block in self.prediction.blocks if is_plain(self.graph, block))

    @cached_property
    def chain_bits(self) -> Mapping[str, float]:
        """log2 of what the chain that a layer is in does to the squared gradient norm, by the layer's name."""
        return chain_bits(self.prediction)

    @cached_property
    def layer_gradients(self) -> np.ndarray:
        """The finite ones of `weight_gradients` of layers."""
        nodes = (self.graph.node(name) for name in self.weight_gradients)
        values = [self.weight_gradients[node.name] for node in nodes if node.op in LAYERS]
        return np.array([value for value in values if math.isfinite(value)])

    # --- structure ---------------------------------------------------------------------------------------

    def consumers_beyond(self, node: Node, through: frozenset[str]) -> Iterator[Node]:
        """The nearest nodes downstream whose operation is not in `through`."""
        pending, seen = [node], {node.name}
        while pending:
            for output in pending.pop().outputs:
                for consumer in self.graph.consumers.get(output, ()):
                    if consumer.name in seen:
                        continue
                    seen.add(consumer.name)
                    if consumer.op in through:
                        pending.append(consumer)
                    else:
                        yield consumer

    def nodes_between(self, first: Node, last: Node) -> tuple[Node, ...]:
        """The nodes on a path from `first` to `last`, both left out, in no order that means anything.

        Costs as much as there is to read on the way back from `last` to the position of `first`.
        """
        return self.once(("between", (first.name, last.name)), lambda: self._search_between(first, last))

    def _search_between(self, first: Node, last: Node) -> tuple[Node, ...]:
        positions, producers = self.graph.positions, self.graph.producers
        start = positions[first.name]
        cone: dict[str, Node] = {}
        pending = [last]
        while pending:
            for name in pending.pop().present_inputs:
                source = producers.get(name)
                if source is not None and positions[source.name] > start and source.name not in cone:
                    cone[source.name] = source
                    pending.append(source)
        reached = {first.name}
        for node in sorted(cone.values(), key=lambda node: positions[node.name]):
            if any(name in producers and producers[name].name in reached for name in node.present_inputs):
                reached.add(node.name)
        return tuple(node for name, node in cone.items() if name in reached)

    @cached_property
    def cancelled_biases(self) -> Mapping[str, CancelledBias]:
        """The biases that a normalisation takes out wherever they are used, by the names of their layers."""
        return cancelled_biases(self.graph)

    def depth(self, operations: frozenset[str]) -> Mapping[str, int]:
        """For each node, the number of such operations on the longest path that ends with it."""
        return self.once(("depth", operations), lambda: self._depths(operations))

    def _depths(self, operations: frozenset[str]) -> Mapping[str, int]:
        depth: dict[str, int] = {}
        for node in self.graph.nodes:
            sources = (self.graph.producers.get(name) for name in node.present_inputs)
            before = max((depth[source.name] for source in sources if source is not None), default=0)
            depth[node.name] = before + (node.op in operations)
        return depth

    def is_output(self, node: Node) -> bool:
        """Whether an output of the network is this node's, past data movement and softmax."""
        pending = [node]
        while pending:
            for output in pending.pop().outputs:
                if output in self.graph.outputs:
                    return True
                pending.extend(reader for reader in self.graph.consumers.get(output, ()) if reader.op in _OUTPUT_WALK)
        return False

    # --- blocks ------------------------------------------------------------------------------------------

    @cached_property
    def block_positions(self) -> Mapping[str, int]:
        """The position of each block, by its name."""
        return {block.name: position for position, block in enumerate(self.prediction.blocks)}

    def block(self, place: Node | Block) -> Block | None:
        """The block itself, or the one that holds a node."""
        return place if isinstance(place, Block) else self.prediction.block_of.get(place.name)

    def branch(self, block: Block) -> frozenset[str]:
        """Names of the nodes of a residual block that are in its branches: before the join and not on the shortcut."""
        return self.once(("branch", block.name), lambda: _branch(block))

    def in_branch(self, node: Node) -> Block | None:
        """The residual block in whose branch the node is."""
        block = self.prediction.block_of.get(node.name)
        return block if block is not None and node.name in self.branch(block) else None

    @cached_property
    def stages(self) -> Mapping[str, int]:
        """The number of each block's stage, from 1, by the block's name: a row of blocks with outputs of one shape."""
        found: dict[str, int] = {}
        number, shape = 0, None
        for block in self.prediction.blocks:
            value = self.graph.values.get(block.exit)
            own = None if value is None else value.shape
            if not found or own != shape:
                number, shape = number + 1, own
            found[block.name] = number
        return found

    def stage_mates(self, block: Block) -> list[Block]:
        """The blocks of the same kind in the block's stage."""
        number = self.stages[block.name]
        return [b for b in self.prediction.blocks if b.kind == block.kind and self.stages[b.name] == number]

    @cached_property
    def cut_widths(self) -> tuple[float | None, ...]:
        """Channels of the value at which each block ends."""
        return tuple(self._width_of(block.exit) for block in self.prediction.blocks)

    def _width_of(self, value: str) -> float | None:
        producer = self.graph.producers.get(value)
        if producer is None or producer.outputs[0] != value:
            return None
        return self.width(producer)

    def width(self, node: Node) -> float | None:
        """Channels (features) of the node's output."""
        axis, shape = self.channel_axis(node), self.shape(node)
        return None if axis is None or shape is None else float(shape[axis])

    # --- the network -------------------------------------------------------------------------------------

    @cached_property
    def body_log2(self) -> float | None:
        """See `body_log2` among the functions."""
        arrived = self._gradient_at_body()
        if arrived is None:
            return None
        heads = self._heads()
        if not all(self._on_main_path(head) for head in heads):
            return arrived  # the last layer is in a branch: the shortcut carries the gradient
        references = [value for value in map(self._gradient_into_head, heads) if value is not None]
        return None if not references else arrived - max(references)

    @cached_property
    def steady_log2(self) -> float | None:
        """See `steady_log2` among the functions."""
        if self.body_log2 is None or self.prediction.gradient_at is None:
            return self.body_log2
        return self.body_log2 - min(self._losses_of_paths(self.prediction.gradient_at), default=0.0)

    def _losses_of_paths(self, value: str) -> Iterator[float]:
        """log2 of what is left of the gradient where few entries of many are picked, and at small scales that are
        trained; on the way of the largest gradient from a value to the outputs."""
        arrived = self.prediction.gradient_log2
        while arrived is not None and math.isfinite(arrived) and (readers := self._differentiable_readers(value)):
            reached = [(found, found.gradient_log2) for node in readers if (found := self.of(node)) is not None]
            known = [(found, bits) for found, bits in reached if bits is not None]
            if not known:
                return
            largest, bits = max(known, key=lambda each: each[1])
            if _picks(largest.node):
                yield min(arrived - bits, 0.0)
            arrived, value = bits, largest.output

    def _gradient_at_body(self) -> float | None:
        """log2 of the squared gradient norm where the first layer reads the network's input, shifted and scaled.

        Pixels divided by 255 are data in other units: no layer learns less for it.
        """
        value, arrived = self.prediction.gradient_at, self.prediction.gradient_log2
        if value not in self.graph.inputs:
            return arrived
        while len(readers := self._differentiable_readers(value)) == 1 and readers[0].op in TRANSPARENT:
            predicted = self.of(readers[0])
            assert predicted is not None
            if predicted.gradient_log2 is None:
                break
            value, arrived = predicted.output, predicted.gradient_log2
        return arrived

    def _differentiable_readers(self, value: str) -> list[Node]:
        return [node for node in self.graph.consumers.get(value, ()) if self.of(node) is not None]

    def _on_main_path(self, node: Node) -> bool:
        block = self.prediction.block_of.get(node.name)
        return block is None or block.kind in ("serial", "parallel")

    def _heads(self) -> list[Node]:
        leads_to_layer: set[str] = set()
        heads: list[Node] = []
        for node in reversed(self.graph.nodes):
            ahead = any(name in leads_to_layer for name in node.outputs)
            if node.op in LAYERS and not ahead:
                heads.append(node)
            if ahead or node.op in LAYERS:
                leads_to_layer.update(node.present_inputs)
        return heads

    def _gradient_into_head(self, head: Node) -> float | None:
        """log2 of the squared gradient norm before the head and the pooling in front of it; None if there is none."""
        producer = self.source_beyond(self.producer(head), _HEAD_WALK)
        predicted = None if producer is None else self.of(producer)
        if predicted is None or predicted.gradient_log2 is None or math.isinf(predicted.gradient_log2):
            return None
        return predicted.gradient_log2


def _picks(node: Node) -> bool:
    scales = node.op == "scale" and any(parameter.trainable for parameter in node.parameters.values())
    return scales or node.op in _PICKS


def _branch(block: Block) -> frozenset[str]:
    if block.kind != "residual" or block.join is None or block.shortcut is None:
        return frozenset()
    return frozenset(block.nodes[: block.nodes.index(block.join)]) - set(block.shortcut)


def fan_in(node: Node) -> float | None:
    """Inputs that one output sums. A strided transposed convolution reaches an output with one tap in stride^2."""
    weight = node.parameters.get("weight")
    if weight is None or node.op not in LAYERS or len(weight.shape) < 2:
        return None
    if node.op != "conv_transpose":
        return float(math.prod(weight.shape[1:]))
    taps = math.prod(weight.shape[2:]) / math.prod(node.attribute("strides"))
    return float(weight.shape[0] / node.attribute("groups") * taps)


def fan_out(node: Node) -> float | None:
    """Outputs that one input reaches, strides left out as initialisers do."""
    weight = node.parameters.get("weight")
    if weight is None or node.op not in LAYERS or len(weight.shape) < 2:
        return None
    if node.op == "conv_transpose":
        return float(math.prod(weight.shape[1:]))
    groups = node.attribute("groups") if node.op == "conv" else 1
    return float(weight.shape[0] / groups * math.prod(weight.shape[2:]))


def unit_axis(node: Node) -> int:
    """The axis of a weight along which its units lie (those of one group, for a grouped transposed convolution)."""
    return 1 if node.op == "conv_transpose" else 0
