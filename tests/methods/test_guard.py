"""The guard: what is a fault, and what is none."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.guarded import BARE, GUARDED, MOMENTUM, jitted, ordinary, square, steep
from problems.networks import mlp_batches, mlp_loss, mlp_params

import hyperlr

# Nothing wrong


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "tx",
    [
        hyperlr.hd(MOMENTUM, 0.05, 1e-3),
        hyperlr.marthe(hyperlr.optimizers.adam, 0.01, meta_learning_rate=1e-6),
        optax.with_extra_args_support(optax.adam(0.01)),
    ],
    ids=["hd", "marthe", "adam"],
)
def test_with_nothing_wrong_it_changes_nothing(tx):
    params, batches = mlp_params(jax.random.key(0)), mlp_batches(jax.random.key(1), 30)

    def run(tx):
        def step(carry, batch):
            params, state = carry
            value_fn = functools.partial(mlp_loss, batch=batch)
            updates, state = tx.update(jax.grad(value_fn)(params), state, params, value_fn=value_fn)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        return jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), batches))(params)

    (_, state), bare = run(tx)
    (_, guarded_state), guarded = run(hyperlr.guard(tx))
    for name in ("num_rollbacks", "num_explosions"):
        assert hyperlr.metrics(guarded_state)[name] == 0
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), bare, guarded)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-15),
        state,
        guarded_state.inner_state,
    )


# One fault


def spoiled(fault, value, grads, val_grad):
    nan = np.float32(np.nan)
    return {
        "loss NaN": (nan, grads, val_grad),
        "loss infinite": (np.float32(np.inf), grads, val_grad),
        "loss exploded": (np.float32(1e3), grads, val_grad),
        "gradient NaN": (value, grads.at[1].set(nan), val_grad),
        "update overflows": (value, grads * 1e37, val_grad),
    }[fault]


@pytest.mark.parametrize(
    "fault",
    ["loss NaN", "loss infinite", "loss exploded", "gradient NaN", "update overflows"],
)
def test_a_fault_is_taken_back(fault):
    tx = GUARDED
    update = jitted(tx)
    params = jnp.array([1.0, -2.0, 3.0])
    history = [(params, tx.init(params))]
    for _ in range(14):
        history.append(update(*history[-1], *ordinary(history[-1][0])))
    good_params, good = history[10]
    params, state = history[-1]
    np.testing.assert_array_equal(state.good_params, good_params)
    after, new = update(params, state, *spoiled(fault, *ordinary(params)))
    if fault == "loss exploded":  # it waits for a second one
        assert hyperlr.metrics(new)["num_rollbacks"] == 0
        after, new = update(after, new, *spoiled(fault, *ordinary(after)))
    metrics, before = hyperlr.metrics(new), hyperlr.metrics(good)
    assert metrics["num_rollbacks"] == 1
    np.testing.assert_allclose(after, good_params, rtol=1e-6)
    after, new = update(after, new, *ordinary(after))  # completes the way
    np.testing.assert_array_equal(after, good_params)
    metrics = hyperlr.metrics(new)
    assert metrics["num_rollbacks"] == 1
    assert metrics["num_explosions"] == (fault == "loss exploded")
    assert metrics["learning_rate"] == np.float32(0.5) * before["learning_rate"] > 0
    assert metrics["hyper_learning_rate"] == np.float32(0.5) * before["hyper_learning_rate"]
    for name in ("discount", "horizon", "hypergradient"):
        assert metrics[name] == 0
        assert before[name] != 0
    # And it goes on from there like a fresh start with these rates.
    fresh = hyperlr.marthe(
        steep, metrics["learning_rate"], hyper_learning_rate=metrics["hyper_learning_rate"]
    )
    w, expected = after, fresh.init(after)
    jax.tree.map(
        np.testing.assert_array_equal,
        new.inner_state._replace(lower=expected.lower),
        expected,
    )
    for _ in range(4):
        after, new = update(after, new, *ordinary(after))
        w, expected = jitted(BARE)(w, expected, *ordinary(w))  # the rates are in the state
        np.testing.assert_allclose(after, w, rtol=1e-6)
    assert hyperlr.metrics(new)["num_rollbacks"] == 1


def test_what_goes_wrong_in_a_derivative_is_no_fault_of_the_step():
    """Loss, gradients and update are as they should be: the step is taken, and η stays."""
    tx = hyperlr.guard(hyperlr.rtho(optax.sgd, 0.1, 1e-3))
    params = jnp.array([1.0, 2.0])
    params, state = jitted(tx)(params, tx.init(params), *ordinary(params))
    value, grads, val_grad = ordinary(params)
    no_hessian = lambda w: jnp.nan * square(w)
    bad = val_grad.at[0].set(jnp.nan)
    for extra in ({"value_fn": no_hessian}, {"value_fn": square, "val_grad": bad}):
        updates, new = tx.update(grads, state, params, value=value, **extra)
        found = hyperlr.metrics(new)
        np.testing.assert_allclose(updates, -found["learning_rate"] * grads)
        assert found["num_rollbacks"] == 0
        assert found["num_restarts"] == ("val_grad" in extra)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(new.inner_state))


def test_an_outlier_among_the_minibatches_is_stepped_over():
    """The step is the one without a guard, and what it does to the next loss decides."""
    bare = hyperlr.marthe(MOMENTUM, 0.01, hyper_learning_rate=1e-4)
    tx = hyperlr.guard(bare)
    update = jitted(tx)
    params = jnp.array([1.0, 2.0])
    state = tx.init(params)
    for _ in range(5):
        params, state = update(params, state, *ordinary(params))
    after, suspect = update(params, state, jnp.float32(1e3), params, params)
    expected, _ = jitted(bare)(params, state.inner_state, jnp.float32(1e3), params, params)
    np.testing.assert_allclose(after, expected, rtol=1e-6)
    np.testing.assert_array_equal(suspect.losses, state.losses)
    # Here it does nothing, and it is remembered as noise.
    _, calm = update(after, suspect, *ordinary(after))
    assert calm.num_rollbacks == 0
    assert calm.losses.noise > 1.2 * state.losses.noise
    # Which is no reason to wait for what is not finite.
    _, state = update(after, suspect, jnp.nan, params, params)
    assert hyperlr.metrics(state)["num_rollbacks"] == 1
    assert hyperlr.metrics(state)["num_explosions"] == 0


def test_what_was_learned_and_is_lost_comes_back():
    """Parameters that are stuck above the first loss, at less than would be an explosion."""
    tx = hyperlr.guard(optax.sgd(0.1))
    update = jitted(tx)
    params = jnp.array([1.0])
    state = tx.init(params)
    for i, loss in enumerate(np.linspace(1.0, 0.2, 21)):
        good = params if i == 20 else None
        params, state = update(params, state, jnp.float32(loss), -jnp.ones(1), params)
    num_steps = 0
    while hyperlr.metrics(state)["num_explosions"] == 0:
        params, state = update(params, state, jnp.float32(1.1), -jnp.ones(1), params)
        num_steps += 1
        assert num_steps < 40
    assert num_steps > 5
    params, state = update(params, state, jnp.float32(0.2), -jnp.ones(1), params)
    np.testing.assert_array_equal(params, good)
    # To go on at a higher loss, but one below the first, is to have learned less.
    for loss in [0.2] * 20 + [0.6] * 60:
        params, state = update(params, state, jnp.float32(loss), -jnp.ones(1), params)
    assert hyperlr.metrics(state)["num_rollbacks"] == 1


def test_a_step_of_finite_size_that_overflows_narrow_parameters_is_taken_back():
    tx = hyperlr.guard(optax.scale(1.0))
    params = jnp.full(3, 6e4, jnp.float16)
    after, state = jitted(tx)(params, tx.init(params), jnp.float32(1.0), params, params)
    assert state.num_rollbacks == 1
    np.testing.assert_array_equal(after, params)


@pytest.mark.parametrize("rise", [0.0, 0.02], ids=["at its best", "rising"])
def test_an_inner_state_that_is_not_finite_is_found_within_ten_steps(rise):
    """Whether or not the loss is at its best.

    It shows neither in the loss nor in the update, as a preconditioner in waiting would not.
    """
    bystander = optax.GradientTransformation(
        optax.tree.zeros_like, lambda updates, state, params=None: (updates, state)
    )
    tx = hyperlr.guard(optax.chain(optax.sgd(0.1), bystander))
    update = jitted(tx)
    params = jnp.ones(3)
    state = tx.init(params)
    for _ in range(5):
        params, state = update(params, state, *ordinary(params))
    state = state._replace(inner_state=(state.inner_state[0], jnp.array([0.0, jnp.nan, 0.0])))
    for t in range(11):  # the last one completes the way
        value, *grads = ordinary(params)
        params, state = update(params, state, 2.5 + rise * t if rise else value, *grads)
    assert state.num_rollbacks == 1
    assert state.num_explosions == 0
    np.testing.assert_array_equal(state.inner_state[1], 0)
    assert np.isfinite(params).all()


def test_an_infinity_that_a_state_begins_with_is_no_fault():
    plateau = optax.contrib.reduce_on_plateau()
    tx = hyperlr.guard(optax.chain(optax.sgd(0.1), plateau))
    params = jnp.ones(2)
    state = tx.init(params)
    assert any(np.isinf(x).any() for x in jax.tree.leaves(state.inner_state))
    for _ in range(3):
        params, state = jitted(tx)(params, state, *ordinary(params))
    assert state.num_rollbacks == 0
    np.testing.assert_allclose(params, 0.8**3, rtol=1e-6)


# Lanes, and losses it is not given


def test_the_fault_of_one_lane_is_no_other_lanes():
    tx = hyperlr.guard(hyperlr.marthe(optax.sgd, 0.02, meta_learning_rate=1e-9))

    def run(w, spoil):
        def step(carry, t):
            w, state = carry
            value, grads, val_grad = ordinary(w)
            value = jnp.where(spoil & (t % 7 == 3), jnp.nan, value)
            updates, state = tx.update(
                grads, state, w, value=value, value_fn=square, val_grad=val_grad
            )
            return (optax.apply_updates(w, updates), state), None

        return jax.lax.scan(step, (w, tx.init(w)), jnp.arange(20))[0]

    lanes = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    together = jax.jit(jax.vmap(run))
    calm = together(lanes, jnp.zeros(3, bool))
    one = together(lanes, jnp.array([False, True, False]))
    for lane in (0, 2):
        jax.tree.map(
            lambda x, y, lane=lane: np.testing.assert_array_equal(x[lane], y[lane]), calm, one
        )
    np.testing.assert_array_equal(hyperlr.metrics(one[1])["num_rollbacks"], [0, 3, 0])
    assert np.all(np.isfinite(one[0]))


def test_without_a_loss_only_what_is_not_finite_is_seen():
    tx = hyperlr.guard(hyperlr.hd(optax.sgd, 0.1, 1e-3))
    params = jnp.ones(2)
    state = tx.init(params)
    updates, state = tx.update(1e6 * params, state, params)
    assert hyperlr.metrics(state)["num_rollbacks"] == 0
    updates, state = tx.update(jnp.nan * params, state, params)
    assert hyperlr.metrics(state)["num_rollbacks"] == 1
    np.testing.assert_array_equal(updates, 0)


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tx": optax.sgd}, TypeError, "tx must be an optax transformation"),
        ({"explosion": 1.0}, ValueError, "explosion must be above 1"),
        ({"explosion": 0.5}, ValueError, "explosion must lie in"),
        ({"explosion": "3"}, TypeError, "explosion must be a real"),
        ({"cut": 0.0}, ValueError, "cut must be above 0"),
        ({"cut": 1.5}, ValueError, "cut must lie in"),
    ],
)
def test_bad_arguments_are_clear_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        hyperlr.guard(**{"tx": optax.sgd(0.1), **arguments})


def test_a_loss_that_is_no_scalar_is_an_error():
    tx = hyperlr.guard(optax.sgd(0.1))
    w = jnp.ones(2)
    with pytest.raises(TypeError, match="value must return a scalar"):
        tx.update(w, tx.init(w), w, value=w)
    with pytest.raises(TypeError, match="value_fn must return a scalar"):
        tx.update(w, tx.init(w), w, value_fn=lambda w: w)
