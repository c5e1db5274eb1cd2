"""Warmup-stable-decay: the rate rises linearly, stays, and falls linearly."""

import jax
import optax

from hyperlr.schedules._checks import check_at_least


def warmup_stable_decay(
    peak_value: float | jax.Array,
    warmup_steps: int,
    stable_steps: int,
    decay_steps: int,
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
      warmup_steps: W, a number of steps, at least 0; static.
      stable_steps: S, a number of steps, at least 0; static.
      decay_steps: D, a number of steps, at least 1; static.
      init_value: the value at step 0; maybe traced.
      end_value: the value from step W + S + D on; maybe traced.

    Returns:
      A schedule, step → value, for a step that may be traced. ``jvp`` and ``vjp`` in the three
      values, and ``vmap``, are supported.

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
    check_at_least("warmup_steps", warmup_steps, 0)
    check_at_least("stable_steps", stable_steps, 0)
    check_at_least("decay_steps", decay_steps, 1)
    return optax.join_schedules(
        [
            optax.linear_schedule(init_value, peak_value, warmup_steps),
            optax.constant_schedule(peak_value),
            optax.linear_schedule(peak_value, end_value, decay_steps),
        ],
        [warmup_steps, warmup_steps + stable_steps],
    )
