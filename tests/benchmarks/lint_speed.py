"""How long 40 rules take on graphs of 10,000 to 40,000 nodes, and whether that grows with the graph.

    python -m tests.benchmarks.lint_speed

gnelint's own rules are filled up to 40 with rules written for this benchmark, one of each shape that rules have. The
graph is residual blocks, plain layers and attention blocks by turns, made by hand, so that only matching is timed: its
indices, what rules ask of nodes, conditions, messages. Each run is on a graph that nothing has looked at yet. Linting
is single-threaded: processor time is what it takes on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gnelint.analysis.prediction import Block, Prediction
from gnelint.ir.graph import Node
from gnelint.lint.engine import lint
from gnelint.lint.rulefile import Rule, load_rule, load_rules
from gnelint.lint.selection import Settings
from tests import builders
from tests.builders import node

REPORTS = Path(__file__).resolve().parents[2] / "reports" / "benchmarks"
RULES = 40
SIZES = (10_000, 20_000, 40_000)
REPEATS = 5

_PAIR = "w = linear|conv|conv_transpose(x)\n  a = activation(~w)"

SHAPES: Sequence[tuple[str, str, str]] = (
    (_PAIR, "not between(w, a, normalization)", "abs(log2(interior_phi(w) * phi(a))) > {0}"),
    (_PAIR, 'in_block(w, "serial")', "abs(log2(fan_out(w) * weight_second_moment(w) * phi(a))) < 0.01 * {0}"),
    (_PAIR, "not followed_by(a, normalization)", "total(relative_variance(a)) > 1000000 + {0}"),
    (_PAIR, "weight_size(w) >= 64", "count() >= 3 and product(phi(w) * phi(a)) > 2 + {0}"),
    ("w = linear|conv(x)\n  n = normalization?(~w)\n  a = activation(~n)", "not bound(n)", "phi(a) > 1 + {0}"),
    ("w = conv(x, groups>1)\n  a = relu(~w)", "readers(w) == 1", "attribute(w, groups) > 8 + {0}"),
    ("n = normalization(x)\n  a = activation(~n)\n  s = add(~a, _)", "is_join(s)", "in_branch(a) and phi(a) > {0}"),
    ("s = add(_, _)\n  n = normalization(~s)", "is_join(s)", "total(log2(phi(n))) < -1000000 - {0}"),
    ("n = batch_norm(x)", "last_in_branch(n, normalization)", "statistic_size(n) < {0} and layer(n) > 3"),
    ("e = embedding(_)\n  w = linear(via(any, e))", "weight_std(w) > 0", "weight_std(e) > 5 * {0}"),
    ("w = linear|conv(x)\n  v = linear|conv(via(activation|normalization, w))", "width(w) > 1", "width(v) < {0}"),
    ("n = any", "weight_size(n) > 0", "not receives_gradient(n) and weight_bound(n) > {0}"),
    ("a = softmax|attention", "logit_second_moment(a) > 0", "logit_second_moment(a) > 16 + {0}"),
    ("w = linear|conv", "is_known(weight_gradient_log2(w))", "abs(weight_gradient_log2(w)) > 100000 * {0}"),
)
"""Patterns, what they ask of a match to count, and of a finding; {0} is a number that makes every rule its own."""


@dataclass(frozen=True)
class Timing:
    """The best of some runs: processor seconds, and findings, which show that the rules had something to look at."""

    nodes: int
    rules: int
    seconds: float
    findings: int


def network(size: int) -> Prediction:
    """About `size` nodes: blocks of 20 nodes, each a residual block, three plain layers and an attention block."""
    nodes: list[Node] = [node("e", "embedding", ["x"], weight=(64, 64))]
    blocks: list[Block] = []
    previous = "e"
    for index in range(size // 20):
        added = _block(str(index), previous)
        nodes += added
        previous = added[-1].name
    made = builders.graph(nodes)
    for index in range(size // 20):
        blocks += _kinds(str(index))
    phi = {each.name: 0.5 if each.op in ("relu", "gelu") else 1.0 for each in nodes}
    weights = {f"{each.name}.weight": builders.statistics(1.0 / 64) for each in nodes if each.parameters}
    return builders.prediction(made, phi, blocks=blocks, weights=weights)


def _block(tag: str, entry: str) -> list[Node]:
    def link(name: str, op: str, *reads: str, weight: tuple[int, ...] | None = None, **more: object) -> Node:
        return node(f"{name}{tag}", op, reads, weight=weight, **more)

    square, kernel = (64, 64), (64, 64, 3, 3)
    return [
        link("c1", "conv", entry, weight=kernel, groups=1),
        link("n1", "batch_norm", f"c1{tag}", training=True),
        link("a1", "relu", f"n1{tag}"),
        link("c2", "conv", f"a1{tag}", weight=kernel, groups=1),
        link("n2", "batch_norm", f"c2{tag}", training=True),
        link("s1", "add", f"n2{tag}", entry),
        link("a2", "relu", f"s1{tag}"),
        link("l1", "linear", f"a2{tag}", weight=square),
        link("g1", "gelu", f"l1{tag}"),
        link("l2", "linear", f"g1{tag}", weight=square),
        link("d2", "dropout", f"l2{tag}"),
        link("g2", "gelu", f"d2{tag}"),
        link("l3", "linear", f"g2{tag}", weight=square),
        link("g3", "relu", f"l3{tag}"),
        link("n3", "layer_norm", f"g3{tag}", axes=(1,)),
        link("q", "linear", f"n3{tag}", weight=square),
        link("k", "linear", f"n3{tag}", weight=square),
        link("at", "attention", f"q{tag}", f"k{tag}", f"n3{tag}"),
        link("o", "linear", f"at{tag}", weight=square),
        link("s2", "add", f"o{tag}", f"g3{tag}"),
    ]


def _kinds(tag: str) -> list[Block]:
    def named(*names: str) -> tuple[str, ...]:
        return tuple(f"{name}{tag}" for name in names)

    first, third = named("c1", "n1", "a1", "c2", "n2", "s1", "a2"), named("n3", "q", "k", "at", "o", "s2")
    plain = named("l1", "g1", "l2", "d2", "g2", "l3", "g3")
    join = {"shortcut": (), "shortcut_phi": 1.0, "branch_phi": 0.5, "operand_phis": (0.5, 1.0)}
    return [
        Block(f"r{tag}", "residual", first, "", f"a2{tag}:out", phi=1.5, join=f"s1{tag}", **join),  # type: ignore[arg-type]
        Block(f"p{tag}", "serial", plain, f"a2{tag}:out", f"g3{tag}:out", phi=0.125),
        Block(f"t{tag}", "residual", third, f"g3{tag}:out", f"s2{tag}:out", phi=1.5, join=f"s2{tag}", **join),  # type: ignore[arg-type]
    ]


def rules() -> tuple[Rule, ...]:
    """gnelint's own rules and as many others as make 40."""
    found = [rule for rule in load_rules().rules if rule.status == "stable"][:RULES]
    with tempfile.TemporaryDirectory() as directory:
        for number in range(RULES - len(found)):
            pattern, where, when = SHAPES[number % len(SHAPES)]
            path = Path(directory) / f"{number}.yaml"
            path.write_text(
                f"schema: 1\nid: TEST{number:03d}\nname: test\ngroup: network\nseverity: info\nstage: any\n"
                f"summary: Test.\npattern: |\n  {pattern}\nwhere:\n  - {where}\nwhen: {when.format(number + 1)}\n"
                'message: "here"\nexplain: Test.\n'
            )
            rule = load_rule(path, validate=True)
            assert isinstance(rule, Rule)
            found.append(rule)
    return tuple(found)


def timed(size: int, chosen: Sequence[Rule]) -> Timing:
    """The fastest of `REPEATS` runs, each on a graph of its own."""
    seconds: list[float] = []
    findings = 0
    for _ in range(REPEATS):
        prediction = network(size)
        gc.collect()  # the garbage of the run before is not this one's
        start = time.process_time()
        findings = len(lint(prediction, chosen, Settings(stage="init")).findings)
        seconds.append(time.process_time() - start)
    return Timing(len(prediction.graph.nodes), len(chosen), round(min(seconds), 3), findings)


def main() -> None:
    """Print the table and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=REPORTS / "lint_speed.json", help="the report")
    options = parser.parse_args()
    gc.set_threshold(100_000, 50, 50)  # as the command line has it
    chosen = rules()
    own = sum(rule.id.startswith("GNE") for rule in chosen)
    found = [timed(size, chosen) for size in SIZES]
    print(f"{len(chosen)} rules, {own} of them gnelint's own; best of {REPEATS} runs")
    print(f"{'nodes':>8} {'seconds':>8} {'x':>6} {'findings':>9}")
    for before, timing in zip([None, *found], found, strict=False):
        ratio = "" if before is None else f"{timing.seconds / before.seconds:.2f}"
        print(f"{timing.nodes:>8} {timing.seconds:>8.2f} {ratio:>6} {timing.findings:>9}")
    if str(options.output) != "-":
        report = {"own_rules": own, "machine": platform.processor() or platform.machine(), "repeats": REPEATS}
        options.output.write_text(json.dumps({**report, "runs": [asdict(t) for t in found]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
