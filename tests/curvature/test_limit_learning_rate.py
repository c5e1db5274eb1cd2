"""The transformation that keeps steps under the largest stable learning rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.curvature import beale, network_loss, network_params, quadratic, rotated

import hyperlr
from hyperlr import curvature


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
        assert state.step_count == 1
    slow = 0.4 * float(bound)
    grads, updates, _ = limited_step(curvature.limit_learning_rate(optax.sgd(slow), 0.5), loss, w)
    np.testing.assert_array_equal(updates, -slow * grads)


@pytest.mark.parametrize("loss", [lambda w: -jnp.sum(w**2), lambda w: jnp.sum(w)])
def test_no_limit_where_curvature_sets_none(loss):
    tx = curvature.limit_learning_rate(optax.sgd(100.0), 0.5)
    grads, updates, state = limited_step(tx, loss, jnp.array([1.0, 2.0]))
    np.testing.assert_array_equal(updates, -100.0 * grads)
    assert state.max_learning_rate == jnp.finfo(jnp.float32).max
    assert tx.init(grads).max_learning_rate == jnp.finfo(jnp.float32).max


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
    assert new_state.step_count == 3


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
    with pytest.raises(TypeError, match=r"^fraction must be a number.*optax\.sgd\(schedule\)"):
        curvature.limit_learning_rate(optax.sgd(0.1), optax.constant_schedule(0.5))
    with pytest.raises(ValueError, match=r"^every must"):
        curvature.limit_learning_rate(optax.sgd(0.1), 0.5, every=0)
    tx = curvature.limit_learning_rate(optax.sgd(0.1), 0.5)
    w = jnp.ones(2)
    with pytest.raises(ValueError, match="needs params and value_fn"):
        tx.update(w, tx.init(w), w)
    with pytest.raises(ValueError, match="needs params and value_fn"):
        tx.update(w, tx.init(w), value_fn=beale)
