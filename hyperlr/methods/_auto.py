"""No number to set: a rate that finds its beginning and follows the loss at the average."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hyperlr.methods._bursts import Bursts
from hyperlr.methods._engine import online
from hyperlr.methods._guard import guard
from hyperlr.rules import exponentiated_gradient

# How they were chosen is in docs/comparison.md.
_SHRINK, _PUSH, _CUT = 0.5, 0.5, 0.3


def auto(
    inner: Callable[..., optax.GradientTransformation],
    learning_rate: float | jax.Array | None = None,
    *,
    hyper_learning_rate: float | jax.Array = 0.4,
    average: float | jax.Array = 8.0,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    r"""Learns the learning rate with no number to set: no rate, no schedule, no validation set.

    A composition of public parts. The tangent Z is that of log η, with a horizon of a tenth of the
    run so far; w̄ is the average of the iterates with weights that grow like t^p, Z̄ its tangent,
    and e = ∇E(w̄) the gradient of the loss there, on a minibatch that w̄ has not seen::

        Z_{t+1} = μ_t A_t Z_t + η_t B_t,   μ_t = 1 − 1 / (1 + t / 10)
        η_t     = η_{t-1} · (1 + s_t · expm1(−γ (a cos(Z̄_t, e_t) + x_t / 2)))

    where a = 1/2 if the cosine is positive and 1 otherwise, and s_t = min(1, 10 / (1 + n / 10))
    with n the moves so far: after a hundred, the rate may move by as much in each doubling of them
    as in the one before. After a hundred steps it moves in 8 of every 64 alone
    (:class:`hyperlr.Bursts`), and the others are plain steps of the inner optimizer.

    ‖Z‖ is held below the discounted length of the way so far, and x_t is the logarithm of what was
    taken away for that (1 at most after halving): the sign of a rate that is too large. The first
    rate comes from :func:`hyperlr.search.first_rate`, and all of it is inside
    :func:`hyperlr.guard`.

    End a run with ``hyperlr.eval_params(state, params)``: the average needs no decay of the rate.

    Args:
      inner: factory of the inner optimizer, called as ``inner(learning_rate=...)``, such as
        :func:`hyperlr.optimizers.adam` or a chain.
      learning_rate: η_0; ``None`` finds it by 41 forward passes inside the first update.
      hyper_learning_rate: γ ≥ 0; with Adam little changes between 0.3 and 0.5. With SGD and
        momentum a smaller one overshoots less.
      average: p ≥ 0 of the average; between 3 and 8 little changes.
      **options: ``bounds``, ``every`` (with 1 the rate moves in all steps, which is faster with
        convolutions on a CPU and ``share`` at 1), ``hvp`` and so on, for :func:`hyperlr.online`.

    Returns:
      A transformation for the loop with :func:`hyperlr.value_and_grad`, where ``share=0.25`` makes
      a step that moves the rate cost two gradients in place of four. With
      :func:`hyperlr.linearize_grad`, pass ``value_fn`` too, or a ``learning_rate``.

    Raises:
      TypeError, ValueError: as :func:`hyperlr.online`.

    Example:
      >>> import jax, jax.numpy as jnp, optax, hyperlr
      >>> tx = hyperlr.auto(hyperlr.optimizers.adam)
      >>> loss_fn = lambda w, batch: jnp.mean((batch - w) ** 2)
      >>> params, batch = jnp.zeros(()), jnp.linspace(0.9, 1.1, 8)
      >>> state = tx.init(params)
      >>> @jax.jit
      ... def step(params, state):
      ...     value, grads, extra = hyperlr.value_and_grad(loss_fn)(params, batch, state=state)
      ...     updates, state = tx.update(grads, state, params, **extra)
      ...     return optax.apply_updates(params, updates), state
      >>> for _ in range(200):
      ...     params, state = step(params, state)
      >>> bool(abs(hyperlr.eval_params(state, params) - 1.0) < 0.1)
      True

    References:
      Wu et al., 2018, for the bias of short horizons; Polyak and Juditsky, 1992, for the average.
    """
    given = 1.0 if learning_rate is None else learning_rate
    rule = exponentiated_gradient(hyper_learning_rate, shrink=_SHRINK, push=_PUSH)
    learned = online(
        inner,
        {"learning_rate": given},
        discount=_horizon_of_a_tenth,
        hyper_optimizer=optax.chain(rule, optax.scale_by_schedule(_settled)),
        average=average,
        relative=True,
        max_tangent=1.0,
        finds_first_rate=learning_rate is None,
        **{"every": Bursts()} | options,
    )
    return guard(learned, cut=_CUT)


def _horizon_of_a_tenth(step_count: jax.Array) -> jax.Array:
    return 1.0 - _inverse_horizon(step_count)


def _settled(num_moves: jax.Array) -> jax.Array:
    return jnp.minimum(1.0, 10.0 * _inverse_horizon(num_moves))


def _inverse_horizon(count: jax.Array) -> jax.Array:
    return 1.0 / (1.0 + count.astype(jnp.result_type(float)) / 10.0)
