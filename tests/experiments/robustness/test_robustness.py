"""The robustness experiment: every start under every optimizer, and divergences shown as such."""

import io
import json

import numpy as np
import optax
from rich.console import Console

from hyperlr.experiments.core import runner
from hyperlr.experiments.core.experiment import Work
from hyperlr.experiments.robustness import experiment as robustness
from hyperlr.experiments.robustness import figures
from hyperlr.experiments.robustness.summary import BASELINES, Cell

SMALL = robustness.Settings(
    num_seeds=2,
    num_steps=6,
    batch_size=20,
    hidden_widths=(16,),
    grid=(1e-3, 0.3, 1e9),
    inner=("momentum",),
    starts=(1e-2, 1e9),
    discounts=(0.0, 0.9, 1.0),
    betas=(1e-4,),
)


def test_settings():
    for name in ("quick", "paper"):
        settings = robustness.PRESETS[name]
        assert settings.starts == (1e-6, 1e-4, 1e-2, 1e-1, 1.0)
        assert settings.inner == ("sgd", "momentum", "adam")
        assert (settings.num_steps, settings.hidden_widths) == (512, (100,))
        assert len(settings.grid) == 20
        assert list(settings.grid) == sorted(settings.grid)
    assert list(robustness.NUMBERS) == ["auto", "hd", "marthe", "marthe_scale_free"]


def test_run_writes_its_results(tmp_path, digits):
    text = io.StringIO()
    experiment = robustness.EXPERIMENT._replace(load=lambda _: digits)
    runner.run(experiment, SMALL, tmp_path, Console(file=text, width=80))
    assert {"metrics.json", "robustness.png", "sensitivity.png", "README.md"} <= {
        path.name for path in tmp_path.iterdir()
    }
    methods = json.loads((tmp_path / "metrics.json").read_text())["methods"]
    assert list(methods) == [*robustness.NUMBERS, *BASELINES, "marthe_fixed"]
    for name in robustness.NUMBERS:
        # From 0.01 all is well; from 1e9 not.
        entry = methods[name]["momentum"]
        assert entry["diverged"][0] == [False] * 2, name
        assert np.shape(entry["test_accuracy"]) == (2, 2)
        assert entry["diverged"][1] == [True] * 2, name
    assert len(methods["auto"]["momentum"]["without_start"]["test_accuracy"]) == 2
    for name in BASELINES:
        entry = methods[name]["momentum"]
        assert entry["diverged"][2] == [True, True]
        assert entry["best"] in (1e-3, 0.3)
    constant = methods["constant"]["momentum"]
    assert constant["final_learning_rate"][:2] == [[1e-3] * 2, [0.3] * 2]
    fixed = methods["marthe_fixed"]["momentum"]["hyper_learning_rate"]["0.0001"]
    assert np.shape(fixed["diverged"]) == (2, 3, 2)
    assert np.all(np.array(fixed["diverged"]) == np.array([False, True])[:, None, None])
    lines = text.getvalue().splitlines()
    assert any("diverged" in line for line in lines)
    assert any("auto, no η₀" in line for line in lines)
    assert all(len(line) <= 80 for line in lines if not line.startswith("Results"))


def test_lanes_are_in_the_order_of_starts_and_discounts(digits):
    """One cell of the grid, trained alone, is what the grid has in its place."""
    settings = SMALL._replace(num_seeds=1)
    pairs = [(1e-2, 0.0), (1e-2, 0.9), (1e-1, 0.0), (1e-1, 0.9)]

    def make(start_and_discount):
        return robustness._fixed(1e-3, optax.sgd, start_and_discount)

    cell = robustness.train_points(make, pairs, settings, digits, None, Work())
    alone = robustness.train_points(make, pairs[1:2], settings, digits, None, Work())
    assert cell.final_learning_rate.shape == (4, 1)
    np.testing.assert_allclose(cell.final_learning_rate[1], alone.final_learning_rate[0], rtol=1e-4)
    assert len(np.unique(cell.final_learning_rate)) == 4


def test_the_cost_of_the_parts_is_that_of_their_steps(digits):
    parts = {part.name: part for part in robustness.parts(SMALL, digits)}
    assert parts["momentum-hd"].cost == 2.0 * 2 * 2 * 6  # starts, seeds and steps
    assert parts["momentum-cosine"].cost == 3 * 2 * 6
    changed = {part.name: part for part in robustness.parts(SMALL._replace(grid=(0.2,)), digits)}
    differ = {name for name in parts if parts[name].settings != changed[name].settings}
    assert differ == {"momentum-constant", "momentum-cosine"}


def test_means_leave_out_what_diverged():
    accuracies = np.array([[0.9, 0.5], [0.8, 0.6], [0.1, 0.1]])
    lost = np.array([[False, True], [False, False], [True, True]])
    cell = Cell(accuracies, accuracies, lost, accuracies)
    means, shares = figures._means([cell])
    np.testing.assert_allclose(means, [[0.9, 0.7, np.nan]])
    np.testing.assert_allclose(shares, [[0.5, 0.0, 1.0]])
    # A mean of 0.9 over the one seed that is left is no better than 0.7 over both.
    assert cell.best == 1
