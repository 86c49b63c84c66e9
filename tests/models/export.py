"""Exports of the fixture networks by both of torch's ONNX exporters, and the layers that two readings share."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gnelint.analysis.prediction import NodePrediction, Prediction
from gnelint.ir.graph import Parameter
from tests.models import Case

OPSETS: dict[bool, tuple[int, ...]] = {
    False: (13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23),
    True: (18, 19, 20, 21, 22, 23, 24, 25),
}
"""The opsets that each exporter of torch 2.13 writes, by `dynamo`.

The TorchScript exporter refuses 24 and later, and fused attention before 14. The other one converts from 18, where it
cannot (all below 18, attention above 25) it leaves a file that declares 18 whatever was asked for.
"""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What the exporters print and warn of is kept off the screen."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
    logging.disable(previous)


def export_onnx(case: Case, path: Path, *, opset: int, training: bool, dynamo: bool, seed: int = 0) -> None:
    """Write the network as ONNX.

    Args:
        path: of the file; weights too large for it go beside it.
        opset: one of `OPSETS[dynamo]`.
        training: export in training mode: normalisation kept apart, on batch statistics where the exporter can say so.
        dynamo: the torch.export based exporter, else the TorchScript one.
        seed: of weights and inputs.
    """
    module, inputs = case.module(seed).train(training), case.example_inputs(seed)
    write_onnx(module, inputs, path, opset=opset, dynamo=dynamo, fold=not training)


def write_onnx(
    module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], path: Path, *, opset: int, dynamo: bool, fold: bool
) -> None:
    """Write a module in the mode it is in; `fold` lets the exporter fold constants, and normalisation into layers."""
    with quiet():
        if dynamo:
            torch.onnx.export(module, inputs, str(path), opset_version=opset, dynamo=True, optimize=fold)
        else:
            torch.onnx.export(
                module,
                inputs,
                str(path),
                opset_version=opset,
                dynamo=False,
                training=torch.onnx.TrainingMode.PRESERVE,
                do_constant_folding=fold,
            )


@dataclass(frozen=True)
class Pair:
    """One layer in two readings of the same network."""

    first: NodePrediction
    second: NodePrediction

    @property
    def difference(self) -> float:
        """Relative difference of phi; inf where only one reading has it."""
        a, b = self.first.phi, self.second.phi
        if a is None or b is None:
            return 0.0 if a is b else math.inf
        return 0.0 if a == b else abs(a - b) / max(abs(a), abs(b))

    @property
    def bits(self) -> float:
        """|log2| of the ratio of the gradients' squared norms; inf where only one reading has it."""
        return apart(self.first.gradient_log2, self.second.gradient_log2)


def apart(first: float | None, second: float | None) -> float:
    """Distance of two logarithms; inf where only one is known."""
    if first is None or second is None:
        return 0.0 if first is second else math.inf
    return 0.0 if first == second else abs(first - second)


def unmatched_layers(first: Prediction, pairs: Sequence[Pair]) -> list[NodePrediction]:
    """The layers of the first reading, those with weights or scales, that have no partner in the second."""
    paired = {id(pair.first) for pair in pairs}
    return [node for node in _weighted(first) if id(node) not in paired]


def matched_layers(first: Prediction, second: Prediction) -> list[Pair]:
    """The layers that hold the same numbers, paired.

    A layer is known by its operation and the contents of its weights, never by its name: exporters rename. Layers
    that agree in both (normalisations at their initial values) are paired in order, where both readings have as many.
    What is left (convolutions that a normalisation was folded into) is paired by the weights' shape in the same way.
    """
    pairs: list[Pair] = []
    left, right = _weighted(first), _weighted(second)
    for key in (_contents, _shapes):
        others = _grouped(right, key)
        for mark, nodes in _grouped(left, key).items():
            if len(others.get(mark, ())) == len(nodes):
                pairs += (Pair(a, b) for a, b in zip(nodes, others[mark], strict=True))
        paired = {id(node) for pair in pairs for node in (pair.first, pair.second)}
        left, right = ([node for node in side if id(node) not in paired] for side in (left, right))
    return pairs


def _weighted(prediction: Prediction) -> list[NodePrediction]:
    return [node for node in prediction.nodes if node.node.op != "scale" and _weights(node)]


def _weights(node: NodePrediction) -> list[Parameter]:
    return [node.node.parameters[role] for role in ("weight", "scale") if role in node.node.parameters]


def _contents(node: NodePrediction) -> str:
    arrays = [np.ascontiguousarray(weight.array(), dtype=np.float32) for weight in _weights(node)]
    marks = [f"{array.shape}{hashlib.blake2b(array.tobytes(), digest_size=8).hexdigest()}" for array in arrays]
    return f"{node.node.op} {' '.join(marks)}"


def _shapes(node: NodePrediction) -> str:
    return f"{node.node.op} {[weight.shape for weight in _weights(node)]}"


def _grouped(nodes: Sequence[NodePrediction], key: Callable[[NodePrediction], str]) -> dict[str, list[NodePrediction]]:
    found: dict[str, list[NodePrediction]] = defaultdict(list)
    for node in nodes:
        found[key(node)].append(node)
    return found
