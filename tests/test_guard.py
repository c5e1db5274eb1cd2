"""The guard: what it takes back, what it cuts, what it leaves alone, and what it costs."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import mlp_batches, mlp_loss, mlp_params

import hyperlr
from hyperlr.experiments import data, training

MOMENTUM = functools.partial(optax.sgd, momentum=0.9)
INNER = {"sgd": optax.sgd, "momentum": MOMENTUM, "adam": hyperlr.optimizers.adam}


def steep(learning_rate):
    """Momentum in large units, which overflow where the gradients do not."""
    return optax.chain(optax.scale(1e3), MOMENTUM(learning_rate))


BARE = hyperlr.marthe(steep, 1e-5, hyper_learning_rate=1e-10)
GUARDED = hyperlr.guard(BARE, cut=0.5)


def square(w):
    return jnp.sum(w**2)


@functools.cache
def jitted(tx):
    """An update whose loss and gradients come from outside, where a test can spoil them."""

    @jax.jit
    def update(params, state, value, grads, val_grad):
        updates, state = tx.update(
            grads, state, params, value=value, value_fn=square, val_grad=val_grad
        )
        return optax.apply_updates(params, updates), state

    return update


def ordinary(params):
    return square(params), 2 * params, 2 * params


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
        "validation gradient NaN": (value, grads, val_grad.at[0].set(nan)),
        "update overflows": (value, grads * 1e37, val_grad),
    }[fault]


# At the others, the parameters of the step before are as good as they were.
OF_THE_STEP = ("validation gradient NaN", "update overflows")


@pytest.mark.parametrize(
    "fault",
    ["loss NaN", "loss infinite", "loss exploded", "gradient NaN", *OF_THE_STEP],
)
def test_a_fault_is_taken_back(fault):
    tx = GUARDED
    update = jitted(tx)
    params = jnp.array([1.0, -2.0, 3.0])
    history = [(params, tx.init(params))]
    for _ in range(6):
        history.append(update(*history[-1], *ordinary(history[-1][0])))
    params, state = history[-1]
    good_params, good = history[-1] if fault in OF_THE_STEP else history[-2]
    after, new = update(params, state, *spoiled(fault, *ordinary(params)))
    if fault == "loss exploded":  # it waits for a second one
        np.testing.assert_array_equal(after, params)
        assert hyperlr.metrics(new)["num_rollbacks"] == 0
        after, new = update(after, new, *spoiled(fault, *ordinary(after)))
    if fault not in OF_THE_STEP:
        after, new = update(after, new, *ordinary(after))  # completes the way
    np.testing.assert_array_equal(after, good_params)
    metrics, before = hyperlr.metrics(new), hyperlr.metrics(good)
    assert metrics["num_rollbacks"] == 1
    assert metrics["num_explosions"] == (fault == "loss exploded")
    for name in ("learning_rate", "hyper_learning_rate"):
        assert metrics[name] == np.float32(0.5) * before[name] > 0
    for name in ("discount", "horizon", "hypergradient"):
        assert metrics[name] == 0
        assert before[name] != 0
    online = new.inner_state
    assert online.step_count == 0
    assert not any(np.any(x) for x in jax.tree.leaves((online.tangent, online.direct)))
    # The momentum of the good parameters.
    jax.tree.map(np.testing.assert_array_equal, online.inner_state, good.inner_state.inner_state)
    # And it goes on from there like a fresh start with these rates.
    fresh = hyperlr.marthe(
        steep, metrics["learning_rate"], hyper_learning_rate=metrics["hyper_learning_rate"]
    )
    expected = fresh.init(params)._replace(inner_state=online.inner_state)
    w = after
    for _ in range(4):
        after, new = update(after, new, *ordinary(after))
        w, expected = jitted(BARE)(w, expected, *ordinary(w))  # the rates are in the state
        np.testing.assert_allclose(after, w, rtol=1e-6)
    assert hyperlr.metrics(new)["num_rollbacks"] == 1


def test_a_tangent_that_is_not_finite_is_a_fault():
    """Nothing else shows it: loss, gradients and update are as they should be."""
    tx = hyperlr.guard(hyperlr.rtho(optax.sgd, 0.1, 1e-3))
    params = jnp.array([1.0, 2.0])
    params, state = jitted(tx)(params, tx.init(params), *ordinary(params))
    value, grads, _ = ordinary(params)
    no_hessian = lambda w: jnp.nan * square(w)
    updates, state = tx.update(grads, state, params, value=value, value_fn=no_hessian)
    np.testing.assert_array_equal(updates, 0)
    assert hyperlr.metrics(state)["num_rollbacks"] == 1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


def test_an_outlier_among_the_minibatches_is_passed_over():
    tx = hyperlr.guard(hyperlr.marthe(MOMENTUM, 0.01, hyper_learning_rate=1e-4))
    update = jitted(tx)
    params = jnp.array([1.0, 2.0])
    state = tx.init(params)
    for _ in range(5):
        params, state = update(params, state, *ordinary(params))
    waited, waiting = update(params, state, jnp.float32(1e3), params, params)
    expected, expected_state = update(params, state, *ordinary(params))
    found, found_state = update(waited, waiting, *ordinary(waited))
    jax.tree.map(
        np.testing.assert_array_equal,
        (found, found_state.inner_state),
        (expected, expected_state.inner_state),
    )
    # It is remembered as noise.
    assert found_state.losses.noise > 1.2 * expected_state.losses.noise
    # Which is no reason to wait for what is not finite.
    _, state = update(waited, waiting, jnp.nan, params, params)
    assert hyperlr.metrics(state)["num_rollbacks"] == 1
    assert hyperlr.metrics(state)["num_explosions"] == 0


def test_what_was_learned_and_is_lost_comes_back():
    """Parameters that are stuck above the first loss, at less than would be an explosion."""
    tx = hyperlr.guard(optax.sgd(0.1))
    update = jitted(tx)
    params = jnp.array([1.0])
    state = tx.init(params)
    for loss in np.linspace(1.0, 0.2, 20):
        good = params
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


@pytest.mark.parametrize("first", [0.6, 1.0, 1.4])
def test_where_nothing_is_learned_nothing_is_lost(first):
    """Whatever the first loss happened to be among those of the same parameters."""
    tx = hyperlr.guard(optax.sgd(0.0))
    losses = 1.0 + 0.2 * np.random.default_rng(0).normal(size=(2000,))
    losses[0] = first

    def step(state, loss):
        _, state = tx.update(jnp.ones(1), state, jnp.ones(1), value=loss)
        return state, None

    state, _ = jax.jit(lambda losses: jax.lax.scan(step, tx.init(jnp.ones(1)), losses))(losses)
    assert state.num_rollbacks == 0


def test_again_is_cut_again():
    tx = hyperlr.guard(hyperlr.marthe(optax.sgd, 0.1, meta_learning_rate=1e-2), cut=0.1)
    update = jitted(tx)
    params = jnp.array([1.0, 2.0])
    state = tx.init(params)
    for count in (1, 2, 3):
        params, state = update(params, state, jnp.nan, params, params)
        np.testing.assert_allclose(hyperlr.metrics(state)["learning_rate"], 0.1 * 0.1**count, 1e-5)
        kappa = state.inner_state.hyper_state.meta_learning_rate["learning_rate"]
        np.testing.assert_allclose(kappa, 1e-2 * 0.1**count, 1e-5)
        assert hyperlr.metrics(state)["num_rollbacks"] == count
        params, state = update(params, state, *ordinary(params))  # completes the way


@pytest.mark.parametrize("size", [1e3, 1e20, 3e37])
def test_it_comes_back_to_the_very_bits(size):
    good = jax.random.normal(jax.random.key(0), (50,)) * jnp.logspace(-6, 2, 50)
    tx = hyperlr.guard(optax.sgd(0.0))
    update = jitted(tx)
    _, state = update(good, tx.init(good), *ordinary(good))
    away = good + size * jax.random.normal(jax.random.key(1), (50,)).clip(-3, 3)
    back, state = update(away, state, jnp.nan, good, good)
    assert not np.array_equal(back, good) or size == 1e3
    back, state = update(back, state, jnp.nan, good, good)
    np.testing.assert_array_equal(back, good)
    assert hyperlr.metrics(state)["num_rollbacks"] == 1


def test_a_learning_rate_that_is_cut_stays_within_bounds():
    tx = hyperlr.guard(
        hyperlr.online(
            optax.sgd,
            {"learning_rate": 0.1, "momentum": 0.9},
            hyper_optimizer=optax.sgd(1e-3),
            bounds={"learning_rate": (0.05, 1.0)},
        )
    )
    update = jitted(tx)
    params = jnp.ones(2)
    _, state = update(params, tx.init(params), jnp.nan, params, params)
    assert hyperlr.metrics(state)["momentum"] == np.float32(0.9)
    moved, state = update(params, state, *ordinary(params))
    moved, state = update(params, state, *ordinary(params))
    assert hyperlr.metrics(state)["learning_rate"] == np.float32(0.05)
    np.testing.assert_allclose(moved, 1 - 0.05 * 2, rtol=1e-6)


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


# The bookkeeping, against a loop of its own


def remembered(first, mean, best, noise, loss):
    """Mean, best and noise with one more loss."""
    noise += 0.1 * (abs(loss - mean) - noise)
    mean += 0.1 * (loss - mean)
    risen = min(best + 0.01 * (mean - best), max(first, best))
    return mean, min(mean, risen), noise


def reference(losses, grads, rate, explosion, cut):
    """Gradient descent under the guard, on one number, in plain Python."""
    w, good, scale = 1.0, 1.0, 1.0
    first = mean = best = noise = None
    state, rollbacks, explosions, path = "steps", 0, 0, []
    for loss, grad in zip(losses, grads, strict=True):
        if state == "completes":
            w, state = good, "at good"
            path.append(w)
            continue
        finite = math.isfinite(loss) and math.isfinite(grad)
        if not finite:
            explodes = False
        elif first is None or state == "at good":
            explodes, is_good, mean, best = False, True, loss, loss
            if first is None:
                first, noise = loss, abs(loss) / 2
        else:
            margin = max((explosion - 1) * max(abs(best), abs(first) / explosion), 6 * noise)
            outlies = loss > best + margin
            if outlies and state != "waits":
                state = "waits"
                path.append(w)
                continue
            new = mean, best, noise
            if state == "waits":  # the loss before was an outlier, held at the bound
                new = remembered(first, *new, best + margin)
            new = remembered(first, *new, loss)
            lost = explosion < math.inf and new[0] > first > new[1] + 2 * new[2]
            explodes = outlies or lost
            if not explodes:
                mean, best, noise = new
            is_good = new[0] <= new[1]
        if finite and not explodes:
            if is_good:
                good = w
            w, state = w - scale * rate * grad, "steps"
        else:
            rollbacks, explosions = rollbacks + 1, explosions + explodes
            scale, w, state = scale * cut, good, "completes"
        path.append(w)
    return path, rollbacks, explosions


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("explosion", [1.5, 2.0, 4.0, math.inf])
def test_every_decision_is_as_the_equations_say(explosion, sign):
    rng = np.random.default_rng(0)
    level = sign * 2.0 * np.exp(-np.arange(400) / 150) + 0.1
    losses = level * rng.lognormal(0.0, 0.4, 400)
    begins = rng.random(400) < 0.04  # of one to three losses that are out of bounds
    high = begins | np.roll(begins, 1) & (rng.random(400) < 0.7) | np.roll(begins, 2)
    losses = np.where(high, np.abs(losses) * 10, losses)
    losses[250:] += np.linspace(0.0, 4.0, 150)  # it is lost little by little
    grads = rng.normal(size=400)
    losses[[50, 51, 52, 120]] = np.nan, np.nan, np.inf, -np.inf
    grads[[60, 210]] = np.inf, np.nan
    tx = hyperlr.guard(optax.sgd(0.1), explosion=explosion, cut=0.9)

    def step(carry, inputs):
        w, state = carry
        loss, grad = inputs
        updates, state = tx.update(grad, state, w, value=loss)
        w = optax.apply_updates(w, updates)
        return (w, state), w

    w = jnp.ones(())
    (_, state), path = jax.jit(
        lambda w: jax.lax.scan(step, (w, tx.init(w)), (jnp.asarray(losses), jnp.asarray(grads)))
    )(w)
    expected, rollbacks, explosions = reference(losses, grads, 0.1, explosion, 0.9)
    assert (state.num_rollbacks, state.num_explosions) == (rollbacks, explosions)
    assert explosions == 0 if explosion == math.inf else explosions > 5
    np.testing.assert_allclose(path, expected, rtol=1e-6, atol=1e-6)  # the scale is a float32


# Lanes, losses it is not given, digits


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


@pytest.fixture(scope="module")
def digits():
    return data.load_packaged()


def test_small_minibatches_of_a_healthy_run_are_no_fault(digits):
    """Of five digits, some have a loss many times that of others."""
    lanes = training.make_lanes(
        digits, [0, 1], [(0.1,)] * 2, num_steps=600, batch_size=5, hidden_widths=(16,)
    )
    trained = training.train(
        lambda pair: hyperlr.guard(hyperlr.hd(optax.sgd, pair[0], 0.0)),
        digits,
        lanes,
        chunk_steps=600,
    )
    losses = trained.records["train_loss"][:, 300:]
    assert np.all(losses.max(axis=1) > 7 * np.median(losses, axis=1))
    np.testing.assert_array_equal(trained.records["num_rollbacks"][:, -1], 0)


@pytest.mark.parametrize("method", ["hd", "marthe"])
def test_digits_survive_every_step_size(digits, method):
    """Twelve decades of β or κ, and η_0 up to 100; scripts/guard_table.py has the rest."""
    pairs = [(10.0**e, start) for e in range(-8, 5, 2) for start in (1e-3, 100.0)]
    lanes = training.make_lanes(
        digits, [0] * len(pairs), pairs, num_steps=100, batch_size=50, hidden_widths=(16,)
    )
    make = {
        "hd": lambda pair: hyperlr.hd(MOMENTUM, pair[1], pair[0]),
        "marthe": lambda pair: hyperlr.marthe(MOMENTUM, pair[1], meta_learning_rate=pair[0]),
    }[method]

    def train(make, images, labels, test_images, test_labels, lane):
        trained, state, _ = training.train_steps(
            make,
            lane.params,
            make(lane.step_sizes).init(lane.params),
            lane.step_sizes,
            images,
            labels,
            lane.train_batches,
            lane.val_batches,
        )
        ends = lane.params, trained, getattr(state, "good_params", trained)
        everything = jnp.arange(len(test_labels))
        return [training.loss_fn(w, test_images, test_labels, everything) for w in ends]

    def losses(make):
        trained = jax.vmap(functools.partial(train, make), in_axes=(None,) * 4 + (0,))
        data_arguments = digits.images, digits.labels, digits.test_images, digits.test_labels
        return jax.jit(trained)(*data_arguments, lanes)

    initial, last, good = losses(lambda pair: hyperlr.guard(make(pair)))
    assert np.isfinite(last).all()
    assert np.all(good < initial)
    if method == "hd":
        _, bare, _ = losses(make)
        assert np.sum(~(bare < initial)) > 5


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tx": optax.sgd}, TypeError, "tx must be an optax transformation"),
        ({"explosion": 1.0}, ValueError, "explosion must be above 1"),
        ({"explosion": 0.5}, ValueError, "explosion must lie in"),
        ({"explosion": "3"}, TypeError, "explosion must be a float"),
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
