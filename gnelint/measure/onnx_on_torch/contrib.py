"""Operators of com.microsoft, which ONNX Runtime's optimiser writes."""

from __future__ import annotations
