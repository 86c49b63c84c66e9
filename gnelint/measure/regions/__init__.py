"""Regions of a network run on draws from predicted moments, and what was found read as moments again (theory 7.3)."""
