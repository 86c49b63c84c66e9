"""Model files and modules read as a graph of the vocabulary."""
