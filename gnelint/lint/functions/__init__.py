"""The functions that expressions may call: the numbers of one prediction, and nothing else.

`rules/README.md` lists them for people who write rules; a test keeps both together.
"""

from __future__ import annotations

from collections.abc import Mapping

from gnelint.lint.functions.alike import ALIKE
from gnelint.lint.functions.attention import ATTENTION
from gnelint.lint.functions.axes import AXES
from gnelint.lint.functions.blocks import BLOCKS
from gnelint.lint.functions.codes import CODES
from gnelint.lint.functions.edges import EDGES
from gnelint.lint.functions.features import FEATURES
from gnelint.lint.functions.hazards import HAZARDS
from gnelint.lint.functions.head import HEAD
from gnelint.lint.functions.keys import KEYS
from gnelint.lint.functions.knots import KNOTS
from gnelint.lint.functions.margins import MARGINS
from gnelint.lint.functions.memory import MEMORY
from gnelint.lint.functions.movement import MOVEMENT
from gnelint.lint.functions.network import NETWORK
from gnelint.lint.functions.numbers import NUMBERS
from gnelint.lint.functions.order import ORDER
from gnelint.lint.functions.places import PLACES
from gnelint.lint.functions.policy import POLICY
from gnelint.lint.functions.predictions import PREDICTIONS
from gnelint.lint.functions.repeats import REPEATS
from gnelint.lint.functions.shapes import SHAPES
from gnelint.lint.functions.shortcuts import SHORTCUTS
from gnelint.lint.functions.slices import SLICES
from gnelint.lint.functions.statistics import STATISTICS
from gnelint.lint.functions.structure import STRUCTURE
from gnelint.lint.functions.teachers import TEACHERS
from gnelint.lint.functions.terms import TERMS
from gnelint.lint.functions.together import TOGETHER
from gnelint.lint.functions.waves import WAVES
from gnelint.lint.functions.weights import WEIGHTS
from gnelint.lint.kinds import Function

SECTIONS: Mapping[str, tuple[Function, ...]] = {
    "Numbers": NUMBERS,
    "Predictions": PREDICTIONS,
    "Weights": WEIGHTS,
    "Movement": MOVEMENT,
    "Numbers at the first step": HAZARDS,
    "What a value is set against": (*STATISTICS, *CODES, *KNOTS, *WAVES),
    "Along time": (*MEMORY, *SLICES),
    "Shapes and attributes": SHAPES,
    "Axes": (*AXES, *ATTENTION, *KEYS, *TOGETHER, *FEATURES, *EDGES, *PLACES),
    "The head and the loss": (*HEAD, *TERMS, *POLICY, *MARGINS),
    "Where in the graph": (*STRUCTURE, *REPEATS, *ALIKE),
    "Blocks": (*BLOCKS, *SHORTCUTS),
    "The network": (*NETWORK, *ORDER, *TEACHERS),
}
"""The functions as the documentation groups them."""

FUNCTIONS: Mapping[str, Function] = {
    function.signature.partition("(")[0]: function for section in SECTIONS.values() for function in section
}
