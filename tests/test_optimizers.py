"""The adaptive optimizers: their trajectories, their tangents at zero gradients, their dtypes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hyperlr import optimizers

NUM_STEPS = 50
EPS = 1e-16


# The formulas, in NumPy. Each takes a gradient function g(w, t), t = 0, 1, …, and yields w_1 … w_T.


def adagrad_reference(gradient, w, learning_rate):
    v = np.zeros_like(w)
    for t in range(NUM_STEPS):
        g = gradient(w, t)
        v = v + g * g
        w = w - learning_rate / np.sqrt(v + EPS) * g
        yield w


def rmsprop_reference(gradient, w, learning_rate, beta=0.9):
    v = np.zeros_like(w)
    for t in range(NUM_STEPS):
        g = gradient(w, t)
        v = beta * v + (1 - beta) * g * g
        w = w - learning_rate / np.sqrt(v + EPS) * g
        yield w


def adadelta_reference(gradient, w, learning_rate, beta=0.9, eps=1e-6, numerator="u"):
    u, v = np.zeros_like(w), np.zeros_like(w)
    for t in range(NUM_STEPS):
        g = gradient(w, t)
        v_before, v = v, beta * v + (1 - beta) * g * g
        step = -np.sqrt((u if numerator == "u" else v_before) + eps) / np.sqrt(v + eps) * g
        u = beta * u + (1 - beta) * step * step
        w = w + learning_rate * step
        yield w


def adam_reference(gradient, w, learning_rate, b1=0.9, b2=0.999):
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, NUM_STEPS + 1):
        g = gradient(w, t - 1)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        w = w - learning_rate * (m / (1 - b1**t)) / np.sqrt(v / (1 - b2**t) + EPS)
        yield w


def adamax_reference(gradient, w, learning_rate, b1=0.9, b2=0.999):
    m, u = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, NUM_STEPS + 1):
        g = gradient(w, t - 1)
        m = b1 * m + (1 - b1) * g
        u = np.maximum(b2 * u, np.sqrt(g * g + EPS))
        w = w - learning_rate / (1 - b1**t) * m / u
        yield w


def adam_max_reference(gradient, w, learning_rate, b1=0.9, b2=0.999):
    m, v = np.zeros_like(w), 0.0
    for t in range(1, NUM_STEPS + 1):
        g = gradient(w, t - 1)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * np.max(np.abs(g)) ** 2
        w = w - learning_rate * (m / (1 - b1**t)) / np.sqrt(v / (1 - b2**t) + EPS)
        yield w


def nadam_reference(gradient, w, learning_rate, b1=0.9, b2=0.999):
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, NUM_STEPS + 1):
        g = gradient(w, t - 1)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        w = w - learning_rate * m_hat / np.sqrt(v / (1 - b2**t) + EPS)
        yield w


REFERENCES = {
    "adadelta": adadelta_reference,
    "adagrad": adagrad_reference,
    "adam": adam_reference,
    "adam_max": adam_max_reference,
    "adamax": adamax_reference,
    "nadam": nadam_reference,
    "rmsprop": rmsprop_reference,
}
NAMES = sorted(REFERENCES)
# What each takes besides learning_rate, all of which may be traced.
OTHER_HYPERPARAMS = {
    "adadelta": {"rho": 0.9, "eps": 1e-6},
    "adagrad": {"eps": EPS},
    "adam": {"b1": 0.9, "b2": 0.999, "eps": EPS},
    "adam_max": {"b1": 0.9, "b2": 0.999, "eps": EPS},
    "adamax": {"b1": 0.9, "b2": 0.999, "eps": EPS},
    "nadam": {"b1": 0.9, "b2": 0.999, "eps": EPS},
    "rmsprop": {"decay": 0.9, "eps": EPS},
}

# Gradients of different sizes, one parameter that never has any, a first batch that gives none.
CURVATURES = np.array([1.0, 0.3, 3.0, 0.0])
NOISE = np.random.default_rng(0).normal(size=(NUM_STEPS, 4)) * [0.1, 1.0, 0.01, 0.0]
NOT_EMPTY = (np.arange(NUM_STEPS) > 0).astype(float)
START = np.array([1.0, -2.0, 0.5, 0.7])


def numpy_gradient(w, t):
    return NOT_EMPTY[t] * (CURVATURES * w + NOISE[t])


def jax_gradient(w, t):
    dtype = w.dtype
    slope = jnp.asarray(CURVATURES, dtype) * w + jnp.asarray(NOISE, dtype)[t]
    return jnp.asarray(NOT_EMPTY, dtype)[t] * slope


def run(tx, params, num_steps=NUM_STEPS):
    """The parameters after each step, by scan: a state that drifts would not be a carry."""

    def step(carry, t):
        params, state = carry
        updates, state = tx.update(jax_gradient(params, t), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.lax.scan(step, (params, tx.init(params)), jnp.arange(num_steps))[1]


def test_every_factory_is_tested():
    transformations = {n for n in optimizers.__all__ if n.startswith("scale_by_")}
    assert transformations == {f"scale_by_{n}" for n in NAMES} | {"scale_by_sparsity"}
    assert set(NAMES) <= set(optimizers.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_trajectory_follows_the_formulas(name, x64):
    factory = getattr(optimizers, name)
    actual = jax.jit(lambda rate: run(factory(rate), jnp.asarray(START)))(0.1)
    expected = np.stack(list(REFERENCES[name](numpy_gradient, START, 0.1)))
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_transformation_is_the_factory_without_the_rate(name):
    factory = getattr(optimizers, name)
    transformation = getattr(optimizers, f"scale_by_{name}")
    start = jnp.asarray(START, jnp.float32)
    chained = optax.chain(transformation(), optax.scale_by_learning_rate(0.1))
    np.testing.assert_array_equal(run(chained, start, 5), run(factory(0.1), start, 5))


def test_adadelta_has_its_own_updates_in_the_numerator(x64):
    actual = run(optimizers.adadelta(1.0), jnp.asarray(START))
    printed = np.stack(list(adadelta_reference(numpy_gradient, START, 1.0, numerator="v")))
    assert np.max(np.abs(actual - printed)) > 0.1


@pytest.mark.parametrize(
    ("ours", "published"),
    [
        (optimizers.adam(0.1), optax.adam(0.1)),
        (optimizers.nadam(0.1), optax.nadam(0.1)),
        (optimizers.adamax(0.1), optax.adamax(0.1, eps=1e-30)),
        (optimizers.rmsprop(0.1), optax.rmsprop(0.1, eps_in_sqrt=False)),
    ],
    ids=["adam", "nadam", "adamax", "rmsprop"],
)
def test_values_are_those_of_the_published_algorithm(ours, published, x64):
    start = jnp.asarray(START)
    np.testing.assert_allclose(run(ours, start), run(published, start), rtol=1e-5)


# Tangents where the gradient is exactly zero.

HISTORIES = {
    "first batch": [],
    "after an empty batch": [[0.0, 0.0, 0.0]],
    "after gradients": [[0.0, 0.0, 0.0], [0.5, -2.0, 0.0], [1.0, 0.3, 0.0]],
}


def state_after(tx, history, dtype):
    params = jnp.ones(3, dtype)
    state = tx.init(params)
    for grads in history:
        _, state = tx.update(jnp.asarray(grads, dtype), state, params)
    return state


def update_at_zero(name, history, dtype):
    """g ↦ update, and the state it gives, from a state with the given past."""
    tx = getattr(optimizers, name)(0.1)
    state = state_after(tx, history, dtype)

    def update(grads):
        updates, new_state = tx.update(grads, state, jnp.ones(3, dtype))
        floats = [x for x in jax.tree.leaves(new_state) if jnp.issubdtype(x.dtype, jnp.floating)]
        return updates, floats

    return update


# All three move in the first, one alone in the second.
DIRECTIONS = ([1.0, -0.5, 2.0], [0.0, 0.0, 1.0])


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("name", NAMES)
def test_tangent_at_zero_gradient_is_the_central_difference(name, history, x64):
    update = update_at_zero(name, HISTORIES[history], jnp.float64)
    zero = jnp.zeros(3)
    h = 1e-13  # far below the root of eps, on the scale of which the update bends
    for direction in DIRECTIONS:
        d = jnp.asarray(direction)
        _, tangent = jax.jvp(update, (zero,), (d,))
        difference = jax.tree.map(lambda a, b: (a - b) / (2 * h), update(h * d), update(-h * d))
        for actual, expected in zip(
            jax.tree.leaves(tangent), jax.tree.leaves(difference), strict=True
        ):
            # The state is of order one, so its difference quotient is only good to 1e-16 / h.
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("name", NAMES)
def test_vjp_at_zero_gradient_is_the_transpose_of_jvp(name, history, x64):
    update = update_at_zero(name, HISTORIES[history], jnp.float64)
    zero = jnp.zeros(3)
    outputs, pullback = jax.vjp(update, zero)
    leaves, treedef = jax.tree.flatten(outputs)
    cotangent = treedef.unflatten([jnp.full_like(x, k + 1.0) for k, x in enumerate(leaves)])
    (gradient,) = pullback(cotangent)
    for direction in DIRECTIONS:
        _, tangent = jax.jvp(update, (zero,), (jnp.asarray(direction),))
        expected = optax.tree.vdot(cotangent, tangent)
        np.testing.assert_allclose(jnp.vdot(gradient, jnp.asarray(direction)), expected, rtol=1e-10)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_tangents_at_zero_gradient_in_low_precision(name, dtype, x64):
    direction, zero = jnp.asarray(DIRECTIONS[0], dtype), jnp.zeros(3, dtype)
    rtol = 1e-4 if dtype == jnp.float32 else 2e-2
    for history in HISTORIES.values():
        update = update_at_zero(name, history, dtype)
        exact = update_at_zero(name, history, jnp.float64)
        outputs, tangent = jax.jvp(update, (zero,), (direction,))
        (gradient,) = jax.vjp(update, zero)[1](jax.tree.map(jnp.ones_like, outputs))
        _, expected = jax.jvp(exact, (jnp.zeros(3),), (direction.astype(jnp.float64),))
        ones = jax.tree.map(jnp.ones_like, expected)
        (expected_gradient,) = jax.vjp(exact, jnp.zeros(3))[1](ones)
        leaves = zip(
            jax.tree.leaves((tangent, gradient)),
            jax.tree.leaves((expected, expected_gradient)),
            strict=True,
        )
        for actual, other in leaves:
            np.testing.assert_allclose(actual.astype(jnp.float32), other, rtol=rtol, atol=1e-4)


# A model with a dead unit, an embedding row that no batch uses, and an empty first batch.

TARGETS = np.random.default_rng(1).normal(size=(3, 2))
WEIGHTS = np.array([0.0, 1.0, 1.0])  # of the batches
MODEL = 1 + 0.3 * np.random.default_rng(2).normal(size=9)
ALIVE = [0, 1, 3, 5, 7]  # not the third row, nor what leads into and out of the second unit


@jax.jit
@jax.grad
def model_gradient(params, t):
    dtype = params.dtype
    # Read as embedding [3, 1], hidden [1, 2] with its biases, out [2]; one array, so that the
    # uncompiled operations of the optimizers have one shape.
    embedding, hidden = params[:3], params[3:5].reshape(1, 2)
    bias, out = params[5:7] - jnp.asarray([0, 100], dtype), params[7:9]
    units = jax.nn.relu(embedding[jnp.array([0, 1])][:, None] @ hidden + bias[None])
    residual = units @ out - jnp.asarray(TARGETS, dtype)[t]
    return jnp.asarray(WEIGHTS, dtype)[t] * jnp.sum(residual**2)


def trained(name, learning_rate, dtype):
    """The parameters after three steps; uncompiled, so that the optimizers share operations."""
    tx = getattr(optimizers, name)(learning_rate)
    params = jnp.asarray(MODEL, dtype)
    state = tx.init(params)
    for t in range(3):
        updates, state = tx.update(model_gradient(params, t), state, params)
        params = optax.apply_updates(params, updates)
    return params


def summary(params):
    """A scalar that sees every parameter."""
    dtype = jnp.promote_types(params.dtype, jnp.float32)
    return jnp.vdot(params.astype(dtype), jnp.linspace(0.5, 1.5, 9, dtype=dtype))


@pytest.mark.parametrize("name", NAMES)
def test_tangent_of_a_run_with_dead_parameters(name, x64):
    def objective(rate):
        return summary(trained(name, rate, jnp.float64))

    rate, h = 0.02, 1e-6
    expected = (objective(rate + h) - objective(rate - h)) / (2 * h)
    _, tangent = jax.jvp(objective, (rate,), (1.0,))
    np.testing.assert_allclose(tangent, expected, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(objective)(rate), expected, rtol=1e-6)
    moved = np.flatnonzero(trained(name, rate, jnp.float64) != MODEL)
    np.testing.assert_array_equal(moved, ALIVE)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_tangent_of_a_run_with_dead_parameters_in_low_precision(name, dtype):
    def run_and_summary(rate):
        params = trained(name, rate, dtype)
        return summary(params), params

    _, (slope, tangent) = jax.jvp(run_and_summary, (0.02,), (1.0,))
    gradient = jax.grad(run_and_summary, has_aux=True)(0.02)[0]
    np.testing.assert_array_equal(np.flatnonzero(tangent), ALIVE)
    assert jnp.all(jnp.isfinite(tangent))
    np.testing.assert_allclose(gradient, slope, rtol=1e-4 if dtype == jnp.float32 else 0.1)


# Hyperparameters, dtypes, trees.


@pytest.mark.parametrize("name", NAMES)
def test_derivative_in_every_hyperparameter(name, x64):
    factory, others = getattr(optimizers, name), OTHER_HYPERPARAMS[name]

    def objective(hyperparams):
        return jnp.sum(jnp.sin(run(factory(**hyperparams), jnp.asarray(START), 8)[-1]))

    objective_jit = jax.jit(objective)
    # A large eps, so that it matters.
    hyperparams = {"learning_rate": 0.1, **others, "eps": 0.01}
    gradient = jax.jit(jax.grad(objective))(hyperparams)
    for key, value in hyperparams.items():
        h = 1e-6 * value
        above = objective_jit({**hyperparams, key: value + h})
        below = objective_jit({**hyperparams, key: value - h})
        assert abs(gradient[key]) > 1e-6
        np.testing.assert_allclose(gradient[key], (above - below) / (2 * h), rtol=1e-4)


def signatures(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


@pytest.mark.parametrize("traced", ["static", jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("name", NAMES)
def test_dtypes_do_not_drift(name, dtype, traced):
    hyperparams = {"learning_rate": 0.1, **OTHER_HYPERPARAMS[name]}
    factory = getattr(optimizers, name)
    params = {"w": jnp.ones(3, dtype), "b": jnp.ones((), dtype), "none": None}

    def step(hyperparams, state):
        return factory(**hyperparams).update(params, state, params)

    if traced == "static":
        step = functools.partial(step, hyperparams)
    else:
        step = functools.partial(step, jax.tree.map(lambda x: jnp.asarray(x, traced), hyperparams))
    state = jax.eval_shape(factory(**hyperparams).init, params)
    updates, new_state = jax.eval_shape(step, state)
    assert signatures(new_state) == signatures(state)
    assert signatures(updates) == signatures(jax.eval_shape(lambda: params))
    floats = {x.dtype for x in jax.tree.leaves(state)} - {jnp.dtype(jnp.int32)}
    assert floats == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", NAMES)
def test_dtypes_do_not_drift_beside_float64(name, dtype, x64):
    hyperparams = {"learning_rate": 0.1, **OTHER_HYPERPARAMS[name]}
    other = jnp.float64 if dtype == jnp.float32 else jnp.float32
    traced = jax.tree.map(lambda x: jnp.asarray(x, other), hyperparams)
    factory, params = getattr(optimizers, name), jnp.ones(3, dtype)
    state = jax.eval_shape(factory(0.1).init, params)
    updates, new_state = jax.eval_shape(
        lambda h, s: factory(**h).update(params, s, params), traced, state
    )
    assert signatures(new_state) == signatures(state)
    assert updates.dtype == dtype


@pytest.mark.parametrize("name", NAMES)
def test_second_moment_decays_in_bfloat16(name):
    """0.999 is 1 in bfloat16: an average kept in it would never forget."""
    tx = getattr(optimizers, name)(0.1)

    def last_update(dtype):
        state = tx.init(jnp.ones(1, dtype))
        _, state = tx.update(jnp.full(1, 64.0, dtype), state)

        def step(state, _):
            updates, state = tx.update(jnp.full(1, 0.5, dtype), state)
            return state, updates

        return jax.lax.scan(step, state, None, length=200)[1][-1].astype(jnp.float32)

    np.testing.assert_allclose(last_update(jnp.bfloat16), last_update(jnp.float32), rtol=1e-2)


@pytest.mark.parametrize("params", [{}, None, {"a": None}, {"a": jnp.zeros((0, 2))}, 1.5])
@pytest.mark.parametrize("name", NAMES)
def test_unusual_trees(name, params):
    tx = getattr(optimizers, name)(0.1)
    state = tx.init(params)
    updates, new_state = tx.update(params, state, params, unknown="ignored")
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    assert all(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(updates))


@pytest.mark.parametrize("name", NAMES)
def test_vmap_over_the_rate(name):
    factory = getattr(optimizers, name)
    start = jnp.asarray(START, jnp.float32)
    rates = jnp.array([0.05, 0.2])
    together = jax.jit(jax.vmap(lambda rate: run(factory(rate), start, 6)))(rates)
    apart = jnp.stack([run(factory(rate), start, 6) for rate in rates])
    np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_rate_by_schedule_and_injected(name, x64):
    factory = getattr(optimizers, name)
    start = jnp.asarray(START)
    expected = run(factory(0.1), start, 5)
    for tx in [factory(lambda step: 0.1), optax.inject_hyperparams(factory)(0.1)]:
        np.testing.assert_allclose(run(tx, start, 5), expected, rtol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_static_mistakes_are_named(name):
    transformation = getattr(optimizers, f"scale_by_{name}")
    for key in OTHER_HYPERPARAMS[name]:
        for value in [0.0, -1.0] if key == "eps" else [1.0, -0.1]:
            with pytest.raises(ValueError, match=f"^{key} must"):
                transformation(**{key: value})


# Sparse features.


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
