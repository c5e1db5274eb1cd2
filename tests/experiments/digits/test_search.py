"""The search for β on the digits: against whole runs, and in parts."""

import numpy as np
import pytest

from hyperlr.experiments import training
from hyperlr.experiments.digits import grid
from hyperlr.experiments.digits.experiment import PRESETS, make_method

CANDIDATES = (1e-3, 1e-1, 1e1, 1e3)
HD = make_method("hd", PRESETS["quick"])


def find(digits, make_lanes, at_once=100):
    lanes = make_lanes([0, 1], [0.0, 0.0])
    lanes = lanes._replace(
        train_batches=lanes.train_batches[:, :8], val_batches=lanes.val_batches[:, :8]
    )
    return grid.search(HD, digits, lanes, CANDIDATES, margin=10.0, at_once=at_once)


@pytest.fixture(scope="module")
def found(digits, make_lanes):
    return find(digits, make_lanes)


def test_a_candidate_must_survive_all_seeds(found, digits, make_lanes):
    sizes, seeds = zip(*[(size, seed) for size in CANDIDATES for seed in (0, 1)], strict=True)
    trained = training.train(HD, digits, make_lanes(seeds, sizes))
    losses = trained.records["train_loss"][:, :8].reshape(len(CANDIDATES), 2, 8)
    rates = trained.records["learning_rate"][:, :8].reshape(len(CANDIDATES), 2, 8)
    worst = losses.max(axis=1)
    growth = worst.max(axis=1) / worst[:, 0]
    finite = np.isfinite(losses).all(axis=(1, 2)) & np.isfinite(rates).all(axis=(1, 2))
    expected = finite & (growth <= 2)
    np.testing.assert_array_equal(found["survived"], expected)
    assert expected.tolist() == [True, True, False, False]
    np.testing.assert_allclose(found["growth"][:2], growth[:2], rtol=1e-3)
    # One decade below those that diverge, and the candidates are two apart.
    assert found["found"] == found["number"] == 1e-1
    assert found["margin_seen"]


def test_memory_does_not_matter(found, digits, make_lanes):
    other = find(digits, make_lanes, at_once=3)
    np.testing.assert_array_equal(other["survived"], found["survived"])
    assert other["found"] == found["found"]


@pytest.mark.parametrize(
    ("number", "neighbours", "expected"),
    [
        (1e-1, None, CANDIDATES),
        (1e-1, 1, CANDIDATES[:3]),
        (1e-3, 1, CANDIDATES[:2]),
        (1e3, 1, CANDIDATES[2:]),
        (1e1, 0, (1e1,)),
    ],
)
def test_neighbours_are_those_on_both_sides_that_there_are(number, neighbours, expected):
    assert grid.neighbourhood(CANDIDATES, number, neighbours) == expected
