"""Roots with a derivative at 0, wherever a program takes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperlr._roots import with_flat_roots

X = np.array([0.0, 1e-30, 0.3, 4.0])
# Each with its derivative where x is not 0, by hand.
ROOTS = {
    "sqrt": (jnp.sqrt, 0.5 / np.sqrt(X[1:])),
    "cbrt": (jnp.cbrt, 1 / 3 * X[1:] ** (-2 / 3)),
    "power": (lambda x: x**0.7, 0.7 * X[1:] ** -0.3),
    "jit": (jax.jit(jnp.sqrt), 0.5 / np.sqrt(X[1:])),
    "checkpoint": (jax.checkpoint(jnp.sqrt), 0.5 / np.sqrt(X[1:])),
    "scan": (
        lambda x: jax.lax.scan(lambda c, y: (c, jnp.sqrt(y)), 0.0, x)[1],
        0.5 / np.sqrt(X[1:]),
    ),
    "cond": (
        lambda x: jax.lax.cond(x[0] < 9, jnp.sqrt, jnp.square, x),
        0.5 / np.sqrt(X[1:]),
    ),
}


@pytest.mark.parametrize("name", ROOTS)
def test_derivatives_are_those_of_the_root_and_0_at_0(name, x64):
    root, slope = ROOTS[name]
    x, expected = jnp.asarray(X), np.concatenate([[0.0], slope])

    def flat(x):
        return with_flat_roots(root)(x)

    np.testing.assert_array_equal(flat(x), root(x))
    forward = jax.jvp(flat, (x,), (jnp.ones_like(x),))[1]
    reverse = jax.grad(lambda x: jnp.sum(flat(x)))(x)
    for found in (forward, reverse, jax.jit(jax.vmap(jax.grad(lambda x: flat(x[None])[0])))(x)):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_slopes_are_right_where_squares_are_near_the_smallest_number():
    """Of Adam's √v with gradients of 1e-18: the tangent of v is as small as v."""
    x, x_dot = jnp.float32(1e-36), jnp.float32(2e-36)
    found = jax.jvp(lambda x: with_flat_roots(jnp.sqrt)(x), (x,), (x_dot,))[1]
    np.testing.assert_allclose(found, 1e-18, rtol=1e-6)


def test_a_branch_that_is_not_taken_may_be_the_root_of_a_negative_number():
    def masked(x):
        return jnp.where(x > 0, jnp.sqrt(x), -x)

    found = jax.grad(lambda x: jnp.sum(with_flat_roots(masked)(x)))(jnp.array([-1.0, 4.0]))
    np.testing.assert_array_equal(found, [-1.0, 0.25])


def test_other_powers_and_rules_of_its_own_stay():
    @jax.custom_jvp
    def root(x):
        return jnp.sqrt(x)

    root.defjvps(lambda x_dot, y, x: 7.0 * x_dot)
    functions = {7.0: root, 1.0: lambda x: x**1.0, 0.0: lambda x: x**1.5}
    for slope, function in functions.items():
        assert jax.grad(lambda x: with_flat_roots(function)(x))(0.0) == slope
    # An exponent that is not known is not known to be of a root.
    by_exponent = jax.grad(lambda p: with_flat_roots(jnp.power)(2.0, p))(0.5)
    np.testing.assert_allclose(by_exponent, np.log(2) * np.sqrt(2), rtol=1e-6)


def test_trees_and_dtypes_are_those_of_the_function():
    def function(tree, count):
        return {"root": jnp.sqrt(tree["x"]), "count": count + 1, "none": None}

    tree = {"x": jnp.ones(3, jnp.bfloat16)}
    found = with_flat_roots(function)(tree, 2)
    assert jax.tree.structure(found) == jax.tree.structure(function(tree, 2))
    assert found["root"].dtype == jnp.bfloat16
    assert found["count"] == 3
