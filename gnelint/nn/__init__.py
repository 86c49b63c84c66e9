"""torch modules that keep the gradient's norm, to be used in place of torch's own; they need torch installed."""

from gnelint.nn.centred import CentredConv1d, CentredConv2d, CentredConv3d, CentredLinear
from gnelint.nn.pointwise import Pointwise, Scale, ScaledELU
from gnelint.nn.second_moment import SecondMomentNorm1d, SecondMomentNorm2d, SecondMomentNorm3d

__all__ = [
    "CentredConv1d",
    "CentredConv2d",
    "CentredConv3d",
    "CentredLinear",
    "Pointwise",
    "Scale",
    "ScaledELU",
    "SecondMomentNorm1d",
    "SecondMomentNorm2d",
    "SecondMomentNorm3d",
]
