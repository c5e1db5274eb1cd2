"""Networks, minibatches, and training in lanes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from problems.digits import SIZE

import hyperlr
from hyperlr.experiments import data, training
from hyperlr.experiments.data import batches
from hyperlr.experiments.digits.experiment import PRESETS, make_method
from hyperlr.experiments.methods import METHODS
from hyperlr.experiments.networks import mlp


def method(name):
    return make_method(name, PRESETS["quick"])


def small_lanes(images, seeds, step_sizes, num_steps=10):
    return training.make_lanes(images, seeds, step_sizes, **SIZE | {"num_steps": num_steps})


# Model


def test_mlp_has_the_papers_layers_and_glorot_weights():
    params = mlp.init_mlp(jax.random.key(0), (784, *mlp.HIDDEN_WIDTHS, 10))
    shapes = [layer["weight"].shape for layer in params]
    assert shapes == [(784, 500), (500, 500), (500, 500), (500, 10)]
    for layer in params:
        limit = np.sqrt(6.0 / sum(layer["weight"].shape))
        assert np.abs(layer["weight"]).max() <= limit
        # A uniform variable on (-a, a) has standard deviation a / sqrt(3).
        np.testing.assert_allclose(layer["weight"].std(), limit / np.sqrt(3), rtol=0.03)
        np.testing.assert_array_equal(layer["bias"], 0.0)


def test_mlp_against_numpy():
    params = mlp.init_mlp(jax.random.key(1), (6, 5, 4, 3))
    params = jax.tree.map(lambda x: x + 0.1, params)
    inputs = np.random.default_rng(0).normal(size=(7, 6)).astype(np.float32)
    hidden = inputs
    for layer in params[:-1]:
        hidden = np.maximum(hidden @ np.asarray(layer["weight"]) + np.asarray(layer["bias"]), 0)
    logits = hidden @ np.asarray(params[-1]["weight"]) + np.asarray(params[-1]["bias"])
    np.testing.assert_allclose(mlp.apply_mlp(params, inputs), logits, rtol=1e-5, atol=1e-6)
    labels = np.array([0, 1, 2, 0, 1, 2, 0])
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log(shares[np.arange(7), labels]).mean()
    np.testing.assert_allclose(mlp.cross_entropy(jnp.asarray(logits), labels), expected, 1e-5)
    expected = (logits.argmax(axis=1) == labels).mean()
    np.testing.assert_allclose(mlp.accuracy(jnp.asarray(logits), labels), expected, 1e-6)


def test_accuracy_of_a_network_that_is_not_finite_is_nan():
    logits = jnp.array([[1.0, 0.0], [jnp.nan, jnp.nan]])
    assert np.isnan(mlp.accuracy(logits, jnp.array([0, 0])))


# Minibatches


def test_epochs_go_through_all_images_before_any_comes_again():
    indices = np.arange(100, 130, dtype=np.int32)
    drawn = batches.epoch_batches(np.random.default_rng(0), indices, num_steps=9, batch_size=8)
    assert drawn.shape == (9, 8)
    assert drawn.dtype == np.int32
    first, second = drawn.ravel()[:30], drawn.ravel()[30:60]
    np.testing.assert_array_equal(np.sort(first), indices)
    np.testing.assert_array_equal(np.sort(second), indices)
    assert not np.array_equal(first, second)


def test_independent_batches_repeat_no_image_within_a_batch():
    indices = np.arange(100, 130, dtype=np.int32)
    rng = np.random.default_rng(0)
    drawn = batches.independent_batches(rng, indices, num_steps=200, batch_size=8)
    assert drawn.shape == (200, 8)
    assert all(len(set(batch)) == 8 for batch in drawn)
    assert set(drawn.ravel()) == set(indices)
    # 200 batches of 8 from 30 draw each image 53 times, give or take a few.
    counts = np.bincount(drawn.ravel() - 100)
    assert counts.min() > 30
    assert batches.independent_batches(rng, indices, 3, 1_000).shape == (3, 30)


# Training


def test_seed_settles_weights_and_minibatches_whatever_the_step_size(digits):
    lanes = small_lanes(digits, seeds=[3, 3, 4], step_sizes=[0.1, 0.2, 0.1])
    for array in (*jax.tree.leaves(lanes.params), lanes.train_batches, lanes.val_batches):
        np.testing.assert_array_equal(array[0], array[1])
    assert not np.array_equal(lanes.train_batches[0], lanes.train_batches[2])
    assert not np.array_equal(lanes.params[0]["weight"][0], lanes.params[0]["weight"][2])
    for lane in range(3):
        assert not set(lanes.train_batches[lane].ravel()) & set(lanes.val_indices[lane])
        assert set(lanes.val_batches[lane].ravel()) <= set(lanes.val_indices[lane])


def test_lanes_do_not_mix_and_chunks_do_not_matter(digits):
    make = method("marthe_mu")
    together = training.train(
        make, digits, small_lanes(digits, [0, 1, 0], [1e-3, 1e-3, 1e-1]), chunk_steps=4
    )
    assert together.curve_steps.tolist() == [4, 8, 10]
    assert together.val_accuracy.shape == (3, 3)
    for lane, (seed, step_size) in enumerate([(0, 1e-3), (1, 1e-3), (0, 1e-1)]):
        alone = training.train(
            make, digits, small_lanes(digits, [seed], [step_size]), chunk_steps=10
        )
        for name, values in alone.records.items():
            np.testing.assert_allclose(
                together.records[name][lane], values[0], rtol=2e-4, atol=1e-6, err_msg=name
            )
        np.testing.assert_allclose(together.val_loss[lane, -1], alone.val_loss[0, -1], 1e-4)
        np.testing.assert_allclose(together.test_loss[lane], alone.test_loss[0], 1e-4)
    schedules = together.records["learning_rate"]
    assert not np.allclose(schedules[0], schedules[2])


def test_training_can_be_repeated_on_the_same_lanes(digits):
    lanes = small_lanes(digits, [0], [1e-3])
    make = method("hd")
    first, second = (training.train(make, digits, lanes) for _ in range(2))
    np.testing.assert_array_equal(first.test_loss, second.test_loss)


def test_progress_adds_up_to_the_number_of_steps(digits):
    steps = []
    training.train(
        method("constant"),
        digits,
        small_lanes(digits, [0], [0.0]),
        chunk_steps=4,
        on_progress=steps.append,
    )
    assert steps == [0.4, 0.4, 0.2]


def test_training_against_a_plain_loop(digits):
    """HD, written out with the validation batch as its objective."""
    beta, num_steps = 1e-2, 5
    lanes = small_lanes(digits, [7], [beta], num_steps)
    trained = training.train(method("hd"), digits, lanes)
    params = jax.tree.map(lambda x: x[0], lanes.params)
    images, labels = jnp.asarray(digits.images), jnp.asarray(digits.labels)
    learning_rate, previous, schedule = 0.01, None, []
    for train_indices, val_indices in zip(
        lanes.train_batches[0], lanes.val_batches[0], strict=True
    ):
        grads = jax.grad(training.loss_fn)(params, images, labels, train_indices)
        val_grad = jax.grad(training.loss_fn)(params, images, labels, val_indices)
        if previous is not None:
            learning_rate += beta * float(optax.tree.vdot(previous, val_grad))
        schedule.append(learning_rate)
        params = jax.tree.map(lambda w, g, rate=learning_rate: w - rate * g, params, grads)
        previous = grads
    np.testing.assert_allclose(trained.records["learning_rate"][0], schedule, rtol=1e-5)
    logits = mlp.apply_mlp(params, data.as_inputs(jnp.asarray(digits.test_images)))
    expected = mlp.cross_entropy(logits, jnp.asarray(digits.test_labels))
    np.testing.assert_allclose(trained.test_loss[0], expected, rtol=1e-5)


def test_every_method_starts_where_it_should_and_trains(digits):
    starts = {"constant_tuned": 0.1, "cosine_tuned": 0.1, "adam": 1e-3, "auto": None}
    for name in PRESETS["quick"].numbers:
        numbers = METHODS[name].coarse_grid
        lanes = small_lanes(digits, [0, 1], [numbers[1] if numbers else 0.0] * 2)
        make, share = method(name), METHODS[name].share
        schedule = training.train(make, digits, lanes, share=share).records["learning_rate"]
        assert schedule.shape == (2, 10)
        start = starts.get(name, 0.01)
        if start is not None:  # auto finds one, which differs from seed to seed
            np.testing.assert_allclose(schedule[:, 0], start, rtol=1e-6, err_msg=name)
        moved = not np.allclose(schedule[:, -1], schedule[:, 0], rtol=1e-6)
        assert moved == (name not in ("constant", "constant_tuned", "adam")), name


def test_auto_is_scored_at_its_average(digits):
    """What comes out is what a loop by hand comes to, with value_and_grad and eval_params."""
    lanes, make = small_lanes(digits, [3], [0.0]), method("auto")
    trained = training.train(make, digits, lanes, share=0.25)
    params = jax.tree.map(lambda x: x[0], lanes.params)
    tx = hyperlr.auto(hyperlr.optimizers.adam)
    state, images = tx.init(params), data.as_inputs(jnp.asarray(digits.images))

    def loss(params, indices):
        logits = mlp.apply_mlp(params, images[indices])
        return mlp.cross_entropy(logits, jnp.asarray(digits.labels)[indices])

    @jax.jit
    def step(params, state, indices):
        _, grads, extra = hyperlr.value_and_grad(loss, share=0.25)(params, indices, state=state)
        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    for indices in lanes.train_batches[0]:
        params, state = step(params, state, indices)
    averaged = hyperlr.eval_params(state, params)
    expected = loss(averaged, lanes.val_indices[0])
    np.testing.assert_allclose(trained.val_loss[0, -1], expected, rtol=1e-3)
    assert abs(loss(params, lanes.val_indices[0]) - expected) > 1e-3  # it was worth averaging


def test_a_fixed_schedule_is_followed_and_recorded(digits):
    lanes = small_lanes(digits, [0, 1], [0.1, 0.2])
    schedule = training.train(method("cosine_tuned"), digits, lanes).records["learning_rate"]
    whole = 0.5 * (1 + np.cos(np.pi * np.arange(512) / 512))
    np.testing.assert_allclose(schedule, np.outer([0.1, 0.2], whole[:10]), rtol=1e-5)


def test_digits_are_learned(digits):
    lanes = training.make_lanes(
        digits, [0], [0.2], num_steps=150, batch_size=50, hidden_widths=(64,)
    )
    trained = training.train(method("marthe_scale_free"), digits, lanes)
    assert trained.test_accuracy[0] > 0.85
    assert not training.diverged(trained, 10)[0]


def test_divergence_is_told(digits):
    lanes = small_lanes(digits, [0, 1], [1e3, 1e-4])
    trained = training.train(method("hd"), digits, lanes)
    trained = trained._replace(val_loss=np.array([trained.val_loss[0], [1.0]]))
    np.testing.assert_array_equal(training.diverged(trained, 10), [True, False])
    # Finite, but no better than a guess.
    dead = trained._replace(val_loss=np.array([[1.0], [2.303]]))
    np.testing.assert_array_equal(training.diverged(dead, 10), [False, True])
    rates = trained.records["learning_rate"].copy()
    rates[0, 3] = np.nan
    lost = dead._replace(records=trained.records | {"learning_rate": rates})
    np.testing.assert_array_equal(training.diverged(lost, 10), [True, True])
