"""A rate for each input feature, larger the fewer examples of a minibatch contain the feature."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def sparsity_factor(inputs: jax.Array) -> jax.Array:
    """How many times rarer than always each feature is nonzero in a minibatch.

    With x[i, j] the ``inputs`` of n examples and n_j the number of examples i with x[i, j] ≠ 0::

        factor[j] = n / n_j,    1 where n_j = 0

    A dense feature has factor 1; one that half of the examples have, 2. The gradient of a mean
    loss with respect to the weights of feature j is a sum over n_j examples divided by n, small
    only for the zeros in it; times the factor it is the mean over the examples that have the
    feature. A feature that no example has gives no gradient to scale, and so keeps its rate.

    Args:
      inputs: [n, ...features], one example a row; n ≥ 1.

    Returns:
      [...features], at least float32, between 1 and n. Its derivative with respect to ``inputs``
      is zero (it counts); ``jvp``, ``vjp`` and ``vmap`` are supported.

    Raises:
      ValueError: ``inputs`` has no axis of examples.

    Example:
      >>> import jax.numpy as jnp
      >>> from hyperlr.optimizers import sparsity_factor
      >>> print(sparsity_factor(jnp.array([[1.0, 0.0, 0.0], [2.0, 3.0, 0.0]])))
      [1. 2. 1.]

    References:
      Duchi et al., 2011, for rates of their own for features that are rare. Dividing by how often
      a feature is there is the simplest of such rules.
    """
    inputs = jnp.asarray(inputs)
    if inputs.ndim == 0:
        raise ValueError(
            "inputs must have a leading axis of examples, got a scalar: pass an array of shape "
            "[examples, features]"
        )
    dtype = jnp.promote_types(inputs.dtype, jnp.float32)
    present = jnp.sum(inputs != 0, axis=0).astype(dtype)
    return jnp.where(present > 0, inputs.shape[0] / jnp.maximum(present, 1), 1).astype(dtype)


def scale_by_sparsity() -> optax.GradientTransformationExtraArgs:
    """Multiplies the update of each feature's weights by the feature's sparsity factor.

    With x_t the ``inputs`` of the minibatch, for weights whose leading axes are the features j::

        u_t[j, ...] = sparsity_factor(x_t)[j] · g_t[j, ...]

    so that ``optax.chain(scale_by_sparsity(), optax.sgd(η_0))`` has the rates
    η_t[j] = η_0 · sparsity_factor(x_t)[j].

    Every array of the parameters must begin with the axes of the features. Arrays that do not, such
    as biases and later layers, are left out with ``optax.masked``.

    Returns:
      A transformation whose ``update(grads, state, params=None, *, inputs, **extra_args)`` needs
      ``inputs``, the minibatch x_t of shape [n, ...features]. It has no state. ``jvp``, ``vjp`` and
      ``vmap`` are supported.

    Raises:
      ValueError: ``update`` is called without ``inputs``, or an array of the updates does not begin
        with the axes of the features.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from hyperlr.optimizers import scale_by_sparsity
      >>> mask = {"weights": True, "bias": False}
      >>> tx = optax.chain(optax.masked(scale_by_sparsity(), mask), optax.sgd(0.1))
      >>> params = {"weights": jnp.array([1.0, 1.0]), "bias": jnp.array(1.0)}
      >>> grads = {"weights": jnp.array([1.0, 1.0]), "bias": jnp.array(1.0)}
      >>> inputs = jnp.array([[1.0, 0.0], [2.0, 3.0]])
      >>> updates, state = tx.update(grads, tx.init(params), params, inputs=inputs)
      >>> print(optax.apply_updates(params, updates)["weights"])
      [0.9 0.8]

    References:
      As :func:`hyperlr.optimizers.sparsity_factor`.
    """

    def init_fn(params: optax.Params) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update_fn(
        updates: optax.Updates,
        state: optax.EmptyState,
        params: optax.Params | None = None,
        *,
        inputs: jax.Array | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params, extra_args
        if inputs is None:
            raise ValueError(
                "scale_by_sparsity needs inputs, the minibatch that the gradients come from: call "
                "tx.update(grads, state, params, inputs=x)"
            )
        factor = sparsity_factor(inputs)
        return jax.tree.map(lambda u: _scale_features(u, factor), updates), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _scale_features(update: jax.Array, factor: jax.Array) -> jax.Array:
    if update.shape[: factor.ndim] != factor.shape:
        raise ValueError(
            f"updates of shape {update.shape} do not begin with the features {factor.shape} of "
            "inputs: wrap scale_by_sparsity in optax.masked, true only for weights whose leading "
            "axes are the input features"
        )
    aligned = factor.reshape(factor.shape + (1,) * (update.ndim - factor.ndim))
    return (update * aligned).astype(update.dtype)
