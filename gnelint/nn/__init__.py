"""torch modules that keep the gradient's norm, to be used in place of torch's own; they need torch installed."""

from gnelint.nn.centred import Centred, CentredConv1d, CentredConv2d, CentredConv3d, CentredLinear
from gnelint.nn.conversion import convert, fold
from gnelint.nn.l1 import L1Norm1d, L1Norm2d, L1Norm3d
from gnelint.nn.operators import Backend, backend
from gnelint.nn.pointwise import Pointwise, Scale, ScaledELU
from gnelint.nn.second_moment import SecondMomentNorm1d, SecondMomentNorm2d, SecondMomentNorm3d
from gnelint.nn.synchronised import SyncSecondMomentNorm

__all__ = [
    "Backend",
    "Centred",
    "CentredConv1d",
    "CentredConv2d",
    "CentredConv3d",
    "CentredLinear",
    "L1Norm1d",
    "L1Norm2d",
    "L1Norm3d",
    "Pointwise",
    "Scale",
    "ScaledELU",
    "SecondMomentNorm1d",
    "SecondMomentNorm2d",
    "SecondMomentNorm3d",
    "SyncSecondMomentNorm",
    "backend",
    "convert",
    "fold",
]
