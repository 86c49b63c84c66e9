"""Edits written into PyTorch modules."""
