"""Grids of numbers and seeds, in groups that fit in memory."""

import numpy as np
import pytest

from hyperlr.experiments import methods, training
from hyperlr.experiments.core.experiment import pack
from hyperlr.experiments.digits import grid
from hyperlr.experiments.digits.experiment import PRESETS, make_method

NUMBERS, SEEDS = (1e-4, 1e-2, 1e3), (0, 1)


def lanes_of_all(at_once, seeds=SEEDS):
    num_groups = grid.num_groups(len(NUMBERS) * len(seeds), at_once)
    return [grid.lanes_of(NUMBERS, seeds, group, at_once) for group in range(num_groups)]


def test_groups_are_of_one_length_and_hold_every_pair():
    assert list(map(len, lanes_of_all(4, (0, 1, 2)))) == [3, 3, 3]
    groups = lanes_of_all(2, (0, 1, 2))
    assert list(map(len, groups)) == [2] * 5
    pairs = [pair for group in groups for pair in group]
    assert pairs[:9] == [(number, seed) for number in NUMBERS for seed in range(3)]
    assert pairs[9:] == pairs[8:9]
    # A group past the last, where fewer numbers were found than there might have been.
    assert grid.lanes_of(NUMBERS[:1], SEEDS, 1, 4) == []


def train(digits, make_lanes, at_once, on_progress=lambda share: None):
    make = make_method("hd", PRESETS["quick"])
    groups = [
        pack(grid.train_group(make, digits, pairs, make_lanes, None, on_progress))
        for pairs in lanes_of_all(at_once)
    ]
    return grid.collect([*groups, {}], NUMBERS, len(SEEDS))


def test_grid_is_the_same_in_groups_and_at_once(digits, make_lanes):
    shares = []
    whole = train(digits, make_lanes, 6, shares.append)
    split = train(digits, make_lanes, 4)
    assert sum(shares) == pytest.approx(1)
    assert len(split.trained.test_loss) == 6
    for name in ("test_loss", "val_accuracy"):
        first, second = getattr(whole.trained, name), getattr(split.trained, name)
        np.testing.assert_allclose(first, second, rtol=1e-4)
    np.testing.assert_allclose(
        whole.by_number(whole.trained.records["learning_rate"])[1, :, -1],
        split.at(1).records["learning_rate"][:, -1],
        rtol=1e-4,
    )
    # The last number diverges: absent from the means, and never the best.
    means = whole.mean_accuracies(10)
    np.testing.assert_array_equal(np.isnan(means), [False, False, True])
    assert whole.best(10) == int(np.nanargmax(means))
    expected = whole.by_number(whole.trained.val_accuracy[:, -1])[:2].mean(axis=1)
    np.testing.assert_allclose(means[:2], expected)


def test_lanes_fit_in_memory(digits):
    assert training.lanes_at_once(digits, (500, 500, 500)) == 23
    assert training.lanes_at_once(digits, (10**6,)) == 1


def test_grids_hold_the_methods_usual_numbers():
    for name, method in methods.METHODS.items():
        assert method.coarse_grid == tuple(sorted(method.coarse_grid)), name
        assert method.grid == tuple(sorted(method.grid)), name
        assert len(method.coarse_grid) <= len(method.grid), name
