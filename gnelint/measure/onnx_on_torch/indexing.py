"""Gather, scatter and what else reads or writes by index."""

from __future__ import annotations
