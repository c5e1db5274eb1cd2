"""The triangular schedule: the rate rises and falls linearly, again and again."""

import jax
import jax.numpy as jnp
import optax

from hyperlr.schedules._checks import check_at_least, check_numbers
from hyperlr.schedules._formula import Number, between, schedule_of


def triangular(
    min_value: float | jax.Array,
    max_value: float | jax.Array,
    half_period: float | jax.Array,
) -> optax.Schedule:
    """Cycles linearly between two values, starting at the lower.

    At step t, with μ = ``half_period``::

        η_t = min_value + (max_value − min_value) · (1 − |t/μ − 2 ⌊t/(2μ)⌋ − 1|)

    which is ``min_value`` at every even multiple of μ and ``max_value`` at every odd one.

    Args:
      min_value: the lowest value, at step 0; maybe traced.
      max_value: the highest value, at step ``half_period``; maybe traced.
      half_period: number of steps from the lowest value to the highest, at least 1; maybe traced.

    Returns:
      A schedule, step → value, for a step that may be traced. ``jvp``, ``vjp`` and ``vmap`` are
      supported; at the corners the derivative in ``half_period`` is that of one side.

    Raises:
      ValueError: a static ``half_period`` is less than 1.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from hyperlr.schedules import triangular
      >>> schedule = triangular(0.0, 0.5, half_period=2)
      >>> print([float(schedule(t)) for t in range(6)])
      [0.0, 0.25, 0.5, 0.25, 0.0, 0.25]
      >>> tx, params = optax.sgd(triangular(0.5, 1.0, half_period=2)), jnp.array(1.0)
      >>> updates, state = tx.update(jnp.array(1.0), tx.init(params), params)
      >>> print(optax.apply_updates(params, updates))
      0.5

    References:
      Smith, "Cyclical learning rates for training neural networks", WACV 2017.
    """
    check_numbers(min_value=min_value, max_value=max_value)
    check_at_least("half_period", half_period, 1)
    return schedule_of(_triangular, min_value, max_value, half_period)


def _triangular(
    step: Number, min_value: Number, max_value: Number, half_period: Number
) -> jax.Array:
    # t/μ − 2⌊t/(2μ)⌋ in [0, 2), as a remainder, which is exact for large integer steps. One
    # also finds ⌊t/μ⌋ in print: then the value rises once and stays at the lowest for ever.
    position = jnp.mod(step, 2 * half_period) / half_period
    return between(min_value, max_value, 1 - jnp.abs(position - 1))
