"""Convolutions of every kind."""

from __future__ import annotations
