"""Gradient descent on η, whose step size β is itself adapted (Donini et al., 2020)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hyperlr import _checks, _numbers


class AdaptiveSgdState(NamedTuple):
    """State of :func:`adaptive_sgd`; scalars of the dtype of the hyperparameters.

    Attributes:
      hyper_learning_rate: β, one scalar for each hyperparameter.
      meta_learning_rate: κ, likewise.
      hypergradient: the previous Δη.
    """

    hyper_learning_rate: optax.Params
    meta_learning_rate: optax.Params
    hypergradient: optax.Updates


def adaptive_sgd(
    hyper_learning_rate: float | jax.Array = 0.0, meta_learning_rate: float | jax.Array = 0.0
) -> optax.GradientTransformation:
    r"""Gradient descent on the hyperparameters, whose step size adapts by the same principle.

    With Δη the hypergradient, for each hyperparameter::

        β_t = max(β_{t-1} + κ Δη_t Δη_{t-1}, 0)
        η_t = η_{t-1} − β_t Δη_t

    A larger β was a better β while hypergradients agree in sign: η_{t-1} = η_{t-2} − β Δη_{t-1},
    so by the chain rule dE/dβ = −Δη_t Δη_{t-1}.

    Args:
      hyper_learning_rate: β_0 ≥ 0, the step size of η; η's unit squared over the objective's.
      meta_learning_rate: κ ≥ 0, the step size of β; 0 keeps β constant.

    Returns:
      A transformation on a dict (or any tree) of scalars, for ``hyper_optimizer`` of
      :func:`hyperlr.online`. Supports ``vmap``.

    Raises:
      TypeError: an argument is not a float scalar.
      ValueError: a static argument is negative.

    Example:
      >>> import jax.numpy as jnp, optax, hyperlr
      >>> rule = hyperlr.adaptive_sgd(0.1, meta_learning_rate=0.01)
      >>> hyperparams = {"learning_rate": jnp.array(1.0)}
      >>> state = rule.init(hyperparams)
      >>> for _ in range(2):
      ...     steps, state = rule.update({"learning_rate": jnp.array(2.0)}, state)
      ...     hyperparams = optax.apply_updates(hyperparams, steps)
      >>> print(f"{state.hyper_learning_rate['learning_rate']:.2f}")
      0.14
      >>> print(f"{hyperparams['learning_rate']:.2f}")
      0.52

    References:
      Donini et al., 2020, Section 4 and Algorithm 1; Baydin et al., 2018.
    """
    _checks.check_float_scalar("hyper_learning_rate", hyper_learning_rate, lower=0.0)
    _checks.check_float_scalar("meta_learning_rate", meta_learning_rate, lower=0.0)

    def init_fn(params: optax.Params) -> AdaptiveSgdState:
        return AdaptiveSgdState(
            hyper_learning_rate=optax.tree.full_like(params, hyper_learning_rate),
            meta_learning_rate=optax.tree.full_like(params, meta_learning_rate),
            hypergradient=optax.tree.zeros_like(params),
        )

    def update_fn(
        updates: optax.Updates, state: AdaptiveSgdState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, AdaptiveSgdState]:
        del params
        # The paper prints β_t − κ Δη_{t+1} Δη_t. That ascends E in β: from β_0 = 0, β turns
        # negative as soon as two hypergradients agree, and η never leaves η_0.
        beta = jax.tree.map(
            _next_step_size,
            state.hyper_learning_rate,
            state.meta_learning_rate,
            updates,
            state.hypergradient,
        )
        steps = jax.tree.map(lambda b, g: -b * g, beta, updates)
        return steps, state._replace(hyper_learning_rate=beta, hypergradient=updates)

    return optax.GradientTransformation(init_fn, update_fn)


def _next_step_size(beta: jax.Array, kappa: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """β_t, finite whatever the hypergradients are: one that is not says nothing."""
    # Two finite hypergradients can have an infinite product; times κ = 0 it would be NaN.
    step = kappa * _numbers.saturated(new * old)
    moved = jnp.maximum(_numbers.saturated(beta + step), 0.0)
    return jnp.where(jnp.isnan(moved), jnp.where(jnp.isnan(beta), 0.0, beta), moved)
