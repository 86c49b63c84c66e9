"""The mathematics behind the components: moments, theorems, quadrature, weight statistics. No framework is imported.

README.md beside this file has the whole of it, in numbered sections that docstrings cite: theory 1 has the notation.
"""
