"""Grids of step sizes and seeds, in parts: interrupted, they go on."""

import jax
import numpy as np
import pytest

from hyperlr.experiments import grid, methods, training


def plan(folder, at_once, step_sizes=(1e-4, 1e-2, 1e3), seeds=(0, 1), config=None):
    return grid.plan("hd", step_sizes, seeds, at_once=at_once, config=config or {}, folder=folder)


def test_parts_are_of_one_length_and_hold_every_pair(tmp_path):
    planned = plan(tmp_path, at_once=4, seeds=(0, 1, 2))
    assert [len(part.lanes) for part in planned] == [3, 3, 3]
    planned = plan(tmp_path, at_once=2, seeds=(0, 1, 2))
    assert [len(part.lanes) for part in planned] == [2] * 5
    pairs = [pair for part in planned for pair in part.lanes]
    assert pairs[:9] == [(size, seed) for size in (1e-4, 1e-2, 1e3) for seed in range(3)]
    assert pairs[9:] == pairs[8:9]
    assert len({part.path for part in planned}) == 5


def test_grid_is_the_same_in_parts_and_at_once(tmp_path, digits, make_lanes):
    sizes, steps = (1e-4, 1e-2, 1e3), []
    whole = grid.run("hd", digits, sizes, plan(tmp_path / "a", 6), make_lanes, steps.append)
    split = grid.run("hd", digits, sizes, plan(tmp_path / "b", 4), make_lanes)
    assert sum(steps) == 6 * 10
    assert len(split.trained.test_loss) == 6
    for name in ("test_loss", "val_accuracy"):
        first, second = getattr(whole.trained, name), getattr(split.trained, name)
        np.testing.assert_allclose(first, second, rtol=1e-4)
    np.testing.assert_allclose(
        whole.by_size(whole.trained.records["learning_rate"])[1, :, -1],
        grid.at_size(split, 1).records["learning_rate"][:, -1],
        rtol=1e-4,
    )
    # The last step size diverges: absent from the means, and never the best.
    means = grid.mean_accuracies(whole, 10)
    np.testing.assert_array_equal(np.isnan(means), [False, False, True])
    assert grid.best(whole, 10) == int(np.nanargmax(means))
    expected = whole.by_size(whole.trained.val_accuracy[:, -1])[:2].mean(axis=1)
    np.testing.assert_allclose(means[:2], expected)


def test_finished_parts_are_not_trained_again(tmp_path, digits, make_lanes, monkeypatch):
    sizes, planned = (1e-4, 1e-2, 1e3), plan(tmp_path, at_once=2)

    class InterruptedError(Exception):
        pass

    done = []

    def interrupt(steps):
        done.append(steps)
        if sum(done) > 30:  # in the second of three parts of 2 lanes, 10 steps each
            raise InterruptedError

    with pytest.raises(InterruptedError):
        grid.run("hd", digits, sizes, planned, make_lanes, interrupt)
    assert [part.path.is_file() for part in planned] == [True, False, False]
    assert [path.suffix for path in tmp_path.iterdir()] == [".npz"]
    steps = []
    resumed = grid.run("hd", digits, sizes, planned, make_lanes, steps.append)
    assert sum(steps) == 40
    monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("trained again"))
    jax.tree.map(
        np.testing.assert_array_equal,
        grid.run("hd", digits, sizes, planned, make_lanes).trained,
        resumed.trained,
    )
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        grid.run("hd", digits, sizes, plan(tmp_path, 2, config={"T": 11}), make_lanes)


def test_lanes_fit_in_memory(digits):
    assert grid.lanes_at_once(digits, (500, 500, 500)) == 23
    assert grid.lanes_at_once(digits, (10**6,)) == 1


def test_grids_hold_the_methods_usual_step_sizes():
    for name, method in methods.METHODS.items():
        assert method.coarse_grid == tuple(sorted(method.coarse_grid)), name
        assert method.grid == tuple(sorted(method.grid)), name
        assert len(method.coarse_grid) <= len(method.grid), name
