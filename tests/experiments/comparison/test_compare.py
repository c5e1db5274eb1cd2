"""The comparison: what is chosen, how ranks are made, and that a run writes all of it."""

import io
import json

import jax
import numpy as np
import optax
import pytest
from rich.console import Console

from hyperlr import optimizers
from hyperlr.experiments.comparison import experiment
from hyperlr.experiments.comparison.entrants import ENTRANTS, num_steps_of
from hyperlr.experiments.comparison.outcomes import Outcomes
from hyperlr.experiments.comparison.tasks import TASKS
from hyperlr.experiments.comparison.training import NUM_POINTS, Runs, train
from hyperlr.experiments.core import runner
from hyperlr.experiments.core.errors import InputError

SMALL = experiment.Settings(2, 0.03, ("function",), ("auto", "adam", "constant_tuned"), ("adam",))


def runs(val, test):
    """Runs of three rates on two seeds, of which these are the final scores."""
    points = np.linspace(0.0, 1.0, NUM_POINTS)
    curve = lambda final: np.asarray(final, float)[..., None] * points
    rates = np.array([0.1, 0.3, 1.0])
    return Runs(
        steps=np.arange(NUM_POINTS),
        val_score=curve(val),
        test_score=curve(test),
        train_loss=curve(test),
        learning_rate=np.broadcast_to(rates[:, None, None], (3, 2, NUM_POINTS)),
        rates=rates,
        run_seconds=np.ones((3, 2)),
    )


def outcomes(**by_method):
    settings = experiment.Settings(2, 1.0, ("function",), tuple(by_method), ("adam",))
    found = {("adam", "function", name, "steps"): each for name, each in by_method.items()}
    return Outcomes(settings, found)


def test_validation_chooses_among_the_rates_seed_by_seed_and_all_are_paid_for():
    val = [[1.0, 2.0], [3.0, 1.0], [np.nan, np.nan]]
    test = [[10.0, 20.0], [30.0, 40.0], [50.0, 60.0]]
    chosen = outcomes(constant_tuned=runs(val, test)).chosen(
        "adam", "function", "constant_tuned", "steps"
    )
    np.testing.assert_array_equal(chosen.test_score[:, -1], [30.0, 20.0])
    np.testing.assert_array_equal(chosen.rates, [0.3, 0.1])
    np.testing.assert_array_equal(chosen.learning_rate[:, -1], [0.3, 0.1])
    np.testing.assert_array_equal(chosen.run_seconds, [3.0, 3.0])


def test_ranks_share_ties_and_put_what_diverged_last():
    same, best, lost = ([[x, x]] * 3 for x in (1.0, 2.0, np.nan))
    found = outcomes(
        auto=runs(same, same), hd=runs(same, same), adam=runs(best, best), cocob=runs(lost, lost)
    )
    np.testing.assert_array_equal(found.ranks("adam", "steps"), [[2.5, 2.5, 1.0, 4.0]])


def test_time_is_that_of_a_step_beside_the_plain_one():
    """However many steps there were; one run that was disturbed does not tell."""
    plain = runs([[1.0] * 2] * 3, [[1.0] * 2] * 3)  # 1 s for NUM_POINTS − 1 steps
    slow = plain._replace(
        steps=2 * plain.steps, run_seconds=np.array([[5.0, 5.0], [5.0, 90.0], [5.0, 5.0]])
    )
    np.testing.assert_allclose(outcomes(auto=slow, constant_tuned=plain).times("adam"), [2.5, 1.0])
    assert np.isnan(outcomes(auto=slow).times("adam")).all()


def test_equal_gradients_are_two_for_each_step():
    counts = {name: num_steps_of(ENTRANTS[name], "gradients", 600) for name in ENTRANTS}
    # The rate moves in 100 steps, and then in 8 of every 64: at share 1 in 172 of 684.
    assert (counts["auto"], counts["auto_full"], counts["auto_eighth"]) == (988, 684, 1089)
    assert 684 + 3 * (100 + 8 * 9) == 1200
    assert (counts["marthe_scale_free"], counts["hd"], counts["prodigy"]) == (400, 1200, 1200)
    assert {num_steps_of(each, "steps", 600) for each in ENTRANTS.values()} == {600}


def test_every_pair_is_a_part_and_none_is_run_twice():
    parts = experiment.EXPERIMENT.parts(experiment.PRESETS["paper"], None)
    names = [part.name for part in parts]
    assert len(set(names)) == len(names)
    pairs = sum(len(each.inner) for each in ENTRANTS.values()) * len(TASKS)
    assert len(names) == 2 * pairs
    # Before the first burst a step costs two gradients, so that both budgets are the same run.
    short = SMALL._replace(methods=("auto",), length=0.1)
    assert len(list(experiment.EXPERIMENT.parts(short, None))) == 1


def test_unknown_names_are_an_error_that_lists_the_known_ones():
    for settings in (SMALL._replace(tasks=("mnist",)), SMALL._replace(methods=("lion",))):
        with pytest.raises(InputError, match=r"must be one of .*; got"):
            list(experiment.EXPERIMENT.parts(settings, None))


def test_a_run_is_the_plain_loop():
    """Adam at 0.001, by hand on the same minibatches."""
    task, num_steps = TASKS["function"], 12
    found = train("function", "adam", "adam", num_steps, 1, lambda share: None)
    init_key, batch_key = jax.random.split(jax.random.key(0))
    data, params = task.make_data(0), task.init(init_key)
    tx = optimizers.adam(1e-3)
    state = tx.init(params)
    for number in range(num_steps):
        key = jax.random.fold_in(batch_key, number)
        grads = jax.grad(task.loss)(params, task.sample(key, data.train, task.batch_size))
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert found.steps.tolist() == [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    np.testing.assert_allclose(found.test_score[0, 0, -1], task.score(params, data.test), rtol=1e-4)


def test_it_writes_scores_figures_and_a_table(tmp_path):
    text = io.StringIO()
    runner.run(experiment.EXPERIMENT, SMALL, tmp_path, Console(file=text, width=80))
    assert {"metrics.json", "ranks_adam.png", "function_adam.png", "README.md"} <= {
        path.name for path in tmp_path.iterdir()
    }
    methods = json.loads((tmp_path / "metrics.json").read_text())["methods"]
    assert list(methods) == list(SMALL.methods)
    entry = methods["constant_tuned"]["adam"]["function"]
    assert len(entry["steps"]["test_score"]) == 2
    assert set(entry["steps"]["rate"]) <= set(TASKS["function"].rates["adam"])
    steps = entry["steps"]["steps"]
    assert entry["steps"]["gradients"] == 5 * steps
    assert entry["gradients"]["steps"] == 2 * steps
    assert "auto, share 1/4" in text.getvalue()
