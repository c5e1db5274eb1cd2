"""A guard around an optimizer: a step that goes wrong is taken back, and the rates are cut.

It must cost next to nothing where nothing goes wrong. So a step is judged by its loss and by one
reduction of its update, good parameters are chosen at a cadence, and all that happens when a step
is taken back is in the body of a loop that otherwise is not entered.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hyperlr import _checks, _inner_step, _numbers, _trees
from hyperlr._replaced import replaced_if
from hyperlr._trees import Tree
from hyperlr.methods import _restart
from hyperlr.methods._losses import Action, Losses, Verdict, judge, no_losses

# Good parameters are kept for so many steps at least, and the inner state is looked at as often.
_CADENCE = 10


class Good(NamedTuple):
    """What the guard comes back to.

    Attributes:
      params: the parameters.
      scalars: what goes with them of the inner state, see ``hyperlr.methods._restart``.
      averages: likewise the averaged parameters of every method that has them.
    """

    params: optax.Params
    scalars: tuple[jax.Array, ...]
    averages: tuple[Tree, ...]


class GuardState(NamedTuple):
    """State of :func:`guard`.

    Attributes:
      inner_state: state of the guarded transformation.
      good: what to come back to; ``good_params`` for short are the parameters of it.
      losses: what an explosion is told by.
      last_action: int32, what the last update did, a ``hyperlr.methods._losses.Action``.
      num_steps: int32, steps since the good parameters were chosen, or since a return to them.
      scale: float32, factor of the updates of parameters for which no rate is learned.
      num_rollbacks: int32, how many steps were taken back.
      num_explosions: int32, how many of them for a loss that was finite, but exploded.
    """

    inner_state: optax.OptState
    good: Good
    losses: Losses
    last_action: jax.Array
    num_steps: jax.Array
    scale: jax.Array
    num_rollbacks: jax.Array
    num_explosions: jax.Array

    @property
    def good_params(self) -> optax.Params:
        """The last parameters at which the smoothed loss was seen at its recent best."""
        return self.good.params


def guard(
    tx: optax.GradientTransformation, *, explosion: float = 2.0, cut: float = 0.1
) -> optax.GradientTransformationExtraArgs:
    r"""Takes back every step that goes wrong, and goes on with smaller rates.

    A step is wrong where the loss or the update is not finite (or the squares of the update have no
    finite sum), and where the loss has exploded::

        L_t > best + max((explosion − 1) · max(|best|, |L_0| / explosion), 6 · noise)

    with ``best`` the recent best of the smoothed loss and ``noise`` its recent mean absolute
    deviation: for positive losses, past ``explosion`` times the recent best, if that is not small
    beside the first loss, and if minibatches do not differ as much. One minibatch may be an
    outlier, so that the step is taken all the same, and the loss of the next minibatch decides.
    Where the smoothed loss had fallen below the first one, by more than 2 · ``noise``, and is above
    it again, what was learned is lost, and that is an explosion, too. What goes wrong in the
    derivatives of a method of this library is no fault of the step: the method passes over it.

    The update is then the difference to the last good parameters, those at which the smoothed loss
    was at its recent best. They are chosen anew after ten steps at the earliest, and where the
    arrays of the inner state are finite; that they are not is a fault that is found then. Averages
    come back to what they were, momenta and tangents start anew. The rates become ``cut`` times
    what they were, with β (or γ) and κ; where that goes wrong again, they are cut again. A rate is
    a learned hyperparameter that the update is proportional to, whatever its name, and a lower
    bound gives way to the cut. Where no rate is learned, as in a part of a partition, the updates
    are cut instead, for good. Coming back from afar takes two updates, since the first one rounds;
    the gradients that the second is called with are not used.

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
      one more copy of the parameters, and of the averaged ones where there are any.
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
      Donini et al., 2020, Section 4, for what is done by hand there: a run that diverges is started
      again with a smaller κ.
    """
    _checks.check_transformation("tx", tx)
    _checks.check_float_scalar("explosion", explosion, lower=1.0)
    if not _checks.is_traced(explosion) and float(explosion) == 1.0:
        raise ValueError("explosion must be above 1, or every rise of the loss is an explosion")
    _checks.check_float_scalar("cut", cut, 0.0, 1.0)
    if _checks.is_zero(cut):
        raise ValueError("cut must be above 0, or no learning rate could be learned any more")

    def init_fn(params: optax.Params) -> GuardState:
        inner_state = tx.init(params)
        # Every leaf is its own buffer, so that the state can be donated.
        return GuardState(
            inner_state=inner_state,
            good=jax.tree.map(jnp.copy, _good(params, inner_state)),
            losses=no_losses(_trees.accumulation_dtype(params)),
            last_action=jnp.array(Action.STEP.value, jnp.int32),
            num_steps=jnp.zeros((), jnp.int32),
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
        extra_args = _inner_step.accepted_args(tx.update, extra_args)

        verdict, good, is_new = _decided(loss, params, state, explosion)
        stepped, new_state = tx.update(updates, state.inner_state, params, **extra_args)
        stepped = _scaled(stepped, state)
        steps = (verdict.action <= Action.SUSPECT) & _leads_to_finite(params, stepped)
        completes = verdict.action == Action.COMPLETE
        returns = ~(steps | completes)
        factor = jnp.where(returns, jnp.asarray(cut, jnp.float32), jnp.ones((), jnp.float32))

        def come_back(_: Tree, target: optax.Params) -> tuple[optax.Updates, optax.OptState]:
            anew = _restart.restarted(tx.init(target), good.scalars, good.averages, factor)
            return jax.tree.map(_way_back, stepped, target, params), anew

        updates, inner_state = replaced_if(~steps, come_back, (stepped, new_state), good.params)
        # A first step may have found the first rate, which is not to be looked for again.
        begins = returns | (steps & (state.num_steps == 0))
        scalars = _select(begins, _restart.scalars_of(inner_state), good.scalars)
        action = jnp.where(returns, Action.RETURN, verdict.action).astype(jnp.int32)
        found = _numbers.computed_once(
            {
                "scalars": scalars,
                "last_action": action,
                "num_steps": _num_steps(state.num_steps, is_new, steps, returns),
                "scale": factor * state.scale,
                "num_rollbacks": _plus(state.num_rollbacks, returns),
                "num_explosions": _plus(state.num_explosions, verdict.has_exploded),
            }
        )
        good = good._replace(scalars=found.pop("scalars"))
        return updates, GuardState(
            inner_state=inner_state, good=good, losses=verdict.losses, **found
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


def _good(params: optax.Params, inner_state: optax.OptState) -> Good:
    return Good(params, _restart.scalars_of(inner_state), _restart.averages_of(inner_state))


def _decided(
    loss: jax.Array | None,
    params: optax.Params,
    state: GuardState,
    explosion: float | jax.Array,
) -> tuple[Verdict, Good, jax.Array]:
    """What to do, what to come back to from now on, and whether that is newly chosen."""
    verdict = _numbers.computed_once(judge(loss, state.losses, state.last_action, explosion))

    def look() -> jax.Array:
        is_sound = _restart.is_finite(state.inner_state)
        return jnp.where(is_sound, Action.STEP, Action.RETURN).astype(jnp.int32)

    is_time = (state.num_steps >= _CADENCE) & (verdict.action == Action.STEP)
    looks = is_time & (verdict.is_best | (state.num_steps % _CADENCE == 0))
    action = jax.lax.cond(looks, look, lambda: verdict.action)
    chooses = is_time & verdict.is_best & (action == Action.STEP)
    good = replaced_if(chooses, lambda *_: _good(params, state.inner_state), state.good)
    return verdict._replace(action=action), good, chooses


def _scaled(updates: optax.Updates, state: GuardState) -> optax.Updates:
    """The updates, cut where no rate is learned."""

    def scaled(update: jax.Array, has_rate: bool) -> jax.Array:
        if has_rate or not _trees.is_float(update):
            return update
        return state.scale.astype(update.dtype) * update

    learned = _restart.leaves_with_a_rate(state.inner_state, updates)
    return jax.tree.map(scaled, updates, learned)


def _leads_to_finite(params: optax.Params, updates: optax.Updates) -> jax.Array:
    """Whether the parameters stay finite, as far as the updates can tell.

    Those whose squares do not overflow add nothing to numbers so large that the sum could.
    """

    def is_narrow(param: jax.Array) -> bool:
        return _trees.is_float(param) and float(jnp.finfo(jnp.result_type(param)).max) < 1e30

    with jax.numpy_dtype_promotion("standard"):
        moved = jax.tree.map(
            lambda w, u: (w + u).astype(w.dtype) if is_narrow(w) else None, params, updates
        )
    return _numbers.has_finite_norm(updates) & _numbers.all_finite(moved)


def _way_back(step: jax.Array, good: jax.Array, param: jax.Array) -> jax.Array:
    """The update of one leaf; integers have none.

    Subtracting parameters that ran away rounds off those that they were to come back to, and a way
    that overflows is gone as far as it can be told. The next update, from close by, completes it.
    """
    if not _trees.is_float(step):
        return step
    with jax.numpy_dtype_promotion("standard"):
        return _numbers.saturated((good - param).astype(step.dtype))


def _num_steps(
    num_steps: jax.Array, is_new: jax.Array, steps: jax.Array, returns: jax.Array
) -> jax.Array:
    """0 after a return alone, so that the first step from there is known for what it is."""
    after = jnp.where(is_new, 1, optax.safe_increment(num_steps))
    found = jnp.where(returns, 0, jnp.where(steps, after, num_steps))
    return found.astype(jnp.int32)


def _select(condition: jax.Array, if_true: Tree, if_false: Tree) -> Tree:
    """One of two trees like each other."""

    def select(x: jax.Array, y: jax.Array) -> jax.Array:
        return jax.lax.select(condition, jnp.asarray(x), jnp.asarray(y))

    return jax.tree.map(select, if_true, if_false)


def _plus(count: jax.Array, happened: jax.Array) -> jax.Array:
    return jnp.where(happened, optax.safe_increment(count), count)
