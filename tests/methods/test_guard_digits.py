"""The guard on digits: every step size survives, and a healthy run is left alone."""

import functools

import jax
import numpy as np
import optax
import pytest
from problems.networks import INNER

import hyperlr
from hyperlr.experiments import training

MOMENTUM = INNER["momentum"]


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
    """Twelve decades of β or κ, and η_0 up to 100; scripts/checks/guard_table.py has the rest."""
    pairs = [(10.0**e, start) for e in range(-8, 5, 2) for start in (1e-3, 100.0)]
    lanes = training.make_lanes(
        digits, [0] * len(pairs), pairs, num_steps=200, batch_size=50, hidden_widths=(16,)
    )
    make = {
        "hd": lambda pair: hyperlr.hd(MOMENTUM, pair[1], pair[0]),
        "marthe": lambda pair: hyperlr.marthe(MOMENTUM, pair[1], meta_learning_rate=pair[0]),
    }[method]

    def train(make, images, labels, lane):
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
        # The guard knows nothing of other images: lost ones may come back to where those are worse.
        seen = lane.train_batches.reshape(-1)
        return [training.loss_fn(w, images, labels, seen) for w in ends]

    def losses(make):
        trained = jax.vmap(functools.partial(train, make), in_axes=(None, None, 0))
        return jax.jit(trained)(digits.images, digits.labels, lanes)

    initial, last, good = losses(lambda pair: hyperlr.guard(make(pair)))
    assert np.isfinite(last).all()
    assert np.all(good < initial)
    if method == "hd":
        _, bare, _ = losses(make)
        assert np.sum(~(bare < initial)) > 5
