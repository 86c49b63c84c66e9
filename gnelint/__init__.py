"""gnelint checks what every block of a neural network does to the gradient, before the network is trained."""

__version__ = "0.1.0"
