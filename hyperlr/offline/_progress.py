"""How far an optimization of a schedule has come: its state, and the best schedule so far."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hyperlr.offline._outer_step import OuterRecord, OuterState
from hyperlr.offline._schedule import Schedule


class Progress(NamedTuple):
    """Where a run is; a ``lax.scan`` carry, and what a checkpoint keeps beside the history.

    Attributes:
      state: what the next outer iteration starts from.
      best_schedule: of the schedules evaluated so far the one with the least E, or the first.
      best_value: its E, in JAX's default float dtype, shape (); the largest
        finite number before there is one.
    """

    state: OuterState
    best_schedule: Schedule
    best_value: jax.Array


class History(NamedTuple):
    """Values and norms of the iterations so far: lists of floats, or arrays."""

    values: Any
    hypergradient_norms: Any


def begin(state: OuterState) -> Progress:
    """Nothing has been evaluated yet."""
    dtype = jnp.result_type(float)
    # Not ∞, at which jax_debug_infs would stop.
    largest = jnp.full((), jnp.finfo(dtype).max, dtype)
    return Progress(state=state, best_schedule=state.schedule, best_value=largest)


def with_record(progress: Progress, state: OuterState, record: OuterRecord) -> Progress:
    """The next state, and the schedule that has been evaluated where it is the best.

    What counts is that its value is finite; the step from it may have been skipped.
    """
    value = record.value.astype(progress.best_value.dtype)
    better = value < progress.best_value  # not where it is NaN
    return Progress(
        state=state,
        best_schedule=jax.tree.map(
            lambda new, old: jnp.where(better, new, old), record.schedule, progress.best_schedule
        ),
        best_value=jnp.where(better, value, progress.best_value),
    )
