"""Whether a network is trained, fresh, or one cannot tell, decided from its tensors by evidence that has a name.

Each piece of evidence is a likelihood ratio, trained against fresh, in bits, and their sum decides (theory 11):

1. Matrices (weights of linear maps, convolutions, recurrent cells, embeddings): `theory.draws` asks of each whether
   independent entries of one distribution, or an orthogonal draw, could look like that. Their ratios are multiplied
   (all layers were trained a little), or averaged (one was trained, the others are frozen); the mean of the two counts,
   so that a hundred frozen layers do not hide a trained one and chance in one of a hundred does not make one.
2. Biases start at one value or uniform in +-1/sqrt(fan_in); scales and shifts of normalisations at one value each.
   What still stands at its start was not trained; what differs from it and from each other was, unless it looks drawn.
3. Running statistics tell how many batches went through, which by itself is no training.

Buffers and constants of the program are no evidence, frozen parameters are. Large tensors are judged by an evenly
spaced part, networks of very many by some of their tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

import numpy as np

from gnelint.analysis.rows import GIVEN, layer_behind
from gnelint.ir.graph import Derivation, Graph, Node, Parameter
from gnelint.records import dataclass
from gnelint.theory.sorting import distinct
from gnelint.theory.weights.draws import (
    Entries,
    alignment,
    chi_square_surprise,
    oddities,
    rounding,
    together,
    uniform_edge,
)
from gnelint.theory.weights.statistics import WeightStatistics

_T = TypeVar("_T")

Verdict = Literal["fresh", "trained", "unsure", "none"]

FRESH_BELOW, TRAINED_ABOVE = 3.0, 7.0
"""Bits of the sum below which a network is called fresh, and above which it is called trained."""

MOST_MATRICES, MOST_PAIRS, MOST_VECTORS = 40, 20, 200
"""Tensors that are looked at, evenly over the network."""

_MAPS = ("linear", "conv", "conv_transpose", "embedding", "lstm", "gru", "rnn")
_QUANTISED = ("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QGemm")
_CELLS = ("lstm", "gru", "rnn")
_NORMS = ("batch_norm", "layer_norm", "group_norm", "rms_norm", "second_moment_norm", "l1_norm")
_MOMENTUM = 0.9
"""What most frameworks keep of a running statistic in a step; none keeps less by default."""


@dataclass(frozen=True)
class Evidence:
    """One thing that speaks for or against training.

    Attributes:
        text: what was seen, for people: follows "trained: " or "fresh: ".
        tensor: name of the tensor it was seen in, None for several.
        log_odds: log2 of its likelihood in a trained network over that in a fresh one.
    """

    text: str
    tensor: str | None
    log_odds: float


@dataclass(frozen=True)
class Judgement:
    """What the weights are.

    Attributes:
        verdict: `none` where there are no weights to judge.
        log_odds: what all evidence comes to, in bits: above 0 for trained.
        evidence: the strongest first.
    """

    verdict: Verdict = "none"
    log_odds: float = 0.0
    evidence: tuple[Evidence, ...] = ()

    @property
    def trained(self) -> bool | None:
        """True for trained, False for fresh, None where that is not known."""
        return {"trained": True, "fresh": False}.get(self.verdict)

    @property
    def reason(self) -> str | None:
        """The strongest evidence for the verdict in words, None if there is none."""
        sign = -1.0 if self.verdict == "fresh" else 1.0
        best = max(self.evidence, key=lambda each: sign * each.log_odds, default=None)
        return best.text if best is not None and sign * best.log_odds > 0 else None


@dataclass(frozen=True)
class _Matrix:
    """A stored tensor of two or more axes, and how many entries make one output of its layer."""

    stored: Parameter
    fan_in: int


@dataclass(frozen=True)
class _Bias:
    """The numbers of a bias, the bound of the usual uniform start, and the layer's weight."""

    name: str
    numbers: np.ndarray
    bound: float
    weight: Parameter

    @property
    def beyond(self) -> float:
        """The largest of them over the bound."""
        return float(np.abs(self.numbers).max()) / self.bound


def judge(graph: Graph, statistics: Mapping[str, WeightStatistics]) -> Judgement:
    """Judge the weights of a graph.

    Args:
        graph: what was read.
        statistics: of its weights, by parameter name, as far as they are known already.
    """
    parts = list(_with_bodies(graph))
    matrices = [matrix for part in parts for matrix in _matrices(part)]
    if not matrices:
        return _of_integers(parts)
    if all(matrix.stored.provenance == "initializer" for matrix in matrices):
        drawn = Evidence("the weights are drawn as the constructors say", None, -STRONG)
        return Judgement("fresh", drawn.log_odds, (drawn,))
    read = [matrix for matrix in matrices if matrix.stored.provenance == "data"]
    of_matrices = [found for matrix in _some(read, MOST_MATRICES) if (found := _of_matrix(matrix, statistics))]
    of_matrices += [found for part in parts for found in _of_pairs(part)]
    looks = (_of_biases, _of_norms, _of_statistics, _of_weight_norms, _of_quantised)
    others = [found for part in parts for look in looks for found in look(part)]
    total = _all_or_one(of_matrices) + sum(each.log_odds for each in others)
    verdict: Verdict = "fresh" if total < FRESH_BELOW else "trained" if total > TRAINED_ABOVE else "unsure"
    return Judgement(verdict, total, tuple(sorted((*of_matrices, *others), key=lambda each: -abs(each.log_odds))))


STRONG = 20.0
"""Bits of what leaves no doubt."""

QUANTISED = 5.0
"""Bits of weights in 8 bits: hardly anybody quantises a network before it is trained, but it tells nothing of which."""

IN_8_BITS = Evidence("the weights are stored in 8 bits, as is done behind training", None, QUANTISED)


def _with_bodies(graph: Graph) -> Iterator[Graph]:
    """The graph and the bodies of its undecided control flow: some files keep a network in each branch of an If."""
    yield graph
    for body in graph.subgraphs.values():
        yield from _with_bodies(body)


def _of_integers(parts: Sequence[Graph]) -> Judgement:
    """What products of integers tell, which no formula describes: their weights have no distribution to ask about."""
    stored = (parameter for part in parts for node in part.nodes for parameter in node.parameters.values())
    if not any(each.dtype in ("int8", "uint8") and len(each.shape) > 1 and each.size >= 256 for each in stored):
        return Judgement()
    return Judgement("unsure", IN_8_BITS.log_odds, (IN_8_BITS,))


def _of_quantised(graph: Graph) -> Iterator[Evidence]:
    """That the network computes in integers, whatever its weights look like."""
    if any(node.source_op in _QUANTISED and node.parameters for node in graph.nodes):
        yield IN_8_BITS


def _some(found: Sequence[_T], most: int) -> Sequence[_T]:
    step = -(-len(found) // most) if found else 1
    return found[::step]


def _all_or_one(found: Sequence[Evidence]) -> float:
    """log2 of the mean of the product of the ratios and their average."""
    if not found:
        return 0.0
    bits = [each.log_odds for each in found]
    return float(np.logaddexp2(math.fsum(bits), np.logaddexp2.reduce(bits) - math.log2(len(bits)))) - 1.0


# --- matrices ---------------------------------------------------------------------------------------------


def _matrices(graph: Graph) -> Iterator[_Matrix]:
    """The stored weight tensors, each once."""
    seen: set[str] = set()
    for node in graph.nodes:
        for stored in _stored(node):
            if stored.name not in seen and len(stored.shape) >= 2 and stored.size >= 32:
                seen.add(stored.name)
                yield _Matrix(stored, _fan_in(node))


def _stored(node: Node) -> Iterator[Parameter]:
    """The tensors of a node that training changed; the computed one itself where they are integers, as a quantised
    weight is. The operands of a quantised operation are taken for weights, which nothing else says."""
    if node.source_op in _QUANTISED:
        yield from node.parameters.values()
    for role in ("weight", "recurrent") if node.op in _MAPS else ():
        parameter = node.parameters.get(role)
        if parameter is None:
            continue
        leaves = parameter.leaves if isinstance(parameter.load, Derivation) else ()
        if any("int" in leaf.dtype and len(leaf.shape) >= 2 for leaf in leaves):
            yield parameter
        elif parameter.kind not in GIVEN:
            yield from (leaf for leaf in leaves or (parameter,) if leaf.kind not in GIVEN)


def _fan_in(node: Node) -> int:
    """Entries that are summed for one output; of a recurrent cell its states, by which torch bounds all its draws."""
    weight = node.parameters.get("recurrent" if node.op in _CELLS else "weight") or node.parameters.get("weight")
    return 1 if weight is None else max(math.prod(weight.shape[1:]), 1)


def _of_matrix(matrix: _Matrix, statistics: Mapping[str, WeightStatistics]) -> Evidence | None:
    array, name = matrix.stored.array(), matrix.stored.name
    known = statistics.get(name)
    if known is not None and not known.finite:
        return None
    if known is None or known.size != array.size:
        entries = Entries.of(array)
    else:
        entries = Entries(known.size, known.kurtosis, max(abs(known.minimum), abs(known.maximum)))
    odd = together(oddities(array, matrix.fan_in, entries, rounded=matrix.stored.transform == "dequantize"))
    if odd is None:
        return None
    text = odd.text.format(name) if odd.bits > 0 or "orthogonal" in odd.text else f"{name} could be a draw"
    return Evidence(text, name, odd.bits)


def _of_pairs(graph: Graph) -> Iterator[Evidence]:
    """Layers in a row, one layer's units the next one's inputs; each pair of tensors once, however often it is used."""
    pairs = [(node, behind) for node in graph.nodes if (behind := layer_behind(graph, node)) is not None]
    weights = [(node.parameters["weight"], behind.node.parameters["weight"]) for node, behind in pairs]
    once = {(first.name, second.name): (first, second) for first, second in weights}
    for first, second in _some(list(once.values()), MOST_PAIRS):
        odd = together(alignment(first.array(), second.array()))
        if odd is not None:
            text = odd.text if odd.bits > 0 else "{} and the layer behind it could be independent draws"
            yield Evidence(text.format(first.name), first.name, odd.bits)


_RUN = 4
"""Equal numbers in a row that no draw gives."""


# --- biases -----------------------------------------------------------------------------------------------


def _of_biases(graph: Graph) -> Iterator[Evidence]:
    """Biases that left their start: zero, one value, uniform in the usual bound, or drawn with one deviation."""
    biases = _some(list(_biases(graph)), MOST_VECTORS)
    at_start = [bias for bias in biases if distinct(bias.numbers).size <= 2]
    odd = [bias for bias in biases if distinct(bias.numbers).size > 2 and not _fits_uniform(bias)]
    moved = [bias for bias in odd if not _moved_alone(bias)]
    if len(moved) == 1 and _is_inside(moved[0]) and abs(_uniform_deviation(moved[0])) < _rarest(len(biases)):
        moved = []
    yield from _unmoved(at_start, "the biases are all at one value, as they start", 4.0)
    unlike = _unlike([bias.numbers for bias in moved])
    if unlike < DRAWN_ALIKE:
        if not _is_drawn([bias.numbers for bias in moved]):
            yield Evidence("the biases scatter alike, but not as they usually start", None, 6.0)
        return
    each = min(5.0 if at_start else 7.0, 2.0 * (unlike - 3.0) / max(len(moved), 1))
    for bias in moved:
        bits = each * min(1.0, math.log2(bias.numbers.size) / 4.0)
        if bias.beyond > 1.0:
            text = f"{bias.name} goes to {bias.beyond:.2g} times the bound of a usual start"
        else:
            text = f"{bias.name} has {distinct(bias.numbers).size} values, no longer one and not the usual uniform draw"
        yield Evidence(text, bias.name, bits)


def _unmoved(names: Sequence[object], text: str, each: float) -> Iterator[Evidence]:
    if names:
        yield Evidence(text, None, -min(each * len(names), 3.0 * each))


def _biases(graph: Graph) -> Iterator[_Bias]:
    seen: set[str] = set()
    for node in graph.nodes:
        layer = _layer_before(graph, node)
        if layer is None:
            continue
        for role in ("bias", "recurrent_bias"):
            parameter = node.parameters.get(role)
            if parameter is None or parameter.name in seen or parameter.provenance != "data" or parameter.size < 4:
                continue
            if parameter.kind in GIVEN or (role == "recurrent_bias" and _is_filled_in(node)):
                continue
            seen.add(parameter.name)
            numbers, bound = np.asarray(parameter.array(), np.float64).reshape(-1), _fan_in(layer) ** -0.5
            bias = _Bias(parameter.name, _as_drawn(node, numbers, bound), bound, layer.parameters["weight"])
            yield bias if distinct(bias.numbers).size <= 2 or _fits_uniform(bias) else _beside_its_weight(bias)


def _is_filled_in(cell: Node) -> bool:
    """Whether a cell's second bias is the zeros that a converter writes where a framework has one bias alone."""
    first, second = (cell.parameters.get(role) for role in ("bias", "recurrent_bias"))
    return first is not None and second is not None and not second.array().any() and bool(np.ptp(first.array()) > 0)


def _beside_its_weight(bias: _Bias) -> _Bias:
    """A bias by the bound of its layer's weight, where it fits that: some draw both in one range of their own, others
    rescale both by one factor. A weight that was trained has no edge left."""
    edge = uniform_edge(bias.weight.array()) if _moves(bias.weight) else None
    moved = bias if edge is None else replace(bias, bound=edge)
    return moved if _fits_uniform(moved) else bias


def _moves(weight: Parameter) -> bool:
    """Whether a weight is stored as training changed it, if it did."""
    return weight.provenance == "data" and weight.kind not in GIVEN and weight.trainable and weight.transform is None


FAR = 1.5
"""Deviations of a layer's weight by which entries of its bias must differ to tell that the weight moved with it."""
ENOUGH = 256
"""Entries of a weight in which such steps show."""


def _moved_alone(bias: _Bias) -> bool:
    """Whether a bias scatters further than training could bring it without its weight, which is at one value or could
    be a draw.

    The weight's gradient is the bias's times what the layer reads, and Adam moves the entries of both alike: steps of
    the size of the weight's own entries show as a singular value of their own. So such a bias is how somebody starts
    it: step sizes of a state space, angles, logarithms of frequencies, one draw for all vectors.
    """
    if not _moves(bias.weight):
        return False
    array = bias.weight.array()
    entries = np.asarray(array, np.float64)
    if float(np.std(bias.numbers)) < FAR * float(np.std(entries)):
        return False
    if np.ptp(entries) == 0:
        return True
    found = together(oddities(array, max(array[0].size, 1), Entries.of(array))) if array.size >= ENOUGH else None
    return found is not None and found.bits < FRESH_BELOW


def _as_drawn(node: Node, numbers: np.ndarray, bound: float) -> np.ndarray:
    """A cell's biases without what somebody set a whole gate to, or added to it: a forget bias is no training.

    A gate's middle is that of its largest and smallest entry: no entry of a uniform draw lies further from it than its
    bound. Of a cell written by hand nobody says where its gates are: runs of one number are what somebody set.
    """
    recurrent = node.parameters.get("recurrent")
    if recurrent is None:
        return _without_runs(numbers)
    gates = numbers.reshape(-1, recurrent.shape[-1])
    middles = (gates.max(axis=1) + gates.min(axis=1)) / 2.0
    kept = [
        gate - middle * (abs(middle) > bound)
        for gate, middle in zip(gates, middles, strict=True)
        if np.ptp(gate) > 0 or not gate.any()
    ]
    return np.concatenate(kept) if kept else numbers


def _without_runs(numbers: np.ndarray) -> np.ndarray:
    """The numbers without those that follow on equal ones, where enough others are left to tell a draw."""
    starts = np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1]))
    lengths = np.diff(starts, append=numbers.size)
    drawn = numbers[np.repeat(lengths < _RUN, lengths)]
    return drawn if distinct(drawn).size > 2 else numbers


def _layer_before(graph: Graph, node: Node) -> Node | None:
    """The layer whose bias a node holds: itself, or for a bias by itself the one that makes its input."""
    if node.op in _MAPS and "weight" in node.parameters:
        return node
    if node.op != "bias" or not node.present_inputs:
        return None
    before = graph.producers.get(node.present_inputs[0])
    size = node.parameters["bias"].size if "bias" in node.parameters else 0
    if before is None or before.op not in ("linear", "conv") or "weight" not in before.parameters:
        return None
    return before if before.parameters["weight"].shape[0] == size else None


def _fits_uniform(bias: _Bias) -> bool:
    """Whether the numbers could be uniform within the bound: none beyond it, and their mean square a third of its."""
    return _is_inside(bias) and abs(_uniform_deviation(bias)) < RARE


RARE = 3.3
"""Standard deviations that the mean square of a uniform draw is off in one of a thousand."""


def _is_inside(bias: _Bias) -> bool:
    return bias.beyond <= 1.0 + 2.0 * rounding(bias.numbers)


def _uniform_deviation(bias: _Bias) -> float:
    """How far the mean square is from a third of the bound's, in standard deviations of a uniform draw."""
    scaled = bias.numbers / bias.bound
    return (float((scaled**2).mean()) - 1.0 / 3.0) / math.sqrt(4.0 / 45.0 / bias.numbers.size)


def _rarest(count: int) -> float:
    """The deviation that one of so many uniform draws goes beyond as rarely as a single one beyond `RARE`."""
    return math.sqrt(RARE**2 + 2.0 * math.log(count))


DRAWN_ALIKE = 5.0
"""Bits of surprise below which vectors are taken as drawn with one deviation: one such draw in 32 is not."""


def _unlike(found: Sequence[np.ndarray]) -> float:
    """-log2 of the probability that three or more vectors, drawn with one deviation about zero, differ as much
    (Bartlett's test); infinite for fewer."""
    if len(found) < 3:
        return math.inf
    freedom = np.array([each.size for each in found], float)
    variances = np.array([float((each**2).mean()) for each in found])
    pooled = float((freedom * variances).sum() / freedom.sum())
    statistic = float((freedom * (math.log(pooled) - np.log(np.maximum(variances, 1e-300)))).sum())
    means = sum(float(each.mean()) ** 2 * each.size / pooled for each in found)
    return chi_square_surprise(statistic + means, 2.0 * len(found) - 1.0)


MOVED = 1e-4
"""Deviation from which on training may have given it to biases that were zero: Adam moves all of them alike, by its
step size in every step, so that neither their being alike nor a round number tells a draw."""


def _is_drawn(found: Sequence[np.ndarray]) -> bool:
    """Whether the common deviation is a small number of one digit, as people write it, within three standard errors."""
    entries = np.concatenate(found)
    deviation = math.sqrt(float((entries**2).mean()))
    return deviation < MOVED and abs(deviation / float(f"{deviation:.0e}") - 1.0) < 3.0 / math.sqrt(2.0 * entries.size)


# --- normalisations ---------------------------------------------------------------------------------------


def _of_norms(graph: Graph) -> Iterator[Evidence]:
    """Scales and shifts start at one value each; where only the scale differs, or both alike, they were drawn."""
    learned: list[Evidence] = []
    still: list[str] = []
    drawn: list[np.ndarray] = []
    both: list[np.ndarray] = []
    for node in _some([node for node in graph.nodes if node.op in _NORMS], MOST_VECTORS):
        scale, shift = (_numbers(node, role) for role in ("scale", "bias"))
        if scale is None:
            continue
        name = node.parameters["scale"].name
        if np.ptp(scale) > 0 and shift is not None and np.ptp(shift) > 0:
            learned.append(Evidence(f"scales and shifts differ between the channels of {node.name}", name, 12.0))
            both += [scale, shift]
        elif np.ptp(scale) > 0 and shift is None:
            learned.append(Evidence(f"{name} differs between the channels", name, 6.0))
            drawn.append(scale - scale.mean())
        elif shift is not None and np.ptp(shift) > 0:
            learned.append(Evidence(f"the shifts differ between the channels of {node.name}", name, 4.0))
        elif np.ptp(scale) == 0 and node.parameters["scale"].trainable:
            still.append(name)
    yield from _unmoved(still, "scales and shifts of normalisations are at one value, as they start", 5.0)
    if not _are_drawn(len(learned), drawn, both):
        yield from learned
    yield from _of_slopes(graph)


def _are_drawn(learned: int, scales: Sequence[np.ndarray], both: Sequence[np.ndarray]) -> bool:
    """Whether scales alone, or all scales and shifts of the norms that differ, could be draws of one distribution.

    A loop over all parameters draws both about one mean; training leaves scales near 1, shifts near 0.
    """
    if both and 2 * learned == len(both):
        mean = float(np.mean(np.concatenate(both)))
        return _unlike([each - mean for each in both]) <= DRAWN_ALIKE
    return len(scales) == learned and _unlike(scales) <= DRAWN_ALIKE


def _of_slopes(graph: Graph) -> Iterator[Evidence]:
    """The slopes of PReLU start at one value."""
    for node in graph.nodes:
        slope = _numbers(node, "slope") if node.op == "prelu" else None
        if slope is not None and np.ptp(slope) > 0:
            yield Evidence(f"the slopes of {node.name} differ", node.parameters["slope"].name, 8.0)


def _numbers(node: Node, role: str) -> np.ndarray | None:
    """The numbers of a parameter of four or more entries that training may have changed."""
    parameter = node.parameters.get(role)
    if parameter is None or parameter.size < 4 or parameter.provenance != "data" or parameter.kind == "constant":
        return None
    return np.asarray(parameter.array(), np.float64).reshape(-1)


def _of_statistics(graph: Graph) -> Iterator[Evidence]:
    """How many batches a batch normalisation saw: a running variance falls by a tenth in a step at most."""
    untouched: list[str] = []
    most, where = 0.0, ""
    for node in _some([node for node in graph.nodes if "running_var" in node.parameters], MOST_VECTORS):
        mean, variance = (_numbers(node, role) for role in ("running_mean", "running_var"))
        if mean is None or variance is None:
            continue
        if not mean.any() and np.all(variance == 1):
            untouched.append(node.name)
        smallest = float(variance.min())
        steps = math.log(smallest) / math.log(_MOMENTUM) if smallest > 0 else math.inf
        if steps > most:
            most, where = steps, node.name
    yield from _unmoved(untouched, "running means and variances are 0 and 1: no batch was seen", 6.0)
    if most > 20.0:
        count = f"{most:.0f}" if math.isfinite(most) else "very many"
        yield Evidence(f"the running statistics of {where} are of {count} batches or more", None, min(most / 20.0, 4.0))


def _of_weight_norms(graph: Graph) -> Iterator[Evidence]:
    """The lengths of weight normalisation start as those of the directions, row by row."""
    for node in graph.nodes:
        parameter = node.parameters.get("weight")
        if parameter is None or parameter.transform != "weight_norm":
            continue
        lengths = [leaf for leaf in parameter.leaves if leaf.name.endswith(("original0", "weight_g"))]
        directions = [leaf for leaf in parameter.leaves if leaf.name.endswith(("original1", "weight_v"))]
        if len(lengths) != 1 or len(directions) != 1 or lengths[0].provenance != "data":
            continue
        g = np.asarray(lengths[0].array(), np.float64).reshape(-1)
        v = np.asarray(directions[0].array(), np.float64).reshape(directions[0].shape[0], -1)
        if g.size != len(v):
            continue
        ratio = g / np.maximum(np.sqrt((v**2).sum(1)), 1e-30)
        allowed = 1e-3 + 8.0 * rounding(g)
        # one length for all rows, or one factor on all lengths, is how somebody starts them
        if min(float(np.ptp(each)) / max(float(np.abs(each).max()), 1e-30) for each in (g, ratio)) > allowed:
            yield Evidence(f"the lengths of {node.name} are not those of its directions", lengths[0].name, 8.0)
        elif float(np.abs(ratio - 1.0).max()) <= allowed:
            yield Evidence(f"the lengths of {node.name} are those of its directions, as they start", None, -4.0)
