"""Figures 3, 4 and 6 to 8 of the paper: accuracy, validation loss and learning rate."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from hyperlr.experiments.cifar_methods import METHODS
from hyperlr.experiments.cifar_runs import History

# Paul Tol's bright palette, told apart with any colour vision; greys for the fixed schedules.
COLORS = {
    "exponential": "#BBBBBB",
    "staircase": "#555555",
    "sgdr": "#CCBB44",
    "sgdr_2264": "#EE8866",
    "hd": "#4477AA",
    "rtho": "#EE6677",
    "marthe": "#228833",
    "marthe_zero": "#66CCEE",
    "marthe_scale_free": "#AA3377",
}


def curves(histories: Mapping[str, list[History]], steps_per_epoch: int, title: str) -> Figure:
    """Draws test accuracy and validation loss, the mean over seeds in a band of one deviation.

    The learning rate is that of the first seed.

    Args:
      histories: method to one history a seed.
      steps_per_epoch: to count in epochs.
      title: above the figure.
    """
    figure = Figure(figsize=(15, 4.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for name, runs in histories.items():
        _draw_band(left, name, runs, "test_accuracy", steps_per_epoch)
        _draw_band(middle, name, runs, "val_loss", steps_per_epoch)
        rates = runs[0].records["learning_rate"]
        epochs = np.arange(len(rates)) / steps_per_epoch
        # A learning rate of 0 has no place on a log scale: the line breaks there.
        right.plot(epochs, np.where(rates > 0, rates, np.nan), color=COLORS[name], linewidth=1.4)
    left.yaxis.set_major_formatter(PercentFormatter(1.0))
    left.set(title="Test accuracy", xlabel="epoch")
    middle.set(title="Validation loss", xlabel="epoch", yscale="log")
    right.set(title="Learning rate (first seed)", xlabel="epoch", yscale="log")
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(histories), frameon=False)
    figure.suptitle(title)
    return figure


def _draw_band(
    axes: Axes, name: str, runs: list[History], quantity: str, steps_per_epoch: int
) -> None:
    epochs = runs[0].curves["step"] / steps_per_epoch
    values = np.stack([run.curves[quantity] for run in runs]).astype(float)
    mean = values.mean(axis=0)  # NaN from where a seed diverged
    axes.plot(epochs, mean, color=COLORS[name], label=METHODS[name].label, linewidth=1.4)
    if len(runs) > 1:
        deviation = values.std(axis=0, ddof=1)
        axes.fill_between(
            epochs, mean - deviation, mean + deviation, color=COLORS[name], alpha=0.2, linewidth=0
        )
