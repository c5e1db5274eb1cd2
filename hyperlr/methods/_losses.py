"""What a loss says about a run, as functions of scalars: a step, an outlier, or an explosion."""

import enum
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hyperlr import _checks, _numbers

# Weight of the newest loss in the mean and in the noise, and of the mean in a best that is lower.
_MEAN_WEIGHT = 0.1
_BEST_WEIGHT = 0.01

# What is noise deviates by less than so many mean absolute deviations: a loss, and the smoothed
# loss, which deviates less.
_DEVIATIONS = 6.0
_MEAN_DEVIATIONS = 2.0


class Action(enum.IntEnum):
    """What an update of the guard does."""

    STEP = 0
    """A step of the guarded transformation."""
    SUSPECT = 1
    """Likewise, although the loss looks like an explosion: the next minibatch decides."""
    RETURN = 2
    """It goes back to good parameters, with a state that starts anew."""
    COMPLETE = 3
    """It completes the way there, which rounding left short; its loss is not looked at."""


class Losses(NamedTuple):
    """What the guard remembers of the losses: scalars of at least float32, 0 before the first.

    Attributes:
      has_begun: bool, whether there was a loss at all.
      first: the first loss that was finite.
      mean: an exponential moving average, over about ten steps.
      best: the recent best of ``mean``: it follows it down at once, and up over a hundred steps,
        but not above ``first``.
      noise: the mean absolute deviation from ``mean``, over about ten steps.
    """

    has_begun: jax.Array
    first: jax.Array
    mean: jax.Array
    best: jax.Array
    noise: jax.Array


class Verdict(NamedTuple):
    """What is to be done.

    Attributes:
      action: int32, an :class:`Action`.
      has_exploded: bool, whether it is ``RETURN`` for a loss that is finite.
      is_best: bool, whether the smoothed loss is at its recent best.
      losses: what to remember of the losses.
    """

    action: jax.Array
    has_exploded: jax.Array
    is_best: jax.Array
    losses: Losses


def no_losses(dtype: jnp.dtype) -> Losses:
    """The memory before the first loss, each entry its own buffer."""
    return Losses(jnp.zeros((), bool), *(jnp.zeros((), dtype) for _ in Losses._fields[1:]))


def judge(
    loss: jax.Array | None,
    losses: Losses,
    last: jax.Array,
    explosion: float | jax.Array,
) -> Verdict:
    """What to do, given the loss at the present parameters.

    Args:
      loss: of the dtype of ``losses``; ``None`` where it is not known, and never explodes.
      losses: those so far.
      last: int32, the :class:`Action` of the last update.
      explosion: the multiple of the recent best past which a loss has exploded; infinite for never.
    """
    verdict = _of_sound(loss, losses, last, explosion)
    is_broken = jnp.zeros((), bool) if loss is None else ~jnp.isfinite(loss)
    completes = last == Action.RETURN
    action = jnp.where(is_broken, Action.RETURN, verdict.action)
    action = jnp.where(completes, Action.COMPLETE, action).astype(jnp.int32)
    steps = action == Action.STEP
    return Verdict(
        action=action,
        has_exploded=verdict.has_exploded & ~is_broken & ~completes,
        is_best=verdict.is_best,
        losses=Losses(*(jnp.where(steps, *x) for x in zip(verdict.losses, losses, strict=True))),
    )


def _of_sound(
    loss: jax.Array | None, losses: Losses, last: jax.Array, explosion: float | jax.Array
) -> Verdict:
    """What to do where the loss is finite."""
    step, no = jnp.array(Action.STEP.value, jnp.int32), jnp.zeros((), bool)
    if loss is None:
        return Verdict(step, no, ~no, losses)
    never = not _checks.is_traced(explosion) and math.isinf(float(explosion))
    bound = losses.best + (jnp.zeros_like(loss) if never else _margin(losses, explosion))
    # Just come back, there are no better parameters: the losses there are what they are.
    compares = losses.has_begun & (last != Action.COMPLETE)
    outlies = no if never else compares & (loss > bound)
    # One minibatch may be an outlier, and cutting the rates would not make it any better.
    suspects = outlies & (last != Action.SUSPECT)
    new = _remembered(loss, bound, losses, last)
    is_lost = no if never else _is_lost(new) & jnp.isfinite(explosion)
    explodes = ~suspects & (outlies | is_lost)
    action = jnp.where(explodes, Action.RETURN, jnp.where(suspects, Action.SUSPECT, step))
    return Verdict(action, explodes, new.mean <= new.best, new)


def _margin(losses: Losses, explosion: float | jax.Array) -> jax.Array:
    """How far above the best a loss may rise."""
    explosion = jnp.asarray(explosion, losses.best.dtype)
    unit = jnp.maximum(jnp.abs(losses.best), jnp.abs(losses.first) / explosion)
    return jnp.maximum((explosion - 1.0) * unit, _DEVIATIONS * losses.noise)


def _is_lost(losses: Losses) -> jax.Array:
    """Whether the smoothed loss had fallen by more than noise, and is above the first again."""
    has_learned = losses.first > losses.best + _MEAN_DEVIATIONS * losses.noise
    return has_learned & (losses.mean > losses.first)


def _remembered(loss: jax.Array, bound: jax.Array, losses: Losses, last: jax.Array) -> Losses:
    """The losses with one more; after a rollback it says what to expect there."""
    # What was suspect was an outlier then. It counts for as much as is allowed, or it would hide
    # all that come after it.
    outlier = _with_one_more(losses, bound, begins=jnp.zeros((), bool))
    is_outlier = last == Action.SUSPECT
    losses = Losses(*(jnp.where(is_outlier, x, y) for x, y in zip(outlier, losses, strict=True)))
    return _with_one_more(losses, loss, ~losses.has_begun | (last == Action.COMPLETE))


def _with_one_more(losses: Losses, loss: jax.Array, begins: jax.Array) -> Losses:
    """The losses with one more, which may be the first from where it was measured."""
    has_begun, first, mean, best, noise = losses
    # The difference of two finite losses can overflow: it is held, and means are convex sums.
    deviation = jnp.where(begins, noise, _numbers.saturated(jnp.abs(loss - mean)))
    mean = jnp.where(begins, loss, (1 - _MEAN_WEIGHT) * mean + _MEAN_WEIGHT * loss)
    risen = (1 - _BEST_WEIGHT) * best + _BEST_WEIGHT * mean
    risen = jnp.minimum(risen, jnp.maximum(first, best))
    return Losses(
        has_begun=jnp.ones_like(has_begun),
        first=jnp.where(has_begun, first, loss),
        mean=mean,
        best=jnp.where(begins, loss, jnp.minimum(mean, risen)),
        # Not known at first, and better taken for large.
        noise=jnp.where(
            has_begun,
            (1 - _MEAN_WEIGHT) * noise + _MEAN_WEIGHT * deviation,
            jnp.abs(loss) / 2,
        ),
    )
