"""Fourier transforms and windows."""

from __future__ import annotations
