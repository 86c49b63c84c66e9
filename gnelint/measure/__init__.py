"""What a network does to the gradient, measured with autograd; ONNX files run on torch for it."""
