"""A learned factor of a schedule: a warmup or a decay of one's own, whose height is learned."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hyperlr import _checks, _numbers

# Counts at which the peak of a schedule is looked for: dense at first, then by a tenth.
_LAST_COUNT = 1_000_000


class ScheduledState(NamedTuple):
    """State of what :func:`scheduled` makes.

    Attributes:
      step_count: int32, the number of updates so far.
      weight: the schedule at ``step_count``, divided by its largest value.
      peak: that largest value.
      inner_state: state of the inner optimizer.
    """

    step_count: jax.Array
    weight: jax.Array
    peak: jax.Array
    inner_state: optax.OptState


def scheduled(
    inner: Callable[..., optax.GradientTransformation], schedule: Callable[[jax.Array], jax.Array]
) -> Callable[..., optax.GradientTransformationExtraArgs]:
    r"""A factory whose rate is a learned factor times a schedule.

    With m the factor, called ``learning_rate``, and s the schedule, step t has the rate
    η_t = m · s(t). While s is far below its peak a tangent says little of the whole, and a factor
    that moved then would be far too large at the peak. So m moves in proportion less::

        m_t = m_{t-1} + (|s(t)| / max |s|) · (step of the rule)

    Args:
      inner: factory of the inner optimizer, called as ``inner(learning_rate=...)``.
      schedule: an ``optax.Schedule``, such as ``hyperlr.schedules.warmup_cosine(1.0, 100, 4000)``;
        its largest value is looked for among the first million steps, when the state is made.

    Returns:
      A factory for :func:`hyperlr.marthe` and the others, called as
      ``factory(learning_rate=m)``, m ≥ 0; a factor of 1 is the schedule itself.

    Raises:
      TypeError: ``schedule`` is not a function, or ``inner`` takes no ``learning_rate``.

    Example:
      >>> import functools, jax.numpy as jnp, optax, hyperlr
      >>> schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-2, 10, 100)
      >>> factory = hyperlr.scheduled(optax.adamw, schedule)
      >>> tx = hyperlr.marthe(factory, 1.0, hyper_learning_rate=1e-3)
      >>> state = tx.init(jnp.ones(3))
      >>> print(hyperlr.metrics(state)["learning_rate"])
      1.0
    """
    if not callable(schedule):
        raise TypeError(
            f"schedule must be a function of the step count, such as an optax.Schedule, got "
            f"{schedule!r}"
        )
    _checks.check_inner(inner, ["learning_rate"])

    def factory(learning_rate: Any) -> optax.GradientTransformationExtraArgs:
        def rate(count: jax.Array) -> jax.Array:
            return learning_rate * jnp.asarray(schedule(count))

        def weight(count: jax.Array, peak: jax.Array) -> jax.Array:
            return _numbers.ratio(jnp.abs(jnp.asarray(schedule(count), peak.dtype)), peak)

        def init_fn(params: optax.Params) -> ScheduledState:
            count = jnp.zeros((), jnp.int32)
            peak = jnp.max(jnp.abs(jax.vmap(schedule)(_counts()))).astype(jnp.float32)
            return ScheduledState(
                count, weight(count, peak), peak, inner(learning_rate=rate(count)).init(params)
            )

        def update_fn(
            updates: optax.Updates,
            state: ScheduledState,
            params: optax.Params | None = None,
            **extra_args: Any,
        ) -> tuple[optax.Updates, ScheduledState]:
            tx = optax.with_extra_args_support(inner(learning_rate=rate(state.step_count)))
            updates, inner_state = tx.update(updates, state.inner_state, params, **extra_args)
            count = optax.safe_increment(state.step_count)
            return updates, ScheduledState(
                count, weight(count, state.peak), state.peak, inner_state
            )

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return factory


def _counts() -> jax.Array:
    """Every count up to a hundred, and then in steps of one per cent."""
    counts = list(range(100))
    while counts[-1] < _LAST_COUNT:
        counts.append(max(counts[-1] + 1, int(counts[-1] * 1.01)))
    return jnp.array(counts, jnp.int32)


def schedule_weight(inner_state: Any) -> jax.Array | None:
    """How much a factor may move now, from a state of :func:`scheduled`, if there is one."""

    def is_scheduled(node: Any) -> bool:
        return isinstance(node, ScheduledState)

    nodes = jax.tree.leaves(inner_state, is_leaf=is_scheduled)
    found = [node.weight for node in nodes if is_scheduled(node)]
    return found[0] if found else None
