"""Statistics of weight tensors, and of how they were drawn."""
