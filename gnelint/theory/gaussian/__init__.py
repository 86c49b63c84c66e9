"""Expectations of functions of Gaussian variables."""
