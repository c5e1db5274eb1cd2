"""Exponential decay: the rate falls by the same factor every step."""

import jax
import jax.numpy as jnp
import optax

from hyperlr.schedules._checks import check_numbers
from hyperlr.schedules._formula import Number, schedule_of


def exponential_decay(
    init_value: float | jax.Array, decay_rate: float | jax.Array
) -> optax.Schedule:
    """Decays the rate exponentially with the step.

    At step t::

        η_t = init_value · e^(−decay_rate · t)

    A factor γ each step is ``decay_rate = −log γ``.

    Args:
      init_value: η_0; maybe traced.
      decay_rate: λ, per step, usually positive; maybe traced.

    Returns:
      A schedule, step → value, for a step that may be traced. ``jvp``, ``vjp`` and ``vmap`` are
      supported in everything.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from hyperlr.schedules import exponential_decay
      >>> schedule = exponential_decay(0.5, jnp.log(2.0))
      >>> print([round(float(schedule(t)), 4) for t in (0, 1, 2)])
      [0.5, 0.25, 0.125]
      >>> tx, params = optax.sgd(schedule), jnp.array(1.0)
      >>> updates, state = tx.update(jnp.array(1.0), tx.init(params), params)
      >>> print(optax.apply_updates(params, updates))
      0.5

    References:
      Goodfellow, Bengio and Courville, "Deep learning", 2016, Section 8.3.
    """
    check_numbers(init_value=init_value, decay_rate=decay_rate)
    return schedule_of(_exponential_decay, init_value, decay_rate)


def _exponential_decay(step: Number, init_value: Number, decay_rate: Number) -> jax.Array:
    # optax.exponential_decay branches on its rate, which may be traced here.
    return init_value * jnp.exp(-decay_rate * step)
