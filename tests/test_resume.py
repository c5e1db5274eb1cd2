"""Grids in parts, LRS-OPT with checkpoints: an interrupted run goes on as if it had not been."""

import functools
import io
import subprocess
import sys
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console
from typer.testing import CliRunner

from hyperlr import offline
from hyperlr.experiments import (
    data,
    grid,
    log_space,
    lrs,
    methods,
    mnist,
    parts,
    results,
    training,
)
from hyperlr.experiments.cli import app

SIZE = {"num_steps": 10, "batch_size": 20, "hidden_widths": (16, 16)}
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def digits():
    return data.load_packaged()


@pytest.fixture(scope="module")
def make_lanes(digits):
    return functools.partial(training.make_lanes, digits, **SIZE)


def assert_same(actual, expected):
    for first, second in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(first, second)


# Parts


def test_part_is_found_by_its_settings_alone(tmp_path):
    config = {"seeds": (0, 1), "rate": 0.1}
    path = parts.part_path(tmp_path, "hd", config)
    assert parts.load_part(path) is None
    parts.save_part(path, {"x": np.arange(3)})
    same = parts.part_path(tmp_path, "hd", {"rate": 0.1, "seeds": [0, 1]})
    np.testing.assert_array_equal(parts.load_part(same)["x"], [0, 1, 2])
    for other in ({"seeds": (0,), "rate": 0.1}, {"seeds": (0, 1), "rate": 0.1000001}):
        assert parts.part_path(tmp_path, "hd", other) != path


def assert_refused(path):
    with pytest.warns(RuntimeWarning, match=rf"{path.name} is damaged and not used \("):
        assert parts.load_part(path) is None


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_part_cut_short_is_refused(tmp_path, keep):
    path = tmp_path / "part.npz"
    parts.save_part(path, {"x": np.random.default_rng(0).random(100)})
    path.write_bytes(path.read_bytes()[:keep])
    assert_refused(path)


def test_no_flipped_bit_of_a_part_goes_unnoticed_and_changes_it(tmp_path):
    path, told = tmp_path / "part.npz", 0
    arrays = {"x": np.arange(3.0), "y": np.array(True)}
    parts.save_part(path, arrays)
    content = path.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loaded = parts.load_part(path)
        if loaded is None:
            assert "part.npz is damaged and not used" in str(caught[0].message)
            told += 1
        else:  # a byte that means nothing, such as one of the time of writing
            assert not caught
            assert loaded.keys() == arrays.keys()
            assert_same(loaded, arrays)
    assert told > 0.5 * len(content)


def test_part_that_is_not_what_its_name_says_is_refused(tmp_path):
    path, other = tmp_path / "part.npz", tmp_path / "other.npz"
    parts.save_part(path, {"x": np.arange(3)})
    other.write_bytes(path.read_bytes())
    assert_refused(other)
    np.savez(other, x=np.arange(3))  # by something else
    assert_refused(other)
    with other.open("wb") as file:
        np.save(file, np.arange(3))
    assert_refused(other)
    assert parts.load_part(path) is not None


def test_part_is_computed_once_and_again_where_it_is_damaged(tmp_path):
    computed = []

    def find():
        return parts.finished(tmp_path, "cell", {"T": 1}, Cell, compute)

    def compute():
        computed.append(1)
        return Cell(np.arange(2, dtype=np.float32), 0.5)

    first = find()
    assert isinstance(first, Cell)
    assert isinstance(first.number, float)
    assert_same(find(), first)
    assert len(computed) == 1
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(RuntimeWarning, match="is damaged"):
        assert_same(find(), first)
    assert_same(find(), first)
    assert len(computed) == 2


class Cell(NamedTuple):
    array: np.ndarray
    number: float


def test_checkpoint_before_a_damaged_one_is_taken(tmp_path):
    path = tmp_path / "part.npz"
    assert parts.load_checkpoint(path) is None
    for step in (2, 9, 10):
        parts.save_checkpoint(path, step, {"step": np.array(step)})
    parts.save_checkpoint(tmp_path / "other.npz", 99, {"step": np.array(99)})
    assert parts.load_checkpoint(path)["step"] == 10
    names = ["other.checkpoint99.npz", "part.checkpoint10.npz", "part.checkpoint9.npz"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    (tmp_path / "part.checkpoint10.npz").write_bytes(b"no archive")
    with pytest.warns(RuntimeWarning, match=r"part\.checkpoint10\.npz is damaged"):
        assert parts.load_checkpoint(path)["step"] == 9
    parts.remove_checkpoints(path)
    assert [file.name for file in tmp_path.iterdir()] == ["other.checkpoint99.npz"]


def test_what_killed_processes_left_is_removed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as living:
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        leftover, other = f".metrics.json.{dead.pid}.tmp", f".metrics.json.{living.pid}.tmp"
        for folder in (tmp_path, tmp_path / "parts", tmp_path / "checkpoints"):
            folder.mkdir(exist_ok=True)
            for name in (leftover, other, ".mine.tmp", "notes.1.tmp"):
                (folder / name).touch()
        results.prepare_output(tmp_path)
        for folder in (tmp_path, tmp_path / "parts", tmp_path / "checkpoints"):
            names = {path.name for path in folder.iterdir() if path.is_file()}
            assert names == {other, ".mine.tmp", "notes.1.tmp"}
        living.communicate(b"\n")


def test_digest_of_data_sees_values_shapes_and_dtypes():
    array = np.arange(6, dtype=np.uint8)
    others = [array[::-1], array.reshape(2, 3), array.astype(np.int8), array[:5]]
    digests = [parts.data_digest(each) for each in (array, array.copy(), *others)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 5


# Grids


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
    assert_same(grid.run("hd", digits, sizes, planned, make_lanes).trained, resumed.trained)
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        grid.run("hd", digits, sizes, plan(tmp_path, 2, config={"T": 11}), make_lanes)


def test_lanes_fit_in_memory(digits):
    assert grid.lanes_at_once(digits, (500, 500, 500)) == 23
    assert grid.lanes_at_once(digits, (10**6,)) == 1


# The rule of LRS-OPT


def test_log_space_multiplies():
    rule = log_space.log_space(optax.sgd(0.5))
    schedule, gradient = jnp.array([0.1, 2.0]), jnp.array([3.0, -1.0])
    updates, _ = rule.update(gradient, rule.init(schedule), schedule)
    # d f / d log η = η d f / d η
    expected = np.array([0.1, 2.0]) * np.exp(-0.5 * np.array([0.1 * 3.0, -2.0]))
    np.testing.assert_allclose(optax.apply_updates(schedule, updates), expected, rtol=1e-6)


def test_smoothing_is_a_moving_average():
    values = np.random.default_rng(0).random(9).astype(np.float32)
    padded = np.concatenate([values[:1]] * 2 + [values] + [values[-1:]] * 2)
    expected = [padded[t : t + 5].mean() for t in range(9)]
    np.testing.assert_allclose(log_space.smooth(jnp.asarray(values), 5), expected, rtol=1e-5)
    np.testing.assert_array_equal(log_space.smooth(jnp.asarray(values), 1), values)


def test_best_evaluated_schedule_is_kept(digits, make_lanes):
    trained = lrs.follow(digits, make_lanes([0], [START]), START)
    state = offline.init_outer_state(jnp.asarray(START), optax.sgd(0.1))
    run = lrs._Run(state, (), (), state.schedule, np.inf, 0.0, 0.0)
    for factor, loss in ((1.0, 0.5), (2.0, 0.3), (3.0, 0.4), (4.0, np.nan)):
        run = run._replace(state=state._replace(schedule=factor * state.schedule))
        run = lrs._evaluated(run, trained._replace(val_loss=np.array([[9.0, loss]])))
    np.testing.assert_array_equal(run.best_schedule, 2 * START)
    np.testing.assert_array_equal([row[3] for row in run.curve], [0.5, 0.3, 0.4, np.nan])


def test_rule_goes_no_further_than_its_distance():
    for num_iterations, expected in ((40, 2.0), (4, 1.25)):  # 4 steps of at most a half
        rule = log_space.smoothed_log_adam(2.0, num_iterations, width=1)
        schedule = jnp.array([0.1])
        state = rule.init(schedule)
        for _ in range(num_iterations):
            updates, state = rule.update(jnp.array([-1.0]), state, schedule)
            schedule = optax.apply_updates(schedule, updates)
        np.testing.assert_allclose(np.log(schedule[0] / 0.1), expected, rtol=0.03)


def test_rule_takes_steps_of_the_same_length_whatever_the_units():
    moved = []
    for scale in (1.0, 1e6):
        rule = log_space.smoothed_log_adam(1.0, num_iterations=10, width=1)
        schedule = jnp.array([0.1, 0.2, 0.3])
        updates, _ = rule.update(scale * jnp.array([1.0, -1.0, 2.0]), rule.init(schedule), schedule)
        moved.append(np.log(optax.apply_updates(schedule, updates) / schedule))
    np.testing.assert_allclose(moved[0], [-0.2, 0.2, -0.2], rtol=1e-4)
    np.testing.assert_allclose(moved[0], moved[1], rtol=1e-5)


# LRS-OPT


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
        assert_same(getattr(resumed, name), getattr(whole, name))
    for name in ("iterations", "val_accuracy", "val_loss", "test_accuracy"):
        assert_same(getattr(resumed.curve, name), getattr(whole.curve, name))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["resumed.npz", "whole.npz"]
    # A finished one is read back as it was.
    assert_same(lrs.optimize(digits, 0, START, SETTINGS, make_lanes, path), resumed)


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


# The whole experiment


def test_experiment_goes_on_and_says_so(tmp_path, digits):
    settings = mnist.Settings(2, {"hd": (1e-4, 1e-3)}, None, **SIZE)
    console = Console(file=io.StringIO(), width=200)
    first = mnist.compute(settings, digits, tmp_path / "parts", console)
    second = mnist.compute(settings, digits, tmp_path / "parts", console)
    before = set((tmp_path / "parts").iterdir())
    mnist.compute(settings._replace(num_steps=3), digits, tmp_path / "parts", console)
    assert_same(first.grids["hd"].trained, second.grids["hd"].trained)
    text = console.file.getvalue()
    assert text.count("1 of 1 parts of the grid are finished") == 1
    assert text.count("are of other settings, and are left alone: starting anew") == 1
    assert before < set((tmp_path / "parts").iterdir())


def test_lrs_opt_starts_from_the_constant_where_the_other_diverged(digits, tmp_path):
    sizes = {"marthe_scale_free": (500.0,)}
    settings = mnist.Settings(
        1, sizes, SETTINGS._replace(start="marthe_scale_free", num_iterations=1), **SIZE
    )
    outcomes = mnist.compute(settings, digits, tmp_path, QUIET)
    assert training.diverged(outcomes.grids["marthe_scale_free"].trained, 10)[0]
    np.testing.assert_array_equal(outcomes.optimized[0].start, np.full(10, 0.01, np.float32))


def test_damaged_part_is_one_line_on_the_command_line_and_computed_again(tmp_path, monkeypatch):
    settings = mnist.Settings(1, {"constant": (0.0,)}, None, **SIZE)
    monkeypatch.setitem(mnist.PRESETS, "quick", settings)
    arguments = ["mnist", "--out", str(tmp_path)]
    environment = {"HYPERLR_DATA_DIR": ""}
    assert CliRunner().invoke(app, arguments, env=environment).exit_code == 0
    (path,) = (tmp_path / "parts").iterdir()
    path.write_bytes(b"no archive")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        outcome = CliRunner().invoke(app, arguments, env=environment)
    assert outcome.exit_code == 0
    assert outcome.stderr.startswith(f"Warning: {path} is damaged and not used (")
    assert len(outcome.stderr.splitlines()) == 1
    assert parts.load_part(path) is not None


def test_grids_hold_the_methods_usual_step_sizes():
    for name, method in methods.METHODS.items():
        assert method.coarse_grid == tuple(sorted(method.coarse_grid)), name
        assert method.grid == tuple(sorted(method.grid)), name
        assert len(method.coarse_grid) <= len(method.grid), name
