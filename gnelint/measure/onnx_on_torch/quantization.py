"""Quantisation and products of quantised tensors."""

from __future__ import annotations
