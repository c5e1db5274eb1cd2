"""The robustness experiment: every start under every optimizer, and divergences shown as such."""

import functools
import json

import jax
import numpy as np
import optax
import pytest
from rich.console import Console
from typer.testing import CliRunner

from hyperlr.experiments import data, robustness, robustness_plots, robustness_report, training
from hyperlr.experiments.cli import app
from hyperlr.experiments.errors import InputError

SMALL = robustness.Settings(
    num_seeds=2, num_steps=6, batch_size=20, hidden_widths=(16,), grid=(1e-3, 0.3, 1e9)
)


def test_settings():
    assert robustness.STARTS == (1e-6, 1e-4, 1e-2, 1e-1, 1.0)
    assert list(robustness.INNER) == ["sgd", "momentum", "adam"]
    assert list(robustness.METHODS) == ["hd", "marthe", "marthe_scale_free"]
    for settings in robustness.PRESETS.values():
        assert (settings.num_steps, settings.hidden_widths) == (512, (100,))
        assert len(settings.grid) == 20
        assert list(settings.grid) == sorted(settings.grid)


def test_run_writes_its_results(tmp_path, monkeypatch):
    monkeypatch.delenv("HYPERLR_DATA_DIR", raising=False)
    monkeypatch.setattr(robustness, "INNER", {"momentum": robustness.INNER["momentum"]})
    monkeypatch.setattr(robustness, "BETAS", (1e-4,))
    monkeypatch.setattr(robustness, "STARTS", (1e-2, 1e9))
    monkeypatch.setattr(robustness, "DISCOUNTS", (0.0, 0.9, 1.0))
    with open(tmp_path / "log", "w") as log:
        robustness_report.run(SMALL, None, tmp_path / "out", Console(file=log, width=80))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "metrics.json",
        "parts",
        "robustness.png",
        "sensitivity.png",
    ]
    methods = json.loads((tmp_path / "out" / "metrics.json").read_text())["methods"]
    assert list(methods) == [*robustness.METHODS, "constant", "cosine", "marthe_fixed"]
    for name in robustness.METHODS:
        # From 0.01 all is well; from 1e9 not.
        assert methods[name]["momentum"]["diverged"] == [[False] * 2, [True] * 2], name
        assert np.shape(methods[name]["momentum"]["test_accuracy"]) == (2, 2)
    for name in robustness.BASELINES:
        assert methods[name]["momentum"]["diverged"][2] == [True, True]
        assert methods[name]["momentum"]["best"] in (1e-3, 0.3)
    fixed = methods["marthe_fixed"]["momentum"]["hyper_learning_rate"]["0.0001"]
    assert np.shape(fixed["diverged"]) == (2, 3, 2)
    assert np.all(np.array(fixed["diverged"]) == np.array([False, True])[:, None, None])
    text = (tmp_path / "log").read_text()
    assert "diverged" in text
    assert all(len(line) <= 80 for line in text.splitlines() if not line.startswith("Results"))


def test_lanes_are_in_the_order_of_starts_and_discounts(digits, monkeypatch):
    """One cell of the grid, trained alone, is what the grid has in its place."""
    settings = SMALL._replace(num_seeds=1)
    pairs = [(1e-2, 0.0), (1e-2, 0.9), (1e-1, 0.0), (1e-1, 0.9)]

    def make(start_and_discount):
        return robustness._fixed(1e-3, optax.sgd, start_and_discount)

    cell = robustness._train(make, digits, pairs, settings, lambda share: None)
    alone = robustness._train(make, digits, pairs[1:2], settings, lambda share: None)
    assert cell.final_learning_rate.shape == (4, 1)
    np.testing.assert_allclose(cell.final_learning_rate[1], alone.final_learning_rate[0], rtol=1e-4)
    assert len(np.unique(cell.final_learning_rate)) == 4


def test_work_is_reported_and_finished_parts_are_read_back(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(robustness, "INNER", {"momentum": robustness.INNER["momentum"]})
    monkeypatch.setattr(robustness, "BETAS", ())
    monkeypatch.setattr(robustness, "METHODS", {"hd": robustness.METHODS["hd"]})
    done = []
    settings = SMALL._replace(num_seeds=1, num_steps=2)
    compute = functools.partial(
        robustness.compute, folder=tmp_path, on_progress=lambda _, work: done.append(work)
    )
    first = compute(settings, digits)
    np.testing.assert_allclose(sum(done), robustness.work(settings))
    monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("trained again"))
    done.clear()
    second = compute(settings, digits)
    np.testing.assert_allclose(sum(done), robustness.work(settings))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert jax.tree.map(np.shape, first) == jax.tree.map(np.shape, second)
    for other in (settings._replace(grid=(0.2,)), settings._replace(num_steps=3)):
        with pytest.raises(pytest.fail.Exception, match="trained again"):
            compute(other, digits)


def test_means_leave_out_what_diverged():
    accuracies = np.array([[0.9, 0.5], [0.8, 0.6], [0.1, 0.1]])
    lost = np.array([[False, True], [False, False], [True, True]])
    cell = robustness.Cell(accuracies, accuracies, lost, accuracies)
    means, shares = robustness_plots._means([cell])
    np.testing.assert_allclose(means, [[0.9, 0.7, np.nan]])
    np.testing.assert_allclose(shares, [[0.5, 0.0, 1.0]])
    # A mean of 0.9 over the one seed that is left is no better than 0.7 over both.
    assert robustness.best_place(cell) == 1


def test_output_is_checked_before_the_data(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(data, "load", lambda _: pytest.fail("loaded data before the check"))
    with pytest.raises(InputError, match="--out"):
        robustness_report.run(SMALL, None, tmp_path / "file", Console(quiet=True))


@pytest.mark.parametrize("arguments", [["--data-dir", "nowhere"], ["--out", "file"]])
def test_mistakes_of_the_user_are_one_line(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    outcome = CliRunner().invoke(app, ["robustness", *arguments])
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith(f"Error: {arguments[0]}")
    assert len(outcome.stderr.splitlines()) == 1
