"""`hyperlr adaptive`: what its page says of the optimizers is so, and its files are written."""

import io

import numpy as np
import pytest
from rich.console import Console

from hyperlr.experiments.adaptive import descents as adaptive
from hyperlr.experiments.adaptive.descents import OPTIMIZERS
from hyperlr.experiments.adaptive.experiment import EXPERIMENT
from hyperlr.experiments.core import runner

ADAM_LIKE = ("adam", "adamax", "adam_max", "nadam")


@pytest.fixture(scope="module")
def problem():
    return adaptive.make_problem()


@pytest.fixture(scope="module")
def results():
    return runner.compute(EXPERIMENT, EXPERIMENT.presets["quick"], None)


@pytest.fixture(scope="module")
def study(results):
    return adaptive.study(results.arrays)


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


def test_results(results):
    summary = EXPERIMENT.summarize(results)
    assert set(summary.methods) == set(OPTIMIZERS)
    assert summary.arrays["schedules"]["nadam/sparse"].shape == (1, 300)
    # Gradient descent diverges at the largest rates.
    assert summary.methods["gd"]["compared_gaps"][-1] > 1e100
    shown = EXPERIMENT.figures(results)
    assert [each.name for each in shown] == ["paths", "effective_rates", "details"]
    assert "nan" not in " ".join(each.text for each in shown)
    (table,) = EXPERIMENT.table(summary)
    text = io.StringIO()
    Console(file=text, width=80).print(table)
    assert "sparsity-scaled" in text.getvalue()
