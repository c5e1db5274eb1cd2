"""`hyperlr adaptive`: what its page says of the optimizers is so, and its files are written."""

import json

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from hyperlr.experiments import adaptive, adaptive_report
from hyperlr.experiments.adaptive_methods import METHODS
from hyperlr.experiments.cli import app

ADAM_LIKE = ("adam", "adamax", "adam_max", "nadam")


@pytest.fixture(scope="module")
def problem():
    return adaptive.make_problem()


@pytest.fixture(scope="module")
def study(problem):
    runs = []
    study = adaptive.study(problem, on_progress=lambda: runs.append(1))
    assert len(runs) == adaptive.NUM_RUNS
    return study


def gradients(problem, points):
    return (points - problem.minimizer) @ problem.hessian


def test_problem_is_a_valley_along_the_sparse_weight(problem):
    assert np.count_nonzero(problem.inputs[:, 1]) == adaptive.NUM_SPARSE
    assert np.all(problem.inputs[:, 0] != 0)
    residual = problem.inputs @ problem.minimizer - problem.targets
    np.testing.assert_allclose(problem.inputs.T @ residual, 0, atol=1e-12)
    point = np.array([0.3, -0.2])
    losses = [
        0.5 * np.mean((problem.inputs @ w - problem.targets) ** 2)
        for w in (point, problem.minimizer)
    ]
    np.testing.assert_allclose(adaptive.gap(problem, point), losses[0] - losses[1], rtol=1e-12)


def test_gradient_descent_is_a_power_of_a_matrix(problem, study):
    descents = study.full["gd"]
    contraction = np.eye(2) - descents.learning_rates[0] * problem.hessian
    expected = np.linalg.matrix_power(contraction, 50) @ (problem.start - problem.minimizer)
    np.testing.assert_allclose(descents.points[0, 50] - problem.minimizer, expected, rtol=1e-8)


@pytest.mark.parametrize("name", ["gd", "gd_sparsity", "adagrad", "rmsprop", "adadelta"])
def test_a_step_is_the_effective_rate_times_the_gradient(problem, study, name):
    descents = study.full[name]
    points = descents.points[0, :20]
    steps = -descents.rates[0, :19] * gradients(problem, points)[:-1]
    np.testing.assert_allclose(np.diff(points, axis=0), steps, rtol=1e-6)


@pytest.mark.parametrize("name", ADAM_LIKE)
def test_the_first_step_of_adam_is_the_effective_rate_times_the_gradient(problem, study, name):
    descents = study.full[name]
    step = descents.points[0, 1] - problem.start
    # Dozat's average has b1 m_1 / (1 - b1²) + (1 - b1) g / (1 - b1) for g.
    factor = 0.9 * 0.1 / (1 - 0.9**2) + 1.0 if name == "nadam" else 1.0
    expected = -factor * descents.rates[0, 0] * gradients(problem, problem.start)
    np.testing.assert_allclose(step, expected, rtol=1e-6)


def test_sparsity_scaling_makes_the_rare_feature_as_fast(study):
    np.testing.assert_array_equal(study.full["gd_sparsity"].rates[0, -1], [0.3, 3.0])
    scaled, plain = study.full["gd_sparsity"].points[0], study.full["gd"].points[0]
    assert plain[20, 1] < 0.5 < 1.9 < scaled[20, 1]
    # In minibatches of which none has the feature its rate is the plain one.
    assert {0.3, 3.0, 1.5} <= set(np.round(study.mini["gd_sparsity"].rates[0, :, 1], 6))


def test_adagrad_falls_and_rmsprop_settles_at_two_over_the_curvature(problem, study):
    assert np.all(np.diff(study.full["adagrad"].rates[0], axis=0) <= 0)
    assert np.all(np.diff(study.mini["adagrad"].rates[0], axis=0) <= 0)
    np.testing.assert_allclose(
        study.full["rmsprop"].rates[0, -1], 2 / np.diag(problem.hessian), rtol=0.02
    )


def test_rmsprop_oscillates_at_half_its_rate(problem, study):
    for rate, points in zip(
        study.oscillation.learning_rates, study.oscillation.points, strict=True
    ):
        offset = points[-20:, 0] - problem.minimizer[0]
        np.testing.assert_allclose(np.abs(offset), rate / 2, rtol=0.01)
        assert np.all(offset[1:] * offset[:-1] < 0)


def test_adadelta_starts_at_the_mercy_of_eps_and_ends_at_rate_one(study):
    gaps = [descents.gaps[0, adaptive.COMPARED_STEP] for descents in study.adadelta]
    assert gaps[0] > 10 * gaps[1] > 100 * gaps[2]
    np.testing.assert_allclose(study.full["adadelta"].rates[0, -1], 1.0, rtol=0.01)


def test_bias_correction_bounds_the_first_steps(study):
    first, longest = {}, {}
    for name, descents in (("corrected", study.full["adam"]), ("not", study.uncorrected)):
        steps = np.abs(np.diff(descents.points[0, :, 0])) / descents.learning_rates[0]
        first[name], longest[name] = steps[0], steps.max()
    np.testing.assert_allclose(first["not"], 0.1 / 0.001**0.5, rtol=1e-6)
    np.testing.assert_allclose(first["corrected"], 1.0, rtol=1e-6)
    assert longest["corrected"] < 1.01
    assert longest["not"] > 5


def test_the_maximum_norm_steadies_the_rate_of_the_sparse_feature(study):
    swing = {
        name: np.ptp(np.log(descents.rates[0, 150:, 1]))
        for name, descents in study.short_memory.items()
    }
    assert 2 * swing["adam_max"] < swing["adam"]


def test_run_writes_its_results(tmp_path, monkeypatch, study, capsys):
    monkeypatch.setattr(adaptive, "study", lambda *args: study)
    adaptive_report.run(tmp_path, Console(width=80))
    assert "sparsity-scaled" in capsys.readouterr().out
    figures = ["details.png", "effective_rates.png", "paths.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["README.md", "metrics.json", "schedules.npz", *figures]
    )
    for name in figures:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert f"]({name})" in (tmp_path / "README.md").read_text()
    assert "nan" not in (tmp_path / "README.md").read_text()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics["methods"]) == set(METHODS)
    # Gradient descent diverges at the largest rates, which JSON has no number for.
    assert metrics["methods"]["gd"]["compared_gaps"][-1] > 1e100
    schedules = np.load(tmp_path / "schedules.npz")
    assert schedules["nadam/sparse"].shape == (1, adaptive.NUM_STEPS)


def test_command_refuses_a_path_that_is_a_file(tmp_path):
    path = tmp_path / "file"
    path.touch()
    result = CliRunner().invoke(app, ["adaptive", "--out", str(path)])
    assert result.exit_code == 2
    assert "--out" in result.output
