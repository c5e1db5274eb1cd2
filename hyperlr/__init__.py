"""hyperlr: learning rates learned by hypergradients, as optax transformations."""

from hyperlr import curvature, optimizers, schedules
from hyperlr.online import (
    AdaptiveSgdState,
    ExponentiatedGradientState,
    OnlineState,
    adaptive_sgd,
    exponentiated_gradient,
    hd,
    marthe,
    metrics,
    online,
    rtho,
)

__version__ = "0.1.0"

__all__ = [
    "AdaptiveSgdState",
    "ExponentiatedGradientState",
    "OnlineState",
    "adaptive_sgd",
    "curvature",
    "exponentiated_gradient",
    "hd",
    "marthe",
    "metrics",
    "online",
    "optimizers",
    "rtho",
    "schedules",
]
