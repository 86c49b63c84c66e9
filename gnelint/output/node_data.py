"""Numbers for Model Explorer (https://github.com/google-ai-edge/model-explorer): what each node does to the gradient.

The file is its node data for one graph: a value for each node, found by the name of one of its output tensors, and
colours by ranges of the value.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import Any

COLOURS: tuple[tuple[float, str, str], ...] = (
    (-4.0, "#08478f", "#ffffff"),
    (-1.5, "#2f7fc1", "#ffffff"),
    (-0.5, "#93c4e8", "#000000"),
    (0.5, "#5fb37c", "#000000"),
    (1.5, "#f3b679", "#000000"),
    (4.0, "#dd6b20", "#000000"),
    (sys.float_info.max, "#a3341b", "#ffffff"),
)
"""Upper ends of log2 phi, colours of the node and of its text; those of the HTML report."""


def dumps(entry: Mapping[str, Any]) -> str:
    """The node data of one target: log2 of phi for each node that has one."""
    values = {node["output"]: math.log2(node["phi"]) for node in entry["profile"] if node["phi"]}
    data = {
        "results": {name: {"value": round(value, 4)} for name, value in values.items()},
        "thresholds": [{"value": end, "bgColor": colour, "textColor": text} for end, colour, text in COLOURS],
    }
    return json.dumps(data, indent=2, allow_nan=False) + "\n"
