"""The picture of a run shows what was logged, and where it was not finite."""

import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest

from hyperlr.plots import plot_metrics

STEPS = 40
LOG = {
    "loss": np.exp(-np.arange(STEPS) / 10),
    "learning_rate": np.linspace(0.01, 0.2, STEPS),
    "hypergradient": np.sin(np.arange(STEPS)),
    "cosine": np.cos(np.arange(STEPS)),
    "discount": np.full(STEPS, 0.9),
    "tangent_norm": np.linspace(1.0, 2.0, STEPS),
    "num_restarts": np.zeros(STEPS),
    "horizon": np.zeros(STEPS),
}


def panel(figure, title):
    [axes] = [axes for axes in figure.axes if axes.get_title().startswith(title)]
    return axes


def bands(axes):
    patches = [patch for patch in axes.patches if isinstance(patch, mpl.patches.Rectangle)]
    return [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in patches]


def test_every_panel_shows_its_numbers_at_their_steps():
    figure = plot_metrics(LOG, every=10, title="a run")
    assert len(figure.axes) == 6
    x, y = panel(figure, "learning rate").lines[0].get_data()
    np.testing.assert_array_equal(x, 10 * np.arange(STEPS))
    np.testing.assert_array_equal(y, LOG["learning_rate"])
    assert panel(figure, "learning rate").get_yscale() == "log"
    assert not bands(panel(figure, "loss"))


def test_a_rate_that_hardly_moves_looks_flat():
    rates = np.linspace(0.01, 0.0101, STEPS)
    lower, upper = panel(plot_metrics({"learning_rate": rates}), "learning rate").get_ylim()
    assert lower < 0.005
    assert upper > 0.02


def test_what_is_noisy_has_its_running_mean_of_a_twentieth_of_the_run():
    raw, mean, _ = panel(plot_metrics(LOG), "cosine").lines
    np.testing.assert_array_equal(raw.get_ydata(), LOG["cosine"])
    np.testing.assert_allclose(mean.get_ydata()[7], LOG["cosine"][6:8].mean())


def test_a_cosine_that_was_not_measured_is_not_drawn():
    measured = np.arange(STEPS) % 4 == 0
    log = LOG | {"objective_norm": np.where(measured, 2.0, 0.0)}
    figure = plot_metrics(log)
    raw, mean, _ = panel(figure, "cosine").lines
    np.testing.assert_array_equal(np.isfinite(raw.get_ydata()), measured)
    np.testing.assert_allclose(mean.get_ydata()[8], LOG["cosine"][8])
    assert len(panel(figure, "cosine").patches) == len(panel(plot_metrics(LOG), "cosine").patches)


def test_a_list_of_entries_is_the_same_as_arrays():
    entries = [{key: values[t] for key, values in LOG.items()} for t in range(STEPS)]
    figure, same = plot_metrics(entries), plot_metrics(LOG)
    for one, other in zip(figure.axes, same.axes, strict=True):
        np.testing.assert_array_equal(one.lines[0].get_ydata(), other.lines[0].get_ydata())


def test_bands_are_where_something_was_not_finite_or_the_tangent_restarted(tmp_path):
    loss = LOG["loss"].copy()
    loss[30:] = np.nan
    restarts = np.cumsum(np.isin(np.arange(STEPS), [5, 6, 20]))
    figure = plot_metrics(LOG | {"loss": loss, "num_restarts": restarts})
    expected = [(4.5, 6.5), (19.5, 20.5), (29.5, 39.5)]
    assert all(bands(axes) == expected for axes in figure.axes)
    figure.savefig(tmp_path / "figure.png")


def test_a_run_that_is_never_finite_and_one_that_is_zero_can_be_drawn(tmp_path):
    for value in (np.nan, 0.0):
        log = {key: np.full(STEPS, value) for key in LOG}
        plot_metrics(log).savefig(tmp_path / "figure.png")


def test_what_cannot_be_drawn_is_told():
    with pytest.raises(ValueError, match="log is empty"):
        plot_metrics([])
    with pytest.raises(ValueError, match=r"hyperlr\.metrics"):
        plot_metrics({"horizon": [1.0]})
    with pytest.raises(ValueError, match="one after the other"):
        plot_metrics({"learning_rate": np.ones((2, 3))})


def test_without_matplotlib_the_extra_is_named():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from hyperlr.plots import plot_metrics\n"
        "try: plot_metrics({'cosine': [0.0]})\n"
        "except ModuleNotFoundError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "hyperlr[plots]"' in done.stdout
