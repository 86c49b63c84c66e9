"""Numbers far beyond what single precision holds: hundreds of layers that shrink or grow leave double precision too.

Where all that the network still needs is in one value, all that follows may see it larger by one factor: linear and
rectified layers send back the same gradient, and to all else it is nothing, or infinite, with the factor and without as
long as it stays beyond single precision. The gradient has an exponent of its own.
"""

from __future__ import annotations

import math

from gnelint.ir.graph import Graph
from gnelint.theory.fields.moments import Moments

_BEYOND = 200
"""log2 of sizes that are brought nearer, or its negative; single precision ends at 2^128 and 2^-149."""
_NEARER = 150
"""To which size: still beyond, and cubes of squares are in double precision."""


def held(graph: Graph, name: str, x: Moments) -> Moments:
    """The moments of a value, of numbers that may be worked with further on.

    Args:
        graph: that the value is of.
        name: of the value.
        x: its moments, finite.
    """
    furthest = max(float(x.mean.max(initial=0.0)), -float(x.mean.min(initial=0.0)))
    largest = max(furthest, math.sqrt(float(x.variance.max(initial=0.0))))  # the second moments would be kept with x
    size = math.log2(largest) if largest > 0.0 else 0.0
    if abs(size) <= _BEYOND or graph.values[name].dtype == "float64" or name not in graph.bottlenecks:
        return x
    return x.scaled(2.0 ** (math.copysign(_NEARER, size) - round(size)))
