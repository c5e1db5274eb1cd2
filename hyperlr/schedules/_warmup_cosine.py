"""Warmup and cosine: the rate rises linearly, and falls along half a period of a cosine."""

from numbers import Real

import jax
import optax

from hyperlr.schedules._checks import check_at_least, check_numbers
from hyperlr.schedules._formula import Number, between, cosine_part, fraction, schedule_of


def warmup_cosine(
    peak_value: float | jax.Array,
    warmup_steps: float | jax.Array,
    num_steps: float | jax.Array,
    init_value: float | jax.Array = 0.0,
    end_value: float | jax.Array = 0.0,
) -> optax.Schedule:
    """Rises linearly to a peak, falls from it along a cosine, and stays at the end.

    At step t, with W = ``warmup_steps`` and T = ``num_steps``, the warmup included::

        η_t = init_value + (peak_value − init_value) · t/W                                 for t < W
              end_value + ½ (peak_value − end_value) (1 + cos(π (t − W)/(T − W)))      for W ≤ t < T
              end_value                                                             from there on

    These are the values of ``optax.warmup_cosine_decay_schedule(init_value, peak_value, W, T,
    end_value)``, which asks in Python whether the peak is 0, so that its peak cannot be traced, and
    cannot be learned under ``jit``.

    Args:
      peak_value: η_max, the value at step W; maybe traced, and maybe 0.
      warmup_steps: W, a number of steps, at least 0; maybe traced.
      num_steps: T, the step at which ``end_value`` is reached, more than W; maybe traced.
      init_value: the value at step 0, if W > 0; maybe traced.
      end_value: the value from step T on; maybe traced.

    Returns:
      A schedule, step → value, for a step that may be traced. ``jvp``, ``vjp`` and ``vmap`` are
      supported in everything; at step W the derivative in W is the mean of both sides.

    Raises:
      ValueError: a static ``warmup_steps`` is less than 0, or ``num_steps`` not more than it.

    Example:
      The peak learned while training.

      >>> import jax, jax.numpy as jnp, optax, hyperlr
      >>> from hyperlr.schedules import warmup_cosine
      >>> schedule = warmup_cosine(0.5, warmup_steps=2, num_steps=10)
      >>> print([round(float(schedule(t)), 4) for t in (0, 1, 2, 6, 10, 1000)])
      [0.0, 0.25, 0.5, 0.25, 0.0, 0.0]
      >>> tx = hyperlr.online(
      ...     lambda peak: optax.sgd(warmup_cosine(peak, 2, 20)),
      ...     {"peak": 0.01},
      ...     hyper_optimizer=hyperlr.adaptive_sgd(1e-3),
      ...     bounds={"peak": (0.0, 1.0)},
      ... )
      >>> loss = lambda w: jnp.sum((w - 1.0) ** 2)
      >>> params = jnp.zeros(3)
      >>> state = tx.init(params)
      >>> @jax.jit
      ... def step(params, state):
      ...     updates, state = tx.update(jax.grad(loss)(params), state, params, value_fn=loss)
      ...     return optax.apply_updates(params, updates), state
      >>> for _ in range(20):
      ...     params, state = step(params, state)
      >>> bool(state.hyperparams["peak"] > 0.02)
      True

    References:
      Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour", 2017, for the
      warmup; Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR
      2017, for the cosine.
    """
    check_numbers(peak_value=peak_value, init_value=init_value, end_value=end_value)
    check_at_least("warmup_steps", warmup_steps, 0)
    check_at_least("num_steps", num_steps, 1)
    if isinstance(warmup_steps, Real) and isinstance(num_steps, Real) and num_steps <= warmup_steps:
        raise ValueError(
            f"num_steps must be more than warmup_steps, got {num_steps} and {warmup_steps}: it is "
            "the length of the whole schedule, the warmup included"
        )
    return schedule_of(_warmup_cosine, peak_value, warmup_steps, num_steps, init_value, end_value)


def _warmup_cosine(
    step: Number,
    peak_value: Number,
    warmup_steps: Number,
    num_steps: Number,
    init_value: Number,
    end_value: Number,
) -> jax.Array:
    part = cosine_part(fraction(step, warmup_steps, num_steps - warmup_steps))
    falling = between(peak_value, end_value, part)
    return between(init_value, falling, fraction(step, 0, warmup_steps))
