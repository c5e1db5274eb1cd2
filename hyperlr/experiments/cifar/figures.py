"""Figures 3, 4 and 6 to 8 of the paper: accuracy, validation loss and learning rate."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from hyperlr.experiments.cifar.runs import History
from hyperlr.experiments.core import style
from hyperlr.experiments.core.experiment import Shown
from hyperlr.experiments.core.tables import seeds
from hyperlr.experiments.methods import METHODS


def figures(
    histories: Mapping[str, list[History]], steps_per_epoch: int, title: str
) -> list[Shown]:
    """Draws all methods; the paper's two SGDRs in figures of their own, if they have run."""
    shown = []
    for name, other in (("curves", "sgdr_2264"), ("curves_sgdr_2264", "sgdr")):
        drawn = {method: runs for method, runs in histories.items() if method != other}
        if not drawn or (name != "curves" and "sgdr_2264" not in drawn):
            continue
        num_seeds = len(next(iter(drawn.values())))
        band = f": the mean over {seeds(num_seeds)}, in a band of one deviation"
        shown.append(
            Shown(
                name,
                "With SGDR (2.264)" if name != "curves" else "All methods",
                curves(drawn, steps_per_epoch, title),
                f"""
                Test accuracy and validation loss{band if num_seeds > 1 else ""}; right, the
                learning rate of the first seed. A line ends where a run diverged, and that of the
                learning rate breaks where it is 0. The test images have no part in training or in
                choosing anything.
                """,
            )
        )
    return shown


def curves(histories: Mapping[str, list[History]], steps_per_epoch: int, title: str) -> Figure:
    """Draws test accuracy and validation loss, the mean over seeds in a band of one deviation.

    The learning rate is that of the first seed. `histories` are one a seed.
    """
    figure, ((left, middle, right),) = style.panels(1, 3, 15, 4.8)
    for name, runs in histories.items():
        method, epochs = METHODS[name], runs[0].curves["step"] / steps_per_epoch
        for axes, quantity in ((left, "test_accuracy"), (middle, "val_loss")):
            values = np.stack([run.curves[quantity] for run in runs]).astype(float)
            mean = values.mean(axis=0)  # NaN from where a seed diverged
            axes.plot(epochs, mean, linewidth=1.4, **style.drawn(method))
            if len(runs) > 1:
                deviation = values.std(axis=0, ddof=1)
                band = mean - deviation, mean + deviation
                axes.fill_between(epochs, *band, color=method.color, alpha=0.2, linewidth=0)
        rates = runs[0].records["learning_rate"]
        epochs = np.arange(len(rates)) / steps_per_epoch
        right.plot(epochs, style.positive(rates), color=method.color, linewidth=1.4)
    style.percent(left.yaxis)
    left.set(title="Test accuracy", xlabel="epoch")
    middle.set(title="Validation loss", xlabel="epoch", yscale="log")
    right.set(title="Learning rate (first seed)", xlabel="epoch", yscale="log")
    style.legend_below(figure, left)
    figure.suptitle(title)
    return figure
