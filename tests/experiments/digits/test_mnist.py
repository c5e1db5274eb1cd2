"""What `hyperlr mnist` writes and shows."""

import io
import json

import numpy as np
import pytest
from problems.digits import SIZE
from rich.console import Console

from hyperlr.experiments import methods
from hyperlr.experiments.core import runner
from hyperlr.experiments.digits import lrs_opt
from hyperlr.experiments.digits.experiment import EXPERIMENT, Settings

NUMBERS = {
    "constant": (0.0,),
    "constant_tuned": (1e-3, 0.3, 1e6),
    # Those of the last two diverge at once, to see them through to the files and the figures.
    "hd": (1e6, 1e7),
    "marthe_scale_free": (0.1, 0.2, 0.4, 40.0, 80.0),
    "auto": (0.0,),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory, digits):
    """The folder of a run, and what it showed."""
    out, text = tmp_path_factory.mktemp("mnist"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HYPERLR_DATA_DIR", raising=False)
        method = methods.METHODS["marthe_scale_free"]._replace(margin=150.0)
        patch.setitem(methods.METHODS, "marthe_scale_free", method)
        how = lrs_opt.Settings(2, "marthe_scale_free", 3, 1.0, 2, width=3)
        settings = Settings(2, NUMBERS, how, neighbours=1, **SIZE)
        experiment = EXPERIMENT._replace(load=lambda data_dir: digits)
        runner.run(experiment, settings, out, Console(file=text, width=80), preset="smoke")
    return out, text.getvalue()


@pytest.fixture(scope="module")
def metrics(written):
    return json.loads((written[0] / "metrics.json").read_text())


def test_files(written):
    out, _ = written
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "accuracies.png",
        "curves.npz",
        "lrs_opt.png",
        "metrics.json",
        "parts",
        "schedules.npz",
        "schedules.png",
        "schedules_other_seeds.png",
    ]
    page = (out / "README.md").read_text()
    for path in out.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
        assert f"]({path.name})" in page
    assert "too short to conclude anything" in page
    assert "±0.7 points" in page  # √(0.95 · 0.05 / 1000)


def test_table_says_what_was_given_and_what_it_cost(written, metrics):
    lines = written[1].splitlines()
    assert all(len(line) <= 80 for line in lines if not line.startswith("Results"))

    def row(label):
        return next(line for line in lines if line.strip().startswith(label)).split()

    assert row("constant ")[1:4] == ["η", "=", "0.01"]
    assert row("constant, tuned")[2:5] == ["η", "=", "0.3"]
    assert row("constant, tuned")[-2:] == ["3", "30"]  # three runs of ten steps
    assert row("HD")[1:5] == ["η₀,", "β", "=", "1e+06"]
    assert row("HD")[5:7] == ["diverged", "diverged"]
    assert row("auto")[1] == "nothing"
    assert any("too short to conclude anything" in line for line in lines)
    # Two candidates for β on two seeds, ten first steps each, and the run itself.
    assert metrics["methods"]["hd"]["cost"] == {"runs": 5.0, "plain_steps": 100.0}
    assert metrics["methods"]["auto"]["cost"]["plain_steps"] == pytest.approx(19.2)


def test_tuned_methods_take_the_best_rate_of_the_validation_data(metrics):
    entry = metrics["methods"]["constant_tuned"]
    means = np.mean(np.array(entry["grid"]["val_accuracy"][:2], float), axis=1)
    assert entry["step_size"] == entry["grid"]["step_size"][int(np.argmax(means))] == 0.3
    assert entry["grid"]["diverged"][2] == [True, True]
    assert entry["final_learning_rate"] == [0.3, 0.3]
    assert "search" not in entry


def test_results(written, metrics):
    out, _ = written
    names = [*NUMBERS, "lrs_opt"]
    assert list(metrics["methods"]) == names
    assert metrics["config"]["num_steps"] == 10
    assert metrics["config"]["num_seeds"] == 2
    assert metrics["config"]["preset"] == "smoke"
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
    schedules = np.load(out / "schedules.npz")
    assert list(schedules) == names
    assert all(schedules[name].shape == (2, 10) for name in names)
    curves = np.load(out / "curves.npz")
    np.testing.assert_array_equal(
        curves["marthe_scale_free/learning_rate"], schedules["marthe_scale_free"]
    )
    # It starts from the schedule that the online method found, and leaves it.
    np.testing.assert_array_equal(curves["lrs_opt/start"], schedules["marthe_scale_free"])
    assert not np.allclose(schedules["lrs_opt"], schedules["marthe_scale_free"], rtol=1e-2)
