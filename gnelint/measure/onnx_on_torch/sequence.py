"""Sequences and optionals."""

from __future__ import annotations
