"""Figure of the digits experiment: the schedules found and the accuracies they lead to."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from hyperlr.experiments.methods import METHODS
from hyperlr.experiments.training import Trained

# Paul Tol's bright palette, told apart with any colour vision; grey for the baseline.
COLORS = {
    "constant": "#555555",
    "hd": "#4477AA",
    "rtho": "#EE6677",
    "marthe_fixed": "#CCBB44",
    "marthe_mu": "#66CCEE",
    "marthe": "#228833",
    "marthe_scale_free": "#AA3377",
}


def schedules_and_accuracies(
    trained: Mapping[str, Trained], diverged: Mapping[str, np.ndarray], source: str
) -> Figure:
    """Draws the schedules, the validation accuracy on the way, and the final accuracies.

    Thick lines are of seed 0, thin ones of the others.

    Args:
      trained: method to what came of it.
      diverged: method to whether each lane diverged.
      source: where the images come from, for the title.
    """
    figure = Figure(figsize=(15, 4.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.15, 1, 0.8))
    for name, lanes in trained.items():
        _draw_schedules(left, name, lanes)
        _draw_accuracy_curves(middle, name, lanes)
    _draw_final_accuracies(right, trained, diverged)
    left.set(
        title="Learning rate", xlabel="step (×: diverged)", ylabel="learning rate η", yscale="log"
    )
    _fit_schedules(left, [lanes.records["learning_rate"] for lanes in trained.values()])
    middle.set(title="Validation accuracy", xlabel="step")
    _fit_accuracies(middle, [lanes.val_accuracy for lanes in trained.values()])
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(trained), frameon=False)
    num_seeds = len(next(iter(trained.values())).test_accuracy)
    seeds = "one seed" if num_seeds == 1 else f"{num_seeds} seeds, the first in thick lines"
    figure.suptitle(f"{source} ({seeds})")
    return figure


def _draw_schedules(axes: Axes, name: str, lanes: Trained) -> None:
    schedules = lanes.records["learning_rate"]
    # A learning rate of 0 has no place on a log scale: the line breaks there.
    positive = np.where(schedules > 0, schedules, np.nan)
    for lane, schedule in enumerate(positive):
        axes.plot(
            np.arange(len(schedule)),
            schedule,
            color=COLORS[name],
            label=METHODS[name].label if lane == 0 else None,
            **_line_style(lane),
        )
        lost = np.flatnonzero(~np.isfinite(schedules[lane]))
        if lost.size:
            axes.plot(
                lost[0],
                0.97,
                "x",
                color=COLORS[name],
                markeredgewidth=2,
                transform=axes.get_xaxis_transform(),
            )
    axes.grid(alpha=0.3)


def _draw_accuracy_curves(axes: Axes, name: str, lanes: Trained) -> None:
    for lane, curve in enumerate(lanes.val_accuracy):
        axes.plot(lanes.curve_steps, curve, color=COLORS[name], **_line_style(lane))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.3)


def _draw_final_accuracies(
    axes: Axes, trained: Mapping[str, Trained], diverged: Mapping[str, np.ndarray]
) -> None:
    for row, (name, lanes) in enumerate(trained.items()):
        lost = diverged[name]
        for accuracies, marker, shift, label in (
            (lanes.val_accuracy[:, -1], "o", -0.13, "validation"),
            (lanes.test_accuracy, "D", 0.13, "test"),
        ):
            axes.plot(
                accuracies[~lost],
                np.full(np.sum(~lost), row + shift),
                marker,
                color=COLORS[name],
                markerfacecolor=COLORS[name] if marker == "o" else "none",
                alpha=0.8,
                label=label if row == 0 else None,
            )
        if lost.any():
            axes.annotate(
                f"{lost.sum()} of {lost.size} diverged",
                (0.02, row),
                xycoords=axes.get_yaxis_transform(),
                va="center",
            )
    axes.set_yticks(range(len(trained)), [METHODS[name].label for name in trained])
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(title="Final accuracy")
    axes.legend(loc="best", fontsize="small")
    axes.grid(alpha=0.3)


def _fit_schedules(axes: Axes, schedules: list[np.ndarray]) -> None:
    """Leaves the last leaps of a diverging schedule out; a cross marks where it ends."""
    rates = np.concatenate([schedule.ravel() for schedule in schedules])
    rates = rates[np.isfinite(rates) & (rates > 0)]
    if rates.size:
        low, high = np.percentile(rates, [0.5, 99.5])
        axes.set_ylim(low / 2, high * 4)


def _fit_accuracies(axes: Axes, curves: list[np.ndarray]) -> None:
    """Cuts the first steps off below, where all curves rise from a tenth and none differs."""
    late = np.concatenate([curve[:, curve.shape[1] // 4 :].ravel() for curve in curves])
    late = late[np.isfinite(late)]
    if late.size:
        low = max(0.0, float(np.percentile(late, 2)) - 0.05)
        axes.set_ylim(low, min(1.0, float(late.max()) + 0.01))


def _line_style(lane: int) -> dict[str, Any]:
    return {"linewidth": 1.8, "alpha": 1.0} if lane == 0 else {"linewidth": 0.7, "alpha": 0.35}
