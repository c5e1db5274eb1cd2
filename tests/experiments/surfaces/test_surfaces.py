"""The toy surfaces: their values, the paper's figures on them, and the files of `hyperlr toy`."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from hyperlr.experiments.core import runner
from hyperlr.experiments.core.descent import float64
from hyperlr.experiments.surfaces import experiment as toy
from hyperlr.experiments.surfaces import functions

BEALE, BUKIN = toy.PROBLEMS["beale"], toy.PROBLEMS["bukin"]


def test_surfaces_at_known_points(x64):
    assert functions.beale(jnp.array([3.0, 0.5])) == 0.0
    assert functions.beale(jnp.array([1.0, 1.0])) == 1.5**2 + 2.25**2 + 2.625**2
    np.testing.assert_allclose(
        functions.beale(jnp.array([2.0, -1.0])), (-2.5) ** 2 + 2.25**2 + (-1.375) ** 2
    )
    for x in (-3.0, 1.0):
        np.testing.assert_allclose(
            functions.smoothed_bukin(jnp.array([x, 0.01 * x]), 1e-3),
            functions.smoothed_bukin_minimum(1e-3),
        )
    # With hardly any smoothing it is the root of the distance |y - 0.01 x|.
    np.testing.assert_allclose(
        functions.smoothed_bukin(jnp.array([1.0, 0.26]), 1e-12), 0.5, rtol=1e-9
    )


@pytest.mark.parametrize(
    ("method", "beta", "expected"),
    [
        ("hd", 1e-6, "9.8e-03"),
        ("rtho", 1e-6, "2.0e-04"),
        ("hd", 1e-5, "9.9e-05"),
        ("rtho", 1e-5, "6.2e-07"),
    ],
)
def test_best_values_on_beale(method, beta, expected):
    descents = toy.descend(method, BEALE, [beta])
    # The reference figures have two digits.
    assert f"{descents.best_values[0]:.1e}" == expected


@pytest.mark.parametrize("beta", [1e-6, 1e-5])
def test_marthe_keeps_the_whole_past_on_beale(beta):
    descents = toy.descend("marthe_mu", BEALE, [beta])
    assert np.mean(descents.discounts == 1.0) >= 0.98
    rtho = toy.descend("rtho", BEALE, [beta])
    np.testing.assert_allclose(descents.best_values, rtho.best_values, rtol=1e-6)


def test_rtho_leaves_the_valley_of_bukin_and_hd_does_not():
    betas = [1e-4, 2e-4, 5e-4]
    hd = toy.descend("hd", BUKIN, betas)
    rtho = toy.descend("rtho", BUKIN, betas)
    marthe = toy.descend("marthe_mu", BUKIN, betas)
    np.testing.assert_array_less(hd.best_values - BUKIN.minimum, 1e-12)
    np.testing.assert_array_less(1e-3, rtho.best_values - BUKIN.minimum)
    # RTHO's learning rate first grows far beyond HD's, then vanishes.
    np.testing.assert_array_less(
        10 * hd.learning_rates.max(axis=1), rtho.learning_rates.max(axis=1)
    )
    np.testing.assert_array_equal(rtho.learning_rates[:, -1], 0.0)
    np.testing.assert_array_less(marthe.best_values, rtho.best_values)


def test_marthe_forgets_in_a_good_part_of_the_steps_in_the_valley_of_bukin():
    """How often at one β hangs on rounding, from none to two steps of five; not over many."""
    marthe = toy.descend("marthe_mu", BUKIN, list(np.geomspace(1e-4, 5e-4, 24)))
    assert 0.2 < np.mean(marthe.discounts == 0.0) < 0.3


def test_descent_in_a_batch_is_the_descent_alone():
    together = toy.descend("marthe_mu", BEALE, [1e-6, 1e-5], num_steps=50)
    alone = toy.descend("marthe_mu", BEALE, [1e-5], num_steps=50)
    np.testing.assert_allclose(together.points[1], alone.points[0], rtol=1e-12)
    assert together.points.shape == (2, 51, 2)
    assert together.learning_rates.shape == (2, 50)
    assert together.values.dtype == np.float64
    # The rate of the first step is η_0 = 0: the point stays.
    np.testing.assert_array_equal(together.points[:, 1], together.points[:, 0])


def test_descent_that_diverges_is_told_apart():
    descents = toy.descend("rtho", BEALE, [1e-6, 1e-3])
    np.testing.assert_array_equal(descents.diverged, [False, True])
    assert np.isfinite(descents.best_values).all()


@pytest.mark.parametrize("before", [False, True])
def test_float64_leaves_the_global_flag_alone(before):
    jax.config.update("jax_enable_x64", before)
    try:
        with float64():
            assert jnp.ones(()).dtype == jnp.float64
        assert jax.config.jax_enable_x64 == before
        with pytest.raises(RuntimeError, match="inside"), float64():
            raise RuntimeError("inside")
        assert jnp.ones(()).dtype == (jnp.float64 if before else jnp.float32)
    finally:
        jax.config.update("jax_enable_x64", False)


def test_run_writes_its_results(tmp_path):
    settings = toy.Settings(num_steps=20)
    runner.run(toy.EXPERIMENT, settings, tmp_path, Console(file=io.StringIO(), width=80))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics["methods"]) == {"hd", "rtho", "marthe_mu"}
    entry = metrics["methods"]["rtho"]["beale"]
    assert len(entry["best_value"]) == len(BEALE.betas)
    assert entry["diverged"][-1] is True
    schedules = np.load(tmp_path / "schedules.npz")
    assert schedules["bukin/hd"].shape == (len(BUKIN.betas), 20)
    assert (tmp_path / "toy.png").read_bytes().startswith(b"\x89PNG")
