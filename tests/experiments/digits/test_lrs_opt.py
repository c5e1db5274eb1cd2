"""LRS-OPT on the digits: interrupted, it goes on bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.digits import SIZE

from hyperlr.experiments import training
from hyperlr.experiments.core import runner
from hyperlr.experiments.core.experiment import Work
from hyperlr.experiments.digits import lrs_opt
from hyperlr.experiments.digits.experiment import EXPERIMENT, Settings, outcomes

SETTINGS = lrs_opt.Settings(
    1, "constant", num_iterations=7, distance=1.0, evaluate_every=2, width=3
)
START = np.full(10, 0.01, np.float32)


def test_schedule_is_followed(digits, make_lanes):
    schedule = np.linspace(0.0, 0.3, 10, dtype=np.float32)
    lanes = make_lanes([5], [START])
    trained = lrs_opt.follow(digits, lanes, schedule)
    np.testing.assert_array_equal(trained.records["learning_rate"], schedule[None])
    params = jax.tree.map(lambda x: x[0], lanes.params)
    images, labels = jnp.asarray(digits.images), jnp.asarray(digits.labels)
    for rate, indices in zip(schedule, lanes.train_batches[0], strict=True):
        grads = jax.grad(training.loss_fn)(params, images, labels, indices)
        params = jax.tree.map(lambda w, g, rate=rate: w - rate * g, params, grads)
    expected = training.loss_fn(params, images, labels, lanes.val_indices[0])
    np.testing.assert_allclose(trained.val_loss[0, -1], expected, rtol=1e-5)


def optimize(digits, make_lanes, **work):
    return lrs_opt.optimize(digits, 0, START, SETTINGS, make_lanes([0], [START]), Work(**work))


def test_lrs_opt_lowers_the_objective(digits, make_lanes):
    optimized = optimize(digits, make_lanes)
    assert optimized.objectives.shape == (7,)
    assert optimized.objectives[-1] < optimized.objectives[0] - 0.02
    np.testing.assert_array_equal(optimized.curve.iterations, [0, 2, 4, 6, 7])
    assert optimized.curve.val_loss[-1] < optimized.curve.val_loss[0] - 0.02
    assert optimized.curve.val_loss.min() == optimized.trained.val_loss[0, -1]
    assert np.all(np.diff(optimized.curve.seconds) > 0)
    assert optimized.num_skipped == 0
    # A schedule of its own, on the same weights and validation images as the online methods.
    first = lrs_opt.follow(digits, make_lanes([0], [START]), START)
    assert optimized.curve.val_loss[0] == first.val_loss[0, -1]


def test_minibatches_are_fresh_at_every_outer_iteration():
    drawn = [lrs_opt.epoch_batches(jax.random.key(k), 30, 9, 8) for k in range(2)]
    assert drawn[0].shape == (9, 8)
    np.testing.assert_array_equal(np.sort(drawn[0].ravel()[:30]), np.arange(30))
    assert not np.array_equal(drawn[0], drawn[1])


def test_interrupted_lrs_opt_goes_on_bit_for_bit(tmp_path, digits, make_lanes):
    whole, done = optimize(digits, make_lanes), []

    def interrupt(share):
        done.append(share)
        if sum(done) > 5 / 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimize(digits, make_lanes, advance=interrupt, checkpoints=tmp_path)
    done.clear()
    resumed = optimize(digits, make_lanes, advance=done.append, checkpoints=tmp_path)
    assert done[0] == pytest.approx(4 / 7)  # the last evaluation is the checkpoint
    assert sum(done) == pytest.approx(1)
    for name in ("start", "trained", "objectives"):
        jax.tree.map(np.testing.assert_array_equal, getattr(resumed, name), getattr(whole, name))
    for name in ("iterations", "val_accuracy", "val_loss", "test_accuracy"):
        jax.tree.map(
            np.testing.assert_array_equal, getattr(resumed.curve, name), getattr(whole.curve, name)
        )


def test_best_evaluated_schedule_is_kept(digits, make_lanes):
    trained = lrs_opt.follow(digits, make_lanes([0], [START]), START)
    run = lrs_opt._start(START, optax.sgd(0.1), 1, 4)
    for index, loss in enumerate((0.5, 0.3, 0.4, np.nan)):
        schedule = jnp.asarray((1.0 + index) * START)
        run = run._replace(state=run.state._replace(schedule=schedule))
        run = lrs_opt._evaluated(run, index, 0, trained._replace(val_loss=np.array([[9.0, loss]])))
    np.testing.assert_array_equal(run.best_schedule, 2 * START)
    np.testing.assert_array_equal(run.curve[:, 3], np.float32([0.5, 0.3, 0.4, np.nan]))


def test_lrs_opt_starts_from_the_constant_where_the_other_diverged(digits):
    numbers = {"marthe_scale_free": (500.0,)}
    how = SETTINGS._replace(start="marthe_scale_free", num_iterations=1)
    came = outcomes(runner.compute(EXPERIMENT, Settings(1, numbers, how, **SIZE), digits))
    assert came.diverged(came.shown["marthe_scale_free"])[0]
    np.testing.assert_array_equal(came.optimized[0].start, np.full(10, 0.01, np.float32))
