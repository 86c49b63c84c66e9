"""Expectations of functions of Gaussian variables (theory 3.3, theory 3.6)."""
