"""Warmup-stable-decay: the rate rises linearly, stays, and falls linearly."""

import jax
import optax

from hyperlr.schedules._checks import check_at_least, check_numbers
from hyperlr.schedules._formula import Number, between, fraction, schedule_of


def warmup_stable_decay(
    peak_value: float | jax.Array,
    warmup_steps: float | jax.Array,
    stable_steps: float | jax.Array,
    decay_steps: float | jax.Array,
    init_value: float | jax.Array = 0.0,
    end_value: float | jax.Array = 0.0,
) -> optax.Schedule:
    """Rises linearly to a peak, stays there, falls linearly, and stays at the end.

    At step t, with W, S and D the three numbers of steps::

        η_t = init_value + (peak_value − init_value) · t/W             for t < W
              peak_value                                               for W ≤ t < W + S
              peak_value + (end_value − peak_value) · (t − W − S)/D    for W + S ≤ t < W + S + D
              end_value                                                from there on

    Args:
      peak_value: the value that is kept; maybe traced.
      warmup_steps: W, a number of steps, at least 0; maybe traced.
      stable_steps: S, a number of steps, at least 0; maybe traced.
      decay_steps: D, a number of steps, at least 1; maybe traced.
      init_value: the value at step 0; maybe traced.
      end_value: the value from step W + S + D on; maybe traced.

    Returns:
      A schedule, step → value, for a step that may be traced. ``jvp``, ``vjp`` and ``vmap`` are
      supported in everything; at a corner the derivative in a number of steps is the mean of both
      sides.

    Raises:
      ValueError: a static number of steps is less than stated above.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from hyperlr.schedules import warmup_stable_decay
      >>> schedule = warmup_stable_decay(0.5, 2, 10, 2)
      >>> print([float(schedule(t)) for t in (0, 1, 2, 11, 12, 13, 14)])
      [0.0, 0.25, 0.5, 0.5, 0.5, 0.25, 0.0]
      >>> tx, params = optax.sgd(warmup_stable_decay(0.5, 0, 10, 2)), jnp.array(1.0)
      >>> updates, state = tx.update(jnp.array(1.0), tx.init(params), params)
      >>> print(optax.apply_updates(params, updates))
      0.5

    References:
      Hu et al., "MiniCPM: unveiling the potential of small language models with scalable training
      strategies", 2024; Hägele et al., "Scaling laws and compute-optimal training beyond fixed
      training durations", 2024.
    """
    check_numbers(peak_value=peak_value, init_value=init_value, end_value=end_value)
    check_at_least("warmup_steps", warmup_steps, 0)
    check_at_least("stable_steps", stable_steps, 0)
    check_at_least("decay_steps", decay_steps, 1)
    values = (peak_value, init_value, end_value)
    lengths = (warmup_steps, stable_steps, decay_steps)
    return schedule_of(_warmup_stable_decay, *values, *lengths)


def _warmup_stable_decay(
    step: Number,
    peak_value: Number,
    init_value: Number,
    end_value: Number,
    warmup_steps: Number,
    stable_steps: Number,
    decay_steps: Number,
) -> jax.Array:
    # optax.linear_schedule branches on its number of steps, which may be traced here.
    falling = between(
        peak_value, end_value, fraction(step, warmup_steps + stable_steps, decay_steps)
    )
    return between(init_value, falling, fraction(step, 0, warmup_steps))
