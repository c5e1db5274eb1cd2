"""MARTHE, moving average real-time hyperparameter estimation: μ and β adapt."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from hyperlr import _checks
from hyperlr.methods._engine import online
from hyperlr.rules._adaptive_sgd import adaptive_sgd


def marthe(
    inner: Callable[..., optax.GradientTransformation],
    learning_rate: float | jax.Array = 0.0,
    *,
    meta_learning_rate: float | jax.Array = 0.0,
    hyper_learning_rate: float | jax.Array = 0.0,
    discount: float | jax.Array | None = None,
    hyper_optimizer: optax.GradientTransformation | None = None,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    r"""Learns the learning rate from a discounted past, and the discount and step size with it.

    With A = ∂Φ/∂(w, s) and B = ∂Φ/∂η the derivatives of the inner step, and e = ∇E(w_t)::

        Z_0 = 0,   Z_{t+1} = μ_t A_t Z_t + B_t
        Δη_t = ⟨Z_t, e⟩
        β_t  = max(β_{t-1} + κ Δη_t Δη_{t-1}, 0)
        η_t  = max(η_{t-1} − β_t Δη_t, 0)

    The discount μ_t falls when Δη_t opposes the one-step hypergradient (:func:`hyperlr.online`). At
    μ = 0 this is :func:`hyperlr.hd`, at μ = 1 :func:`hyperlr.rtho`. The paper
    suggests η_0 = β_0 = 0 where nothing is known of the task, and for κ to start high and divide
    it by ten until training does not diverge.

    Args:
      inner: factory of the inner optimizer, called as ``inner(learning_rate=...)``.
      learning_rate: η_0 ≥ 0.
      meta_learning_rate: κ ≥ 0, the step size of β; 0 keeps β constant.
      hyper_learning_rate: β_0 ≥ 0, the initial step size of η.
      discount: a constant μ in [0, 1], or ``None`` to adapt it.
      hyper_optimizer: takes the place of the rule for β and η above, for example
        :func:`hyperlr.exponentiated_gradient`; then both step sizes must be left out.
      **options: ``bounds``, ``every`` and so on, for :func:`hyperlr.online`.

    Returns:
      A transformation whose ``update`` needs ``value_fn`` and takes ``val_grad``, as for
      :func:`hyperlr.online`.

    Raises:
      TypeError: as :func:`hyperlr.online`.
      ValueError: as :func:`hyperlr.online`; also if the learning rate could never move (both step
        sizes are static zeros and there is no ``hyper_optimizer``), or if both a step size and a
        ``hyper_optimizer`` are given.

    Example:
      >>> import jax, jax.numpy as jnp, optax, hyperlr
      >>> tx = hyperlr.marthe(optax.sgd, meta_learning_rate=1e-5)
      >>> loss = lambda w: jnp.sum((w - 1.0) ** 2)
      >>> params = jnp.zeros(3)
      >>> state = tx.init(params)
      >>> for _ in range(10):
      ...     grads = jax.grad(loss)(params)
      ...     updates, state = tx.update(grads, state, params, value_fn=loss)
      ...     params = optax.apply_updates(params, updates)
      >>> bool(hyperlr.metrics(state)["learning_rate"] > 0.01)  # it started from 0
      True

    References:
      Donini et al., "MARTHE: scheduling the learning rate via online hypergradients", 2020, Section
      4, Algorithm 1 and Appendix B.
    """
    never_moves = _checks.is_zero(meta_learning_rate) and _checks.is_zero(hyper_learning_rate)
    if hyper_optimizer is None and never_moves:
        raise ValueError(
            "meta_learning_rate and hyper_learning_rate are both 0, so the learning rate could "
            "never move: pass one of them, such as meta_learning_rate=1e-6, or a hyper_optimizer"
        )
    if hyper_optimizer is not None and not never_moves:
        raise ValueError(
            "hyper_optimizer brings its own step size: leave out meta_learning_rate and "
            "hyper_learning_rate, or leave out hyper_optimizer"
        )
    return online(
        inner,
        {"learning_rate": learning_rate},
        discount=discount,
        hyper_optimizer=hyper_optimizer or adaptive_sgd(hyper_learning_rate, meta_learning_rate),
        **options,
    )
