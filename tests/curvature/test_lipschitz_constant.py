"""The Lipschitz constant of the gradient: known spectra, and descent on either side of 2/L."""

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

SPECTRA = {
    "positive": np.linspace(0.1, 7.0, 30),
    "indefinite": np.linspace(-3.0, 7.0, 30),
    "negative": np.linspace(-7.0, 3.0, 30),
    "close": np.array([7.0, 6.99, 6.98, *np.linspace(0, 1, 27)]),
    "both ends": np.array([7.0, -6.99, *np.linspace(-1, 1, 28)]),
    "repeated": np.array([7.0] * 5 + [1.0] * 25),
    "one value": np.full(30, 7.0),
    # Four products span all that the basis ever can: what is left of the fifth is rounding, most of
    # it along the basis until it is orthogonalized a second time.
    "few values": np.repeat([1.0, 0.999, 0.5, 1e-3], 20),
    "rank one": np.array([7.0] + [0.0] * 29),
    "tiny": 1e-12 * np.linspace(0.1, 7.0, 30),
    "huge": 1e12 * np.linspace(0.1, 7.0, 30),
}


@jax.jit
def lipschitz_of(matrix, tolerance):
    return curvature.lipschitz_constant(
        lambda w: 0.5 * jnp.vdot(w, matrix @ w), matrix[0], tolerance=tolerance
    )


@pytest.mark.parametrize("name", SPECTRA)
def test_lipschitz_constant_of_known_spectra(name, x64):
    spectrum = SPECTRA[name]
    for matrix in (np.diag(spectrum), rotated(spectrum)[0]):
        actual = lipschitz_of(jnp.asarray(matrix), 1e-6)
        np.testing.assert_allclose(actual, np.max(np.abs(spectrum)), rtol=1e-6)


@pytest.mark.parametrize("name", SPECTRA)
def test_lipschitz_constant_in_float32(name):
    spectrum = SPECTRA[name]
    actual = lipschitz_of(jnp.asarray(rotated(spectrum)[0], jnp.float32), jnp.float32(1e-5))
    np.testing.assert_allclose(actual, np.max(np.abs(spectrum)), rtol=1e-5)


def test_lipschitz_constant_keeps_its_tolerance_and_stops(x64):
    """On 211 eigenvalues, far more than there are iterations, counting the products."""
    n, products = 211, []
    spectrum = np.random.default_rng(5).normal(size=n) ** 3
    matrix = jnp.asarray(rotated(spectrum)[0])
    exact = np.max(np.abs(spectrum))

    def counted(w):
        jax.debug.callback(lambda: products.append(1))
        return 0.5 * jnp.vdot(w, matrix @ w)

    find = jax.jit(lambda t: curvature.lipschitz_constant(counted, jnp.ones(n), tolerance=t))
    counts = []
    for tolerance in (1e-1, 1e-3, 1e-6, 1e-10):
        products.clear()
        actual = find(tolerance)
        jax.effects_barrier()
        counts.append(len(products))
        np.testing.assert_allclose(actual, exact, rtol=tolerance)
    assert counts == sorted(set(counts))
    assert counts[-1] < 64


def test_lipschitz_constant_is_a_lower_bound_when_cut_short(x64):
    loss = quadratic(rotated(np.linspace(-1.0, 2.0, 60))[0])

    @jax.jit
    def find(key):
        return [
            curvature.lipschitz_constant(
                loss, jnp.ones(60), max_iterations=m, tolerance=0.0, key=key
            )
            for m in (1, 4, 16)
        ]

    values, others = find(jax.random.key(0)), find(jax.random.key(1))
    assert values[0] < values[1] < values[2] <= 2.0
    assert values[0] != others[0]


def test_lipschitz_constant_never_forms_the_hessian():
    n = 211
    loss = lambda w: jnp.sum(jnp.cos(w)) * jnp.sum(w**2)
    jaxpr = jax.make_jaxpr(lambda w: curvature.lipschitz_constant(loss, w))(jnp.ones(n))
    assert f"[65,{n}]" in str(jaxpr)
    assert f"[{n},{n}]" not in str(jaxpr)


def test_lipschitz_constant_of_a_tree(x64):
    params = network_params(jnp.float64)
    eigenvalues = np.linalg.eigvalsh(dense_hessian(network_loss, params))
    actual = curvature.lipschitz_constant(network_loss, params, tolerance=1e-8)
    np.testing.assert_allclose(actual, np.max(np.abs(eigenvalues)), rtol=1e-8)


def test_lipschitz_constant_without_curvature_or_parameters():
    assert curvature.lipschitz_constant(lambda w: jnp.sum(w), jnp.ones(3)) == 0.0
    assert curvature.lipschitz_constant(lambda w: jnp.float32(1.0), {"none": None}) == 0.0
    with pytest.raises(ValueError, match=r"^max_iterations must"):
        curvature.lipschitz_constant(beale, jnp.ones(2), max_iterations=0)


def test_lipschitz_constant_is_differentiable_and_batched(x64):
    def of(w, scale):
        return curvature.lipschitz_constant(lambda w: scale * beale(w), w, tolerance=1e-12)

    def exact(w, scale):
        return jnp.max(jnp.abs(jnp.linalg.eigvalsh(jax.hessian(beale)(w)))) * scale

    points = jnp.array([[1.0, 0.5], [0.2, -0.7]])
    scales = jnp.array([1.0, 2.0])
    batched = jax.jit(jax.vmap(of))(points, scales)
    np.testing.assert_allclose(batched, jax.vmap(exact)(points, scales), rtol=1e-10)
    gradients = jax.jit(jax.grad(of, (0, 1)))(points[0], scales[1])
    h = 1e-6
    for argnum, direction in ((0, jnp.array([1.0, -2.0])), (1, jnp.array(1.0))):
        arguments = [points[0], scales[1]]
        shift = [h * direction if k == argnum else 0.0 for k in range(2)]
        above = exact(*(x + s for x, s in zip(arguments, shift, strict=True)))
        below = exact(*(x - s for x, s in zip(arguments, shift, strict=True)))
        expected = (above - below) / (2 * h)
        gradient = gradients[argnum]
        np.testing.assert_allclose(jnp.vdot(gradient, direction), expected, rtol=1e-6)


def descend(loss, w, rate, num_steps):
    def step(w, _):
        value, grads = jax.value_and_grad(loss)(w)
        return w - rate * grads, (value, jnp.sum(grads**2))

    w, (values, squared_norms) = jax.lax.scan(step, w, None, length=num_steps)
    return jnp.append(values, loss(w)), squared_norms


def test_gradient_descent_on_either_side_of_two_over_l(x64):
    loss, w = quadratic(rotated([5.0, 1.0, 0.2])[0]), jnp.array([1.0, 1.0, 1.0])
    limit = 2 / curvature.lipschitz_constant(loss, w, tolerance=1e-10)
    below, _ = descend(loss, w, 0.99 * limit, 200)
    above, _ = descend(loss, w, 1.01 * limit, 200)
    assert jnp.all(jnp.diff(below) < 0)
    assert above[-1] > above[0]


def test_gradient_norm_bound_holds(x64):
    loss, w = quadratic(rotated(np.linspace(0.0, 5.0, 20))[0]), jnp.ones(20)
    values, squared_norms = descend(loss, w, 1 / 5.0, 50)
    steps = jnp.arange(1, 51)
    bound = jax.jit(curvature.gradient_norm_bound)(5.0, values[0], 0.0, steps)
    np.testing.assert_allclose(bound, 2 * 5.0 * values[0] / np.arange(1, 51), rtol=1e-12)
    assert jnp.all(jax.lax.cummin(squared_norms) <= bound)
