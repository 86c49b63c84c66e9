"""Operators on images: resampling, regions, boxes."""

from __future__ import annotations
