"""Online hypergradient methods: the recursion of Algorithm 1 of [P] and its three discounts."""

from hyperlr.online._adaptive_sgd import AdaptiveSgdState, adaptive_sgd
from hyperlr.online._engine import OnlineState, online
from hyperlr.online._exponentiated_gradient import (
    ExponentiatedGradientState,
    exponentiated_gradient,
)
from hyperlr.online._find_meta_learning_rate import (
    FoundMetaLearningRate,
    NoSurvivorError,
    find_meta_learning_rate,
)
from hyperlr.online._guard import GuardState, guard
from hyperlr.online._hd import hd
from hyperlr.online._marthe import marthe
from hyperlr.online._metrics import metrics
from hyperlr.online._rtho import rtho

__all__ = [
    "AdaptiveSgdState",
    "ExponentiatedGradientState",
    "FoundMetaLearningRate",
    "GuardState",
    "NoSurvivorError",
    "OnlineState",
    "adaptive_sgd",
    "exponentiated_gradient",
    "find_meta_learning_rate",
    "guard",
    "hd",
    "marthe",
    "metrics",
    "online",
    "rtho",
]
