"""`hyperlr curvature`: what its page says of the step size is so, and its files are written."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from hyperlr.experiments import curvature, curvature_report, surfaces
from hyperlr.experiments.cli import app
from hyperlr.experiments.data import Data
from hyperlr.experiments.precision import float64

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
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("parts")


@pytest.fixture(scope="module")
def study(digits, folder):
    return curvature_report.measure(digits, SETTINGS, folder, Console(quiet=True))


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
        share = curvature_report.share_of_bound(run)
        assert len(share) == len(run.values) - 1
        assert np.all(share <= 1)


def test_a_larger_sharpness_on_the_way_begins_the_descent_again():
    """From its start on Beale the sharpness rises before it falls."""
    with float64():
        start = jnp.array([0.0, -1.0])
        first = float(curvature.curvature.lipschitz_constant(surfaces.beale, start))
        run = curvature.descent_with_bound(surfaces.beale, start, 60, lipschitz_every=1)
        alone = curvature.descend(surfaces.beale, start, 1 / run.lipschitz, 60, lipschitz_every=1)
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
    np.testing.assert_array_equal(
        curvature_report.rates_at(measured), measured.learning_rates[[0, 3, 5]]
    )


def test_measurements_on_the_network_are_read_back(study, digits, folder, monkeypatch):
    for name in ("descent_with_bound", "one_step"):
        original = getattr(curvature, name)
        monkeypatch.setattr(
            curvature,
            name,
            lambda loss, params, *args, original=original, **options: (
                pytest.fail("measured again")
                if isinstance(params, list)
                else original(loss, params, *args, **options)
            ),
        )
    monkeypatch.setattr(curvature, "follow_marthe", lambda *args: pytest.fail("measured again"))
    again = curvature_report.measure(digits, SETTINGS, folder, Console(quiet=True))
    jax.tree.map(np.testing.assert_array_equal, again, study)
    other = SETTINGS._replace(marthe_steps=5)
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        curvature_report.measure(digits, other, folder, Console(quiet=True))


def test_run_writes_its_results(tmp_path, monkeypatch, study, digits, capsys):
    monkeypatch.setattr(curvature_report, "measure", lambda *args: study)
    monkeypatch.setattr(curvature_report.data, "load", lambda data_dir: digits)
    curvature_report.run(None, tmp_path, Console(width=80), SETTINGS)
    assert "Beale" in capsys.readouterr().out
    figures = ["descent.png", "one_step.png", "sharpness.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["README.md", "metrics.json", "schedules.npz", *figures]
    )
    page = (tmp_path / "README.md").read_text()
    for name in figures:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert f"]({name})" in page
    assert "nan" not in page
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["config"]["hidden_widths"] == [8]
    assert len(metrics["methods"]["sharpness"]["two_over_learning_rate"]) == 3
    assert np.load(tmp_path / "schedules.npz")["marthe_fixed"].shape == (1, 6)


def test_command_refuses_a_path_that_is_a_file(tmp_path):
    path = tmp_path / "file"
    path.touch()
    result = CliRunner().invoke(app, ["curvature", "--out", str(path)])
    assert result.exit_code == 2
    assert "--out" in result.output
