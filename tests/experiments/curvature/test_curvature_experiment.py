"""`hyperlr curvature`: what its page says of the step size is so, and its files are written."""

import io

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from hyperlr.experiments.core import runner
from hyperlr.experiments.core.descent import float64
from hyperlr.experiments.curvature import measurements as curvature
from hyperlr.experiments.curvature.experiment import EXPERIMENT, parts, study_of
from hyperlr.experiments.data import Data
from hyperlr.experiments.surfaces import functions

SETTINGS = curvature.Settings(
    quadratic_steps=200,
    network_steps=12,
    marthe_steps=6,
    sharpness_every=3,
    hidden_widths=(8,),
)


@pytest.fixture(scope="module")
def digits():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (400, 16), dtype=np.uint8)
    labels = (images[:, 0] // 64).astype(np.int32)
    return Data("noise", images, labels, images[:10], labels[:10], 4, 300, 100)


@pytest.fixture(scope="module")
def results(digits):
    return runner.compute(EXPERIMENT, SETTINGS, digits)


@pytest.fixture(scope="module")
def study(results):
    return study_of(results)


def test_one_step_of_the_quadratic_is_its_second_order_model(study):
    step = study.one_step["quadratic"]
    np.testing.assert_allclose(step.losses, step.second_order, rtol=1e-12)
    np.testing.assert_allclose(np.interp(step.bound, step.epsilons, step.losses), step.losses[0])
    lowest = step.epsilons[np.argmin(step.losses)]
    assert abs(lowest - step.bound / 2) <= step.epsilons[1]


@pytest.mark.parametrize("name", ["beale", "network"])
def test_one_step_starts_as_its_second_order_model(study, name):
    step = study.one_step[name]
    error = np.abs(step.losses - step.second_order)[:4] / step.losses[0]
    assert error[0] < 1e-6
    assert error[1] < 0.01
    # Of second order: what is left grows as the cube. (The network is in float32.)
    assert error[3] < 0.04
    assert step.losses[1] < step.losses[0]


def test_a_bound_needs_curvature():
    with pytest.raises(ValueError, match="no bound"):
        curvature.one_step(lambda w: -jnp.sum(w**2), jnp.ones(2))


def test_descent_on_either_side_of_two_over_l(study):
    for factor, run in study.on_quadratic.items():
        np.testing.assert_allclose(run.lipschitz, max(curvature.SPECTRUM), rtol=1e-9)
        if factor < 2:
            assert np.all(np.diff(run.values) < 0)
        if factor > 2:
            assert np.all(np.diff(run.values)[50:] > 0)
            assert run.values[-1] > run.values[0]
    # At 2/L itself the part along the steepest direction flips its sign and keeps its size.
    assert abs(study.on_quadratic[2.0].values[-1] / study.on_quadratic[2.0].values[-2] - 1) < 1e-3


def test_smallest_gradient_is_under_the_bound(study):
    for run in study.bounded.values():
        share = run.share_of_bound
        assert len(share) == len(run.values) - 1
        assert np.all(share <= 1)


def test_a_larger_sharpness_on_the_way_begins_the_descent_again():
    """From its start on Beale the sharpness rises before it falls."""
    with float64():
        start = jnp.array([0.0, -1.0])
        first = float(curvature.curvature.lipschitz_constant(functions.beale, start))
        run = curvature.descent_with_bound(functions.beale, start, 60, lipschitz_every=1)
        alone = curvature.descend(functions.beale, start, 1 / run.lipschitz, 60, lipschitz_every=1)
    assert run.lipschitz > 1.2 * first
    assert alone.lipschitz <= run.lipschitz
    np.testing.assert_array_equal(run.values, alone.values)
    assert len(run.values) == 61


def test_sharpness_is_measured_along_the_run(study):
    measured = study.sharpness
    np.testing.assert_array_equal(measured.steps, [0, 3, 6])
    assert measured.learning_rates.shape == (6,)
    assert measured.learning_rates[0] == np.float32(0.01)
    assert len(set(measured.learning_rates)) > 3
    assert np.all(np.abs(measured.along_gradient) <= 1.01 * measured.lipschitz)
    np.testing.assert_allclose(measured.losses[0], study.one_step["network"].losses[0], rtol=1e-6)
    np.testing.assert_array_equal(measured.rates, measured.learning_rates[[0, 3, 5]])


def test_settings_determine_the_measurements_that_they_are_for(digits):
    def determined(settings):
        return {part.name: part.settings for part in parts(settings, digits)}

    before, after = determined(SETTINGS), determined(SETTINGS._replace(network_steps=13))
    assert {name for name in before if before[name] != after[name]} == {"bound-network"}
    after = determined(SETTINGS._replace(sharpness_every=2))
    assert {name for name in before if before[name] != after[name]} == {"sharpness"}


def test_results(results):
    summary = EXPERIMENT.summarize(results)
    assert len(summary.methods["sharpness"]["two_over_learning_rate"]) == 3
    assert summary.arrays["schedules"]["marthe_fixed"].shape == (1, 6)
    shown = EXPERIMENT.figures(results)
    assert [each.name for each in shown] == ["one_step", "descent", "sharpness"]
    assert "nan" not in " ".join(each.text for each in shown)
    text = io.StringIO()
    for table in EXPERIMENT.table(summary):
        Console(file=text, width=80).print(table)
    assert "Beale" in text.getvalue()
