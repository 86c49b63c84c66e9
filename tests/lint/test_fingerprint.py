"""Fingerprints stay when names change and other nodes come, and tell places apart that look the same."""

from __future__ import annotations

import numpy as np

from gnelint.graph import Graph, Node
from gnelint.lint.fingerprint import Fingerprints
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
    return [given.of(rule, pair) for pair in pairs]


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


def test_a_place_found_twice_and_the_whole_network() -> None:
    made = layers(2)
    given = Fingerprints(made)
    first, second = given.of("GNE101", made.nodes[:2]), given.of("GNE101", made.nodes[:2])
    assert first != second
    again = Fingerprints(layers(2, name="other"))
    assert [again.of("GNE101", again._graph.nodes[:2]) for _ in range(2)] == [first, second]
    assert given.of("GNE501", ()) == again.of("GNE501", ())


def test_a_place_mended_and_another_broken_are_two_things() -> None:
    of = layers(10)
    pairs = list(zip(of.nodes[::2], of.nodes[1::2], strict=True))
    then, now = Fingerprints(of), Fingerprints(layers(10, name="renamed"))
    known = {then.of("GNE101", pairs[3])}
    renamed = list(zip(now._graph.nodes[::2], now._graph.nodes[1::2], strict=True))
    assert now.of("GNE101", renamed[7]) not in known
    assert now.of("GNE101", renamed[3]) in known
