"""Fingerprints stay when names change and other nodes come, and tell places apart that look the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gnelint.ir.graph import Graph, Node
from gnelint.lint.finding import Finding
from gnelint.lint.fingerprint import Fingerprints, marked
from tests.builders import graph, node


def layers(
    depth: int, name: str = "fc", width: int = 8, first: tuple[Node, ...] = (), wide: int | None = None
) -> Graph:
    nodes = list(first)
    previous = nodes[-1].name if nodes else "x"
    for index in range(depth):
        shape = (2 * width, width) if index == wide else (width, width)
        nodes += [
            node(f"{name}{index}", "linear", [previous], weight=shape),
            node(f"{name}{index}.act", "relu", [f"{name}{index}"]),
        ]
        previous = nodes[-1].name
    return graph(nodes)


def marks(of: Graph, rule: str = "GNE101") -> list[str]:
    given = Fingerprints(of)
    pairs = [pair for pair in zip(of.nodes, of.nodes[1:], strict=False) if pair[0].op == "linear"]
    return [given.of(rule, (first.name, second.name)) for first, second in pairs]


def test_every_place_has_its_own() -> None:
    found = marks(layers(20))
    assert len(set(found)) == 20
    assert set(found).isdisjoint(marks(layers(20), "GNE102"))
    assert all(len(mark) == 16 for mark in found)


def test_names_do_not_count() -> None:
    assert marks(layers(20)) == marks(layers(20, name="encoder.block."))


def test_structure_counts() -> None:
    assert set(marks(layers(6))).isdisjoint(marks(layers(6, width=16)))
    leaky = graph([node("w", "linear", ["x"], weight=(8, 8)), node("a", "leaky_relu", ["w"], alpha=0.1)])
    other = graph([node("w", "linear", ["x"], weight=(8, 8)), node("a", "leaky_relu", ["w"], alpha=0.2)])
    assert marks(leaky) != marks(other)


def test_unrelated_nodes_change_nothing_away_from_them() -> None:
    stem = (node("a", "conv", ["x"], weight=(8, 8, 3, 3)), node("b", "max_pool", ["a"]), node("c", "reshape", ["b"]))
    # the first layer has a new neighbour; the ones behind it look as before but for the two at the ends
    before, after = marks(layers(20)), marks(layers(20, first=stem))
    assert after[-1] == before[-1]
    assert len(set(before) & set(after)) >= 18


def test_how_it_is_read_does_not_count() -> None:
    def normalised(training: bool) -> Graph:
        return graph([node("w", "linear", ["x"]), node("n", "batch_norm", ["w"], training=training, epsilon=1e-5)])

    assert marks(normalised(True)) == marks(normalised(False))


def test_types_of_numbers_do_not_count() -> None:
    def leaky(alpha: object) -> Graph:
        return graph([node("w", "linear", ["x"]), node("a", "leaky_relu", ["w"], alpha=alpha)])

    assert marks(leaky(0.5)) == marks(leaky(np.float64(0.5)))


def names(of: Graph, layer: int) -> tuple[str, str]:
    return of.nodes[2 * layer].name, of.nodes[2 * layer + 1].name


def test_a_place_found_twice_and_the_whole_network() -> None:
    one, other = layers(2), layers(2, name="other")
    given, again = Fingerprints(one), Fingerprints(other)
    first, second = given.of("GNE101", names(one, 0)), given.of("GNE101", names(one, 0))
    assert first != second
    assert [again.of("GNE101", names(other, 0)) for _ in range(2)] == [first, second]
    assert given.of("GNE501", ()) == again.of("GNE501", ())


def test_a_place_mended_and_another_broken_are_two_things() -> None:
    one, renamed = layers(10), layers(10, name="renamed")
    known = Fingerprints(one).of("GNE101", names(one, 3))
    now = Fingerprints(renamed)
    assert now.of("GNE101", names(renamed, 7)) != known
    assert now.of("GNE101", names(renamed, 3)) == known


def test_findings_get_theirs() -> None:
    of = layers(3)
    plain = [Finding("GNE101", "error", "m", names(of, 1)), Finding("GNE501", "error", "m")]
    found = marked(of, plain)
    assert [finding.fingerprint for finding in found] == [marks(of)[1], Fingerprints(of).of("GNE501", ())]
    assert [replace(finding, fingerprint="") for finding in found] == plain
