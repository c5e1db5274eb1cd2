"""What is descended, and what came of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np


class Problem(NamedTuple):
    """A surface and where the descent on it starts."""

    title: str
    surface: Callable[[jax.Array], jax.Array]
    start: tuple[float, float]
    learning_rate: float
    """η_0."""
    minimum: float
    """The least value of the surface."""
    betas: tuple[float, ...]
    """Hyper-learning rates that are tried."""
    shown_beta: float
    """The one among them whose trajectories are drawn."""
    window: tuple[tuple[float, float], tuple[float, float]]
    """What the figure shows of the plane: the ranges of x and y."""

    def in_words(self) -> dict[str, Any]:
        """Returns what tells the problem from others."""
        return {name: x for name, x in self._asdict().items() if name not in ("surface", "window")}


class Descents(NamedTuple):
    """Descents on a surface, one for each of R values of β."""

    points: np.ndarray
    """float64 [R, T + 1, 2], from the start on."""
    values: np.ndarray
    """float64 [R, T + 1], the surface there."""
    learning_rates: np.ndarray
    """float64 [R, T], η of every step."""
    discounts: np.ndarray
    """float64 [R, T], μ of every step."""

    @property
    def best_values(self) -> np.ndarray:
        """The best value on the way of each descent, [R]; the start counts, NaN do not."""
        return np.nanmin(self.values, axis=1)

    @property
    def diverged(self) -> np.ndarray:
        """Whether each descent left the finite numbers, bool [R]."""
        return ~np.isfinite(self.values).all(axis=1)
