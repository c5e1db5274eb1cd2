"""Figures of the digits experiment: schedules, accuracies, and LRS-OPT's way."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from hyperlr.experiments import grid, lrs, training
from hyperlr.experiments.data import Data
from hyperlr.experiments.methods import METHODS
from hyperlr.experiments.training import Trained

if TYPE_CHECKING:
    from hyperlr.experiments.mnist import Outcomes

# Paul Tol's bright palette, told apart with any colour vision; grey for the baseline.
COLORS = {
    "constant": "#777777",
    "hd": "#4477AA",
    "rtho": "#EE6677",
    "marthe_fixed": "#CCBB44",
    "marthe_mu": "#66CCEE",
    "marthe": "#228833",
    "marthe_scale_free": "#AA3377",
    "lrs_opt": "#000000",
}
_SEED_COLORS = ("#000000", "#4477AA", "#EE6677", "#228833", "#AA3377", "#CCBB44")


def optimized_and_online(
    outcomes: "Outcomes", shown: Mapping[str, Trained], labels: Mapping[str, str], images: Data
) -> Figure:
    """Draws the paper's Figure 2.

    Left, LRS-OPT's schedules; in the middle, all schedules of seed 0; right, the mean validation
    accuracy against the step size.

    Args:
      outcomes: what came of all methods.
      shown: method → its lanes with the step size that was found, one a seed.
      labels: method → its name.
      images: the data.
    """
    figure = Figure(figsize=(15, 5.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _draw_optimized(left, outcomes.optimized)
    _draw_schedules(middle, shown, labels, seed=0)
    middle.set_title("Optimized and online schedules, seed 0")
    _draw_grids(right, outcomes, labels, images.num_classes)
    handles, names = middle.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(images.source)
    return figure


def other_seeds(shown: Mapping[str, Trained], labels: Mapping[str, str], num_seeds: int) -> Figure:
    """Draws the paper's Figure 5: all schedules of the other seeds, from 1 to `num_seeds` - 1."""
    figure = Figure(figsize=(5 * (num_seeds - 1), 4.8), layout="constrained")
    panels = figure.subplots(1, num_seeds - 1, squeeze=False)[0]
    for seed, axes in enumerate(panels, start=1):
        _draw_schedules(axes, shown, labels, seed)
        axes.set_title(f"Seed {seed}")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(4, 2 * num_seeds))
    return figure


def accuracies(
    shown: Mapping[str, Trained],
    lost: Mapping[str, np.ndarray],
    labels: Mapping[str, str],
    source: str,
) -> Figure:
    """Draws the validation accuracy on the way, and the final accuracies.

    Thick lines are of seed 0, thin ones of the others.

    Args:
      shown: method → its lanes, one a seed.
      lost: method → whether each lane diverged.
      labels: method → its name.
      source: where the images come from, for the title.
    """
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, lanes in shown.items():
        for lane, curve in enumerate(lanes.val_accuracy):
            left.plot(lanes.curve_steps, curve, color=COLORS[name], **_line_style(lane))
    left.yaxis.set_major_formatter(PercentFormatter(1.0))
    left.set(title="Validation accuracy", xlabel="step")
    left.grid(alpha=0.3)
    _fit_accuracies(left, [lanes.val_accuracy for lanes in shown.values()])
    _draw_final_accuracies(right, shown, lost, labels)
    figure.suptitle(source)
    return figure


def outer_iterations(optimized: Sequence[lrs.Optimized], source: str) -> Figure:
    """Draws the accuracy of LRS-OPT's schedule against outer iterations, and against time."""
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for seed, each in enumerate(optimized):
        curve, color = each.curve, _SEED_COLORS[seed % len(_SEED_COLORS)]
        for axes, x in ((left, curve.iterations), (right, curve.seconds / 60)):
            axes.plot(x, curve.val_accuracy, "o-", color=color, label=f"validation, seed {seed}")
            axes.plot(
                x, curve.test_accuracy, "D--", color=color, alpha=0.6, label=f"test, seed {seed}"
            )
    left.set(xlabel="outer iterations", ylabel="accuracy of the schedule at that point")
    right.set(xlabel="minutes of outer iterations, with compilation")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    left.legend(fontsize="small")
    figure.suptitle(f"LRS-OPT, {source}")
    return figure


def _draw_optimized(axes: Axes, optimized: Sequence[lrs.Optimized]) -> None:
    for seed, each in enumerate(optimized):
        color = _SEED_COLORS[seed % len(_SEED_COLORS)]
        axes.plot(each.start, ":", color=color, linewidth=1, label=f"start, seed {seed}")
        schedule = each.trained.records["learning_rate"][0]
        iterations = len(each.objectives)
        label = f"best within {iterations} iterations, seed {seed}"
        axes.plot(schedule, color=color, linewidth=1.5, label=label)
    if optimized:
        axes.legend(fontsize="small")
    else:
        axes.text(0.5, 0.5, "left out", ha="center", transform=axes.transAxes)
    axes.set(title="LRS-OPT", xlabel="step", ylabel="learning rate η", yscale="log")
    axes.grid(alpha=0.3)


def _draw_schedules(
    axes: Axes, shown: Mapping[str, Trained], labels: Mapping[str, str], seed: int
) -> None:
    schedules = {
        name: lanes.records["learning_rate"][seed]
        for name, lanes in shown.items()
        if seed < len(lanes.test_loss)
    }
    for name, schedule in schedules.items():
        # A learning rate of 0 has no place on a log scale: the line breaks there.
        positive = np.where(schedule > 0, schedule, np.nan)
        width = 2.2 if name == "lrs_opt" else 1.4
        axes.plot(positive, color=COLORS[name], linewidth=width, label=labels[name])
        diverged_at = np.flatnonzero(~np.isfinite(schedule))
        if diverged_at.size:
            axes.plot(
                diverged_at[0],
                0.97,
                "x",
                color=COLORS[name],
                markeredgewidth=2,
                transform=axes.get_xaxis_transform(),
            )
    axes.set(xlabel="step (×: diverged)", ylabel="learning rate η", yscale="log")
    axes.grid(alpha=0.3)
    _fit_schedules(axes, list(schedules.values()))


def _draw_grids(
    axes: Axes, outcomes: "Outcomes", labels: Mapping[str, str], num_classes: int
) -> None:
    for name, each in outcomes.grids.items():
        means = grid.mean_accuracies(each, num_classes)
        if not METHODS[name].step_size_name:
            axes.axhline(means[0], color=COLORS[name], linestyle="--", label=labels[name])
        else:
            axes.plot(each.step_sizes, means, "o-", color=COLORS[name], markersize=5)
            place = outcomes.chosen[name]
            axes.plot(
                each.step_sizes[place],
                means[place],
                "*",
                color=COLORS[name],
                markersize=14,
                markeredgecolor="black",
                markeredgewidth=0.6,
            )
    if outcomes.optimized:
        trained = training.concatenate([each.trained for each in outcomes.optimized])
        kept = ~training.diverged(trained, num_classes)
        if kept.any():
            mean = trained.val_accuracy[kept, -1].mean()
            axes.axhline(mean, color=COLORS["lrs_opt"], linestyle="--", label=labels["lrs_opt"])
    num_seeds = len(next(iter(outcomes.grids.values())).trained.test_loss)
    num_seeds //= len(next(iter(outcomes.grids.values())).step_sizes)
    axes.set(
        title=f"Mean validation accuracy, {_seeds(num_seeds)}",
        xlabel="β; for MARTHE (μ, β adapted) κ, for MARTHE (scale-free) γ\n"
        "(★: found by the search; no point: diverged)",
        xscale="log",
    )
    tried = [
        each.step_sizes for name, each in outcomes.grids.items() if METHODS[name].step_size_name
    ]
    if tried:  # Limits of its own, for an axis that has no point where every run diverged.
        sizes = np.concatenate(tried)
        axes.set_xlim(sizes.min() / 3, sizes.max() * 3)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.3)


def _draw_final_accuracies(
    axes: Axes,
    shown: Mapping[str, Trained],
    lost: Mapping[str, np.ndarray],
    labels: Mapping[str, str],
) -> None:
    for row, (name, lanes) in enumerate(shown.items()):
        kept = ~lost[name]
        for values, marker, shift, label in (
            (lanes.val_accuracy[:, -1], "o", -0.13, "validation"),
            (lanes.test_accuracy, "D", 0.13, "test"),
        ):
            axes.plot(
                values[kept],
                np.full(kept.sum(), row + shift),
                marker,
                color=COLORS[name],
                markerfacecolor=COLORS[name] if marker == "o" else "none",
                alpha=0.8,
                label=label if row == 0 else None,
            )
        if not kept.all():
            axes.annotate(
                f"{np.sum(~kept)} of {kept.size} diverged",
                (0.02, row),
                xycoords=axes.get_yaxis_transform(),
                va="center",
            )
    axes.set_yticks(range(len(shown)), [labels[name] for name in shown])
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


def _seeds(number: int) -> str:
    return "1 seed" if number == 1 else f"{number} seeds"


def _line_style(lane: int) -> dict[str, Any]:
    return {"linewidth": 1.8, "alpha": 1.0} if lane == 0 else {"linewidth": 0.7, "alpha": 0.35}
