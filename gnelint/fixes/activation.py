"""Other activations, where no weight scale helps."""

from __future__ import annotations

import math
from typing import ClassVar

from gnelint.analysis.propagation import analyse
from gnelint.fixes.base import Fix, Plan, Refusal, Site, fix
from gnelint.fixes.edits import Edit, EditTensor, Scale, Substitute, applied
from gnelint.fixes.gain import equalised, own_weights
from gnelint.fixes.heads import heads_of
from gnelint.ir.graph import Node
from gnelint.lint.chains import chains_of, layers_outside_branches
from gnelint.ops import families
from gnelint.theory.gaussian.selu import solve_selu

ACCUMULATED = 16.0
"""Relative variance that the activations of a chain may add up to."""


class _Substitution(Fix):
    order = 30
    gain: ClassVar[bool] = False
    """Whether the weights of the chain are scaled for what takes the activations' place."""

    def instead(self, node: Node, count: int) -> Substitute | None:
        """What takes the activation's place, one of `count` in a chain; None if nothing can."""
        raise NotImplementedError

    def plan(self, site: Site) -> Plan:
        edits: dict[str, Edit] = {}
        refused = []
        for finding in site.findings:
            nodes = [site.graph.node(name) for name in finding.nodes]
            found = [node for node in nodes if node.op in families()["activation"]]
            actions = [self.instead(node, len(found)) for node in found]
            for node, action in zip(found, actions, strict=True):
                if action is not None:
                    edits.setdefault(node.name, self.edit(finding, action))
            if not found or None in actions:
                refused.append(Refusal(finding, "no other activation takes its place"))
        scales = self._scales(site, tuple(edits.values())) if self.gain and edits else ()
        return Plan((*edits.values(), *scales), tuple(refused))

    def _scales(self, site: Site, edits: tuple[Edit, ...]) -> tuple[Edit, ...]:
        """The gains that the layers need with their new activations."""
        prediction = analyse(applied(site.graph, [edit.action for edit in edits]), site.prediction.sampler)
        layers = chains_of(prediction, [name for edit in edits for name in edit.nodes])
        tensors = own_weights(prediction.graph, layers)
        held = [layer for layer in layers if layer.node.name in tensors]
        heads = heads_of(site.graph, layers_outside_branches(site.prediction), tensors)
        factors = equalised(prediction.graph, held, tensors, heads=heads)
        return tuple(self.edit(site.findings[0], EditTensor(name, Scale(factor))) for name, factor in factors.items())


@fix("leaky")
class Leaky(_Substitution):
    """A leaky ReLU whose slope a makes the relative variances of L activations add up to a bound V:

        c(a) = ((1 - a^2) / (1 + a^2))^2 = V / L,   a^2 = (1 - sqrt(V/L)) / (1 + sqrt(V/L))

    The selection strategy: relative variances of a chain add up (multiplication theorem for phi_2), so of activations
    with phi set to 1 by the weights the one is taken whose sum over this depth stays within bounds. Weights are
    scaled for it.

    Preconditions: none; the network must be trained again.

    Source: theory 2.1 and theory 3.3 (arXiv 2001.00254).
    """

    gain = True

    def instead(self, node: Node, count: int) -> Substitute | None:
        root = math.sqrt(min(ACCUMULATED / count, 1.0))
        return Substitute(node.name, "leaky_relu", {"alpha": round(math.sqrt((1 - root) / (1 + root)), 4)})


@fix("tanh")
class TanhInstead(_Substitution):
    """tanh for a sigmoid: slope 1 at 0 and mean 0, where the squared slope of a sigmoid is at most 1/16. Weights are
    scaled for it.

    Preconditions: none; the network must be trained again.

    Source: Glorot and Bengio 2010; theory 3.3.
    """

    gain = True

    def instead(self, node: Node, count: int) -> Substitute | None:
        return Substitute(node.name, "tanh")


@fix("selu")
class SeluCoefficients(_Substitution):
    """SELU's lambda and alpha solved for L layers: the second moment stays, and the gradient is multiplied by
    1 + epsilon with epsilon = 1 / L, so that (1 + epsilon)^L stays below e.

    Preconditions: weights of variance 1/fan_in; the network must be trained again.

    Source: theory 6.7 (arXiv 2001.00254).
    """

    def instead(self, node: Node, count: int) -> Substitute | None:
        found = solve_selu(1.0 / count)
        return Substitute(node.name, "selu", {"alpha": found.alpha, "gamma": found.scale})


@fix("no_activation")
class OffTheTrunk(_Substitution):
    """The activation goes: a shortcut that runs through it is no identity, and a branch that ends in it can only add.

    Preconditions: the block holds another activation, or it becomes linear; the network must be trained again.

    Source: arXiv 1603.05027; the addition theorem (theory 2.2, arXiv 2001.00254).
    """

    def instead(self, node: Node, count: int) -> Substitute | None:
        return Substitute(node.name, "identity")
