"""PyTorch modules and exported programs read as a graph."""
