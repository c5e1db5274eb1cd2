"""RTHO, real-time hyperparameter optimization: μ = 1, the whole past counts."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from hyperlr.methods._engine import online
from hyperlr.rules._adaptive_sgd import adaptive_sgd


def rtho(
    inner: Callable[..., optax.GradientTransformation],
    learning_rate: float | jax.Array,
    hyper_learning_rate: float | jax.Array,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    r"""Real-time hyperparameter optimization: learns the learning rate from the whole trajectory.

    With A = ∂Φ/∂(w, s) and B = ∂Φ/∂η the derivatives of the inner step, and e = ∇E(w_t)::

        Z_0 = 0,   Z_{t+1} = A_t Z_t + B_t
        Δη_t = ⟨Z_t, e⟩
        η_t  = max(η_{t-1} − β Δη_t, 0)

    Were η not changed on the way, Δη_t would be dE(w_t)/dη exactly. Nothing is ever forgotten, so
    where the trajectory is unstable Z grows without bound; :func:`hyperlr.marthe` discounts it.

    Args:
      inner: factory of the inner optimizer, called as ``inner(learning_rate=...)``.
      learning_rate: η_0 ≥ 0.
      hyper_learning_rate: β ≥ 0, the step size of η.
      **options: ``bounds``, ``every`` and so on, for :func:`hyperlr.online`.

    Returns:
      A transformation whose ``update`` needs ``value_fn`` and takes ``val_grad``, as for
      :func:`hyperlr.online`.

    Raises:
      TypeError, ValueError: as :func:`hyperlr.online`.

    Example:
      >>> import jax, jax.numpy as jnp, optax, hyperlr
      >>> tx = hyperlr.rtho(optax.sgd, 0.01, 1e-3)
      >>> loss = lambda w: jnp.sum((w - 1.0) ** 2)
      >>> params = jnp.zeros(3)
      >>> state = tx.init(params)
      >>> for _ in range(3):
      ...     grads = jax.grad(loss)(params)
      ...     updates, state = tx.update(grads, state, params, value_fn=loss)
      ...     params = optax.apply_updates(params, updates)
      >>> print(f"{hyperlr.metrics(state)['learning_rate']:.4f}")
      0.0435

    References:
      Franceschi et al., "Forward and reverse gradient-based hyperparameter optimization", 2017;
      Donini et al., 2020, Eq. 5 and 6.
    """
    return online(
        inner,
        {"learning_rate": learning_rate},
        discount=1.0,
        hyper_optimizer=adaptive_sgd(hyper_learning_rate),
        **options,
    )
