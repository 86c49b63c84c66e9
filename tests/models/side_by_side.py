"""The networks on which gnelint is held against other tools: each failure beside its correction.

A: 50 convolutions of 64 channels, 3x3 on 16x16, ReLU. B: 25 two-conv residual blocks without normalisation.
C: 20 layers of 256 units. D and E: A with the framework's default initialisation and with Xavier.
"""

from __future__ import annotations

from torch import nn

from tests.models.plain import plain_conv, plain_mlp, residual_conv


def a_bad() -> nn.Sequential:
    """Half the He standard deviation: the gradient vanishes."""
    return plain_conv(depth=50, gain=0.5)


def a_double() -> nn.Sequential:
    """Twice the He standard deviation: the gradient explodes."""
    return plain_conv(depth=50, gain=2.0)


def a_ok() -> nn.Sequential:
    """He."""
    return plain_conv(depth=50)


def b_bad() -> nn.Sequential:
    """He in every residual block: the gradient doubles at each."""
    return residual_conv(depth=25)


def b_ok() -> nn.Sequential:
    """First convolution times depth^-1/2, last one zero."""
    return residual_conv(depth=25, fixup=True)


def c_bad() -> nn.Sequential:
    """Sigmoid with Xavier weights."""
    return plain_mlp(depth=20, activation="sigmoid", init="xavier")


def c_ok() -> nn.Sequential:
    """Tanh with gain 5/3."""
    return plain_mlp(depth=20, activation="tanh", init="xavier", gain=5 / 3)


def d_bad() -> nn.Sequential:
    """What the framework draws unless told otherwise, under ReLU."""
    return plain_conv(depth=50, init="default")


def e_bad() -> nn.Sequential:
    """Xavier under ReLU."""
    return plain_conv(depth=50, init="xavier")
