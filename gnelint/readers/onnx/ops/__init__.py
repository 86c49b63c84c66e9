"""How each ONNX operation becomes nodes of the vocabulary, by family."""
