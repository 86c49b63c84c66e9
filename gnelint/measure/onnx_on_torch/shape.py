"""Data movement: reshape, transpose, slice, split, concatenate, pad, tile."""

from __future__ import annotations
