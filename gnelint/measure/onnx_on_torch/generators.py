"""Operators that make tensors: constants, ranges, random numbers."""

from __future__ import annotations
