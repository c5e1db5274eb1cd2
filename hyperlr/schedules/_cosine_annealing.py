"""Cosine annealing: the rate falls along half a period of a cosine."""

import jax
import optax

from hyperlr.schedules._checks import check_at_least, check_numbers
from hyperlr.schedules._formula import Number, between, cosine_part, fraction, schedule_of


def cosine_annealing(
    peak_value: float | jax.Array,
    num_steps: float | jax.Array,
    end_value: float | jax.Array = 0.0,
) -> optax.Schedule:
    """Falls from one value to another along a cosine, and stays there.

    At step t::

        η_t = end_value + ½ (peak_value − end_value) (1 + cos(π min(t, num_steps) / num_steps))

    Args:
      peak_value: η_max, the value at step 0; maybe traced, and maybe 0.
      num_steps: T_max, the step at which ``end_value`` is reached, at least 1; maybe traced.
      end_value: η_min, the value from step ``num_steps`` on; maybe traced.

    Returns:
      A schedule, step → value, for a step that may be traced. ``jvp``, ``vjp`` and ``vmap`` are
      supported in everything.

    Raises:
      ValueError: a static ``num_steps`` is less than 1.

    Example:
      The derivative of the first step in the peak, as a method that learns the peak needs it.

      >>> import jax, jax.numpy as jnp, optax
      >>> from hyperlr.schedules import cosine_annealing
      >>> print([round(float(cosine_annealing(0.5, 10)(t)), 4) for t in (0, 5, 10, 1000)])
      [0.5, 0.25, 0.0, 0.0]
      >>> def first_step(peak):
      ...     tx, params = optax.sgd(cosine_annealing(peak, 10)), jnp.array(1.0)
      ...     updates, state = tx.update(jnp.array(2.0), tx.init(params), params)
      ...     return optax.apply_updates(params, updates)
      >>> print(jax.grad(first_step)(0.5))
      -2.0

      The peak learned while training, as a hyperparameter of the inner optimizer.

      >>> import hyperlr
      >>> tx = hyperlr.online(
      ...     lambda peak: optax.sgd(hyperlr.schedules.cosine_annealing(peak, 20)),
      ...     {"peak": 0.01},
      ...     hyper_optimizer=hyperlr.adaptive_sgd(1e-3),
      ...     bounds={"peak": (0.0, 1.0)},
      ... )
      >>> loss = lambda w: jnp.sum((w - 1.0) ** 2)
      >>> params = jnp.zeros(3)
      >>> state = tx.init(params)
      >>> for _ in range(20):
      ...     updates, state = tx.update(jax.grad(loss)(params), state, params, value_fn=loss)
      ...     params = optax.apply_updates(params, updates)
      >>> bool(state.hyperparams["peak"] > 0.02)
      True

    References:
      Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017.
    """
    check_numbers(peak_value=peak_value, end_value=end_value)
    check_at_least("num_steps", num_steps, 1)
    return schedule_of(_cosine_annealing, peak_value, num_steps, end_value)


def _cosine_annealing(
    step: Number, peak_value: Number, num_steps: Number, end_value: Number
) -> jax.Array:
    # optax.cosine_decay_schedule has alpha = end_value / peak_value in place of the end: 0/0 at
    # peak 0; and it branches on the number of steps, which may be traced here.
    return between(peak_value, end_value, cosine_part(fraction(step, 0, num_steps)))
