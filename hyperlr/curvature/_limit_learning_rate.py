"""Keeps the step of any optimizer under a fraction of the largest stable learning rate."""

from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hyperlr._numbers import norm
from hyperlr._trees import accumulation_dtype
from hyperlr.curvature._step_size import finite_stable_learning_rate


class LimitLearningRateState(NamedTuple):
    """State of :func:`limit_learning_rate`.

    Attributes:
      step_count: number of updates so far, int32, shape ().
      max_learning_rate: ε_max as last computed, at least float32, shape (); the largest finite
        number where curvature sets no limit.
      inner_state: the state of the transformation inside.
    """

    step_count: jax.Array
    max_learning_rate: jax.Array
    inner_state: optax.OptState


def limit_learning_rate(
    tx: optax.GradientTransformation, fraction: float | jax.Array, every: int = 1
) -> optax.GradientTransformationExtraArgs:
    """Shortens the updates of ``tx`` that are too long for the curvature along the gradient.

    With u the update of ``tx`` for the gradient g, ‖u‖/‖g‖ is its learning rate; for plain gradient
    descent it is exactly that. With ε_max of
    :func:`~hyperlr.curvature.max_stable_learning_rate`::

        u ← u · min(1, fraction · ε_max · ‖g‖ / ‖u‖)

    With ``fraction`` < 1 plain gradient descent goes down to second order, and at ½ its longest
    step is the optimal one. The direction of u, and the state of ``tx``, are left as they are.

    Put it outermost, where it is given the gradient itself: around MARTHE, for one.

    Args:
      tx: the transformation to limit.
      fraction: of ε_max, positive; maybe traced.
      every: ε_max is computed anew at every so many updates, and kept between; at least 1, static.
        It costs one Hessian-vector product, or under ``vmap`` one at every update.

    Returns:
      A transformation whose ``update(grads, state, params, *, value_fn, **extra_args)`` needs
      ``params`` and ``value_fn``, the loss whose gradients ``grads`` are. It hands ``value_fn`` and
      the other extra arguments to ``tx``. ``jvp``, ``vjp`` and ``vmap`` are supported.

    Raises:
      TypeError: ``fraction`` is a schedule.
      ValueError: a static ``fraction`` is not positive, ``every`` is less than 1, or ``update`` is
        called without ``params`` or ``value_fn``.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from hyperlr.curvature import limit_learning_rate
      >>> loss = lambda w: 0.5 * jnp.sum(jnp.array([1.0, 3.0]) * w**2)
      >>> tx = limit_learning_rate(optax.sgd(100.0), fraction=0.5)
      >>> params = jnp.array([3.0, 1.0])
      >>> grads = jax.grad(loss)(params)
      >>> updates, state = tx.update(grads, tx.init(params), params, value_fn=loss)
      >>> print(optax.apply_updates(params, updates).round(4))
      [ 1.5 -0.5]

    References:
      Goodfellow, Bengio and Courville, "Deep learning", 2016, Section 4.3.
    """
    if callable(fraction):
        raise TypeError(
            f"fraction must be a number, got {fraction!r}: put the schedule into tx, as in "
            "limit_learning_rate(optax.sgd(schedule), 0.9)"
        )
    if isinstance(fraction, Real) and not float(fraction) > 0:
        raise ValueError(f"fraction must be positive, got {fraction}: for example 0.9")
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}: 1 computes the limit every step")
    tx = optax.with_extra_args_support(tx)

    def init_fn(params: optax.Params) -> LimitLearningRateState:
        return LimitLearningRateState(
            step_count=jnp.zeros((), jnp.int32),
            max_learning_rate=_no_limit(accumulation_dtype(params)),
            inner_state=tx.init(params),
        )

    def update_fn(
        updates: optax.Updates,
        state: LimitLearningRateState,
        params: optax.Params | None = None,
        *,
        value_fn: Callable[[Any], jax.Array] | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, LimitLearningRateState]:
        if params is None or value_fn is None:
            raise ValueError(
                "limit_learning_rate needs params and value_fn, the loss whose gradients it is "
                "given: call tx.update(grads, state, params, value_fn=loss)"
            )
        max_learning_rate = jax.lax.cond(
            state.step_count % every == 0,
            lambda: finite_stable_learning_rate(value_fn, params, updates).astype(
                state.max_learning_rate.dtype
            ),
            lambda: state.max_learning_rate,
        )
        new_updates, inner_state = tx.update(
            updates, state.inner_state, params, value_fn=value_fn, **extra_args
        )
        scale = _shrinkage(norm(new_updates), norm(updates), max_learning_rate, fraction)
        # The scale is of float32 whatever the updates are.
        with jax.numpy_dtype_promotion("standard"):
            new_updates = jax.tree.map(lambda u: (scale * u).astype(u.dtype), new_updates)
        return new_updates, LimitLearningRateState(
            step_count=optax.safe_increment(state.step_count),
            max_learning_rate=max_learning_rate,
            inner_state=inner_state,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _no_limit(dtype: Any) -> jax.Array:
    return jnp.full((), jnp.finfo(dtype).max, dtype)


def _shrinkage(
    step: jax.Array, gradient: jax.Array, max_learning_rate: jax.Array, fraction: Any
) -> jax.Array:
    """min(1, fraction · ε_max · gradient / step), 1 at zero step or where there is no limit."""
    dtype = max_learning_rate.dtype
    step, gradient, fraction = (jnp.asarray(x, dtype) for x in (step, gradient, fraction))
    limited = max_learning_rate < _no_limit(dtype)
    longest = fraction * jnp.where(limited, max_learning_rate, 0.0) * gradient
    too_long = limited & (step > longest)
    return jnp.where(too_long, longest / jnp.where(too_long, step, 1.0), 1.0)
