"""Gradients of sparse features, scaled by how often the feature occurs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hyperlr import optimizers


def test_sparsity_factor_counts_nonzeros():
    inputs = jnp.array([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [-3.0, 4.0, 0.0], [5.0, 0.0, 0.0]])
    factor = jax.jit(optimizers.sparsity_factor)(inputs)
    np.testing.assert_array_equal(factor, [1.0, 4.0, 1.0])
    assert optimizers.sparsity_factor(inputs.astype(jnp.bfloat16)).dtype == jnp.float32
    assert optimizers.sparsity_factor(inputs.astype(jnp.int32)).dtype == jnp.float32
    both = jax.vmap(optimizers.sparsity_factor)(jnp.stack([inputs, 0 * inputs]))
    np.testing.assert_array_equal(both, [[1.0, 4.0, 1.0], [1.0, 1.0, 1.0]])
    slope = jax.jacobian(optimizers.sparsity_factor)(inputs)
    np.testing.assert_array_equal(slope, jnp.zeros((3, 4, 3)))
    with pytest.raises(ValueError, match="inputs must have a leading axis"):
        optimizers.sparsity_factor(jnp.array(1.0))


def test_scaled_gradient_is_the_mean_over_the_examples_with_the_feature():
    inputs = jnp.array([[1.0, 0.0], [2.0, 3.0], [1.0, 0.0]])
    per_example = inputs[:, :, None] * jnp.array([[[1.0, -2.0]]])  # [examples, features, outputs]
    grads = {"kernel": jnp.mean(per_example, axis=0), "bias": jnp.ones(2)}
    tx = optax.masked(optimizers.scale_by_sparsity(), {"kernel": True, "bias": False})
    updates, _ = jax.jit(lambda g, x: tx.update(g, tx.init(g), inputs=x))(grads, inputs)
    np.testing.assert_allclose(updates["kernel"][0], jnp.mean(per_example[:, 0], axis=0), rtol=1e-6)
    np.testing.assert_allclose(updates["kernel"][1], per_example[1, 1], rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], grads["bias"])


def test_scale_by_sparsity_keeps_dtypes_and_names_mistakes():
    tx = optimizers.scale_by_sparsity()
    grads = jnp.ones(2, jnp.bfloat16)
    inputs = jnp.ones((3, 2))
    updates, state = tx.update(grads, tx.init(grads), grads, inputs=inputs, unknown="ignored")
    assert updates.dtype == jnp.bfloat16
    assert state == optax.EmptyState()
    with pytest.raises(ValueError, match="needs inputs"):
        tx.update(grads, state, grads)
    with pytest.raises(ValueError, match=r"optax\.masked"):
        tx.update(jnp.ones(5), state, inputs=inputs)
