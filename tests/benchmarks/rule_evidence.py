"""Does what a rule calls an error train worse than what it is silent about? Trains the networks of the rules' tests.

    python -m tests.benchmarks.rule_evidence [ID ...] [--steps 100] [--seeds 2]

For every rule that can say `error` (or those named, by their worst severity) the first of its networks with a finding
of that severity is trained beside its first network without one, or the pair of `PAIRS`. `evidence("c_bad", "c_ok")`
does the same for any two networks of tests/models. Writes reports/benchmarks/rule_evidence.json and .md; rules that are
not named keep the figures there.

The task is the same for both networks and easy: ten classes, each a fixed coarse pattern of the input's shape under
noise of the same strength; for networks that read tokens, the next token by a random permutation that holds three times
in four. A network that ends in a linear layer is trained as it is, unless that layer maps each vector of a sequence;
any other gets a mean over positions and a linear layer of variance 1/fan_in. Chance is a loss of ln(classes).

Some rules are about what that task does not need; `TASKS` says which they get: "signed" patterns come with either sign,
so no linear map tells them apart; "early" ones stand in the first quarter of the second axis alone, the rest is noise.
A network of one output is to give a sine of a direction of its inputs, under a squared error; chance is its variance.
One that gives a single number gives a loss of its own, and is trained on that; its chance is what it starts at. Inputs
beside the first are noise.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional

from gnelint.analysis.propagation import analyse
from gnelint.lint.engine import Settings, lint
from gnelint.lint.rulefile import Rule, load_rules
from gnelint.readers.torch.reader import read_module
from tests.models import network

OUT = Path(__file__).parents[2] / "reports" / "benchmarks" / "rule_evidence.json"
CLASSES = 10
HELD = 0.75
"""How often the next token is the one that the permutation names."""
BATCH = 16
"""Samples a step, where the network's own example holds fewer."""


PAIRS = {
    "GNE101": ("plain_mlp(gain=0.5, depth=50)", "plain_mlp(depth=50)"),
    "GNE102": ("plain_mlp(init='default', depth=50)", "plain_mlp(depth=50)"),
    "GNE115": ("half_mlp(gain=0.6, depth=60)", "half_mlp"),
    "GNE218": ("large_steps(wrong=True)", "large_steps"),
    "GNE401": ("skipinit", "skipinit(scale=0.2)"),
    "GNE501": ("plain_mlp(gain=0.5, depth=50)", "plain_mlp(depth=50)"),
    "GNE502": ("plain_mlp(gain=2.0, depth=50)", "plain_mlp(depth=50)"),
    "GNE513": ("last_states(wrong=True)", "last_states"),
    "GNE605": ("resting_rotation(wrong=True)", "resting_rotation"),
    "GNE606": ("perceptual_features(wrong=True)", "perceptual_features"),
}
"""In place of a rule's own networks, where a step of those takes seconds, none of them is an error, or the task of the
benchmark does not need what they lose (one class for all positions does not mind scattered ones)."""


TASKS = {
    "GNE213": "signed",
    "GNE215": "signed",
    "GNE512": "signed",
    "GNE210": "early",
    "GNE216": "early",
    "GNE219": "early",
}
"""By rule: what the patterns are like, where the plain ones do not need what the rule is about."""


@dataclass(frozen=True)
class Learner:
    """An optimiser at a learning rate that people use."""

    name: str
    rate: float

    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        if self.name == "sgd":
            return torch.optim.SGD(module.parameters(), lr=self.rate, momentum=0.9)
        return torch.optim.Adam(module.parameters(), lr=self.rate)


LEARNERS = (Learner("sgd", 1e-2), Learner("adam", 1e-3), Learner("adam", 1e-4))


@dataclass(frozen=True)
class Trained:
    """One network under one learner; medians over the seeds.

    Attributes:
        network: as a rule file names it.
        learner: optimiser and rate.
        first_loss, last_loss: mean over the first step, and over the last tenth of the steps; inf if it blew up.
        accuracy: over the last tenth of the steps.
        chance: the loss of a network that has learnt nothing.
        failed: runs that end above 0.9 of chance, or not in finite numbers.
        seeds: runs.
    """

    network: str
    learner: str
    first_loss: float
    last_loss: float
    accuracy: float
    chance: float
    failed: int
    seeds: int


@dataclass(frozen=True)
class Evidence:
    """Two networks under the same learners on the same tasks."""

    bad: tuple[Trained, ...]
    good: tuple[Trained, ...]

    @property
    def best(self) -> tuple[Trained, Trained]:
        """Each under the learner that suits it most."""
        return (min(self.bad, key=_loss), min(self.good, key=_loss))

    def __str__(self) -> str:
        return "\n".join(_line(trained) for trained in (*self.bad, *self.good))


def _loss(trained: Trained) -> float:
    return trained.last_loss


def _line(trained: Trained) -> str:
    return (
        f"{trained.network:44} {trained.learner:10} loss {trained.first_loss:9.3g} -> {trained.last_loss:<9.3g}"
        f" accuracy {trained.accuracy:4.0%}  {trained.failed} of {trained.seeds} failed"
    )


class _Read(nn.Module):
    """A network with logits at its end: (batch, classes), or (batch, tokens, classes) for every token."""

    def __init__(self, body: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.body = body
        self.head: nn.Linear | None = None
        with torch.no_grad():
            sample = _first(body(*inputs))
        self.is_loss = sample.ndim == 0
        if self.is_loss:
            self.classes, self.each = CLASSES, False
            return
        of_vectors = sample.ndim == 3 and inputs[0].is_floating_point()  # one label a sequence, not one a vector
        if of_vectors or not _ends_linear(body, inputs):
            self.head = nn.Linear(sample.shape[1 if sample.ndim != 3 else 2], CLASSES)
            nn.init.normal_(self.head.weight, std=self.head.in_features**-0.5)
            nn.init.zeros_(self.head.bias)
        self.classes = sample.shape[-1] if self.head is None else CLASSES
        self.each = self.head is None and sample.ndim == 3

    def forward(self, *inputs: Tensor) -> Tensor:
        y = _first(self.body(*inputs))
        if self.head is None:
            return y
        if y.ndim == 3:
            y = y.mean(1)
        elif y.ndim > 3:
            y = y.flatten(2).mean(2)
        return self.head(y)


def _first(output: object) -> Tensor:
    while isinstance(output, (tuple, list)):
        output = output[0]
    assert isinstance(output, Tensor)
    return output


def _ends_linear(module: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    graph = read_module(module, inputs, name="body", training=True)
    producer = graph.producers.get(graph.outputs[0])
    while producer is not None and producer.op in ("scale", "bias", "identity"):
        producer = graph.producers.get(producer.inputs[0])
    return producer is not None and producer.op == "linear"


def _task(
    inputs: tuple[Tensor, ...], classes: int, each: bool, seed: int, kind: str
) -> Callable[[], tuple[Tensor, Tensor]]:
    """What draws a batch of the first input with its labels."""
    generator = torch.Generator().manual_seed(seed)
    example = inputs[0]
    batch = max(example.shape[0], BATCH) if len(inputs) == 1 else example.shape[0]
    shape = (batch, *example.shape[1:])
    if not example.is_floating_point():
        return _tokens(shape, int(example.max()) + 1, None if each else min(classes, CLASSES), generator)
    if classes == 1:
        return _sine(shape, generator)
    coarse = [min(size, 4) for size in shape[2:]]
    patterns = torch.randn(min(classes, CLASSES), shape[1], *coarse, generator=generator)
    if coarse:
        patterns = patterns[(..., *torch.meshgrid(*map(_stretched, coarse, shape[2:]), indexing="ij"))]

    def draw() -> tuple[Tensor, Tensor]:
        label = torch.randint(len(patterns), shape[:1], generator=generator)
        noise = torch.randn(shape, generator=generator)
        shown = patterns[label]
        if kind == "signed":
            shown = shown * (2.0 * torch.randint(2, shape[:1], generator=generator) - 1.0).view(
                -1, *[1] * len(shape[1:])
            )
        elif kind == "early":
            shown = shown * (torch.arange(shape[1]) < max(shape[1] // 4, 1)).view(-1, *[1] * len(shape[2:]))
        return (shown + noise) * 0.5**0.5, label

    return draw


def _sine(shape: tuple[int, ...], generator: torch.Generator) -> Callable[[], tuple[Tensor, Tensor]]:
    direction = torch.randn(math.prod(shape[1:]), generator=generator)
    direction *= 20.0 / direction.norm()

    def draw() -> tuple[Tensor, Tensor]:
        x = torch.rand(shape, generator=generator) * 2.0 - 1.0
        return x, (x.flatten(1) @ direction).sin()

    return draw


def _stretched(coarse: int, size: int) -> Tensor:
    return torch.arange(size) * coarse // size


def _tokens(
    shape: tuple[int, ...], vocabulary: int, classes: int | None, generator: torch.Generator
) -> Callable[[], tuple[Tensor, Tensor]]:
    """Ids with the next one as the label of each, or with one of so many classes for all."""
    following = torch.randperm(vocabulary, generator=generator)

    def draw() -> tuple[Tensor, Tensor]:
        ids = torch.randint(vocabulary, (shape[0], shape[1] + 1), generator=generator)
        held = torch.rand(ids.shape, generator=generator) < HELD
        for place in range(1, ids.shape[1]):
            ids[:, place] = torch.where(held[:, place], following[ids[:, place - 1]], ids[:, place])
        return ids[:, :-1], ids[:, 1:] if classes is None else ids[:, 0] % classes

    return draw


def _loss_of(model: _Read, given: Tensor, label: Tensor) -> tuple[Tensor, float]:
    """The loss of what a network gives, and the share of the labels that it gives most."""
    if model.is_loss:
        return given, 0.0
    logits = given.flatten(0, -2)
    if model.classes == 1:
        return functional.mse_loss(logits.flatten(), label), 0.0
    hit = (logits.argmax(-1) == label.flatten()).float().mean().item()
    return functional.cross_entropy(logits, label.flatten()), hit


def train(
    text: str, learner: Learner, steps: int, seed: int, kind: str = "plain"
) -> tuple[list[float], list[float], float]:
    """Loss and accuracy of every step, and the loss of chance. Stops where the loss is no finite number."""
    torch.manual_seed(seed)
    body, inputs = network(text, seed)
    model = _Read(body, inputs).train()
    draw = _task(inputs, model.classes, model.each, seed, kind)
    beside = torch.Generator().manual_seed(seed + 1)
    optimizer = learner.optimizer(model)
    losses, hits = [], []
    for _ in range(steps):
        x, label = draw()
        try:
            given = model(x, *(torch.randn(other.shape, generator=beside) for other in inputs[1:]))
        except torch.linalg.LinAlgError:  # of a matrix that is no number any more
            losses.append(math.inf)
            hits.append(0.0)
            break
        loss, hit = _loss_of(model, given, label)
        losses.append(loss.item())
        hits.append(hit)
        if not math.isfinite(losses[-1]):
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if model.is_loss:
        return losses, hits, abs(losses[0])
    if model.classes == 1:
        return losses, hits, 0.5
    labels = model.classes if model.each else min(CLASSES, model.classes)
    return losses, hits, math.log(labels)


@cache
def trained(text: str, learner: Learner, steps: int, seeds: int, kind: str = "plain") -> Trained:
    """The medians over some seeds, each with its own weights and its own task."""
    first, last, accuracy, failed, chance = [], [], [], 0, math.inf
    for seed in range(seeds):
        losses, hits, chance = train(text, learner, steps, seed, kind)
        tail = max(steps // 10, 1)
        whole = len(losses) == steps and math.isfinite(losses[-1])
        first.append(losses[0])
        last.append(sum(losses[-tail:]) / tail if whole else math.inf)
        accuracy.append(sum(hits[-tail:]) / tail if whole else 0.0)
        failed += last[-1] > 0.9 * chance
    name = f"{learner.name} {learner.rate:g}"
    return Trained(text, name, median(first), median(last), median(accuracy), chance, failed, seeds)


def evidence(
    bad: str,
    good: str,
    *,
    steps: int = 100,
    seeds: int = 2,
    learners: Sequence[Learner] = LEARNERS,
    kind: str = "plain",
) -> Evidence:
    """Train two networks, named as rule files name them, and report how each ends.

    >>> print(evidence("c_bad", "c_ok"))
    """
    found = [tuple(trained(text, learner, steps, seeds, kind) for learner in learners) for text in (bad, good)]
    return Evidence(*found)


def worst(rule: Rule) -> str:
    """What a rule says at most."""
    found = {severity for _, severity in rule.program.severities}
    return next(severity for severity in ("error", "warning", "info") if severity in found)


def pair(rule: Rule) -> tuple[str, str] | None:
    """The networks to train for a rule: its first finding of its worst severity, and its first network without one."""
    if rule.id in PAIRS:
        return PAIRS[rule.id]
    of_train = [test for test in rule.tests if test.get("mode", "train") == "train" and ":" not in test["model"]]
    bad = next((test["model"] for test in of_train if test["findings"] and test.get("severity") == worst(rule)), None)
    good = next((test["model"] for test in of_train if not test["findings"]), None)
    return None if bad is None or good is None else (bad, good)


def severities(rule: Rule, text: str) -> set[str]:
    """Those that the rule's findings in a network have."""
    body, inputs = network(text)
    found = lint(analyse(read_module(body, inputs, name=text, training=True)), [rule], Settings()).findings
    return {finding.severity for finding in found}


def table(found: Mapping[str, Mapping[str, object]]) -> Iterator[str]:
    """The report in Markdown."""
    yield "# Evidence for rules\n"
    yield "Printed by `python -m tests.benchmarks.rule_evidence`; medians over the seeds, the loss over the last tenth"
    yield "of the steps. Failed: the runs that end above 0.9 of chance, or not in finite numbers.\n"
    yield "| rule | network | learner | first loss | last loss | chance | accuracy | failed |"
    yield "|---|---|---|---:|---:|---:|---:|---:|"
    for rule, entry in sorted(found.items()):
        for side in ("bad", "good"):
            for row in entry[side]:  # type: ignore[attr-defined]
                yield (
                    f"| {rule} {side} | `{row['network']}` | {row['learner']} | {row['first_loss']:.3g} "
                    f"| {row['last_loss']:.3g} | {row['chance']:.3g} | {row['accuracy']:.0%} "
                    f"| {row['failed']} of {row['seeds']} |"
                )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="*", help="rules [all that can say error]")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the layers are small: more threads wait for each other
    rules = load_rules()
    wanted = [rule for rule in rules.rules if (rule.id in arguments.ids if arguments.ids else worst(rule) == "error")]
    found = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    found = {rule_id: entry for rule_id, entry in found.items() if rules.get(rule_id) is not None}
    for rule in wanted:
        networks = pair(rule)
        if networks is None:
            if arguments.ids:
                print(f"{rule.id}: no test with a finding beside one without")
            continue
        if worst(rule) not in severities(rule, networks[0]) or severities(rule, networks[1]):
            print(f"{rule.id} has no {worst(rule)} in {networks[0]}, or is not silent about {networks[1]}")
            continue
        begin = time.perf_counter()
        kind = TASKS.get(rule.id, "plain")
        result = evidence(*networks, steps=arguments.steps, seeds=arguments.seeds, kind=kind)
        print(f"{rule.id}  {time.perf_counter() - begin:.0f} s\n{result}", flush=True)
        found[rule.id] = {"steps": arguments.steps, "task": kind, **asdict(result)}
        arguments.out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        arguments.out.with_suffix(".md").write_text("\n".join(table(found)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
