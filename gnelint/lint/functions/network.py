"""What holds for the whole network."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gnelint.lint.facts import LAYERS, Facts
from gnelint.lint.functions.signature import function
from gnelint.theory.sorting import median


def _layers(facts: Facts) -> float:
    return float(max(facts.depth(LAYERS).values(), default=0))


def _output_features(facts: Facts) -> float | None:
    shape = facts.graph.values[facts.graph.outputs[0]].concrete_shape if len(facts.graph.outputs) == 1 else None
    return float(math.prod(shape[1:])) if shape else None


def _occurrences(facts: Facts, named: frozenset[str]) -> float:
    return float(sum(node.op in named for node in facts.graph.nodes))


def _count_blocks(facts: Facts, kind: str) -> float:
    return float(sum(block.kind == kind for block in facts.prediction.blocks))


def _of_layers(reduce: Callable[[np.ndarray], Any]) -> Callable[[Facts], float | None]:
    return lambda facts: float(reduce(facts.layer_gradients)) if facts.layer_gradients.size else None


NETWORK = (
    function(
        "input_features()",
        "number",
        lambda facts: float(math.prod(facts.axes.shape[1:])) if facts.axes.shape else None,
        "entries a sample of the network's main input",
    ),
    function(
        "output_features()",
        "number",
        _output_features,
        "entries a sample of the network's one output; unknown where there are several",
    ),
    function("layers()", "number", _layers, "number of linear layers on the network's longest path"),
    function("occurrences(op)", "number", _occurrences, "how many of an op the network holds"),
    function("blocks(kind)", "number", _count_blocks, "how many blocks of a kind there are"),
    function(
        "network_log2()",
        "number",
        lambda facts: facts.prediction.gradient_log2,
        "log2 of the squared gradient norm at the network's input relative to its output",
    ),
    function(
        "body_log2()",
        "number",
        lambda facts: facts.body_log2,
        "the same from the head's input (the last layer, where all of the gradient passes it, and pooling) to where "
        "the first layer reads the network's input, shifted and scaled",
    ),
    function(
        "steady_log2()",
        "number",
        lambda facts: facts.steady_log2,
        "body_log2() without the most that is lost at one place that is no layer: a trained scale, or the only way "
        "from patches to a class token",
    ),
    function(
        "fluctuation_bits()",
        "number",
        lambda facts: facts.prediction.fluctuation_bits,
        "standard deviation of network_log2() from one draw of the weights to the next",
    ),
    function(
        "weight_gradient_median()",
        "number",
        _of_layers(median),
        "median of weight_gradient_log2 over the linear layers",
    ),
    function(
        "weight_gradient_spread()",
        "number",
        _of_layers(np.std),
        "standard deviation of weight_gradient_log2 over the linear layers",
    ),
    function(
        "coverage()",
        "number",
        lambda facts: facts.prediction.coverage,
        "fraction of the nodes on a gradient path that are modelled",
    ),
    function(
        "is_training()",
        "truth",
        lambda facts: facts.graph.training,
        "normalisation uses batch statistics (--mode train)",
    ),
    function("source()", "text", lambda facts: facts.graph.source, "what the network was read from: onnx or torch"),
    function(
        "looks_fresh()",
        "truth",
        lambda facts: facts.prediction.trained is False,
        "the weights look as an initialiser draws them; not so where they are trained or it is not sure",
    ),
    function(
        "cotangent_moved()",
        "truth",
        lambda facts: facts.prediction.cotangent_at != "output",
        "the network's last layer is zero, so gradients are relative to its input",
    ),
    function(
        "has_note(text)",
        "truth",
        lambda facts, text: any(text.lower() in note.lower() for note in facts.prediction.notes),
        "a note on how the model was read holds this text, such as 'folded normalisation'",
    ),
)
