"""The two surfaces of the paper's Figure 1, as functions of a point [2]."""

import jax
import jax.numpy as jnp


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
