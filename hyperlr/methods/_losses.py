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


class Recovery(enum.IntEnum):
    """Where the next update starts from."""

    STEPPED = 0
    """The last update was a step of the guarded transformation."""
    RETURNED = 1
    """Good parameters, to which the last update came back, with a state that started anew."""
    RETURNING = 2
    """The way to good parameters, which the next update completes; its loss is not looked at."""
    WAITING = 3
    """The same parameters once more, since their loss looked like an explosion."""


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
    """What is to be done about a loss, as bools; at most one of the first three is true.

    Attributes:
      is_broken: the loss is not finite.
      has_exploded: it is, and the parameters are to be left.
      waits: it may be an outlier, and the next minibatch decides.
      is_best: the smoothed loss is at its recent best.
      losses: what to remember if the step is taken.
    """

    is_broken: jax.Array
    has_exploded: jax.Array
    waits: jax.Array
    is_best: jax.Array
    losses: Losses


def no_losses(dtype: jnp.dtype) -> Losses:
    """The memory before the first loss, each entry its own buffer."""
    return Losses(jnp.zeros((), bool), *(jnp.zeros((), dtype) for _ in Losses._fields[1:]))


def no_verdict(losses: Losses) -> Verdict:
    """Nothing is wrong, and nothing was learned."""
    no = jnp.zeros((), bool)
    return Verdict(no, no, no, jnp.ones((), bool), losses)


def judge(
    loss: jax.Array | None,
    losses: Losses,
    recovery: jax.Array,
    explosion: float | jax.Array,
) -> Verdict:
    """Whether the parameters with this loss are to be kept.

    Args:
      loss: of the dtype of ``losses``; ``None`` where it is not known, and nothing is wrong then.
      losses: those so far.
      recovery: a :class:`Recovery`, other than ``RETURNING``.
      explosion: the multiple of the recent best past which a loss has exploded; infinite for never.
    """
    if loss is None:
        return no_verdict(losses)
    no = jnp.zeros((), bool)
    is_finite = jnp.isfinite(loss)
    # A difference of what is not finite would be NaN, and the verdict does not depend on it.
    loss = jnp.where(is_finite, loss, losses.mean)
    never = not _checks.is_traced(explosion) and math.isinf(float(explosion))
    bound = losses.best + (jnp.zeros_like(loss) if never else _margin(losses, explosion))
        # Just come back, there are no better parameters: the losses there are what they are.
    compares = losses.has_begun & (recovery != Recovery.RETURNED)
    outlies = no if never else is_finite & compares & (loss > bound)
    # One minibatch may be an outlier, and cutting the rates would not make it any better.
    waits = outlies & (recovery != Recovery.WAITING)
    new = _remembered(loss, bound, losses, recovery)
    is_lost = no if never else _is_lost(new) & jnp.isfinite(explosion)
    return Verdict(
        is_broken=~is_finite,
        has_exploded=is_finite & ~waits & (outlies | is_lost),
        waits=waits,
        is_best=new.mean <= new.best,
        losses=new,
    )


def _margin(losses: Losses, explosion: float | jax.Array) -> jax.Array:
    """How far above the best a loss may rise."""
    explosion = jnp.asarray(explosion, losses.best.dtype)
    unit = jnp.maximum(jnp.abs(losses.best), jnp.abs(losses.first) / explosion)
    return jnp.maximum((explosion - 1.0) * unit, _DEVIATIONS * losses.noise)


def _is_lost(losses: Losses) -> jax.Array:
    """Whether the smoothed loss had fallen by more than noise, and is above the first again."""
    has_learned = losses.first > losses.best + _MEAN_DEVIATIONS * losses.noise
    return has_learned & (losses.mean > losses.first)


def _remembered(
    loss: jax.Array, bound: jax.Array, losses: Losses, recovery: jax.Array
) -> Losses:
    """The losses with one more; after a rollback it says what to expect there."""
    # What was waited for was an outlier then. It counts for as much as is allowed, or it would hide
    # all that come after it.
    outlier = _with_one_more(losses, bound, begins=jnp.zeros((), bool))
    is_outlier = recovery == Recovery.WAITING
    losses = Losses(*(jnp.where(is_outlier, x, y) for x, y in zip(outlier, losses, strict=True)))
    return _with_one_more(losses, loss, ~losses.has_begun | (recovery == Recovery.RETURNED))


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
