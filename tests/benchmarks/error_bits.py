"""What the components' formulas leave out, measured beside the constants that say so (theory 10.2).

    python -m tests.benchmarks.error_bits                      the seven architectures
    python -m tests.benchmarks.error_bits --all --seeds 8      every fixture network
    python -m tests.benchmarks.error_bits --case vit           one of them

The error of log2 of a gradient's squared norm arises node by node: what a node adds is the error at the value that it
reads less the error at the value that it makes, for values that nothing else reads. Over draws of the weights the mean
of that is the formulas', the scatter is the draws'. The squared mean less the scatter's part of it is an unbiased
estimate for each node; a constant stands for the root of its average over nodes. Errors of the second moment that
activations read (drift) are among those of exact formulas, which state none.

A constant that is off is changed where the first column says; `python -m tests.benchmarks.accuracy --all --seeds 3`
counts then how many layers lie within the bounds that follow.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from gnelint.analysis.correlation import CORRELATED
from gnelint.analysis.prediction import NodePrediction, Prediction
from gnelint.analysis.propagation import analyse
from gnelint.analysis.uncertainty import CORRELATED_BITS, OF_BASIS
from gnelint.components import component_class
from gnelint.readers.torch.reader import trace_module
from tests.benchmarks.accuracy import Layer, measure
from tests.models import CASES, SEVEN, Case

Constant = tuple[str, float]
"""Where a constant stands, and what it says in bits."""


def constant_of(prediction: Prediction, at: NodePrediction, index: int) -> Constant | None:
    """What the analysis states of the gradient at one input of a node; None where nothing models the node."""
    node, values = at.node, prediction.graph.values
    cls = component_class(node.op)
    if cls is None:
        return None
    shapes = tuple(None if name is None else values[name].concrete_shape for name in node.inputs)
    outputs = tuple(shape for name in node.outputs if (shape := values[name].concrete_shape) is not None)
    stated = cls(node, shapes, outputs).model_error_bits_of(index)
    if stated is not None:
        owner = next(base for base in cls.__mro__ if "model_error_bits" in vars(base))
        place = f"{owner.__module__.removeprefix('gnelint.')}.{owner.__name__}"
        return (place, stated) if stated == vars(owner)["model_error_bits"] else (f"{place}, input {index}", stated)
    if CORRELATED in at.assumptions:
        return "analysis.uncertainty.CORRELATED_BITS", CORRELATED_BITS
    return f'analysis.uncertainty.OF_BASIS["{at.basis}"]', OF_BASIS[at.basis]


def steps(case: Case, *, seed: int, probes: int) -> Iterator[tuple[Constant, str, float]]:
    """The constant, the input's name and the error in bits that arises there, for one draw of a network."""
    inputs = case.example_inputs(seed)
    traced = trace_module(case.module(seed), inputs, name=case.name)
    prediction = analyse(traced.graph)
    measured = measure(traced, prediction, probes=probes, seed=seed)
    errors = {node.output: Layer(node, measured.get(node.output)).signed_bits for node in prediction.nodes}
    for at in prediction.nodes:
        if sum(name in errors for name in at.node.outputs) != 1:
            continue
        for index, name in enumerate(at.node.inputs):
            if name not in errors or len(prediction.graph.consumers[name]) != 1:
                continue
            constant, step = constant_of(prediction, at, index), errors[name] - errors[at.output]
            if constant is not None and math.isfinite(step):
                yield constant, name, step


def squared_model_error(found: Sequence[float]) -> float:
    """The squared mean of a node's errors over draws, without what the scatter between draws adds to it."""
    return float(np.mean(found) ** 2 - np.var(found, ddof=1) / len(found))


def main(arguments: Sequence[str] | None = None) -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every fixture network")
    parser.add_argument("--case", action="append", default=[], choices=CASES, metavar="NAME", help="this one")
    parser.add_argument("--seeds", type=int, default=4, help="draws of each network, at least 2 [4]")
    parser.add_argument("--probes", type=int, default=4, help="cotangents of each draw [4]")
    chosen = parser.parse_args(arguments)
    if chosen.seeds < 2:
        parser.error("--seeds: one draw does not tell its luck from an error; take 2 or more")
    warnings.simplefilter("ignore", FutureWarning)
    squares: dict[Constant, list[float]] = defaultdict(list)
    for name in CASES if chosen.all else chosen.case or SEVEN:
        found: dict[tuple[Constant, str], list[float]] = defaultdict(list)
        for seed in range(chosen.seeds):
            for constant, value, step in steps(CASES[name], seed=seed, probes=chosen.probes):
                found[constant, value].append(step)
        for (constant, _), errors in found.items():
            if len(errors) == chosen.seeds:
                squares[constant].append(squared_model_error(errors))
    print(f"{'constant':52} {'stated':>7} {'measured':>9} {'+-':>6} {'nodes':>6}")
    for (place, stated), each in sorted(squares.items()):
        root = math.sqrt(max(float(np.mean(each)), 0.0))
        error = float(np.std(each)) / math.sqrt(len(each)) / (2.0 * root) if root > 0 else math.nan
        print(f"{place:52} {stated:7.3f} {root:9.3f} {error:6.3f} {len(each):6}")


if __name__ == "__main__":
    main()
