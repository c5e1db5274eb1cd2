"""What curvature says about the largest stable step."""

from hyperlr.curvature._hvp import hvp
from hyperlr.curvature._limit_learning_rate import LimitLearningRateState, limit_learning_rate
from hyperlr.curvature._lipschitz_constant import lipschitz_constant
from hyperlr.curvature._step_size import (
    gradient_norm_bound,
    max_stable_learning_rate,
    optimal_learning_rate,
    rayleigh_quotient,
)

__all__ = [
    "LimitLearningRateState",
    "gradient_norm_bound",
    "hvp",
    "limit_learning_rate",
    "lipschitz_constant",
    "max_stable_learning_rate",
    "optimal_learning_rate",
    "rayleigh_quotient",
]
