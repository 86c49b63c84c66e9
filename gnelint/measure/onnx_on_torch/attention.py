"""Attention, rotary embedding and softmax-like operators on whole sequences."""

from __future__ import annotations
