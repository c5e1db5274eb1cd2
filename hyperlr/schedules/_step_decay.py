"""Step decay: the rate falls by a factor at regular intervals, and is constant between them."""

import jax
import jax.numpy as jnp
import optax

from hyperlr.schedules._checks import check_at_least, check_numbers
from hyperlr.schedules._formula import Number, schedule_of


def step_decay(
    init_value: float | jax.Array, decay_factor: float | jax.Array, interval: float | jax.Array
) -> optax.Schedule:
    """Multiplies the rate by a factor every few steps.

    At step t::

        η_t = init_value · decay_factor^⌊t / interval⌋

    Args:
      init_value: η_0, the value of the first ``interval`` steps; maybe traced.
      decay_factor: γ, usually in (0, 1); maybe traced.
      interval: τ, a number of steps, at least 1; maybe traced.

    Returns:
      A schedule, step → value, for a step that may be traced. ``jvp``, ``vjp`` and ``vmap`` are
      supported; the derivative in ``interval`` is 0.

    Raises:
      ValueError: a static ``interval`` is less than 1.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from hyperlr.schedules import step_decay
      >>> schedule = step_decay(0.5, 0.5, interval=60)
      >>> print([float(schedule(t)) for t in (0, 59, 60, 120)])
      [0.5, 0.5, 0.25, 0.125]
      >>> tx, params = optax.sgd(schedule), jnp.array(1.0)
      >>> updates, state = tx.update(jnp.array(1.0), tx.init(params), params)
      >>> print(optax.apply_updates(params, updates))
      0.5

    References:
      Goodfellow, Bengio and Courville, "Deep learning", 2016, Section 8.3.
    """
    check_numbers(init_value=init_value, decay_factor=decay_factor)
    check_at_least("interval", interval, 1)
    return schedule_of(_step_decay, init_value, decay_factor, interval)


def _step_decay(
    step: Number, init_value: Number, decay_factor: Number, interval: Number
) -> jax.Array:
    # optax.exponential_decay(staircase=True) branches on decay_factor, which may be traced here.
    return init_value * jnp.power(decay_factor, jnp.floor_divide(step, interval))
