"""Warm restarts (SGDR): cosine annealing that starts again, each time for longer."""

import functools
import math
from itertools import pairwise

import jax
import jax.numpy as jnp
import optax

from hyperlr.schedules._checks import check_at_least, check_numbers, check_static
from hyperlr.schedules._formula import Number, between, cosine_part, schedule_of

_LAST_STEP = 2**31 - 1  # of a count in int32


def warm_restarts(
    peak_value: float | jax.Array,
    first_period: int,
    period_factor: float = 1.0,
    end_value: float | jax.Array = 0.0,
) -> optax.Schedule:
    """Anneals along a cosine and jumps back to the peak, in periods that grow by a factor.

    With T_0 = ``first_period`` and m = ``period_factor``, the k-th restart is at step R_k, and
    at step t with R_k ≤ t < R_{k+1}::

        R_k = round(T_0 (1 + m + … + m^(k−1))),    R_0 = 0
        η_t = end_value + ½ (peak_value − end_value) (1 + cos(π (t − R_k) / (R_{k+1} − R_k)))

    Restarts are rounded to whole steps, so that a period that is not a whole number of steps still
    begins exactly at the peak: T_0 = 10 and m = 2.264 give R = 10, 33, 84, 200.

    Args:
      peak_value: η_max, the value at step 0 and at every restart; maybe traced, and maybe 0.
      first_period: T_0, a number of steps, at least 1; static.
      period_factor: m, T_mult in the paper, 1 (periods of one length) or at least 1.001; static.
      end_value: η_min, the value that a period approaches before the restart; maybe traced.

    Returns:
      A schedule, step → value, for a step up to 2³¹ − 1 that may be traced; it never ends.
      ``jvp`` and ``vjp`` in ``peak_value`` and ``end_value``, and ``vmap``, are supported.

    Raises:
      TypeError: ``first_period`` or ``period_factor`` is traced.
      ValueError: ``first_period`` is less than 1, or ``period_factor`` is neither 1 nor at least
        1.001.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from hyperlr.schedules import warm_restarts
      >>> schedule = warm_restarts(0.5, first_period=10, period_factor=2)
      >>> print([round(float(schedule(t)), 4) for t in (0, 5, 9, 10, 20, 30)])
      [0.5, 0.25, 0.0122, 0.5, 0.25, 0.5]
      >>> tx, params = optax.sgd(schedule), jnp.array(1.0)
      >>> updates, state = tx.update(jnp.array(1.0), tx.init(params), params)
      >>> print(optax.apply_updates(params, updates))
      0.5

    References:
      Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017.
    """
    check_numbers(peak_value=peak_value, end_value=end_value)
    for name, value in (("first_period", first_period), ("period_factor", period_factor)):
        check_static(
            name, value, "the restarts are a table; peak_value and end_value may be traced"
        )
    check_at_least("first_period", first_period, 1)
    if period_factor != 1:
        check_at_least("period_factor", period_factor, 1.001)
    return schedule_of(
        functools.partial(_warm_restarts, first_period, period_factor), peak_value, end_value
    )


def _warm_restarts(
    first_period: int, period_factor: float, step: Number, peak_value: Number, end_value: Number
) -> jax.Array:
    if period_factor == 1:
        part = jnp.mod(step, first_period) / first_period
    else:
        restarts = _restarts(first_period, period_factor)
        starts = jnp.asarray(restarts[:-1], jnp.int32)
        lengths = jnp.asarray([b - a for a, b in pairwise(restarts)], jnp.float32)
        k = jnp.searchsorted(starts, step, side="right") - 1
        part = (step - starts[k]) / lengths[k]
    return between(peak_value, end_value, cosine_part(part))


def _restarts(first_period: int, period_factor: float) -> list[int]:
    """R_0, R_1, … up to the first that no int32 count reaches.

    A table, in Python's integers and double precision: the logarithm that gives k in closed form
    would, in float32, be off by one at a restart, and the value off by all of its range.
    """
    restarts, exact, period = [0], 0.0, float(first_period)
    while restarts[-1] <= _LAST_STEP:
        exact, period = exact + period, period * period_factor
        restarts.append(math.floor(exact + 0.5))
    return restarts
