"""hyperlr: learning rates learned by hypergradients, as optax transformations."""

__version__ = "0.1.0"
