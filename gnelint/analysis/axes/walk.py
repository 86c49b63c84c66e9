"""What the pass over the graph knows: the layouts of values so far, and where entries met."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from gnelint.analysis.axes.layout import Axis, Layout, labels
from gnelint.ir.graph import Graph, Node
from gnelint.records import dataclass

Kind = Literal["attention", "recurrent", "softmax", "product", "layer", "statistic", "window", "codes", "moved"]


@dataclass(frozen=True)
class Mixing:
    """A node at which entries along an axis of the input meet.

    Attributes:
        node: its name.
        axis: of the network's main input.
        kind: attention, recurrence, softmax; a product or a layer that sums over the axis; a mean or a norm; a window.
            "codes" mixes nothing: the node has numbers of its own for each entry along the axis; nor does "moved": it
        turns their order round, or shifts them.
        causal: whether an entry meets earlier ones alone; None where that is not known.
    """

    node: str
    axis: int
    kind: Kind
    causal: bool | None = False


@dataclass(frozen=True)
class Axes:
    """What is known of the axes.

    Attributes:
        layouts: of each value that could be followed.
        mixings: in topological order.
        shape: of the main input, its width or channels among it; empty where it is not known.
    """

    layouts: Mapping[str, Layout]
    mixings: tuple[Mixing, ...]
    shape: tuple[int, ...]

    def holds(self, value: str, axis: int) -> bool | None:
        """Whether a value still has an entry for each entry of the input's axis; None where it was not followed."""
        layout = self.layouts.get(value)
        return None if layout is None else axis in labels(layout)


@dataclass
class Walk:
    """The pass over the graph."""

    graph: Graph
    layouts: dict[str, Layout | None]
    mixings: list[Mixing]

    def shape(self, name: str | None) -> tuple[int, ...] | None:
        value = None if name is None else self.graph.values.get(name)
        return None if value is None else value.concrete_shape

    def layout(self, node: Node, place: int = 0) -> Layout | None:
        inputs = node.present_inputs
        return self.layouts.get(inputs[place]) if place < len(inputs) else None

    def meet(self, node: Node, axis: Axis, kind: Kind, causal: bool | None = False) -> None:
        for label in {label for label, size in axis if label is not None and size > 1}:
            self.mixings.append(Mixing(node.name, label, kind, causal))
