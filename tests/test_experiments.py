"""The digits experiment: model, minibatches, training in lanes, result files, command line."""

import importlib.util
import io
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console
from test_data import small_set, write_set
from typer.testing import CliRunner

import hyperlr
from hyperlr import __main__
from hyperlr.experiments import (
    batches,
    data,
    lrs,
    methods,
    mnist,
    mnist_report,
    models,
    report,
    results,
    training,
)
from hyperlr.experiments.cli import app
from hyperlr.experiments.errors import InputError

SIZE = {"num_steps": 10, "batch_size": 20, "hidden_widths": (16, 16)}
SMALL = mnist.Settings(num_seeds=2, step_sizes={"hd": (1e-4,)}, lrs=None, **SIZE)
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def digits():
    return data.load_packaged()


def small_lanes(images, seeds, step_sizes, num_steps=10):
    return training.make_lanes(images, seeds, step_sizes, **SIZE | {"num_steps": num_steps})


# Model


def test_mlp_has_the_papers_layers_and_glorot_weights():
    params = models.init_mlp(jax.random.key(0), (784, *models.HIDDEN_WIDTHS, 10))
    shapes = [layer["weight"].shape for layer in params]
    assert shapes == [(784, 500), (500, 500), (500, 500), (500, 10)]
    for layer in params:
        limit = np.sqrt(6.0 / sum(layer["weight"].shape))
        assert np.abs(layer["weight"]).max() <= limit
        # A uniform variable on (-a, a) has standard deviation a / sqrt(3).
        np.testing.assert_allclose(layer["weight"].std(), limit / np.sqrt(3), rtol=0.03)
        np.testing.assert_array_equal(layer["bias"], 0.0)


def test_mlp_against_numpy():
    params = models.init_mlp(jax.random.key(1), (6, 5, 4, 3))
    params = jax.tree.map(lambda x: x + 0.1, params)
    inputs = np.random.default_rng(0).normal(size=(7, 6)).astype(np.float32)
    hidden = inputs
    for layer in params[:-1]:
        hidden = np.maximum(hidden @ np.asarray(layer["weight"]) + np.asarray(layer["bias"]), 0)
    logits = hidden @ np.asarray(params[-1]["weight"]) + np.asarray(params[-1]["bias"])
    np.testing.assert_allclose(models.apply_mlp(params, inputs), logits, rtol=1e-5, atol=1e-6)
    labels = np.array([0, 1, 2, 0, 1, 2, 0])
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log(shares[np.arange(7), labels]).mean()
    np.testing.assert_allclose(models.cross_entropy(jnp.asarray(logits), labels), expected, 1e-5)
    expected = (logits.argmax(axis=1) == labels).mean()
    np.testing.assert_allclose(models.accuracy(jnp.asarray(logits), labels), expected, 1e-6)


def test_accuracy_of_a_network_that_is_not_finite_is_nan():
    logits = jnp.array([[1.0, 0.0], [jnp.nan, jnp.nan]])
    assert np.isnan(models.accuracy(logits, jnp.array([0, 0])))


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
    make = methods.METHODS["marthe_mu"].make
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
    make = methods.METHODS["hd"].make
    first, second = (training.train(make, digits, lanes) for _ in range(2))
    np.testing.assert_array_equal(first.test_loss, second.test_loss)


def test_progress_adds_up_to_the_number_of_steps(digits):
    steps = []
    training.train(
        methods.METHODS["constant"].make,
        digits,
        small_lanes(digits, [0], [0.0]),
        chunk_steps=4,
        on_progress=steps.append,
    )
    assert steps == [4, 4, 2]


def test_training_against_a_plain_loop(digits):
    """HD, written out with the validation batch as its objective."""
    beta, num_steps = 1e-2, 5
    lanes = small_lanes(digits, [7], [beta], num_steps)
    trained = training.train(methods.METHODS["hd"].make, digits, lanes)
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
    logits = models.apply_mlp(params, data.as_inputs(jnp.asarray(digits.test_images)))
    expected = models.cross_entropy(logits, jnp.asarray(digits.test_labels))
    np.testing.assert_allclose(trained.test_loss[0], expected, rtol=1e-5)


def test_every_method_starts_at_the_same_rate_and_trains(digits):
    for name, method in methods.METHODS.items():
        lanes = small_lanes(
            digits, [0, 1], [method.coarse_grid[1 if name != "constant" else 0]] * 2
        )
        schedule = training.train(method.make, digits, lanes).records["learning_rate"]
        assert schedule.shape == (2, 10)
        np.testing.assert_allclose(schedule[:, 0], 0.01, rtol=1e-6, err_msg=name)
        moved = not np.allclose(schedule[:, -1], 0.01, rtol=1e-6)
        assert moved == (name != "constant"), name


def test_digits_are_learned(digits):
    lanes = training.make_lanes(
        digits, [0], [0.2], num_steps=150, batch_size=50, hidden_widths=(64,)
    )
    trained = training.train(methods.METHODS["marthe_scale_free"].make, digits, lanes)
    assert trained.test_accuracy[0] > 0.85
    assert not training.diverged(trained, 10)[0]


def test_divergence_is_told(digits):
    lanes = small_lanes(digits, [0, 1], [1e3, 1e-4])
    trained = training.train(methods.METHODS["hd"].make, digits, lanes)
    trained = trained._replace(val_loss=np.array([trained.val_loss[0], [1.0]]))
    np.testing.assert_array_equal(training.diverged(trained, 10), [True, False])
    # Finite, but no better than a guess.
    dead = trained._replace(val_loss=np.array([[1.0], [2.303]]))
    np.testing.assert_array_equal(training.diverged(dead, 10), [True, True])


# Result files


def test_atomic_file_appears_whole(tmp_path):
    path = tmp_path / "file"
    with results.atomic_file(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failure_midway_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_half():
        with results.atomic_file(path) as file:
            file.write(b"half of the new")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_metrics_are_strict_json(tmp_path):
    path = tmp_path / "metrics.json"
    entry = {
        "val_accuracy": np.array([0.5, np.nan], np.float32),
        "diverged": np.array([False, True]),
        "seconds": np.inf,
    }
    results.write_metrics(path, {"widths": (1, 2), "out": tmp_path}, {"hd": entry})

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(path.read_text(), parse_constant=refuse) == {
        "config": {"widths": [1, 2], "out": str(tmp_path)},
        "methods": {
            "hd": {"val_accuracy": [0.5, None], "diverged": [False, True], "seconds": None}
        },
    }


def test_output_is_made_with_its_parents(tmp_path):
    results.prepare_output(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"--out: results cannot be written to .*file"):
            results.prepare_output(out)


def test_output_is_checked_before_the_data_and_the_training(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(data, "load", lambda _: pytest.fail("loaded data before the check"))
    with pytest.raises(InputError, match="--out"):
        mnist_report.run(SMALL, None, tmp_path / "file", QUIET)


def test_run_writes_its_results(tmp_path, monkeypatch):
    monkeypatch.delenv("HYPERLR_DATA_DIR", raising=False)
    # Step sizes that diverge at once, to see them through to the files and the figures.
    step_sizes = {
        "constant": (0.0,),
        "hd": (1e6, 1e7),
        "marthe_scale_free": (0.1, 0.2, 0.4, 40.0, 80.0),
    }
    monkeypatch.setitem(
        methods.METHODS,
        "marthe_scale_free",
        methods.METHODS["marthe_scale_free"]._replace(margin=150.0),
    )
    settings = SMALL._replace(
        step_sizes=step_sizes,
        neighbours=1,
        lrs=lrs.Settings(2, "marthe_scale_free", 3, 1.0, 2, width=3),
    )
    mnist_report.run(settings, None, tmp_path, QUIET)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "accuracies.png",
        "curves.npz",
        "lrs_opt.png",
        "metrics.json",
        "parts",
        "schedules.npz",
        "schedules.png",
        "schedules_other_seeds.png",
    ]
    for path in tmp_path.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    names = ["constant", "hd", "marthe_scale_free", "lrs_opt"]
    assert list(metrics["methods"]) == names
    assert metrics["config"]["num_steps"] == 10
    assert metrics["config"]["seeds"] == [0, 1]
    for name, entry in metrics["methods"].items():
        assert len(entry["test_accuracy"]) == 2, name
        assert entry["seconds"] > 0
    assert metrics["methods"]["hd"]["diverged"] == [True, True]
    assert metrics["methods"]["hd"]["val_accuracy"] == [None, None]
    assert metrics["methods"]["hd"]["grid"]["diverged"] == [[True, True]] * 2
    assert 0.0 <= metrics["methods"]["constant"]["val_accuracy"][0] <= 1.0
    assert metrics["methods"]["hd"]["search"]["found"] is None
    assert metrics["methods"]["hd"]["search"]["survived"] == [False, False]
    assert metrics["methods"]["hd"]["step_size"] == 1e6  # the smallest
    assert "search" not in metrics["methods"]["constant"]
    entry = metrics["methods"]["marthe_scale_free"]
    searched, grid_entry = entry["search"], entry["grid"]
    assert searched["candidates"] == [0.1, 0.2, 0.4, 40.0, 80.0]
    assert searched["survived"] == [True, True, True, False, False]
    assert (searched["seeds"], searched["num_steps"]) == ([0, 1], 10)
    # Not the best one: the largest with a margin, and its neighbours on both sides for the figure.
    assert entry["step_size"] == searched["found"] == 0.2
    assert grid_entry["step_size"] == [0.1, 0.2, 0.4]
    assert grid_entry["val_accuracy"][1] == entry["val_accuracy"]
    means = np.mean(grid_entry["val_accuracy"], axis=1)
    assert grid_entry["best"] == grid_entry["step_size"][int(np.argmax(means))]
    lrs_entry = metrics["methods"]["lrs_opt"]
    assert lrs_entry["outer_iterations"] == [3, 3]
    assert lrs_entry["by_outer_iteration"]["iterations"] == [[0, 2, 3]] * 2
    schedules = np.load(tmp_path / "schedules.npz")
    assert list(schedules) == names
    assert all(schedules[name].shape == (2, 10) for name in names)
    curves = np.load(tmp_path / "curves.npz")
    np.testing.assert_array_equal(
        curves["marthe_scale_free/learning_rate"], schedules["marthe_scale_free"]
    )
    # It starts from the schedule that the online method found, and leaves it.
    np.testing.assert_array_equal(curves["lrs_opt/start"], schedules["marthe_scale_free"])
    assert not np.allclose(schedules["lrs_opt"], schedules["marthe_scale_free"], rtol=1e-2)


def test_table_tells_the_diverged_from_the_others():
    entry = {
        "val_accuracy": [0.9, np.nan],
        "test_accuracy": [0.8, np.nan],
        "val_loss": [0.4, np.nan],
        "diverged": [False, True],
        "step_size": 1e-3,
        "seconds": 2.0,
    }
    lost = entry | {"diverged": [True, True]}
    table = report.results_table("title", {"a": entry, "b": lost}, {"a": "A", "b": "B"})
    text = io.StringIO()
    Console(width=80, file=text).print(table)
    lines = text.getvalue().splitlines()
    row_a = next(line for line in lines if line.strip().startswith("A"))
    row_b = next(line for line in lines if line.strip().startswith("B"))
    assert row_a.split() == ["A", "0.001", "90.0%", "80.0%", "0.400", "1", "of", "2", "2", "s"]
    assert row_b.split()[2:] == ["diverged"] * 3 + ["2", "of", "2", "2", "s"]


# Command line


def test_mnist_command_on_tiny_settings(tmp_path, monkeypatch):
    settings = SMALL._replace(lrs=lrs.Settings(4, "constant", 100, 1.0, 2), num_steps=512)
    monkeypatch.setitem(mnist.PRESETS, "quick", settings)
    out = tmp_path / "out"
    arguments = ["mnist", "--seeds", "1", "--steps", "3", "--iterations", "1", "--out", str(out)]
    outcome = CliRunner().invoke(app, arguments, env={"HYPERLR_DATA_DIR": ""})
    assert outcome.exit_code == 0, outcome.output
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["config"]["num_steps"] == 3
    assert metrics["config"]["seeds"] == [0]
    assert metrics["methods"]["lrs_opt"]["outer_iterations"] == [1]
    assert "This will take about" in outcome.output
    assert "HD" in outcome.output
    assert "diverged" in outcome.output


def test_mnist_command_on_another_data_set(tmp_path, monkeypatch):
    """Images of 3 x 5 pixels in 4 classes, fewer of them than a minibatch holds."""
    write_set(tmp_path / "data" / "mnist", small_set(num_train=33), gzipped=True)
    settings = SMALL._replace(step_sizes={"marthe_mu": (1e-4,)}, batch_size=50)
    monkeypatch.setitem(mnist.PRESETS, "quick", settings)
    out = tmp_path / "out"
    arguments = ["mnist", "--data-dir", str(tmp_path / "data"), "--out", str(out)]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    config = json.loads((out / "metrics.json").read_text())["config"]
    assert (config["num_train"], config["num_val"], config["num_test"]) == (30, 3, 8)


def test_paper_preset_has_the_papers_seeds_and_start():
    settings = mnist.PRESETS["paper"]
    assert settings.num_seeds == 20
    assert (settings.lrs.num_seeds, settings.lrs.start) == (4, "constant")
    assert all(list(sizes) == sorted(sizes) for sizes in settings.step_sizes.values())


@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_presets_are_the_papers_setting(preset):
    settings = mnist.PRESETS[preset]
    assert settings.num_steps == 512
    assert settings.batch_size == 100
    assert settings.hidden_widths == (500, 500, 500)
    assert list(settings.step_sizes) == list(methods.METHODS)
    assert settings.lrs is not None
    assert set(methods.METHODS) == {
        "constant", "hd", "rtho", "marthe_fixed", "marthe_mu", "marthe", "marthe_scale_free"
    }  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ["mnist", "--data-dir", "nowhere"],
        ["mnist", "--out", "file"],
        ["toy", "--out", "file"],
    ],
)
def test_mistakes_of_the_user_are_one_line(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 2
    lines = outcome.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"Error: {arguments[1]}")
    assert outcome.stdout == ""


@pytest.mark.parametrize(
    "arguments", [["mnist", "--seeds", "0"], ["mnist", "--preset", "large"], ["unknown"]]
)
def test_wrong_options_exit_with_2(arguments):
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_help_names_the_options():
    outcome = CliRunner().invoke(app, ["mnist", "--help"], env={"COLUMNS": "120"})
    for option in ("--preset", "--seeds", "--data-dir", "--iterations", "--out"):
        assert option in outcome.output
    assert "--steps" not in outcome.output


def test_module_is_the_command():
    outcome = subprocess.run(
        [sys.executable, "-W", "error", "-m", "hyperlr", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert outcome.stdout == f"hyperlr {hyperlr.__version__}\n"
    assert outcome.stderr == ""


def test_missing_extra_is_named(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "typer" else found(name)
    )
    with pytest.raises(SystemExit, match=r'need typer.*pip install "hyperlr\[experiments\]"'):
        __main__.main()
