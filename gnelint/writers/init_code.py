"""The edits of an untrained network as Python code: a function that initialises a fresh model as they would have it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from gnelint.analysis.prediction import Prediction
from gnelint.fixes.edits import Centre, Change, Edit, EditTensor, Fill, Redraw, Scale, Subtract
from gnelint.ir.graph import Parameter
from gnelint.records import dataclass
from gnelint.theory.weights.statistics import WeightStatistics, distribution, weight_statistics
from gnelint.version import __version__

_LAWS = {"uniform": "uniform", "orthogonal": "orthogonal", "delta-orthogonal": "dirac"}
"""Of draws that are told from a Gaussian one, the law that they are drawn from again."""
_ALIKE = 0.03
"""Relative difference of two gains that count as one: a draw of a few thousand weights scatters as much."""
_WIDTH = 100


@dataclass(frozen=True)
class _Draw:
    """A tensor that is drawn again.

    Attributes:
        name: of the parameter.
        gain: standard deviation times sqrt(fan_in).
        law: "uniform", "normal", "orthogonal" or "dirac" (delta-orthogonal).
        rules: ids of the rules that asked for it.
    """

    name: str
    gain: float
    law: str
    rules: tuple[str, ...]


def init_code(edits: Sequence[Edit], before: Prediction, after: Prediction) -> str:
    """The text of a Python file with `init_weights(model)`.

    Weights that the fixes scale are drawn anew from the law that they came from, with the scale that they shall have;
    layers of one gain stand in one list. What changes layers is said in comments.

    Args:
        edits: in the order in which they are made.
        before: the prediction of the network as it is.
        after: the prediction of the fixed network.
    """
    stored = {leaf.name: leaf for parameter in before.graph.parameters() for leaf in parameter.leaves}
    by_tensor: dict[str, list[Edit]] = {}
    others = []
    for edit in edits:
        if isinstance(edit.action, EditTensor) and isinstance(edit.action.change, Subtract):
            continue  # out of a running mean, which a fresh model starts without
        if isinstance(edit.action, EditTensor):
            by_tensor.setdefault(edit.action.tensor, []).append(edit)
        else:
            others.append(edit)
    draws, steps = [], []
    for name, some in by_tensor.items():
        changes = [edit.action.change for edit in some if isinstance(edit.action, EditTensor)]
        rules = tuple(dict.fromkeys(edit.rule for edit in some))
        statistics = before.weights.get(name) or weight_statistics(stored[name])
        draw = _draw(name, stored[name], statistics, changes, rules)
        if draw is not None:
            draws.append(draw)
            changes = [change for change in changes if isinstance(change, Centre)]
        steps += [(name, change, rules) for change in changes]
    body = [*_draw_lines(draws), *_step_lines(steps)]
    if not body:
        return "\n".join([*_empty_lines(before), *_notes(others)]) + "\n"
    return "\n".join([*_head(bool(draws), bool(others), before, after), *body, *_notes(others)]) + "\n"


def _draw(
    name: str, tensor: Parameter, statistics: WeightStatistics, changes: Sequence[Change], rules: tuple[str, ...]
) -> _Draw | None:
    """The draw that gives a fresh tensor the scale it has after the changes; None where it is not drawn at all."""
    if len(tensor.shape) < 2 or not any(isinstance(change, (Scale, Redraw)) for change in changes):
        return None
    second, law = statistics.second_moment, _LAWS.get(distribution(tensor, statistics), "normal")
    for change in changes:
        if isinstance(change, Scale):
            second *= change.factor**2
        elif isinstance(change, Redraw):
            second, law = change.second_moment, {"delta_orthogonal": "dirac"}.get(change.draw, change.draw)
        elif isinstance(change, Fill):
            return None
    return _Draw(name, math.sqrt(second * math.prod(tensor.shape[1:])), law, rules)


def _empty_lines(before: Prediction) -> Iterator[str]:
    """The file where no fix changes a weight: a function that does nothing and says so."""
    yield f'"""Initialisation of {_escaped(before.graph.name)}, written by gnelint {__version__}."""'
    yield ""
    yield "from torch import nn"
    yield ""
    yield ""
    yield "def init_weights(model: nn.Module) -> None:"
    yield '    """Change nothing: no fix changes how this model\'s weights start."""'


def _head(draws: bool, others: bool, before: Prediction, after: Prediction) -> Iterator[str]:
    """The lines up to the first change.

    Args:
        draws: whether weights are drawn again, not only scaled or filled.
        others: whether the fixes change the model's class, too, so that the prediction needs both.
    """
    yield f'"""Initialisation of {_escaped(before.graph.name)}, written by gnelint {__version__}."""'
    yield ""
    if draws:
        yield "import math"
        yield ""
    yield "import torch"
    yield "from torch import nn"
    yield ""
    yield ""
    yield "@torch.no_grad()"
    yield "def init_weights(model: nn.Module) -> None:"
    what = "Draw the weights of a fresh model again" if draws else "Change the weights of a fresh model"
    yield f'    """{what}, with the scales that gnelint fix gives them.'
    if before.gradient_log2 is not None and after.gradient_log2 is not None:
        yield ""
        yield "    Predicted squared norm of the gradient at the input, relative to the output:"
        bits = round(after.gradient_log2, 1) + 0.0  # no minus in front of a zero
        which = "these weights and the changes below" if others else "these weights"
        yield f"    2^{before.gradient_log2:.1f} before, 2^{bits:.1f} with {which}."
    yield '    """'
    yield "    parameters = dict(model.named_parameters())"


_RESCALE = "weight.mul_(gain / math.sqrt(fan_in) / weight.square().mean().sqrt())"
_CALLS: Mapping[str, Sequence[str]] = {
    "normal": ("nn.init.normal_(weight, std=gain / math.sqrt(fan_in))",),
    "uniform": ("bound = math.sqrt(3) * gain / math.sqrt(fan_in)", "nn.init.uniform_(weight, -bound, bound)"),
    "orthogonal": (
        "nn.init.orthogonal_(weight)",
        _RESCALE,
    ),
    "dirac": (
        "centre = tuple(size // 2 for size in weight.shape[2:])",
        "nn.init.zeros_(weight)",
        "nn.init.orthogonal_(weight[(slice(None), slice(None), *centre)])",
        _RESCALE,
    ),
}


def _draw_lines(draws: Sequence[_Draw]) -> Iterator[str]:
    groups: dict[tuple[str, tuple[str, ...]], list[_Draw]] = {}
    for draw in draws:
        groups.setdefault((draw.law, draw.rules), []).append(draw)
    for (law, rules), some in groups.items():
        yield ""
        yield f"    # {', '.join(rules)}: standard deviation gain / sqrt(fan_in)"
        yield "    gains = {"
        for gain, names in _by_gain(some):
            yield from _entry(gain, names)
        yield "    }"
        yield "    for gain, names in gains.items():"
        yield "        for name in names:"
        yield "            weight = parameters[name]"
        yield "            fan_in = weight[0].numel()"
        for line in _CALLS[law]:
            yield f"            {line}"


def _by_gain(draws: Sequence[_Draw]) -> list[tuple[str, list[str]]]:
    """Names by gain, those in one whose gains differ by no more than a draw does; the gain is their mean."""
    groups: list[list[_Draw]] = []
    for draw in sorted(draws, key=lambda draw: draw.gain):
        if groups and draw.gain <= groups[-1][0].gain * (1 + 2 * _ALIKE):
            groups[-1].append(draw)
        else:
            groups.append([draw])
    order = {draw.name: index for index, draw in enumerate(draws)}
    found: dict[str, list[str]] = {}
    for group in groups:
        gain = f"{math.sqrt(sum(draw.gain**2 for draw in group) / len(group)):.4g}"
        found.setdefault(gain, []).extend(sorted((draw.name for draw in group), key=order.__getitem__))
    return sorted(found.items(), key=lambda item: order[item[1][0]])


def _entry(gain: str, names: Sequence[str]) -> Iterator[str]:
    line = f"        {gain}: [{', '.join(map(_quoted, names))}],"
    if len(line) <= _WIDTH:
        yield line
        return
    yield f"        {gain}: ["
    yield from (f"            {_quoted(name)}," for name in names)
    yield "        ],"


def _quoted(name: str) -> str:
    return f'"{_escaped(name)}"'


def _escaped(text: str) -> str:
    """A name as it stands between quotation marks, whatever it holds."""
    return text.encode("unicode_escape").decode().replace('"', '\\"')


def _step_lines(steps: Sequence[tuple[str, Change, tuple[str, ...]]]) -> Iterator[str]:
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name, change, rules in steps:
        groups.setdefault((_call(change), rules), []).append(name)
    for (call, rules), names in groups.items():
        yield ""
        yield f"    # {', '.join(rules)}"
        yield "    for name in ["
        yield from (f"        {_quoted(name)}," for name in names)
        yield "    ]:"
        yield f"        {call}"


def _call(change: Change) -> str:
    if isinstance(change, Scale):
        return f"parameters[name].mul_({change.factor:.6g})"
    if isinstance(change, Fill):
        return f"nn.init.constant_(parameters[name], {change.value:.6g})"
    if isinstance(change, Centre):
        axes = f"tuple(axis for axis in range(weight.dim()) if axis != {change.kept})"
        return f"weight = parameters[name]\n        weight.sub_(weight.mean({axes}, keepdim=True))"
    assert isinstance(change, Redraw)
    return f"nn.init.normal_(parameters[name], std={math.sqrt(change.second_moment):.6g})"


def _notes(edits: Sequence[Edit]) -> Iterator[str]:
    """What the class itself is to be changed in."""
    if not edits:
        return
    yield ""
    yield ""
    yield "# To be changed in the model's class:"
    for edit in edits:
        yield f"# {edit.rule}  {edit.action.text.encode('unicode_escape').decode()}"
