"""The table of all layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gnelint.lint.places import visible
from gnelint.output.html.network import Network, gradient_bits, shade
from gnelint.output.html.words import LONG, number, short, signed
from gnelint.records import dataclass


@dataclass(frozen=True)
class Column:
    """A column: its heading, what it means, and whether numbers stand in it."""

    title: str
    help: str
    numeric: bool = True


COLUMNS: tuple[Column, ...] = (
    Column("op", "operation", numeric=False),
    Column("shape", "of its output", numeric=False),
    Column("φ", "what it multiplies the squared gradient norm by"),
    Column("var φ", "variance of the spectrum of J Jᵀ"),
    Column("gradient", "log2 of the squared gradient norm at its output, relative to the network's output"),
    Column("± bits", "stated error of the column before: nine of ten lie within"),
    Column("mean", "E[x] of its output"),
    Column("E[x²]", "second moment of its output"),
    Column("w std", "standard deviation of its weight"),
    Column("w mean", "mean of its weight"),
    Column("gain", "sqrt(fan-in · E[w²]): 1.41 at He initialisation, 1 at LeCun's"),
    Column("weights", "what the weight's entries look like", numeric=False),
    Column("basis", "what phi stands on", numeric=False),
)
MEASURED: tuple[Column, ...] = (
    Column("measured", "log2 of the squared gradient norm, by autograd"),
    Column("verdict", "whether the measurement agrees with the prediction", numeric=False),
)


@dataclass(frozen=True)
class Row:
    """A layer; `full` is its name where that is not shown whole."""

    index: int
    name: str
    full: str
    block: int | None
    shade: str
    cells: Sequence[str]


def columns(network: Network) -> tuple[Column, ...]:
    """The columns behind the name."""
    return (*COLUMNS, *MEASURED) if "verification" in network.entry else COLUMNS


def rows(network: Network) -> list[Row]:
    """A row for each layer, in topological order."""
    measured = "verification" in network.entry
    return [_row(network, node, index, measured=measured) for index, node in enumerate(network.nodes.values(), start=1)]


def _row(network: Network, node: Mapping[str, Any], index: int, *, measured: bool) -> Row:
    stretch = network.block_of.get(node["name"])
    shown = short(node["name"])
    cells = [*_cells(node), *(_measured(node) if measured else ())]
    full = visible(node["name"]) if len(node["name"]) > LONG else ""
    block = None if stretch is None else stretch.index
    return Row(index, shown, full, block, shade(node["phi"]), cells)


def _cells(node: Mapping[str, Any]) -> list[str]:
    weight: Mapping[str, Any] = next(iter(node.get("weights", [])), {})
    shape = node["shape"]
    return [
        short(node["op"], 24),
        "" if shape is None else "×".join(map(str, shape)),
        number(node["phi"]),
        number(node["phi_variance"]),
        _gradient(node),
        number(node.get("error_bits"), 2),
        number(node["mean"], 2),
        number(node["second_moment"]),
        number(weight.get("std")),
        number(weight.get("mean"), 2),
        number(weight.get("gain")),
        str(weight.get("distribution", "")),
        str(node.get("basis", "")),
    ]


def _gradient(node: Mapping[str, Any]) -> str:
    bits = gradient_bits(node)
    if bits is None:
        return "−∞" if node["gradient_norm2"] == 0.0 else ""
    return signed(f"{bits:.2f}")


def _measured(node: Mapping[str, Any]) -> list[str]:
    bits = node["measured"].get("gradient_log2")
    return ["" if bits is None else signed(f"{bits:.2f}"), str(node.get("verdict", ""))]
