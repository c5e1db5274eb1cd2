"""A guard around an optimizer: a step that goes wrong is taken back, and the rates are cut."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hyperlr import _checks, _numbers, _trees
from hyperlr._trees import Tree
from hyperlr.methods._restart import is_online, restarted, without_tangents

# Weight of the newest loss in the mean and in the noise, and of the mean in a best that is lower.
_MEAN_WEIGHT = 0.1
_BEST_WEIGHT = 0.01

# What is noise deviates by less than so many mean absolute deviations: a loss, and the smoothed
# loss, which deviates less.
_DEVIATIONS = 6.0
_MEAN_DEVIATIONS = 2.0

# What the next update starts from: a step; good parameters; the way to them, which it completes; or
# the same parameters once more, since their loss looked like an explosion.
_NONE, _DONE, _COMPLETE, _SUSPECT = 0, 1, 2, 3


class Losses(NamedTuple):
    """What the guard remembers of the losses: scalars of at least float32, NaN before the first.

    Attributes:
      first: the first loss that was finite.
      mean: an exponential moving average, over about ten steps.
      best: the recent best of ``mean``: it follows it down at once, and up over a hundred steps,
        but not above ``first``.
      noise: the mean absolute deviation from ``mean``, over about ten steps.
    """

    first: jax.Array
    mean: jax.Array
    best: jax.Array
    noise: jax.Array


class GuardState(NamedTuple):
    """State of :func:`guard`.

    Attributes:
      inner_state: state of the guarded transformation.
      good_params: the last parameters at which the smoothed loss was at its recent best.
      good_state: the state that goes with them, without tangents, which are forgotten anyway.
      losses: what an explosion is told by.
      recovery: int32, 0 where the last update was a step; 1 where it came back to
        ``good_params``; 2 where the next has to complete the way; 3 where it waited.
      scale: float32, factor of the updates; 1 where the learning rate itself can be cut.
      num_rollbacks: int32, how many steps were taken back.
      num_explosions: int32, how many of them for a loss that was finite, but exploded.
    """

    inner_state: optax.OptState
    good_params: optax.Params
    good_state: optax.OptState
    losses: Losses
    recovery: jax.Array
    scale: jax.Array
    num_rollbacks: jax.Array
    num_explosions: jax.Array


def guard(
    tx: optax.GradientTransformation, *, explosion: float = 2.0, cut: float = 0.1
) -> optax.GradientTransformationExtraArgs:
    r"""Takes back every step that goes wrong, and goes on with smaller rates.

    A step is wrong where the loss, a gradient, the update, the new parameters or the new state is
    not finite, and where the loss has exploded::

        L_t > best + max((explosion − 1) · max(|best|, |L_0| / explosion), 6 · noise)

    with ``best`` the recent best of the smoothed loss and ``noise`` its recent mean absolute
    deviation: for positive losses, past ``explosion`` times the recent best, if that is not small
    beside the first loss, and if minibatches do not differ as much. One minibatch may be an
    outlier, so that the guard first waits: the update is 0, and the loss of the same parameters on
    the next minibatch decides. Where the smoothed loss had fallen below the first one, by more than
    2 · ``noise``, and is above it again, what was learned is lost, and that is an explosion, too.

    The update is then the difference to the last good parameters, those at which the smoothed loss
    was at its recent best. Their state comes back, too, except that the tangents are forgotten and
    the rates are multiplied by ``cut``: η, and β (or γ) with κ. Where that goes wrong again, they
    are cut again. Of a transformation that learns no learning rate, the updates are cut instead,
    for good. Coming back from afar takes two updates, since the first one rounds; the gradients
    that the second is called with are not used.

    End a run with ``state.good_params``: nothing has looked at the last update yet.

    The parameters are finite after every update if they were before the first, provided that the
    update is applied as it is: let the guard be the outermost transformation.

    Args:
      tx: any transformation; ours may be anywhere inside it.
      explosion: the multiple of the recent best past which a loss counts as exploded, > 1;
        ``float("inf")`` turns that off, for losses that may rise.
      cut: factor of the rates at every rollback, in (0, 1]; 1 leaves them as they are.

    Returns:
      A transformation with the arguments of ``tx``, and ``value``, the loss at ``params`` as a
      scalar. Without it, ``value_fn(params)`` is evaluated, which under one ``jit`` XLA merges with
      the loss that the gradients were computed from; with neither, explosions are not looked for.
      The state is a valid ``lax.scan`` carry; under ``vmap`` each lane is guarded alone. It holds
      one more copy of the parameters and of the inner optimizer's state.
      :func:`hyperlr.metrics` has ``num_rollbacks`` and ``num_explosions``.

    Raises:
      TypeError: ``tx`` is not an optax transformation, a number is not a float scalar, or the loss
        is not a scalar.
      ValueError: ``explosion`` is not above 1, or ``cut`` not in (0, 1]; in ``update``, a missing
        ``params``.

    Example:
      At a learning rate of 8, w grows 15 times a step on w²; the guard makes it 0.8.

      >>> import jax, jax.numpy as jnp, optax, hyperlr
      >>> tx = hyperlr.guard(hyperlr.hd(optax.sgd, 8.0, 1e-3))
      >>> loss = lambda w: jnp.sum(w**2)
      >>> params = jnp.ones(3)
      >>> state = tx.init(params)
      >>> for _ in range(20):
      ...     value, grads = jax.value_and_grad(loss)(params)
      ...     updates, state = tx.update(grads, state, params, value=value)
      ...     params = optax.apply_updates(params, updates)
      >>> bool(loss(params) < 1e-3), int(hyperlr.metrics(state)["num_rollbacks"])
      (True, 1)

    References:
      [P] Section 4 (Donini et al., 2020), for what is done by hand there: a run that diverges is
      started again with a smaller κ.
    """
    _checks.check_transformation("tx", tx)
    _checks.check_float_scalar("explosion", explosion, lower=1.0)
    if not _checks.is_traced(explosion) and float(explosion) == 1.0:
        raise ValueError("explosion must be above 1, or every rise of the loss is an explosion")
    _checks.check_float_scalar("cut", cut, 0.0, 1.0)
    if _checks.is_zero(cut):
        raise ValueError("cut must be above 0, or no learning rate could be learned any more")
    guarded = optax.with_extra_args_support(tx)

    def init_fn(params: optax.Params) -> GuardState:
        inner_state = guarded.init(params)
        dtype = _trees.accumulation_dtype(params)
        # Every leaf is its own buffer, so that the state can be donated.
        return GuardState(
            inner_state=inner_state,
            good_params=jax.tree.map(jnp.copy, params),
            good_state=jax.tree.map(jnp.copy, without_tangents(inner_state)),
            losses=Losses(*(jnp.full((), jnp.nan, dtype) for _ in Losses._fields)),
            recovery=jnp.full((), _NONE, jnp.int32),
            scale=jnp.ones((), jnp.float32),
            num_rollbacks=jnp.zeros((), jnp.int32),
            num_explosions=jnp.zeros((), jnp.int32),
        )

    def update_fn(
        updates: optax.Updates,
        state: GuardState,
        params: optax.Params | None = None,
        *,
        value: jax.Array | None = None,
        value_fn: Callable[..., jax.Array] | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, GuardState]:
        if params is None:
            raise ValueError("params is missing: call update(grads, state, params, ...)")
        updates = _trees.without_float0(updates, params)
        loss = _loss(value, value_fn, params, state.losses)
        given = {"value": value, "value_fn": value_fn}
        extra_args |= {name: x for name, x in given.items() if x is not None}

        # Subtracting parameters that ran away rounds off those that they were to come back to. The
        # next update, from close by, completes the way; its loss and gradients are not looked at.
        completes = state.recovery == _COMPLETE
        usable = _all_finite((updates, loss)) & ~completes
        bound = state.losses.best + _margin(state.losses, explosion)
        # Just come back, there are no better parameters: the losses there are what they are.
        outlies = usable & _is_above(loss, bound) & (state.recovery != _DONE)
        # One minibatch may be an outlier, and cutting the rates would not make it any better.
        waits = outlies & (state.recovery != _SUSPECT)
        losses = _remembered(loss, bound, state)
        exploded = usable & ~waits & (outlies | _is_lost(losses, explosion))
        is_sound = usable & ~waits & ~exploded
        is_good = is_sound & ~(losses.mean > losses.best)
        good_params = _select(is_good, params, state.good_params)
        good_state = _select(is_good, without_tangents(state.inner_state), state.good_state)

        stepped, new_state = guarded.update(updates, state.inner_state, params, **extra_args)
        learns = any(map(is_online, jax.tree.leaves(state.inner_state, is_leaf=is_online)))
        if not learns:
            stepped = jax.tree.map(
                lambda u: (state.scale * u).astype(u.dtype) if _trees.is_float(u) else u, stepped
            )
        works = (
            is_sound
            & _all_finite(optax.apply_updates(params, stepped))
            & _stays_finite(state.inner_state, new_state)
        )
        fails = ~works & ~completes & ~waits
        factor = jnp.where(fails, cut, 1.0)
        old_state = restarted(good_state, state.inner_state, factor)
        target = _select(waits, params, good_params)
        return (
            jax.tree.map(functools.partial(_step_or_way_back, works), stepped, target, params),
            GuardState(
                inner_state=_select(works, new_state, _select(waits, state.inner_state, old_state)),
                good_params=good_params,
                good_state=_select(works, good_state, without_tangents(old_state)),
                losses=_select(is_sound, losses, state.losses),
                recovery=_recovery(works, waits, is_good | completes),
                scale=state.scale if learns else (factor * state.scale).astype(jnp.float32),
                num_rollbacks=_plus(state.num_rollbacks, fails),
                num_explosions=_plus(state.num_explosions, exploded),
            ),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _loss(
    value: jax.Array | None,
    value_fn: Callable[..., jax.Array] | None,
    params: optax.Params,
    losses: Losses,
) -> jax.Array | None:
    """The loss at ``params``, if it can be known."""
    if value is None and value_fn is None:
        return None
    loss = _checks.required_value_fn(value_fn)(params) if value is None else jnp.asarray(value)
    _checks.check_scalar_loss("value_fn" if value is None else "value", loss)
    return loss.astype(losses.first.dtype)


def _is_above(loss: jax.Array | None, bound: jax.Array) -> jax.Array:
    """Whether a finite loss is above the bound, which is NaN before the first loss."""
    return jnp.zeros((), bool) if loss is None else jnp.isfinite(loss) & (loss > bound)


def _margin(losses: Losses, explosion: float | jax.Array) -> jax.Array:
    """How far above the best a loss may rise."""
    unit = jnp.maximum(jnp.abs(losses.best), jnp.abs(losses.first) / explosion)
    return jnp.maximum((explosion - 1.0) * unit, _DEVIATIONS * losses.noise)


def _is_lost(losses: Losses, explosion: float | jax.Array) -> jax.Array:
    """Whether the smoothed loss had fallen by more than noise, and is above the first again."""
    has_learned = losses.first > losses.best + _MEAN_DEVIATIONS * losses.noise
    return jnp.isfinite(explosion) & has_learned & (losses.mean > losses.first)


def _remembered(loss: jax.Array | None, bound: jax.Array, state: GuardState) -> Losses:
    """The losses with one more; after a rollback it says what to expect there."""
    if loss is None:
        return state.losses
    # What was waited for was an outlier then. It counts for as much as is allowed, or it would hide
    # all that come after it.
    outlier = _with_one_more(state.losses, bound, begins=False)
    losses = _select(state.recovery == _SUSPECT, outlier, state.losses)
    return _with_one_more(losses, loss, jnp.isnan(losses.first) | (state.recovery == _DONE))


def _with_one_more(losses: Losses, loss: jax.Array, begins: bool | jax.Array) -> Losses:
    """The losses with one more, which may be the first from where it was measured."""
    first, mean, best, noise = losses
    is_first = jnp.isnan(first)
    # The difference of two finite losses can overflow: it is held, and means are convex sums.
    deviation = jnp.where(begins, noise, _numbers.saturated(jnp.abs(loss - mean)))
    mean = jnp.where(begins, loss, (1 - _MEAN_WEIGHT) * mean + _MEAN_WEIGHT * loss)
    risen = (1 - _BEST_WEIGHT) * best + _BEST_WEIGHT * mean
    risen = jnp.minimum(risen, jnp.maximum(first, best))
    return Losses(
        first=jnp.where(is_first, loss, first),
        mean=mean,
        best=jnp.where(begins, loss, jnp.minimum(mean, risen)),
        # Not known at first, and better taken for large.
        noise=jnp.where(
            is_first,
            jnp.abs(loss) / 2,
            (1 - _MEAN_WEIGHT) * noise + _MEAN_WEIGHT * deviation,
        ),
    )


def _recovery(works: jax.Array, waits: jax.Array, at_good: jax.Array) -> jax.Array:
    """What the next update starts from."""
    back = jnp.where(at_good, _DONE, _COMPLETE)
    return jnp.where(works, _NONE, jnp.where(waits, _SUSPECT, back)).astype(jnp.int32)


def _step_or_way_back(
    works: jax.Array, step: jax.Array, good: jax.Array, param: jax.Array
) -> jax.Array:
    """The update of one leaf; integers have none."""
    if not _trees.is_float(step):
        return step
    # A way that overflows is gone as far as it can be told, and completed by the next update.
    return jnp.where(works, step, _numbers.saturated((good - param).astype(step.dtype)))


def _select(condition: jax.Array, if_true: Tree, if_false: Tree) -> Tree:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), if_true, if_false)


def _all_finite(tree: Tree) -> jax.Array:
    """Whether all floating-point numbers are finite."""
    # Several times faster on CPU than the conjunction of isfinite; NaN wins every maximum.
    largest = [
        jnp.isfinite(jnp.max(jnp.abs(x), initial=0))
        for x in jax.tree.leaves(tree)
        if jnp.issubdtype(jnp.result_type(x), jnp.inexact)
    ]
    return functools.reduce(jnp.logical_and, largest, jnp.ones((), bool))


def _stays_finite(old_state: optax.OptState, new_state: optax.OptState) -> jax.Array:
    """Whether the new state is finite; a scalar of it may go on being what it was before.

    The best value that an optimizer has seen, for one, begins as an infinity.
    """

    def replaced(old: jax.Array, new: jax.Array) -> jax.Array:
        if jnp.ndim(new) > 0 or not jnp.issubdtype(jnp.result_type(new), jnp.inexact):
            return new
        return jnp.where(jnp.isfinite(old), new, jnp.zeros_like(new))

    return _all_finite(jax.tree.map(replaced, old_state, new_state))


def _plus(count: jax.Array, happened: jax.Array) -> jax.Array:
    return jnp.where(happened, optax.safe_increment(count), count)
