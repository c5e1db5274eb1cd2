"""The classic learning-rate schedules."""

from hyperlr.schedules._cosine_annealing import cosine_annealing
from hyperlr.schedules._exponential_decay import exponential_decay
from hyperlr.schedules._from_array import from_array, load_array, save_array
from hyperlr.schedules._step_decay import step_decay
from hyperlr.schedules._triangular import triangular
from hyperlr.schedules._warm_restarts import warm_restarts
from hyperlr.schedules._warmup_cosine import warmup_cosine
from hyperlr.schedules._warmup_stable_decay import warmup_stable_decay

__all__ = [
    "cosine_annealing",
    "exponential_decay",
    "from_array",
    "load_array",
    "save_array",
    "step_decay",
    "triangular",
    "warm_restarts",
    "warmup_cosine",
    "warmup_stable_decay",
]
