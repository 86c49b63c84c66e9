"""Losses of margins, and the labels that they are multiplied by."""

from __future__ import annotations

import numpy as np

from gnelint.ir.graph import Node
from gnelint.lint.facts import Facts
from gnelint.lint.functions.signature import function
from gnelint.lint.functions.teachers import is_compared


def _idle_labels(facts: Facts, node: Node) -> float:
    """The share of entries for which a hinge of a loss reads a label of 0, and gives the same whatever the score."""
    margin = facts.producer(node) if node.op == "relu" else None
    if margin is None or margin.op != "bias" or "bias" not in margin.parameters or not is_compared(facts, node):
        return 0.0
    offset = margin.parameters["bias"]
    if offset.trainable or offset.size != 1 or float(offset.array().reshape(-1)[0]) <= 0.0:
        return 0.0
    factor, labelled = 1.0, facts.producer(margin)
    while labelled is not None and labelled.op == "scale" and "scale" not in labelled.parameters:
        factor *= float(labelled.attribute("factor"))
        labelled = facts.producer(labelled)
    labels = labelled.parameters.get("scale") if labelled is not None and labelled.op == "scale" else None
    if labelled is None or labels is None or labels.trainable or labels.size < 2 or factor >= 0.0:
        return 0.0
    score = labelled.present_inputs[0]
    if score not in facts.learnt_values or len(facts.graph.consumers.get(score, ())) != 1:
        return 0.0
    numbers = np.asarray(labels.array())
    told = bool(np.all((numbers == 0) | (numbers == 1)) and numbers.any())
    return float(np.mean(numbers == 0)) if told else 0.0


MARGINS = (
    function(
        "idle_labels(n)",
        "number",
        _idle_labels,
        "the share of entries for which the hinge n of a loss, max(0, 1 - label score), is given a label of 0, where "
        "all labels are 0 or 1; 0 of other nodes",
    ),
)
