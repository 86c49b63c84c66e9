"""ONNX files read as a graph."""
