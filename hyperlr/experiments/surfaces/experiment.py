"""The paper's Figure 1: HD, RTHO and MARTHE on two surfaces in the plane, over a range of β."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hyperlr
from hyperlr.experiments import surfaces
from hyperlr.experiments.precision import float64

NUM_STEPS = 500


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


def _betas(first_decade: int, last_decade: int) -> tuple[float, ...]:
    """Returns 1, 2 and 5 times each power of ten, and the power after the last."""
    decades = range(first_decade, last_decade + 1)
    steps = [float(f"{digit}e{decade}") for decade in decades for digit in (1, 2, 5)]
    return (*steps, float(f"1e{last_decade + 1}"))


def _hd(learning_rate: Any, beta: Any) -> optax.GradientTransformationExtraArgs:
    return hyperlr.hd(optax.sgd, learning_rate, beta)


def _rtho(learning_rate: Any, beta: Any) -> optax.GradientTransformationExtraArgs:
    return hyperlr.rtho(optax.sgd, learning_rate, beta)


def _marthe(learning_rate: Any, beta: Any) -> optax.GradientTransformationExtraArgs:
    return hyperlr.marthe(optax.sgd, learning_rate, hyper_learning_rate=beta)


# The paper does not state ε nor the start. At ten times this ε the valley is so wide that hardly
# any β makes RTHO leap over it; with this one, MARTHE at β = 5e-4 does as the paper says: a gap
# near 1e-6, and μ = 0 on about 40% of the steps.
_EPSILON = 1e-3

PROBLEMS = {
    "beale": Problem(
        title="Beale",
        surface=surfaces.beale,
        start=(1.0, 1.0),
        learning_rate=0.0,
        minimum=0.0,
        betas=_betas(-8, -4),
        shown_beta=1e-5,
        window=((0.5, 3.6), (-0.7, 1.2)),
    ),
    "bukin": Problem(
        title=f"Bukin N. 6, ε = {_EPSILON:g}",
        surface=functools.partial(surfaces.smoothed_bukin, epsilon=_EPSILON),
        start=(1.0, 1.0),
        learning_rate=0.0,
        minimum=surfaces.smoothed_bukin_minimum(_EPSILON),
        betas=_betas(-5, -3),
        shown_beta=5e-4,
        window=((0.985, 1.03), (-0.9, 1.2)),
    ),
}

METHODS = {"hd": _hd, "rtho": _rtho, "marthe_mu": _marthe}
LABELS = {"hd": "HD", "rtho": "RTHO", "marthe_mu": "MARTHE (μ adapted)"}


def descend(method: str, problem: Problem, betas: Any, num_steps: int = NUM_STEPS) -> Descents:
    """Descends a surface with one method and several values of β, in float64.

    Args:
      method: a key of METHODS.
      problem: the surface and the start.
      betas: the values of β, [R].
      num_steps: T.
    """
    with float64():
        points, learning_rates, discounts = _descend(
            METHODS[method],
            problem.surface,
            num_steps,
            jnp.asarray(problem.start, jnp.float64),
            jnp.asarray(problem.learning_rate, jnp.float64),
            jnp.asarray(betas, jnp.float64),
        )
        values = jax.vmap(jax.vmap(problem.surface))(points)
        return Descents(*map(np.asarray, (points, values, learning_rates, discounts)))


def best_values(descents: Descents) -> np.ndarray:
    """Returns the best value on the way of each descent, [R]; the start counts, NaN do not."""
    return np.nanmin(descents.values, axis=1)


def diverged(descents: Descents) -> np.ndarray:
    """Returns whether each descent left the finite numbers, bool [R]."""
    return ~np.isfinite(descents.values).all(axis=1)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _descend(
    make_optimizer: Callable[..., optax.GradientTransformationExtraArgs],
    surface: Callable[[jax.Array], jax.Array],
    num_steps: int,
    start: jax.Array,
    learning_rate: jax.Array,
    betas: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    def one_descent(beta: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        optimizer = make_optimizer(learning_rate, beta)

        def step(carry: tuple[Any, Any], _: None) -> tuple[Any, Any]:
            point, state = carry
            updates, state = optimizer.update(
                jax.grad(surface)(point), state, point, value_fn=surface
            )
            recorded = hyperlr.metrics(state)
            point = optax.apply_updates(point, updates)
            return (point, state), (point, recorded["learning_rate"], recorded["discount"])

        carry = (start, optimizer.init(start))
        _, (points, learning_rates, discounts) = jax.lax.scan(step, carry, length=num_steps)
        return jnp.concatenate([start[None], points]), learning_rates, discounts

    return jax.vmap(one_descent)(betas)
