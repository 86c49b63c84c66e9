"""Many names in few words."""

from __future__ import annotations

import pytest

from gnelint.lint.places import folded, scope


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ([], []),
        (["fc"], ["fc"]),
        (["fc", "fc"], ["fc"]),
        ([f"layers.{i}" for i in range(32)], ["layers.0-31"]),
        ([f"conv{i}" for i in (9, 10, 11, 3)], ["conv3,9-11"]),
        ([f"fc{i} .. act{i}" for i in range(3)], ["fc0-2 .. act0-2"]),
        ([f"/layer1/layer1.{i}/Conv" for i in range(2)], ["/layer1/layer1.0-1/Conv"]),
        (
            [f"layers.{i}.{part}" for i in range(4) for part in ("attn.q", "mlp.fc1", "mlp.fc2")],
            ["layers.0-3.attn.q", "layers.0-3.mlp.fc1-2"],
        ),
        ([f"layer{stage}.{i}" for stage in (1, 2) for i in (0, 1)], ["layer1-2.0-1"]),
        (["layer1.0", "layer1.1", "layer2.0"], ["layer1.0-1", "layer2.0"]),
        (["a1", "b1", "a2"], ["a1-2", "b1"]),
        (["n007", "n8"], ["n8,007"]),
        (["x" + "9" * 6000], ["x" + "9" * 6000]),
    ],
)
def test_folded(names: list[str], shown: list[str]) -> None:
    assert folded(names) == shown


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ([f"layers.{i}.{part}" for i in range(32) for part in ("q", "k")], "layers.0-31"),
        ([f"model.0.layers.{i}.{part}" for i in (1, 2) for part in ("q", "k1")], "model.0.layers.1-2"),
        (["a.0.x", "b.1.x"], None),
        (["a.0.x", "a.0.y"], None),
        (["a", "a.1"], None),
        ([], None),
    ],
)
def test_scope(names: list[str], shown: str | None) -> None:
    assert scope(names) == shown
