"""What `hyperlr mnist` writes and shows."""

import io
import json

import numpy as np
import pytest
from problems.digits import SIZE
from rich.console import Console

from hyperlr.experiments import data, lrs, methods, mnist, mnist_report, report
from hyperlr.experiments.errors import InputError

SMALL = mnist.Settings(num_seeds=2, step_sizes={"hd": (1e-4,)}, lrs=None, **SIZE)
QUIET = Console(quiet=True)


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
