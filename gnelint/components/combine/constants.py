"""Numbers that the network holds."""

from __future__ import annotations

import numpy as np

from gnelint.components.base import Inputs, Opaque, component
from gnelint.components.linear import constant_moments
from gnelint.theory.fields.moments import Moments


@component("constant")
class Constant(Opaque):
    """A tensor of the model that enters as a value (a class token, a table of positions); no gradient is asked of
    it. Source: theory 3.1."""

    def joined(self, inputs: Inputs) -> Moments:
        array = np.asarray(self.node.parameters["value"].array(), dtype=np.float64).reshape(self.output_shapes[0])
        whole = Moments.uniform(array.shape, 0.0, 0.0)
        axes, mean, variance = constant_moments(array, whole)
        return Moments.flat(axes, mean, variance, nonnegative=bool((array >= 0).all()))
