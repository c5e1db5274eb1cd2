"""Hessian-vector products, Rayleigh quotients, and the bounds on the step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems.curvature import (
    beale,
    dense_hessian,
    network_loss,
    network_params,
    quadratic,
    rotated,
)

from hyperlr import curvature


def test_hvp_is_the_product_with_the_dense_hessian(x64):
    params, vector = network_params(jnp.float64), network_params(jnp.float64)
    vector = jax.tree.map(jnp.cos, vector)
    flatten = jax.flatten_util.ravel_pytree
    product = jax.jit(lambda p, v: curvature.hvp(network_loss, p, v))(params, vector)
    expected = dense_hessian(network_loss, params) @ flatten(vector)[0]
    np.testing.assert_allclose(flatten(product)[0], expected, rtol=1e-10)


@jax.custom_vjp
def reverse_only(w):
    return jnp.sum(w**2)


reverse_only.defvjp(lambda w: (reverse_only(w), w), lambda w, g: (2 * g * w,))


def test_hvp_names_mistakes():
    w = jnp.ones(2)
    with pytest.raises(TypeError, match="custom_jvp"):
        curvature.hvp(lambda w: reverse_only(w) ** 2, w, w)
    with pytest.raises(TypeError, match="value_fn must return a scalar"):
        curvature.hvp(lambda w: w, w, w)


def test_rayleigh_quotient_of_eigenvectors(x64):
    matrix, q = rotated([3.0, -2.0, 0.5])
    loss = quadratic(matrix)
    batched = jax.jit(jax.vmap(lambda v: curvature.rayleigh_quotient(loss, jnp.ones(3), v)))
    np.testing.assert_allclose(batched(7.0 * q.T), [3.0, -2.0, 0.5], rtol=1e-12)
    w = jnp.array([1.0, 2.0, -1.0])
    g = matrix @ w
    expected = g @ matrix @ g / (g @ g)
    np.testing.assert_allclose(curvature.rayleigh_quotient(loss, w), expected, rtol=1e-12)


@jax.jit
def scalars(params):
    return (
        curvature.rayleigh_quotient(network_loss, params),
        curvature.max_stable_learning_rate(network_loss, params),
        curvature.optimal_learning_rate(network_loss, params),
        curvature.lipschitz_constant(network_loss, params),
    )


def test_scalars_are_at_least_float32():
    params = network_params(jnp.bfloat16)
    low = scalars(params)
    full = scalars(jax.tree.map(lambda p: p.astype(jnp.float32), params))
    assert {x.dtype for x in (*low, *full)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(low, full, rtol=0.05)


def test_one_parameter(x64):
    loss = lambda w: 2.5 * w**2
    assert curvature.max_stable_learning_rate(loss, jnp.array(3.0)) == 0.4
    assert curvature.optimal_learning_rate(loss, jnp.array(3.0)) == 0.2
    assert curvature.lipschitz_constant(loss, jnp.array(3.0)) == 5.0


@pytest.mark.parametrize(
    "loss",
    [lambda w: jnp.sum(w), lambda w: -0.5 * jnp.sum(w**2), lambda w: w[0] ** 3 - w[1] ** 2],
    ids=["no curvature", "negative", "saddle"],
)
def test_no_limit_without_positive_curvature(loss):
    w = jnp.array([-1.0, 1.0])
    for function in (curvature.max_stable_learning_rate, curvature.optimal_learning_rate):
        assert jax.jit(lambda w: function(loss, w))(w) == jnp.inf
        np.testing.assert_array_equal(jax.grad(lambda w: function(loss, w))(w), jnp.zeros(2))


def test_zero_gradient():
    loss, w = quadratic(np.eye(2, dtype=np.float32)), jnp.zeros(2)
    assert curvature.rayleigh_quotient(loss, w) == 0.0
    assert curvature.max_stable_learning_rate(loss, w) == jnp.inf
    np.testing.assert_allclose(curvature.lipschitz_constant(loss, w), 1.0, rtol=1e-6)
    for function in (curvature.rayleigh_quotient, curvature.max_stable_learning_rate):
        slope = jax.grad(lambda w: function(loss, w))(w)
        assert jnp.all(jnp.isfinite(slope))
        tangent = jax.jvp(lambda w: function(loss, w), (w,), (jnp.ones(2),))[1]
        assert jnp.isfinite(tangent)


def test_grads_at_hand_are_not_computed_again(x64):
    w = jnp.array([1.0, 0.5])
    grads = jax.grad(beale)(w)
    for function in (curvature.max_stable_learning_rate, curvature.optimal_learning_rate):
        np.testing.assert_allclose(function(beale, w, grads), function(beale, w), rtol=1e-14)
        assert function(beale, w, jnp.array([0.0, 1.0])) != function(beale, w)


def test_loss_after_one_step_of_a_quadratic(x64):
    """The bound is exact: at it the loss returns to where it was, and halfway it is least."""
    loss = quadratic(rotated([4.0, 1.0, 0.1])[0])
    w = jnp.array([1.0, -2.0, 0.3])
    g, bound = jax.grad(loss)(w), curvature.max_stable_learning_rate(loss, w)
    after = lambda rate: loss(w - rate * g)
    np.testing.assert_allclose(after(bound), loss(w), rtol=1e-12)
    assert after(0.99 * bound) < loss(w) < after(1.01 * bound)
    best = curvature.optimal_learning_rate(loss, w)
    np.testing.assert_allclose(best, bound / 2, rtol=1e-15)
    np.testing.assert_allclose(jax.grad(after)(best), 0.0, atol=1e-12)


@pytest.mark.parametrize("name", ["rayleigh_quotient", "max_stable_learning_rate"])
def test_derivatives_of_the_bounds(name, x64):
    function, w, h = getattr(curvature, name), jnp.array([1.0, 0.5]), 1e-6
    evaluate = jax.jit(lambda w: function(beale, w))
    gradient = jax.grad(evaluate)(w)
    for k, e in enumerate(jnp.eye(2)):
        expected = (evaluate(w + h * e) - evaluate(w - h * e)) / (2 * h)
        np.testing.assert_allclose(gradient[k], expected, rtol=1e-6)
        np.testing.assert_allclose(jax.jvp(evaluate, (w,), (e,))[1], expected, rtol=1e-6)
