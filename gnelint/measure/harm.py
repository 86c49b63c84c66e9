"""What an edit did to a network, measured: whether a gradient, or the scale of the output, is worse than it was.

Everything is measured with the cotangent at the network's true outputs, on the same inputs and with the same probes
before and after, so that what differs is the edit's. Where a head that starts at zero passes no gradient, what lies in
front of it is measured a second time from the head's input.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

import numpy as np
import torch

from gnelint.analysis.prediction import Prediction
from gnelint.measure.compare import WORSE_BITS
from gnelint.measure.tape import ChainSample, Tape
from gnelint.records import dataclass

MAX_PROBES = 8
OUTPUT_RANGE = 6.0
"""log2 of the mean square of an output may lie between this and its negative: a root mean square of 1/8 to 8."""
MORE_BITS = 0.25
"""Bits by which a spread may grow that is not counted, beside the measurement's own error."""
MORE_ZEROS = 0.01
"""Growth of the share of gradients that are exactly zero that is not counted: units die and wake as inputs change."""
_SURE = 2.0
"""Standard errors by which a spread must have grown."""
_NAMED = 3


@dataclass(frozen=True)
class Health:
    """What was measured of one network.

    Attributes:
        gradients: log2 of the squared gradient norm at the ends of its blocks and the outputs of its layers, for each
            probe, relative to the cotangent's; -inf for zero, NaN or inf where it is no number.
        behind: the same with the cotangent at `cotangent_at`; empty where that is the output.
        cotangent_at: "output", or the value behind which no gradient comes from the output.
        zeros: entries of each weight's gradient that are zero for every probe.
        sizes: entries of each weight.
        infinite: names of weights and values whose gradient is infinite or no number.
        outputs: log2 of the mean square of each output; -inf for zero, NaN where it is no number.
        ends: the ends of its blocks, in their order.
    """

    gradients: Sequence[Mapping[str, float]]
    behind: Sequence[Mapping[str, float]]
    cotangent_at: str
    zeros: Mapping[str, int]
    sizes: Mapping[str, int]
    infinite: frozenset[str]
    outputs: Mapping[str, float]
    ends: tuple[str, ...] = ()

    @property
    def probes(self) -> int:
        """How many were sent."""
        return len(self.gradients)

    @property
    def spread(self) -> float | None:
        """log2 of the largest over the smallest squared gradient norm along the depth, of those that are not zero;
        from `cotangent_at` where nothing arrives from the output. None for fewer than two places."""
        found = _spread(self.gradients, _reached(self.gradients, self.ends))
        return _spread(self.behind, _reached(self.behind, self.ends)) if found is None else found

    @property
    def finite(self) -> bool:
        """Whether any of the outputs is a finite number."""
        return not self.outputs or any(scale < math.inf for scale in self.outputs.values())

    @property
    def without_gradient(self) -> tuple[str, ...]:
        """Names of the weights that get no gradient at all."""
        return tuple(name for name, size in self.sizes.items() if self.zeros[name] == size)

    @property
    def zero_share(self) -> float:
        """Fraction of the weights' entries whose gradient is exactly zero; 0 without weights."""
        total = sum(self.sizes.values())
        return sum(self.zeros.values()) / total if total else 0.0


class OutOfTimeError(Exception):
    """The time that was allowed for measuring is over."""


@dataclass(frozen=True)
class Probes:
    """Which probes to send.

    Attributes:
        device: of the run.
        seed: the same one gives the same probes.
        most: so many, or two where the time is over then.
    """

    device: torch.device
    seed: int = 0
    most: int = MAX_PROBES

    def generator(self, number: int) -> torch.Generator:
        """Of one of them."""
        generator = torch.Generator(self.device)
        generator.manual_seed((self.seed << 20) + number)
        return generator


def block_ends(prediction: Prediction) -> list[str]:
    """The values along the depth where blocks begin and end, in their order."""
    ends = dict.fromkeys(name for block in prediction.blocks for name in (block.entry, block.exit))
    return [name for name in ends if name in prediction.graph.gradient_values]


def health(tape: Tape, ends: Sequence[str], cotangent_at: str, probes: Probes) -> Health:
    """Send probes through a recorded network.

    Args:
        tape: the recorded network; its own cotangent is at `cotangent_at`.
        ends: values along the depth where blocks begin and end.
        cotangent_at: "output", or the value behind which no gradient comes from the output.
        probes: to send.

    Raises:
        OutOfTimeError: the time was over before two probes were sent.
    """
    chains: list[ChainSample] = []
    behind: list[Mapping[str, float]] = []
    places = tuple(dict.fromkeys((*ends, *tape.layer_outputs)))
    try:
        for number in range(probes.most):
            chain = tape.chain_sample(probes.generator(number), at_outputs=True)
            if cotangent_at != "output":
                behind.append(_at(places, tape.chain_sample(probes.generator(number)).gradients))
            chains.append(chain)
    except OutOfTimeError:
        if len(chains) < 2:
            raise
    return Health(
        gradients=[_at(places, chain.gradients) for chain in chains],
        behind=behind,
        cotangent_at=cotangent_at,
        zeros={name: min(chain.zeros[name] for chain in chains) for name in chains[0].zeros},
        sizes=tape.weight_sizes,
        infinite=frozenset(_no_numbers(chains)).union(*(chain.infinite for chain in chains)),
        outputs=tape.output_scales,
        ends=tuple(ends),
    )


def _no_numbers(chains: Sequence[ChainSample]) -> Iterator[str]:
    for chain in chains:
        yield from (name for name, found in chain.gradients.items() if not found < math.inf)


def _at(places: Sequence[str], gradients: Mapping[str, float]) -> dict[str, float]:
    return {name: gradients[name] for name in places if name in gradients}


def harms(before: Health, after: Health, *, designed: bool = False) -> tuple[str, ...]:
    """What is worse after an edit than it was before, a clause each for people; () if nothing is.

    Weights and places that only one of the two has are not compared: an edit may take a bias out or put a layer in.

    Args:
        before, after: the two networks.
        designed: the second one may be of another design, so that no two places correspond: spreads are not compared,
            and where the second one's is smaller, weights in branches that start at zero may be without a gradient.
    """
    weights = designed and _more_even(before, after)
    found = (
        "" if weights else _lost(before, after),
        _infinite(before, after),
        _silenced(before, after),
        "" if designed else _uneven(before, after),
        "" if designed else _uneven_behind(before, after),
        _out_of_range(before, after),
        "" if weights else _more_zeros(before, after),
    )
    return tuple(filter(None, found))


def _more_even(before: Health, after: Health) -> bool:
    old, new = before.spread, after.spread
    return old is not None and new is not None and new < old - WORSE_BITS


def _lost(before: Health, after: Health) -> str:
    had = [name for name in before.sizes if name in after.sizes and name not in before.without_gradient]
    lost = [name for name in had if name in after.without_gradient]
    if not lost:
        return ""
    return f"{len(lost)} of {len(had)} parameters lost their gradient ({_some(lost)})"


def _infinite(before: Health, after: Health) -> str:
    new = after.infinite - before.infinite
    found = sorted(name for name in new if name in before.sizes or not before.infinite)
    return f"the gradient of {_some(found)} is no finite number" if found else ""


def _silenced(before: Health, after: Health) -> str:
    """Places along the depth that a gradient reached and no longer does."""
    lost = [name for name in _reached(before.gradients, before.ends) if _is_silent(after.gradients, name)]
    return f"no gradient arrives any more at {_some(lost)}" if lost else ""


def _eased(before: Health, after: Health) -> float:
    """By how many bits the mean square of the outputs has come nearer to 1. A head that is scaled to bring its output
    there takes as much from the gradient of all that lies in front of it, which is no loss."""
    common = [name for name in before.outputs if name in after.outputs]
    gains = [abs(before.outputs[name]) - abs(after.outputs[name]) for name in common]
    return max([0.0, *(gain for gain in gains if math.isfinite(gain))])


def _uneven(before: Health, after: Health) -> str:
    """A spread that has grown from the outputs: of what lies in front of them, and of all with them."""
    outputs = before.outputs.keys() | after.outputs.keys()
    return _grown(before, after, before.gradients, after.gradients, outputs, 0.0) or _grown(
        before, after, before.gradients, after.gradients, frozenset(), _eased(before, after)
    )


def _uneven_behind(before: Health, after: Health) -> str:
    """The same from where a head begins that passes no gradient."""
    if before.cotangent_at != after.cotangent_at or not before.behind:
        return ""
    lost = [name for name in _reached(before.behind, before.ends) if _is_silent(after.behind, name)]
    if lost:
        return f"no gradient comes from {before.cotangent_at} to {_some(lost)} any more"
    return _grown(before, after, before.behind, after.behind, frozenset(), 0.0)


def _grown(
    before: Health,
    after: Health,
    old: Sequence[Mapping[str, float]],
    new: Sequence[Mapping[str, float]],
    without: Set[str],
    allowed: float,
) -> str:
    """A spread that has grown over the ends of the blocks, or over the outputs of layers that are in both."""
    ends = _reached(old, before.ends), _reached(new, after.ends)
    common = [name for name in _reached(old, old[0] if old else ()) if name in _reached(new, new[0] if new else ())]
    same = set(ends[0]) <= set(common)
    pairs = ((ends[0], ends[0]) if same else ends, (common, common))
    for places in pairs:
        first, second = ([name for name in each if name not in without] for each in places)
        was, now = _spread(old, first), _spread(new, second)
        if was is None or now is None or not math.isfinite(was):
            continue
        error = _SURE * math.hypot(_spread_error(old, first), _spread_error(new, second))
        if not now <= was + MORE_BITS + allowed + error:
            return (
                f"the spread of the gradient's squared norms along the depth grows from a factor of 2^{was:.1f} to "
                f"2^{now:.1f}"
            )
    return ""


def _out_of_range(before: Health, after: Health) -> str:
    for name, old in before.outputs.items():
        new = after.outputs.get(name)
        if new is not None and _beyond(new) > _beyond(old) + WORSE_BITS:
            return f"the root mean square of output {name} goes from {_root(old)} to {_root(new)}"
    return ""


def _more_zeros(before: Health, after: Health) -> str:
    common = [name for name in before.sizes if name in after.sizes]
    total = sum(before.sizes[name] for name in common)
    old, new = (sum(found.zeros[name] for name in common) / max(total, 1) for found in (before, after))
    if new <= old + MORE_ZEROS:
        return ""
    return f"the share of gradients that are exactly zero grows from {old:.1%} to {new:.1%}"


def _reached(samples: Sequence[Mapping[str, float]], places: Iterable[str]) -> list[str]:
    """Those of the places that some gradient reaches, in their order."""
    return [name for name in places if any(math.isfinite(sample.get(name, math.nan)) for sample in samples)]


def _is_silent(samples: Sequence[Mapping[str, float]], name: str) -> bool:
    return bool(samples) and all(sample.get(name) == -math.inf for sample in samples)


def _spread(samples: Sequence[Mapping[str, float]], places: Sequence[str]) -> float | None:
    means = [_log_mean([sample[name] for sample in samples]) for name in places]
    return max(means) - min(means) if len(means) > 1 else None


def _spread_error(samples: Sequence[Mapping[str, float]], places: Sequence[str]) -> float:
    """The standard error of a spread over the probes, by the jackknife; of a single probe nothing is known but its
    order of magnitude."""
    count = len(samples)
    if count < 2:
        return WORSE_BITS
    without = [_spread([*samples[:i], *samples[i + 1 :]], places) or 0.0 for i in range(count)]
    return float(np.std(without) * math.sqrt(count - 1)) if all(map(math.isfinite, without)) else WORSE_BITS


def _log_mean(logs: Sequence[float]) -> float:
    """log2 of the mean of numbers given by their log2, which may lie beyond a double's range."""
    shift = max(logs)
    if not math.isfinite(shift):
        return shift
    return shift + math.log2(math.fsum(2.0 ** (found - shift) for found in logs) / len(logs))


def _beyond(scale: float) -> float:
    """Bits by which an output's mean square lies outside the range; inf for zero and for what is no number."""
    return math.inf if not math.isfinite(scale) else max(abs(scale) - OUTPUT_RANGE, 0.0)


def _root(scale: float) -> str:
    return f"2^{scale / 2:.1f}" if math.isfinite(scale) else "0" if scale == -math.inf else "no finite number"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
