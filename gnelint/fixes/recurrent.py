"""Recurrent matrices scaled so that a state keeps its size."""

from __future__ import annotations

import math

import numpy as np

from gnelint.fixes.base import Fix, Plan, Refusal, Site, fix, scalable, target_node, untrained
from gnelint.fixes.edits import EditTensor, Scale
from gnelint.lint.finding import Finding


@fix("recurrent_scale")
class RecurrentScale(Fix):
    """U -> U / sqrt(hidden E u^2), for all gates together: E |U h|^2 = |h|^2 in each, as an orthogonal matrix has it.

    A bounded state then neither grows nor is it chaos: f' <= 1, and gates let through less than all.

    Preconditions: the matrix is a stored tensor, or computed in proportion to one, and no other layer uses it.

    Source: theory 3.8; arXiv 1211.5063.
    """

    order = 60
    evens = True

    def plan(self, site: Site) -> Plan:
        edits, refused = [], []
        for finding in site.findings:
            made = self._scaled(site, finding)
            if isinstance(made, str):
                refused.append(Refusal(finding, made))
            else:
                edits.append(self.edit(finding, made))
        return Plan(tuple(edits), tuple(refused))

    def _scaled(self, site: Site, finding: Finding) -> EditTensor | str:
        """The change, or why there is none."""
        node = target_node(site, finding)
        matrix = None if node is None else node.parameters.get("recurrent")
        if node is None or matrix is None:
            return "its recurrent matrix is not known"
        tensor = scalable(matrix)
        if tensor is None:
            return untrained(matrix) or "its recurrent matrix is not a stored tensor that could be scaled"
        if not site.graph.users[tensor.name] <= {node.name}:
            return "its recurrent matrix is used in other places too, where it would be wrong"
        numbers = matrix.array().astype(np.float64)
        size = math.sqrt(matrix.shape[-1] * float(np.mean(numbers**2)))
        return EditTensor(tensor.name, Scale(1.0 / size))
