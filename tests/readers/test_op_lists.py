"""No operation passes silently: every one of two lists is modelled, carries no gradient, or is refused by GNE901.

The lists are the operations of traced PyTorch models (`torch_ops.txt`) and all operators of the ONNX standard that
the onnx package knows. What is refused and what carries no gradient is written out here, so that a change is noticed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, defs, numpy_helper

from gnelint.analysis.prediction import Prediction
from gnelint.analysis.propagation import PLACEHOLDERS, analyse
from gnelint.ir.graph import UNMODELLED, Graph
from gnelint.lint.engine import lint
from gnelint.lint.rulefile import load_rules
from gnelint.lint.selection import Settings
from gnelint.ops import VOCABULARY
from gnelint.readers.onnx.ops.table import DECOMPOSED, LOWERINGS
from gnelint.readers.onnx.reader import read
from gnelint.readers.torch.reader import trace_module
from tests.benchmarks.accuracy import measure
from tests.evaluator import known, outputs
from tests.readers.onnx.cases import NodeCase, node_cases
from tests.readers.torch.calls import CALLS, network

COVERAGE = [rule for rule in load_rules().rules if rule.id == "GNE901"]


def _refused(prediction: Prediction) -> list[str]:
    """Operations that GNE901 reports."""
    by_name = {node.name: node for node in prediction.graph.nodes}
    findings = lint(prediction, COVERAGE, Settings()).findings
    return [by_name[finding.nodes[0]].source_op or by_name[finding.nodes[0]].op for finding in findings]


def _verdict(graph: Graph) -> str:
    """What becomes of a graph: an operation on a gradient path has a component that predicts it, or GNE901 names it."""
    prediction = analyse(graph)
    if not graph.gradient_nodes:
        return "no gradient"
    unknown = [node for node in prediction.nodes if node.basis == "unmodelled"]
    assert {node.node.name for node in unknown} >= {n.name for n in graph.gradient_nodes if n.op == UNMODELLED}
    assert len(_refused(prediction)) == len(unknown)
    assert (prediction.coverage < 1) == bool(unknown)
    if not unknown and PLACEHOLDERS not in prediction.notes:
        for node in prediction.nodes:
            assert node.second_moment is not None
            assert np.isfinite(node.second_moment)
    return "refused" if unknown else "modelled"


# --- PyTorch ------------------------------------------------------------------------------------------------------

LISTED = (Path(__file__).parent / "torch_ops.txt").read_text().split()

NEUTRAL = {"aten.bernoulli.p", "aten.new_empty.default", "aten.empty_like.default", "aten.native_dropout.default"}
"""Random masks of dropout, which the analysis takes as neutral and autograd does not."""
OTHERWISE = {
    "operator.getitem",
    "aten._native_batch_norm_legit.no_stats",
    "aten._native_batch_norm_legit_functional.default",
    "aten.native_dropout.default",
    "aten.new_empty.default",
    "aten.empty_like.default",
    "aten.arange.default",
    "aten.arange.start",
    "aten.zeros.default",
}
"""Operations that the installed torch writes by others; their networks are traced all the same."""


def test_every_listed_operation_has_a_network() -> None:
    assert set(LISTED) == set(CALLS)


@pytest.mark.parametrize("name", LISTED)
def test_torch_operation(name: str) -> None:
    module, inputs = network(name)
    traced = trace_module(module, inputs, name=name)
    assert name in OTHERWISE or name in {str(node.target) for node in traced.program.graph.nodes}
    assert _verdict(traced.graph) == "modelled"
    prediction = analyse(traced.graph)
    assert prediction.gradient_log2 is not None
    assert prediction.gradient_at is not None
    if name in NEUTRAL:
        assert prediction.gradient_log2 == pytest.approx(0.0, abs=1e-9)
        return
    true = measure(traced, prediction, probes=8, seed=0)[prediction.gradient_at].gradient_log2
    assert prediction.gradient_log2 == pytest.approx(true, abs=0.1)  # finite width and eight cotangents


# --- ONNX ---------------------------------------------------------------------------------------------------------

REFUSED = frozenset({
    # values that a Gaussian of unit variance takes outside of where the function is smooth
    "Acos", "Acosh", "Asin", "Atanh", "Log", "Reciprocal", "ReduceLogSum", "Sqrt", "Tan",
    # recurrences and control flow
    "If", "SequenceMap", "CausalConvWithState", "LinearAttention",
    "ai.onnx.preview.FlexAttention",
    # sampling and indexing of places that the vocabulary does not have
    "Compress", "DeformConv", "GatherElements", "GatherND", "GridSample", "MaxRoiPool", "MaxUnpool", "ReverseSequence",
    "RoiAlign", "ScatterND", "TensorScatter", "Unique", "ai.onnx.ml.ArrayFeatureExtractor",
    # products, determinants, transforms, losses, random numbers
    "Bernoulli", "CumProd", "DFT", "Det", "MelWeightMatrix", "Mod", "NegativeLogLikelihoodLoss", "OneHot",
    "RandomNormalLike", "RandomUniformLike", "Range", "ReduceProd", "STFT", "SoftmaxCrossEntropyLoss",
    # integers as activations
    "DequantizeLinear", "DynamicQuantizeLinear",
    # sequences and optional values
    "ConcatFromSequence", "Optional", "OptionalGetElement", "SequenceAt", "SequenceConstruct", "SequenceErase",
    "SequenceInsert", "SplitToSequence",
    # classical models and steps of training
    "ai.onnx.ml.Binarizer", "ai.onnx.ml.FeatureVectorizer", "ai.onnx.ml.Imputer", "ai.onnx.ml.LinearClassifier",
    "ai.onnx.ml.OneHotEncoder", "ai.onnx.ml.SVMClassifier",
    "ai.onnx.ml.SVMRegressor", "ai.onnx.ml.TreeEnsemble", "ai.onnx.ml.TreeEnsembleClassifier",
    "ai.onnx.ml.TreeEnsembleRegressor", "ai.onnx.preview.training.Adagrad", "ai.onnx.preview.training.Adam",
    "ai.onnx.preview.training.Momentum",
})  # fmt: skip
"""Differentiable or not, these are reported where a gradient would have to pass them: in every case of theirs."""

REFUSED_BY_USE = frozenset({
    # by the values of a Gaussian of unit variance
    "Acos", "Acosh", "Asin", "Atanh", "Log", "Reciprocal", "ReduceLogSum", "Sqrt", "Tan",
    # what the cases give them is refused, what exporters write is not
    "DequantizeLinear", "OneHot", "ReverseSequence", "SequenceAt", "SplitToSequence",
    # through the standard's definition, which has what is refused
    "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss",
})  # fmt: skip
"""Of these, what has a lowering all the same: whatever else gets one is to be taken off the list above."""

NO_GRADIENT = frozenset({
    # of integers, booleans and text
    "And", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "ConvInteger", "MatMulInteger", "Not",
    "Or", "QLinearConv", "QLinearMatMul", "RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit",
    "TfIdfVectorizer", "Xor", "ImageDecoder", "ai.onnx.ml.LabelEncoder",
    # of numbers, but what comes out is indices, booleans, bits or shapes
    "ArgMax", "ArgMin", "BitCast", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual",
    "Multinomial", "NonMaxSuppression", "NonZero", "OptionalHasElement", "SequenceLength", "Shape", "Size",
    # constants
    "BlackmanWindow", "Constant", "ConstantOfShape", "EyeLike", "HammingWindow", "HannWindow", "RandomNormal",
    "RandomUniform", "SequenceEmpty",
})  # fmt: skip

WITHOUT_CASE = frozenset({"ai.onnx.ml.CastMap", "ai.onnx.ml.CategoryMapper", "ai.onnx.ml.DictVectorizer",
                          "ai.onnx.ml.ZipMap", "ai.onnx.preview.training.Gradient"})  # fmt: skip
"""Maps, strings and a derivative as an operator: a model that has them is no network."""

OTHER_NUMBERS = {
    "training_dropout": "random, and neutral in the analysis",
    "dropout_default_mask": "the mask is all ones where the graph names the values it is drawn for",
    "causal_with_past": "the evaluator of the tests lets the first query see the first key alone",
    "resize_downsample_scales": "the scale is not the quotient of the sizes",
    "hardmax_one_hot": "of several largest entries the first one counts",
    "spacetodepth": "the order of a block's channels, which no moment depends on",
    "half_pixel_symmetric": "where the border lies",
    "pytorch_half_pixel": "a single output stands at the border",
    "antialias": "how far the kernel reaches beyond the border",
    "nearest": "which of two neighbours is the nearest",
}
"""Cases whose graph computes something else than the standard, by a part of their name; why the gradient's norm is the
same, or nearly so."""
SAME_BY_DESIGN = frozenset({"Cast", "CastLike", "QuantizeLinear"})
"""Rounding passes the gradient straight through."""


def _name(domain: str, op: str) -> str:
    return f"{domain}.{op}" if domain else op


SCHEMAS = sorted({_name(schema.domain, schema.name) for schema in defs.get_all_schemas()} - WITHOUT_CASE)


@pytest.mark.parametrize("name", SCHEMAS)
def test_onnx_operator(name: str, tmp_path: Path) -> None:
    domain, _, op = name.rpartition(".")
    verdicts = set()
    for case in node_cases()[domain, op]:
        path = tmp_path / "model.onnx"
        onnx.save(case.model, path)
        attributes = {attribute.name: attribute.i for attribute in case.model.graph.node[0].attribute}
        training = bool(attributes.get("training_mode", 0))
        graph = read(path, training=training)
        verdict = _verdict(graph)
        if verdict == "modelled" and op not in SAME_BY_DESIGN:
            _computes(graph, case)
        verdicts.add(verdict)
    assert ("modelled" in verdicts) == (name not in REFUSED | NO_GRADIENT)
    if name in REFUSED:
        assert "refused" in verdicts
    if name in NO_GRADIENT:
        assert verdicts == {"no gradient"}


def test_the_lists_name_operators_once() -> None:
    assert set(SCHEMAS) >= REFUSED | NO_GRADIENT
    assert not REFUSED & NO_GRADIENT


def test_what_is_lowered_is_not_refused() -> None:
    assert REFUSED & (LOWERINGS.keys() | DECOMPOSED) == REFUSED_BY_USE


@pytest.mark.parametrize("op", VOCABULARY)
def test_the_evaluator_knows_the_vocabulary(op: str) -> None:
    """A graph with an operation that cannot be run would be held against no numbers."""
    assert known(op)


def _computes(graph: Graph, case: NodeCase) -> None:
    """The graph, run on the case's numbers, gives the case's results: so its derivative is the operator's."""
    if case.outputs is None or any(part in case.name for part in OTHER_NUMBERS):
        return
    if any(node.op == UNMODELLED for node in graph.nodes):
        return
    try:
        inputs = tuple(torch.as_tensor(_array(value)) for value in case.inputs)
        named = zip((info.name for info in case.model.graph.output), case.outputs, strict=False)
        wanted = {name: torch.as_tensor(_array(value)) for name, value in named}
    except TypeError:  # torch has no such type
        return
    try:
        found = outputs(graph, inputs)
    except (AssertionError, KeyError, RuntimeError, IndexError):  # the evaluator has limits of its own
        return
    for one, other in zip(found, (wanted[name] for name in graph.outputs if name in wanted), strict=False):
        torch.testing.assert_close(
            one.double(), other.double(), rtol=2e-3, atol=2e-4, equal_nan=True, msg=lambda text: f"{case.name}: {text}"
        )


def _array(value: Any) -> np.ndarray:
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.array(value)
