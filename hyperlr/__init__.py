"""hyperlr: learning rates learned by hypergradients, as optax transformations."""

from hyperlr import curvature, offline, optimizers, schedules
from hyperlr.offline import lrs_opt, optimize_schedule, schedule_hypergradient, unroll
from hyperlr.online import (
    AdaptiveSgdState,
    ExponentiatedGradientState,
    FoundMetaLearningRate,
    GuardState,
    NoSurvivorError,
    OnlineState,
    adaptive_sgd,
    exponentiated_gradient,
    find_meta_learning_rate,
    guard,
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
    "FoundMetaLearningRate",
    "GuardState",
    "NoSurvivorError",
    "OnlineState",
    "adaptive_sgd",
    "curvature",
    "exponentiated_gradient",
    "find_meta_learning_rate",
    "guard",
    "hd",
    "lrs_opt",
    "marthe",
    "metrics",
    "offline",
    "online",
    "optimize_schedule",
    "optimizers",
    "rtho",
    "schedule_hypergradient",
    "schedules",
    "unroll",
]
