"""Figures of the digits experiment: schedules, accuracies, and LRS-OPT's way."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hyperlr.experiments.core import style
from hyperlr.experiments.core.experiment import Shown
from hyperlr.experiments.core.tables import seeds
from hyperlr.experiments.digits.summary import Outcomes
from hyperlr.experiments.methods import METHODS


def figures(outcomes: Outcomes) -> list[Shown]:
    """Draws all figures, each with what it shows."""
    shown = [
        Shown(
            "schedules",
            "Schedules",
            optimized_and_online(outcomes),
            """
            Left, the schedules that LRS-OPT starts from and ends with; it is given the exact
            gradient of the final validation loss with respect to every η_t. In the middle, the
            learning rate of every method on seed 0; a cross marks where a run diverged.

            Right, the mean validation accuracy against the number that a method has to be given: β,
            κ, γ or η, each on the same axis, though they are not the same thing. A star is the
            number that was taken: of β, κ and γ the largest with a margin to divergence in the
            first steps, of η the best on validation data.
            """,
        ),
        Shown(
            "accuracies",
            "Accuracies",
            accuracies(outcomes),
            """
            Left, validation accuracy on the way: thick lines are of seed 0, thin ones of the
            others. Right, the accuracies in the end, a point a seed. `auto` is measured at its
            averaged weights.
            """,
        ),
    ]
    if outcomes.optimized:
        text = """
            How good the schedule is on the way, trained with on the minibatches of its seed,
            against outer iterations and against the time they took. The schedule that is kept is
            the one with the lowest validation loss, which test accuracy has no part in.
            """
        shown.append(Shown("lrs_opt", "LRS-OPT", outer_iterations(outcomes), text))
    if len(outcomes.optimized) > 1:
        text = "The same as in the middle of the first figure, for the other seeds of LRS-OPT."
        shown.append(Shown("schedules_other_seeds", "Other seeds", other_seeds(outcomes), text))
    return shown


def optimized_and_online(outcomes: Outcomes) -> Figure:
    """Draws Figure 2 of the paper: LRS-OPT's schedules, those of seed 0, accuracy."""
    figure, ((left, middle, right),) = style.panels(1, 3, 15, 5.6)
    _draw_optimized(left, outcomes)
    _draw_schedules(middle, outcomes, seed=0)
    middle.set_title("All schedules, seed 0")
    _draw_grids(right, outcomes)
    style.legend_below(figure, middle, columns=4)
    figure.suptitle(outcomes.data.source)
    return figure


def other_seeds(outcomes: Outcomes) -> Figure:
    """Draws Figure 5 of the paper: all schedules of the other seeds of LRS-OPT."""
    num_panels = len(outcomes.optimized) - 1
    figure, (panels,) = style.panels(1, num_panels, 5 * num_panels, 4.8)
    for seed, axes in enumerate(panels, start=1):
        _draw_schedules(axes, outcomes, seed)
        axes.set_title(f"Seed {seed}")
    style.legend_below(figure, panels[0], columns=min(4, 2 * num_panels + 2))
    return figure


def accuracies(outcomes: Outcomes) -> Figure:
    """Draws the validation accuracy on the way, and the final accuracies."""
    figure, ((left, right),) = style.panels(1, 2, 12, 5.2)
    curves = []
    for name, lanes in outcomes.shown.items():
        for seed, curve in enumerate(lanes.val_accuracy):
            width, alpha = (1.8, 1.0) if seed == 0 else (0.7, 0.35)
            color = METHODS[name].color
            left.plot(lanes.curve_steps, curve, ".-", color=color, linewidth=width, alpha=alpha)
            # In the first steps all curves rise from a tenth, and none differs.
            curves.append(curve[len(curve) // 4 :])
    late = np.concatenate(curves)
    late = late[np.isfinite(late)]
    if late.size:
        low = max(0.0, float(np.percentile(late, 2)) - 0.05)
        left.set_ylim(low, min(1.0, float(late.max()) + 0.01))
    style.percent(left.yaxis)
    left.set(title="Validation accuracy", xlabel="step")
    _draw_final_accuracies(right, outcomes)
    figure.suptitle(outcomes.data.source)
    return figure


def outer_iterations(outcomes: Outcomes) -> Figure:
    """Draws the accuracy of LRS-OPT's schedule against outer iterations, and against time."""
    figure, ((left, right),) = style.panels(1, 2, 12, 4.4, sharey=True)
    for seed, each in enumerate(outcomes.optimized):
        curve, color = each.curve, _seed_color(seed)
        for axes, x in ((left, curve.iterations), (right, curve.seconds / 60)):
            options: dict[str, Any] = {"color": color, "label": f"validation, seed {seed}"}
            axes.plot(x, curve.val_accuracy, "o-", **options)
            options["label"] = f"test, seed {seed}"
            axes.plot(x, curve.test_accuracy, "D--", alpha=0.6, **options)
    left.set(xlabel="outer iterations", ylabel="accuracy of the schedule at that point")
    right.set(xlabel="minutes of outer iterations, with compilation")
    style.percent(left.yaxis, right.yaxis)
    left.legend(fontsize="small")
    figure.suptitle(f"LRS-OPT, {outcomes.data.source}")
    return figure


def _seed_color(seed: int) -> str:
    return style.SEED_COLORS[seed % len(style.SEED_COLORS)]


def _draw_optimized(axes: Axes, outcomes: Outcomes) -> None:
    for seed, each in enumerate(outcomes.optimized):
        color = _seed_color(seed)
        axes.plot(each.start, ":", color=color, linewidth=1, label=f"start, seed {seed}")
        schedule = each.trained.records["learning_rate"][0]
        label = f"best within {len(each.objectives)} iterations, seed {seed}"
        axes.plot(schedule, color=color, linewidth=1.5, label=label)
    if outcomes.optimized:
        axes.legend(fontsize="small")
    else:
        axes.text(0.5, 0.5, "left out", ha="center", transform=axes.transAxes)
    axes.set(title="LRS-OPT", xlabel="step", ylabel="learning rate η", yscale="log")


def _draw_schedules(axes: Axes, outcomes: Outcomes, seed: int) -> None:
    labels, schedules = outcomes.labels, []
    for name, lanes in outcomes.shown.items():
        if seed >= len(lanes.test_loss):
            continue
        schedule, color = lanes.records["learning_rate"][seed], METHODS[name].color
        schedules.append(schedule)
        width = 2.2 if name == "lrs_opt" else 1.4
        axes.plot(style.positive(schedule), color=color, linewidth=width, label=labels[name])
        diverged_at = np.flatnonzero(~np.isfinite(schedule))
        if diverged_at.size:
            mark: dict[str, Any] = {"color": color, "markeredgewidth": 2}
            axes.plot(diverged_at[0], 0.97, "x", transform=axes.get_xaxis_transform(), **mark)
    axes.set(xlabel="step (×: diverged)", ylabel="learning rate η", yscale="log")
    # Without the last leaps of a diverging schedule; a cross marks where it ends.
    rates = np.concatenate(schedules) if schedules else np.empty(0)
    rates = rates[np.isfinite(rates) & (rates > 0)]
    if rates.size:
        low, high = np.percentile(rates, [0.5, 99.5])
        axes.set_ylim(low / 3, high * 3)


def _draw_grids(axes: Axes, outcomes: Outcomes) -> None:
    tried: list[float] = []
    symbols: dict[str, list[str]] = {}
    for name, each in outcomes.grids.items():
        method, means = METHODS[name], each.mean_accuracies(outcomes.data.num_classes)
        if not method.symbol:
            axes.axhline(means[0], color=method.color, linestyle="--")
            continue
        symbols.setdefault(method.symbol, []).append(method.label)
        tried += each.numbers
        axes.plot(each.numbers, means, "o-", color=method.color, markersize=5)
        index = outcomes.chosen[name]
        edge: dict[str, Any] = {"markeredgecolor": "black", "markeredgewidth": 0.6}
        axes.plot(each.numbers[index], means[index], "*", color=method.color, markersize=14, **edge)
    if outcomes.optimized:
        trained = outcomes.shown["lrs_opt"]
        kept = ~outcomes.diverged(trained)
        if kept.any():
            mean = trained.val_accuracy[kept, -1].mean()
            axes.axhline(mean, color=METHODS["lrs_opt"].color, linestyle="--")
    num_seeds = outcomes.settings.num_seeds
    lines = [f"{symbol} of {', '.join(names)}" for symbol, names in symbols.items()]
    axes.set(title=f"Mean validation accuracy, {seeds(num_seeds)}", xscale="log")
    lines.append("(★: taken; dashed: nothing was sought; no point: diverged)")
    axes.set_xlabel("\n".join(lines), fontsize="x-small")
    if tried:  # Limits of its own, for an axis that has no point where every run diverged.
        axes.set_xlim(min(tried) / 3, max(tried) * 3)
    style.percent(axes.yaxis)


def _draw_final_accuracies(axes: Axes, outcomes: Outcomes) -> None:
    shown: Mapping[str, Any] = outcomes.shown
    for row, (name, lanes) in enumerate(shown.items()):
        kept, color = ~outcomes.diverged(lanes), METHODS[name].color
        for values, marker, shift, label in (
            (lanes.val_accuracy[:, -1], "o", -0.13, "validation"),
            (lanes.test_accuracy, "D", 0.13, "test"),
        ):
            options: dict[str, Any] = {"markerfacecolor": color if marker == "o" else "none"}
            options["label"] = label if row == 0 else None
            heights = np.full(kept.sum(), row + shift)
            axes.plot(values[kept], heights, marker, color=color, alpha=0.8, **options)
        if not kept.all():
            where: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "va": "center"}
            axes.annotate(f"{np.sum(~kept)} of {kept.size} diverged", (0.02, row), **where)
    axes.set_yticks(range(len(shown)), [outcomes.labels[name] for name in shown])
    axes.invert_yaxis()
    style.percent(axes.xaxis)
    axes.set(title="Final accuracy")
    axes.legend(loc="best", fontsize="small")
