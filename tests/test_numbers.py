"""Numbers made from trees, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperlr import _numbers

SHAPES = [(), (3,), (40,), (60, 60), (3000, 2)]  # the fourth is short enough for several at once


def random_tree(seed):
    random = np.random.default_rng(seed)
    return {str(shape): random.normal(size=shape) for shape in SHAPES} | {"frozen": None}


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_inner_products_of_several_pairs_are_those_of_each(transform, x64):
    x, y = random_tree(0), random_tree(1)
    pairs = {"xy": _numbers.Pair(x, y), "more": [_numbers.Pair(y, y), _numbers.Pair(x, x)]}
    found = transform(lambda pairs: _numbers.inner_products(pairs))(pairs)

    def expected(a, b):
        return sum(np.vdot(a[k], b[k]) for k in a if a[k] is not None)

    np.testing.assert_allclose(found["xy"], expected(x, y), rtol=1e-12)
    np.testing.assert_allclose(found["more"], [expected(y, y), expected(x, x)], rtol=1e-12)
    assert transform(_numbers.inner_product)(x, y) == pytest.approx(expected(x, y), rel=1e-12)


def test_inner_products_of_each_in_a_batch():
    x = np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32)
    pairs = [_numbers.Pair(x, x), _numbers.Pair(x, np.ones_like(x))]
    found = jax.vmap(_numbers.inner_products)(pairs)
    np.testing.assert_allclose(found, [np.sum(x * x, 1), np.sum(x, 1)], rtol=1e-4)


def test_nothing_has_the_inner_product_0():
    assert _numbers.inner_products([_numbers.Pair({}, {}), _numbers.Pair(None, None)]) == [0, 0]
    assert _numbers.inner_product(jnp.zeros(0), jnp.zeros(0)) == 0


def test_halves_are_summed_in_full():
    x = jnp.full(4000, 0.1, jnp.bfloat16)
    found = _numbers.inner_products([_numbers.Pair(x, x), _numbers.Pair(x, jnp.ones_like(x))])
    assert {f.dtype for f in found} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(found[1], 4000 * float(x[0]), rtol=1e-5)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_what_is_computed_once_is_as_it_was(transform, x64):
    tree = {
        "float32": [jnp.float32(x) for x in (np.nan, -np.inf, np.inf, -0.1, 3e38, -0.0)],
        "float64": jnp.float64(-1e300),
        "bfloat16": jnp.asarray(-0.1, jnp.bfloat16),
        "int": [jnp.int32(-(2**31)), jnp.asarray(7, jnp.uint8)],
        "bool": [jnp.zeros((), bool), jnp.ones((), bool)],
        "array": -jnp.arange(3),
        "none": None,
    }
    found = transform(_numbers.computed_once)(tree)
    assert jax.tree.map(jax.typeof, found) == jax.tree.map(jax.typeof, tree)
    for leaf, as_it_was in zip(jax.tree.leaves(found), jax.tree.leaves(tree), strict=True):
        np.testing.assert_array_equal(leaf, as_it_was)
    batch = jnp.arange(3.0), jnp.arange(3)
    np.testing.assert_array_equal(transform(jax.vmap(_numbers.computed_once))(batch), batch)
    assert transform(_numbers.computed_once)({"none": None, "array": tree["array"]})["none"] is None


def test_what_is_not_finite_gives_way():
    x, otherwise = jnp.array([1.0, jnp.nan, -jnp.inf]), jnp.array([5.0, 6.0, 7.0])
    np.testing.assert_array_equal(_numbers.finite(x, otherwise), [1.0, 6.0, 7.0])
