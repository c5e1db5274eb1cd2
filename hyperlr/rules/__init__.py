"""Rules that move hyperparameters: optax transformations on a dict of scalars, fed Δη."""

from hyperlr.rules._adaptive_sgd import AdaptiveSgdState, adaptive_sgd
from hyperlr.rules._exponentiated_gradient import ExponentiatedGradientState, exponentiated_gradient

__all__ = [
    "AdaptiveSgdState",
    "ExponentiatedGradientState",
    "adaptive_sgd",
    "exponentiated_gradient",
]
