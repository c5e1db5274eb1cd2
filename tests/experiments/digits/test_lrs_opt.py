"""LRS-OPT on the digits: interrupted, it goes on bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.digits import SIZE
from rich.console import Console

from hyperlr import offline
from hyperlr.experiments import lrs, mnist, training

SETTINGS = lrs.Settings(1, "constant", num_iterations=7, distance=1.0, evaluate_every=2, width=3)
START = np.full(10, 0.01, np.float32)


def test_schedule_is_followed(digits, make_lanes):
    schedule = np.linspace(0.0, 0.3, 10, dtype=np.float32)
    lanes = make_lanes([5], [START])
    trained = lrs.follow(digits, lanes, schedule)
    np.testing.assert_array_equal(trained.records["learning_rate"], schedule[None])
    params = jax.tree.map(lambda x: x[0], lanes.params)
    images, labels = jnp.asarray(digits.images), jnp.asarray(digits.labels)
    for rate, indices in zip(schedule, lanes.train_batches[0], strict=True):
        grads = jax.grad(training.loss_fn)(params, images, labels, indices)
        params = jax.tree.map(lambda w, g, rate=rate: w - rate * g, params, grads)
    expected = training.loss_fn(params, images, labels, lanes.val_indices[0])
    np.testing.assert_allclose(trained.val_loss[0, -1], expected, rtol=1e-5)


def test_lrs_opt_lowers_the_objective(tmp_path, digits, make_lanes):
    optimized = lrs.optimize(digits, 0, START, SETTINGS, make_lanes, tmp_path / "lrs.npz")
    assert optimized.objectives.shape == (7,)
    assert optimized.objectives[-1] < optimized.objectives[0] - 0.02
    np.testing.assert_array_equal(optimized.curve.iterations, [0, 2, 4, 6, 7])
    assert optimized.curve.val_loss[-1] < optimized.curve.val_loss[0] - 0.02
    assert optimized.curve.val_loss.min() == optimized.trained.val_loss[0, -1]
    assert np.all(np.diff(optimized.curve.seconds) > 0)
    assert optimized.num_skipped == 0
    # A schedule of its own, on the same weights and validation images as the online methods.
    first = lrs.follow(digits, make_lanes([0], [START]), START)
    assert optimized.curve.val_loss[0] == first.val_loss[0, -1]


def test_minibatches_are_fresh_at_every_outer_iteration():
    drawn = [lrs.epoch_batches(jax.random.key(k), 30, 9, 8) for k in range(2)]
    assert drawn[0].shape == (9, 8)
    np.testing.assert_array_equal(np.sort(drawn[0].ravel()[:30]), np.arange(30))
    assert not np.array_equal(drawn[0], drawn[1])


def test_interrupted_lrs_opt_goes_on_bit_for_bit(tmp_path, digits, make_lanes):
    whole = lrs.optimize(digits, 0, START, SETTINGS, make_lanes, tmp_path / "whole.npz")
    done = []

    def interrupt(iterations):
        done.append(iterations)
        if sum(done) > 5:
            raise KeyboardInterrupt

    path = tmp_path / "resumed.npz"
    with pytest.raises(KeyboardInterrupt):
        lrs.optimize(digits, 0, START, SETTINGS, make_lanes, path, interrupt)
    assert not path.exists()
    done.clear()
    resumed = lrs.optimize(digits, 0, START, SETTINGS, make_lanes, path, done.append)
    assert done[0] == 4  # the last evaluation is the checkpoint
    assert sum(done) == 7
    for name in ("start", "trained", "objectives"):
        jax.tree.map(np.testing.assert_array_equal, getattr(resumed, name), getattr(whole, name))
    for name in ("iterations", "val_accuracy", "val_loss", "test_accuracy"):
        jax.tree.map(
            np.testing.assert_array_equal, getattr(resumed.curve, name), getattr(whole.curve, name)
        )
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["resumed.npz", "whole.npz"]
    # A finished one is read back as it was.
    jax.tree.map(
        np.testing.assert_array_equal,
        lrs.optimize(digits, 0, START, SETTINGS, make_lanes, path),
        resumed,
    )


def test_other_settings_of_lrs_opt_have_another_file(tmp_path):
    path = lrs.result_path(tmp_path, 0, START, SETTINGS, {"T": 10})
    others = [
        lrs.result_path(tmp_path, 1, START, SETTINGS, {"T": 10}),
        lrs.result_path(tmp_path, 0, 2 * START, SETTINGS, {"T": 10}),
        lrs.result_path(tmp_path, 0, START, SETTINGS._replace(num_iterations=8), {"T": 10}),
        lrs.result_path(tmp_path, 0, START, SETTINGS, {"T": 11}),
    ]
    assert len({path, *others}) == 5
    # One seed more or less leaves those that are there as they are.
    assert lrs.result_path(tmp_path, 0, START, SETTINGS._replace(num_seeds=9), {"T": 10}) == path


def test_best_evaluated_schedule_is_kept(digits, make_lanes):
    trained = lrs.follow(digits, make_lanes([0], [START]), START)
    state = offline.init_outer_state(jnp.asarray(START), optax.sgd(0.1))
    run = lrs._Run(state, (), (), state.schedule, np.inf, 0.0, 0.0)
    for factor, loss in ((1.0, 0.5), (2.0, 0.3), (3.0, 0.4), (4.0, np.nan)):
        run = run._replace(state=state._replace(schedule=factor * state.schedule))
        run = lrs._evaluated(run, trained._replace(val_loss=np.array([[9.0, loss]])))
    np.testing.assert_array_equal(run.best_schedule, 2 * START)
    np.testing.assert_array_equal([row[3] for row in run.curve], [0.5, 0.3, 0.4, np.nan])


def test_lrs_opt_starts_from_the_constant_where_the_other_diverged(digits, tmp_path):
    sizes = {"marthe_scale_free": (500.0,)}
    settings = mnist.Settings(
        1, sizes, SETTINGS._replace(start="marthe_scale_free", num_iterations=1), **SIZE
    )
    outcomes = mnist.compute(settings, digits, tmp_path, Console(quiet=True))
    assert training.diverged(outcomes.grids["marthe_scale_free"].trained, 10)[0]
    np.testing.assert_array_equal(outcomes.optimized[0].start, np.full(10, 0.01, np.float32))
