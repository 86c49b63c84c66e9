"""Edits written into ONNX files."""
