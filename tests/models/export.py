"""Exports of the fixture networks by both of torch's ONNX exporters, and the layers that two readings share."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import math
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gnelint.prediction import NodePrediction, Prediction
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
def _quiet() -> Iterator[None]:
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
    mode = torch.onnx.TrainingMode.TRAINING if training else torch.onnx.TrainingMode.EVAL
    with _quiet():
        if dynamo:
            torch.onnx.export(module, inputs, str(path), opset_version=opset, dynamo=True, optimize=not training)
        else:
            torch.onnx.export(
                module,
                inputs,
                str(path),
                opset_version=opset,
                dynamo=False,
                training=mode,
                do_constant_folding=not training,
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


def matched_layers(first: Prediction, second: Prediction) -> list[Pair]:
    """The layers that hold the same numbers, paired.

    A layer is known by its operation and the contents of its weights, never by its name: exporters rename. Layers
    that agree in both (normalisations at their initial values) are paired in order, where both readings have as many.
    """
    left, right = _by_contents(first), _by_contents(second)
    return [
        Pair(a, b)
        for key, nodes in left.items()
        if key in right and len(right[key]) == len(nodes)
        for a, b in zip(nodes, right[key], strict=True)
    ]


def _by_contents(prediction: Prediction) -> dict[tuple[str, str], list[NodePrediction]]:
    found: dict[tuple[str, str], list[NodePrediction]] = defaultdict(list)
    for node in prediction.nodes:
        weights = {role: node.node.parameters[role] for role in ("weight", "scale") if role in node.node.parameters}
        if weights and node.node.op != "scale":
            found[node.node.op, "/".join(_mark(weight.array()) for weight in weights.values())].append(node)
    return found


def _mark(array: np.ndarray) -> str:
    rounded = np.ascontiguousarray(array, dtype=np.float32)
    return f"{array.shape}{hashlib.blake2b(rounded.tobytes(), digest_size=8).hexdigest()}"
