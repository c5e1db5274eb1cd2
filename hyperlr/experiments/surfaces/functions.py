"""The two surfaces of the paper's Figure 1, functions of a point [2], and descents on them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


def beale(point: jax.Array) -> jax.Array:
    """Beale's function: steep peaks and wide plateaus, minimum 0 at (3, 0.5).

    L(x, y) = (1.5 - x + x y)² + (2.25 - x + x y²)² + (2.625 - x + x y³)²
    """
    x, y = point[0], point[1]
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def smoothed_bukin(point: jax.Array, epsilon: float) -> jax.Array:
    """Bukin's function N. 6, simplified and smoothed: a straight valley along y = 0.01 x.

    L(x, y) = sqrt(((y - 0.01 x)² + ε)^(1/2) + ε)

    Its minimum, all along the valley, is `smoothed_bukin_minimum(epsilon)`.
    """
    distance = point[1] - 0.01 * point[0]
    return jnp.sqrt(jnp.sqrt(distance**2 + epsilon) + epsilon)


def smoothed_bukin_minimum(epsilon: float) -> float:
    """Returns the least value of `smoothed_bukin`, sqrt(ε^(1/2) + ε)."""
    return (epsilon**0.5 + epsilon) ** 0.5


class Problem(NamedTuple):
    """A surface and where the descent on it starts."""

    title: str
    surface: Callable[[jax.Array], jax.Array]
    minimum: float
    """The least value of the surface."""
    betas: tuple[float, ...]
    """Hyper-learning rates that are tried."""
    shown_beta: float
    """The one among them whose trajectories are drawn."""
    window: tuple[tuple[float, float], tuple[float, float]]
    """What the figure shows of the plane: the ranges of x and y."""
    start: tuple[float, float] = (1.0, 1.0)
    learning_rate: float = 0.0
    """η_0."""

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
