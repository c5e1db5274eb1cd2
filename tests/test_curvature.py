"""Curvature: known spectra, the bounds on the step, and the transformation that keeps to them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hyperlr
from hyperlr import curvature


def rotated(spectrum, seed=0):
    """A symmetric matrix with these eigenvalues, and its eigenvectors."""
    n = len(spectrum)
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    return q @ np.diag(spectrum) @ q.T, q


def quadratic(matrix):
    matrix = jnp.asarray(matrix)
    return lambda w: 0.5 * jnp.vdot(w, matrix @ w)


def beale(w):
    x, y = w
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def network_loss(params):
    """Not a quadratic, and over a tree."""
    inputs = jnp.asarray(np.linspace(-1, 1, 12).reshape(4, 3), params["w"].dtype)
    hidden = jnp.tanh(inputs @ params["w"] + params["b"][None])
    return jnp.mean((hidden @ params["out"] - inputs[:, 0]) ** 2)


def network_params(dtype):
    rng = np.random.default_rng(3)
    shapes = {"w": (3, 4), "b": (4,), "out": (4,)}
    return {name: jnp.asarray(rng.normal(size=shape), dtype) for name, shape in shapes.items()}


def dense_hessian(loss, params):
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    return np.asarray(jax.hessian(lambda w: loss(unravel(w)))(flat), np.float64)


# Products and quotients.


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


# The Lipschitz constant.

SPECTRA = {
    "positive": np.linspace(0.1, 7.0, 30),
    "indefinite": np.linspace(-3.0, 7.0, 30),
    "negative": np.linspace(-7.0, 3.0, 30),
    "close": np.array([7.0, 6.99, 6.98, *np.linspace(0, 1, 27)]),
    "both ends": np.array([7.0, -6.99, *np.linspace(-1, 1, 28)]),
    "repeated": np.array([7.0] * 5 + [1.0] * 25),
    "one value": np.full(30, 7.0),
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


# Gradient descent under the bounds.


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


# The transformation.


def limited_step(tx, loss, params, state=None):
    state = tx.init(params) if state is None else state
    grads = jax.grad(loss)(params)
    return grads, *tx.update(grads, state, params, value_fn=loss)


def test_limit_is_the_fraction_of_the_bound(x64):
    loss = quadratic(rotated([4.0, 1.0, 0.1])[0])
    w = jnp.array([1.0, -2.0, 0.3])
    bound = curvature.max_stable_learning_rate(loss, w)
    for fraction in (0.5, 0.9):
        tx = curvature.limit_learning_rate(optax.sgd(100.0), fraction)
        grads, updates, state = limited_step(tx, loss, w)
        np.testing.assert_allclose(updates, -fraction * bound * grads, rtol=1e-12)
        np.testing.assert_allclose(state.max_learning_rate, bound, rtol=1e-12)
        assert state.count == 1
    slow = 0.4 * float(bound)
    grads, updates, _ = limited_step(curvature.limit_learning_rate(optax.sgd(slow), 0.5), loss, w)
    np.testing.assert_array_equal(updates, -slow * grads)


@pytest.mark.parametrize("loss", [lambda w: -jnp.sum(w**2), lambda w: jnp.sum(w)])
def test_no_limit_where_curvature_sets_none(loss):
    tx = curvature.limit_learning_rate(optax.sgd(100.0), 0.5)
    grads, updates, state = limited_step(tx, loss, jnp.array([1.0, 2.0]))
    np.testing.assert_array_equal(updates, -100.0 * grads)
    assert state.max_learning_rate == jnp.inf


def test_any_rate_descends_under_the_limit(x64):
    for loss, w in (
        (quadratic(rotated([50.0, 1.0, 0.1])[0]), jnp.ones(3)),
        (beale, jnp.array([2.0, 1.5])),
    ):
        tx = curvature.limit_learning_rate(optax.sgd(10.0), 0.5)

        def step(carry, _, tx=tx, loss=loss):
            w, state = carry
            value, grads = jax.value_and_grad(loss)(w)
            updates, state = tx.update(grads, state, w, value_fn=loss)
            return (optax.apply_updates(w, updates), state), value

        _, values = jax.lax.scan(step, (w, tx.init(w)), None, length=100)
        assert jnp.all(jnp.diff(values) < 0)
        assert values[-1] < 0.05 * values[0]


def test_limit_around_momentum_keeps_direction_and_inner_state(x64):
    loss, w = quadratic(rotated([4.0, 1.0])[0]), jnp.array([1.0, -2.0])
    inner = optax.sgd(1.0, momentum=0.9)
    tx = curvature.limit_learning_rate(inner, 0.5)
    grads, _, state = limited_step(tx, loss, w)
    w = w * 0.9
    grads, updates, new_state = limited_step(tx, loss, w, state)
    free, inner_state = inner.update(grads, state.inner_state, w)
    bound = curvature.max_stable_learning_rate(loss, w)
    norm = jnp.linalg.norm
    np.testing.assert_allclose(norm(updates), 0.5 * bound * norm(grads), rtol=1e-12)
    np.testing.assert_allclose(updates / norm(updates), free / norm(free), rtol=1e-12)
    np.testing.assert_array_equal(
        jax.tree.leaves(new_state.inner_state)[0], jax.tree.leaves(inner_state)[0]
    )


def test_limit_is_recomputed_every_so_often(x64):
    calls = []

    def loss(w):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.sum(w**4)

    tx = curvature.limit_learning_rate(optax.sgd(0.01), 0.5, every=3)
    update = jax.jit(lambda grads, state, w: tx.update(grads, state, w, value_fn=loss))
    w = jnp.array([1.0, 2.0])
    state, limits, expected, counts = tx.init(w), [], [], []
    for t in range(7):
        if t % 3 == 0:
            held = curvature.max_stable_learning_rate(lambda w: jnp.sum(w**4), w)
        expected.append(held)
        calls.clear()
        updates, state = update(4 * w**3, state, w)
        jax.effects_barrier()
        counts.append(len(calls))
        limits.append(state.max_learning_rate)
        w = optax.apply_updates(w, updates)
    np.testing.assert_allclose(limits, expected, rtol=1e-12)
    assert [c > 0 for c in counts] == [True, False, False, True, False, False, True]


@pytest.mark.parametrize("every", [1, 3])
def test_limit_at_zero_gradient(every):
    loss = quadratic(np.eye(2, dtype=np.float32))
    tx = curvature.limit_learning_rate(optax.sgd(5.0), 0.5, every)
    state = tx.init(jnp.ones(2))
    _, _, state = limited_step(tx, loss, jnp.ones(2), state)
    with jax.debug_nans(True):
        _, updates, state = limited_step(tx, loss, jnp.zeros(2), state)
    np.testing.assert_array_equal(updates, jnp.zeros(2))
    grads = jax.jit(
        jax.grad(lambda w: jnp.sum(limited_step(tx, loss, w, tx.init(w))[1])), static_argnums=()
    )(jnp.zeros(2))
    assert jnp.all(jnp.isfinite(grads))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_limit_is_type_stable(dtype):
    params = {**network_params(dtype), "none": None}
    tx = curvature.limit_learning_rate(optax.sgd(0.1, momentum=0.9), jnp.float32(0.5), every=2)

    def step(carry, _):
        params, state = carry
        grads = jax.grad(network_loss)(params)
        updates, state = tx.update(grads, state, params, value_fn=network_loss, unknown="ignored")
        assert jax.tree.map(lambda u: u.dtype, updates) == jax.tree.map(lambda p: p.dtype, params)
        return (optax.apply_updates(params, updates), state), None

    state = tx.init(params)
    (_, new_state), _ = jax.lax.scan(step, (params, state), None, length=3)
    describe = lambda tree: jax.tree.map(lambda x: (x.dtype, x.weak_type), tree)
    assert describe(new_state) == describe(state)
    assert new_state.max_learning_rate.dtype == jnp.float32
    assert new_state.count == 3


def test_limit_under_vmap():
    matrices = jnp.stack([jnp.diag(jnp.array([4.0, 1.0])), -jnp.eye(2)])
    points = jnp.array([[1.0, 2.0], [3.0, 1.0]])
    tx = curvature.limit_learning_rate(optax.sgd(10.0), 0.5)

    def one(matrix, w):
        return limited_step(tx, lambda w: 0.5 * jnp.vdot(w, matrix @ w), w)[1]

    together = jax.jit(jax.vmap(one))(matrices, points)
    apart = jnp.stack([one(m, w) for m, w in zip(matrices, points, strict=True)])
    np.testing.assert_allclose(together, apart, rtol=1e-6)


def test_limit_around_marthe(x64):
    """MARTHE raises the rate beyond 2/L and diverges; under the limit the loss goes down."""
    loss, w = quadratic(rotated([4.0, 1.0, 0.1])[0]), jnp.array([1.0, -2.0, 0.3])

    def final(limit):
        tx = hyperlr.marthe(optax.sgd, 0.4, meta_learning_rate=0.1, hyper_learning_rate=1.0)
        tx = curvature.limit_learning_rate(tx, 0.5) if limit else tx

        def step(carry, _):
            w, state = carry
            value, grads = jax.value_and_grad(loss)(w)
            updates, state = tx.update(grads, state, w, value_fn=loss)
            return (optax.apply_updates(w, updates), state), (
                value,
                hyperlr.metrics(state)["learning_rate"],
            )

        return jax.lax.scan(step, (w, tx.init(w)), None, length=30)[1]

    values, rates = final(limit=True)
    assert jnp.max(rates) > 2 / 4.0
    assert jnp.all(jnp.diff(values) <= 0)  # MARTHE sets the rate to 0 now and then
    assert not jnp.isfinite(final(limit=False)[0][-1])


def test_limit_names_mistakes():
    with pytest.raises(ValueError, match=r"^fraction must"):
        curvature.limit_learning_rate(optax.sgd(0.1), 0.0)
    with pytest.raises(ValueError, match=r"^every must"):
        curvature.limit_learning_rate(optax.sgd(0.1), 0.5, every=0)
    tx = curvature.limit_learning_rate(optax.sgd(0.1), 0.5)
    w = jnp.ones(2)
    with pytest.raises(ValueError, match="needs params and value_fn"):
        tx.update(w, tx.init(w), w)
    with pytest.raises(ValueError, match="needs params and value_fn"):
        tx.update(w, tx.init(w), value_fn=beale)
