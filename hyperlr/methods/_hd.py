"""HD, hypergradient descent: μ = 0, the loss after one step."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from hyperlr.methods._engine import online
from hyperlr.rules._adaptive_sgd import adaptive_sgd


def hd(
    inner: Callable[..., optax.GradientTransformation],
    learning_rate: float | jax.Array,
    hyper_learning_rate: float | jax.Array,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    r"""Hypergradient descent: learns the learning rate from one step back.

    With Φ the inner optimizer's step, B = ∂Φ/∂η, and e = ∇E(w_t)::

        Δη_t = ⟨B_{t-1}, e⟩
        η_t  = max(η_{t-1} − β Δη_t, 0)

    For SGD, Δη_t = −⟨∇L(w_{t-1}), e⟩: the rate grows while successive gradients agree. The cost is
    one inner product a step; memory, one copy of the parameters.

    Args:
      inner: factory of the inner optimizer, called as ``inner(learning_rate=...)``.
      learning_rate: η_0 ≥ 0.
      hyper_learning_rate: β ≥ 0, the step size of η.
      **options: ``bounds``, ``every`` and so on, for :func:`hyperlr.online`.

    Returns:
      A transformation that runs in a plain ``update(grads, state, params)`` loop. ``value_fn`` is
      not needed; ``val_grad`` is optional, as for :func:`hyperlr.online`.

    Raises:
      TypeError, ValueError: as :func:`hyperlr.online`.

    Example:
      >>> import jax, jax.numpy as jnp, optax, hyperlr
      >>> tx = hyperlr.hd(optax.sgd, 0.01, 1e-3)
      >>> loss = lambda w: jnp.sum((w - 1.0) ** 2)
      >>> params = jnp.zeros(3)
      >>> state = tx.init(params)
      >>> for _ in range(3):
      ...     updates, state = tx.update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> print(f"{hyperlr.metrics(state)['learning_rate']:.4f}")
      0.0328

    References:
      Baydin et al., "Online learning rate adaptation with hypergradient descent", ICLR 2018; Donini
      et al., 2020, Eq. 5 and 6.
    """
    return online(
        inner,
        {"learning_rate": learning_rate},
        discount=0.0,
        hyper_optimizer=adaptive_sgd(hyper_learning_rate),
        **options,
    )
