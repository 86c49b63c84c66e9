"""What the analysis says of a graph: plain data, from which rules, fixes and reports are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Literal

from gnelint.analysis.sampling import MakeSampler
from gnelint.analysis.stage import Judgement
from gnelint.components.base import Basis
from gnelint.ir.graph import Graph, Node
from gnelint.records import cached_property, dataclass
from gnelint.theory.weights.statistics import WeightStatistics

BlockKind = Literal["serial", "residual", "dense", "attention", "gated", "parallel"]


@dataclass(frozen=True)
class NodePrediction:
    """The prediction for one node on a gradient path, at its first output there. None stands for "not known".

    Attributes:
        node: the node itself.
        output: name of the value described.
        shape: its shape with symbolic dimensions filled in.
        mean, second_moment: E[x] and E[x^2] over the whole tensor.
        phi: E tr(J J^T) / m of the node's Jacobian with respect to its activation inputs taken together.
        phi_variance: the spectrum's variance, tr((J J^T)^2)/m - phi^2.
        gradient_log2: log2 of the squared L2 norm of the loss gradient at `output`, relative to where the cotangent is
            placed; -inf for an exact zero.
        error_bits: |log2(predicted / measured)| of that squared norm, in bits, for one draw of the weights: within
            this for 90% of layers.
        basis, assumptions: what the numbers stand on.
    """

    node: Node
    output: str
    shape: tuple[int, ...] | None = None
    mean: float | None = None
    second_moment: float | None = None
    phi: float | None = None
    phi_variance: float | None = None
    gradient_log2: float | None = None
    error_bits: float | None = None
    basis: Basis = "exact"
    assumptions: tuple[str, ...] = ()

    @property
    def gradient_norm2(self) -> float | None:
        """The squared gradient norm itself; 0.0 where it is below what a double can hold."""
        return None if self.gradient_log2 is None else float(2.0 ** min(self.gradient_log2, 1023.0))


@dataclass(frozen=True)
class Block:
    """A part of the network between two places where all of the gradient passes.

    Attributes:
        name: the common module name, or "first .. last" node.
        kind: what closes it.
        nodes: names in topological order, of those that the gradient passes on its way to the main input.
        side: names of nodes that bring in other inputs (a diffusion model's step) and are first read here.
        entry, exit: names of the values it reads and writes.
        phi, phi_variance: of the whole block's Jacobian.
        branch_phi: residual blocks: phi of what is added to the shortcut.
        join: name of the node that joins the branches, None if there are none.
        operand_phis: phi from the entry to each operand of the join.
        shortcut: residual and dense blocks: names of the nodes on the shortcut, none for an identity; else None.
        shortcut_phi: phi of the shortcut.
        error_bits: |log2(predicted / measured)| of phi for one draw of the weights, in bits: within this for 90%.
        basis, assumptions: what the numbers stand on.
    """

    name: str
    kind: BlockKind
    nodes: tuple[str, ...]
    entry: str
    exit: str
    phi: float | None = None
    phi_variance: float | None = None
    branch_phi: float | None = None
    join: str | None = None
    operand_phis: tuple[float | None, ...] = ()
    shortcut: tuple[str, ...] | None = None
    shortcut_phi: float | None = None
    error_bits: float | None = None
    basis: Basis = "exact"
    assumptions: tuple[str, ...] = ()
    side: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """Everything predicted for one graph.

    Attributes:
        graph: what was analysed.
        nodes: one prediction for each node on a gradient path, in topological order.
        blocks: in topological order; a node belongs to one block at most.
        coverage: fraction of the nodes on a gradient path that a component models (1.0 for no such node).
        stage: whether the weights are fresh or trained, and why.
        gradient_log2: log2 of ||dL/dx||^2 / ||dL/dy||^2 at the first floating input (at the embedding for tokens).
        error_bits: |log2(predicted / measured)| of that ratio, in bits, for one draw of the weights: within this for
            90% of networks.
        fluctuation_bits: standard deviation of its log2 from one draw of the weights to the next, in bits
            (theory 10.1); the part of the error that no analysis can take away.
        gradient_at: the value at which `gradient_log2` is taken, None if there is none.
        cotangent_at: "output", or the value where the cotangent had to be placed.
        weights: statistics by parameter name, for the weights of linear maps and the parameters of normalisations.
        notes: sentences for people, the reader's and the analysis' own.
        sampler: what ran the parts that no formula describes, for who analyses the graph again.
    """

    graph: Graph
    nodes: tuple[NodePrediction, ...]
    blocks: tuple[Block, ...]
    coverage: float
    stage: Judgement
    gradient_log2: float | None
    gradient_at: str | None
    cotangent_at: str
    error_bits: float | None = None
    fluctuation_bits: float | None = None
    weights: Mapping[str, WeightStatistics] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    sampler: MakeSampler | None = field(default=None, repr=False, compare=False)

    @property
    def trained(self) -> bool | None:
        """Whether the weights are trained; None where that is not sure or there are none to judge."""
        return self.stage.trained

    @property
    def gradient_ratio(self) -> float | None:
        """||dL/dx||^2 / ||dL/dy||^2 at `gradient_at`; may under- or overflow where `gradient_log2` does not."""
        return None if self.gradient_log2 is None else float(2.0 ** min(self.gradient_log2, 1023.0))

    @cached_property
    def by_node(self) -> Mapping[str, NodePrediction]:
        """The prediction of each node on a gradient path, by the node's name."""
        return {prediction.node.name: prediction for prediction in self.nodes}

    @cached_property
    def block_of(self) -> Mapping[str, Block]:
        """The block of each node that is in one, by the node's name."""
        return {name: block for block in self.blocks for name in block.nodes}
