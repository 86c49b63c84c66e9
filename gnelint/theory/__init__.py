"""The mathematics behind the components: moments, theorems, quadrature, weight statistics. No framework is imported."""
