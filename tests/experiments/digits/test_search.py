"""The search for a step size on the digits: against whole runs, in parts, and read back."""

import numpy as np
import pytest

import hyperlr
from hyperlr.experiments import methods, search, training

CANDIDATES = (1e-3, 1e-1, 1e1, 1e3)


def plan(folder, candidates=CANDIDATES, seeds=(0, 1), num_steps=8, name="hd"):
    return search.plan(name, candidates, seeds, num_steps, config={}, folder=folder)


@pytest.fixture(scope="module")
def found(digits, make_lanes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    steps = []
    result = search.run(plan(folder), digits, make_lanes, at_once=100, on_progress=steps.append)
    assert steps == [8 * 2 * len(CANDIDATES)]
    return result


def test_a_candidate_must_survive_all_seeds(found, digits, make_lanes):
    sizes, seeds = zip(*[(size, seed) for size in CANDIDATES for seed in (0, 1)], strict=True)
    trained = training.train(methods.METHODS["hd"].make, digits, make_lanes(seeds, sizes))
    losses = trained.records["train_loss"][:, :8].reshape(len(CANDIDATES), 2, 8)
    rates = trained.records["learning_rate"][:, :8].reshape(len(CANDIDATES), 2, 8)
    worst = losses.max(axis=1)
    growth = worst.max(axis=1) / worst[:, 0]
    finite = np.isfinite(losses).all(axis=(1, 2)) & np.isfinite(rates).all(axis=(1, 2))
    expected = finite & (growth <= 2)
    np.testing.assert_array_equal(found.survived, expected)
    assert expected.tolist() == [True, True, False, False]
    np.testing.assert_allclose(found.growth[:2], growth[:2], rtol=1e-3)
    # One decade below those that diverge, and the candidates are two apart.
    assert found.found == found.step_size == 1e-1
    assert found.margin_seen


def test_memory_does_not_matter(found, digits, make_lanes, tmp_path):
    other = search.run(plan(tmp_path), digits, make_lanes, at_once=3)
    np.testing.assert_array_equal(other.survived, found.survived)
    assert other.found == found.found


def test_what_was_found_is_read_back_and_not_searched_again(found, digits, make_lanes, monkeypatch):
    monkeypatch.setattr(hyperlr, "find_step_size", lambda *_, **__: pytest.fail("again"))
    again = search.run(found.plan, digits, make_lanes, at_once=100)
    assert again.plan == found.plan
    for name in ("survived", "growth"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    assert (again.found, again.margin_seen) == (found.found, found.margin_seen)


def test_other_settings_have_another_file(found, tmp_path):
    path = plan(tmp_path).path
    others = [
        plan(tmp_path, candidates=CANDIDATES[1:]).path,
        plan(tmp_path, seeds=(0,)).path,
        plan(tmp_path, num_steps=9).path,
        plan(tmp_path, name="rtho").path,
    ]
    assert len({path, *others}) == 5
    assert search.load(plan(tmp_path)) is None


@pytest.mark.parametrize(
    ("size", "neighbours", "expected"),
    [
        (1e-1, None, CANDIDATES),
        (1e-1, 1, CANDIDATES[:3]),
        (1e-3, 1, CANDIDATES[:2]),
        (1e3, 1, CANDIDATES[2:]),
        (1e1, 0, (1e1,)),
        (np.nan, 1, CANDIDATES[:2]),
    ],
)
def test_neighbours_are_those_on_both_sides_that_there_are(size, neighbours, expected, found):
    assert found._replace(found=size).neighbourhood(neighbours) == expected
