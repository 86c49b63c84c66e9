"""The ONNX file itself: wire format, element types, weights inside and beside it, patching bytes."""
