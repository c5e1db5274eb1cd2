"""hyperlr: learning rates learned by hypergradients, as optax transformations."""

from hyperlr import curvature, offline, optimizers, schedules
from hyperlr.methods import (
    Bursts,
    GuardState,
    OnlineState,
    alignment,
    auto,
    eval_params,
    guard,
    hd,
    linearize_grad,
    marthe,
    metrics,
    online,
    per_group,
    rtho,
    scheduled,
    value_and_grad,
)
from hyperlr.offline import lrs_opt, optimize_schedule, schedule_hypergradient, unroll
from hyperlr.rules import (
    AdaptiveSgdState,
    ExponentiatedGradientState,
    adaptive_sgd,
    exponentiated_gradient,
)
from hyperlr.search import FoundStepSize, NoSurvivorError, find_step_size

__version__ = "0.1.0"

__all__ = [
    "AdaptiveSgdState",
    "Bursts",
    "ExponentiatedGradientState",
    "FoundStepSize",
    "GuardState",
    "NoSurvivorError",
    "OnlineState",
    "adaptive_sgd",
    "alignment",
    "auto",
    "curvature",
    "eval_params",
    "exponentiated_gradient",
    "find_step_size",
    "guard",
    "hd",
    "linearize_grad",
    "lrs_opt",
    "marthe",
    "metrics",
    "offline",
    "online",
    "optimize_schedule",
    "optimizers",
    "per_group",
    "rtho",
    "schedule_hypergradient",
    "scheduled",
    "schedules",
    "unroll",
    "value_and_grad",
]
