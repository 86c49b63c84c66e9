"""Softmax, attention and products of two activations.

Attention over T keys with logits of variance q (over the keys of one row): S = E sum_j a_j^2, K = E[S2 - 2 S3 + S2^2]
(theory.softmax). A cotangent that is white over tokens is multiplied by about S ~ 1/T on the value path; one that all
tokens share passes whole. Both are kept, as energy and position covariance. Source: theory 3.6.
"""

from gnelint.components.attention.heads import Attention
from gnelint.components.attention.product import MatMul
from gnelint.components.attention.softmax import LogSoftmax, Softmax

__all__ = ["Attention", "LogSoftmax", "MatMul", "Softmax"]
