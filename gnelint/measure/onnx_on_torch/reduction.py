"""Reductions, running sums, softmax, searches for the largest."""

from __future__ import annotations
