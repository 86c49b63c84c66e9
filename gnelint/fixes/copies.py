"""Copies of a block drawn apart."""

from __future__ import annotations

from collections.abc import Iterator

from gnelint.analysis.repeats import matrices
from gnelint.analysis.stacks import Stack, stacks
from gnelint.fixes.base import Fix, Plan, Refusal, Site, fix, seed_of, stored_layout, untrained
from gnelint.fixes.draws import NOT_STORED
from gnelint.fixes.edits import EditTensor, Redraw
from gnelint.ir.graph import Node, Parameter
from gnelint.lint.facts import LAYERS, unit_axis
from gnelint.lint.finding import Finding


@fix("draw_apart")
class DrawApart(Fix):
    """w -> a new draw with the E w^2 that it has, in every block of a stack but the first: each block then keeps phi,
    and what their branches give is independent.

    Preconditions: the weights are stored tensors that no layer outside of the copies reads.

    Source: theory 2.7.
    """

    order = 15

    def plan(self, site: Site) -> Plan:
        found = {stack.first.name: stack for stack in stacks(site.graph, site.prediction.weights)}
        edits, refused = [], []
        for finding in site.findings:
            stack = found.get(finding.nodes[0])
            made = "its copies are not known" if stack is None else self._apart(site, finding, stack)
            if isinstance(made, str):
                refused.append(Refusal(finding, made))
            else:
                edits += [self.edit(finding, action, finding.nodes[0]) for action in made]
        return Plan(tuple(edits), tuple(refused))

    def _apart(self, site: Site, finding: Finding, stack: Stack) -> list[EditTensor] | str:
        """The changes, or why there are none."""
        made: dict[str, EditTensor] = {}
        for node, parameter in _copied(stack):
            place = stored_layout(parameter)
            if place is None:
                return untrained(parameter) or NOT_STORED
            tensor, permutation = place
            if not site.graph.users[tensor.name] <= {layer.name for row in stack.rows for layer in row}:
                return "something else reads the tensor too, where it would be wrong"
            numbers = site.prediction.weights.get(parameter.name)
            second = float((parameter.array() ** 2).mean()) if numbers is None else numbers.second_moment
            axis = unit_axis(node) if node.op in LAYERS else 0
            drawn = Redraw(site.options.draw or "normal", second, seed_of(site.options, tensor.name), axis)
            made[tensor.name] = EditTensor(tensor.name, drawn, permutation)
        return list(made.values())


def _copied(stack: Stack) -> Iterator[tuple[Node, Parameter]]:
    """The matrices of all blocks but the first."""
    for row in stack.rows:
        for node in row[1:]:
            yield from ((node, each) for each in matrices(node) if each.trainable)
