"""Figures of the adaptive optimizers: their paths, their effective rates, and what sets them."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from hyperlr.experiments import adaptive
from hyperlr.experiments.adaptive import Descents, Problem, Study
from hyperlr.experiments.adaptive_methods import METHODS

# Paul Tol's bright palette, told apart with any colour vision.
DENSE, SPARSE = "#4477AA", "#EE6677"
COLORS = {
    "gd": "#555555",
    "gd_sparsity": "#AA3377",
    "adagrad": "#CCBB44",
    "rmsprop": "#EE6677",
    "adadelta": "#228833",
    "adam": "#4477AA",
    "adam_max": "#66CCEE",
}
# Gaps of 0 and rounding errors are drawn here, at the bottom of a log scale.
_SMALLEST_GAP = 1e-16


def paths(problem: Problem, study: Study) -> Figure:
    """Draws the path of every optimizer on the contours of the loss, and its gap by step."""
    figure = Figure(figsize=(16, 9), layout="constrained")
    panels = figure.subplots(3, 4).ravel()
    grid = _contour_grid(problem)
    for axes, (name, descents) in zip(panels, study.full.items(), strict=False):
        _draw_path(axes, problem, grid, descents)
        rate = "no η₀" if name == "adadelta" else f"η₀ = {METHODS[name].learning_rate:g}"
        axes.set_title(f"{METHODS[name].label}, {rate}")
    together = panels[len(study.full)]
    for name, color in COLORS.items():
        together.plot(_visible(study.full[name].gaps[0]), color=color, label=METHODS[name].label)
    together.set(title="L − min L", xlabel="step", yscale="log", ylim=(1e-15, 20))
    together.grid(alpha=0.3)
    panels[-1].axis("off")
    panels[-1].legend(*together.get_legend_handles_labels(), ncols=2, loc="lower left")
    panels[-1].text(
        0.0,
        1.0,
        f"{adaptive.NUM_EXAMPLES} examples, of which {adaptive.NUM_SPARSE} have the sparse\n"
        "feature: the surface is a valley along its weight.\n"
        "Dots are the first 30 steps, the cross is the minimum.\n"
        "Gradients are of all examples.",
        va="top",
        transform=panels[-1].transAxes,
    )
    return figure


def effective_rates(problem: Problem, study: Study) -> Figure:
    """Draws each optimizer's effective rate of both features at every step, on all examples."""
    figure = Figure(figsize=(16, 6.5), layout="constrained")
    panels = figure.subplots(2, 5, sharex=True, sharey=True).ravel()
    limits = 2 / np.diag(problem.hessian)
    for axes, (name, descents) in zip(panels, study.full.items(), strict=True):
        for feature, color, label in ((0, DENSE, "dense"), (1, SPARSE, "sparse")):
            dashes = "--" if name in ("gd", "momentum", "adam_max") and feature else "-"
            axes.plot(descents.rates[0, :, feature], dashes, color=color, label=f"{label} feature")
            axes.axhline(
                limits[feature],
                color=color,
                linewidth=0.8,
                linestyle=":",
                label=f"2 / curvature along it ({label})",
            )
        axes.set(title=METHODS[name].label, yscale="log")
        axes.grid(alpha=0.3)
    for axes in panels[5:]:
        axes.set_xlabel("step")
    for axes in panels[::5]:
        axes.set_ylabel("effective learning rate")
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def details(problem: Problem, study: Study) -> Figure:
    """Draws what the lecture notes say of single optimizers, a panel each."""
    figure = Figure(figsize=(16, 8.5), layout="constrained")
    panels = figure.subplots(2, 3)
    _draw_decay(panels[0, 0], study)
    _draw_oscillation(panels[0, 1], problem, study)
    _draw_final_gaps(panels[0, 2], study)
    _draw_bias_correction(panels[1, 0], study)
    _draw_max_norm(panels[1, 1], study)
    _draw_sparsity_scaling(panels[1, 2], problem, study)
    for axes in panels.flat:
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
    return figure


def _draw_path(
    axes: Axes,
    problem: Problem,
    grid: tuple[np.ndarray, np.ndarray, np.ndarray],
    descents: Descents,
) -> None:
    xs, ys, gaps = grid
    axes.contourf(
        xs, ys, gaps, np.geomspace(1e-3, gaps.max(), 20), norm=LogNorm(), cmap="Greys", alpha=0.4
    )
    points = descents.points[0]
    axes.plot(*points.T, color=DENSE, linewidth=1.2)
    axes.plot(*points[:31].T, ".", color=DENSE, markersize=4)
    axes.plot(*points[0], "o", color="black", markeredgecolor="white")
    axes.plot(*problem.minimizer, "x", color="black", markersize=9, markeredgewidth=2)
    axes.set(xlim=(xs[0], xs[-1]), ylim=(ys[0], ys[-1]))
    axes.set(xlabel="weight of the dense feature", ylabel="of the sparse feature")


def _contour_grid(problem: Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    xs, ys = np.linspace(-1.5, 4.0, 200), np.linspace(-1.0, 3.5, 200)
    points = np.stack(np.meshgrid(xs, ys), axis=-1)
    return xs, ys, np.maximum(adaptive.gap(problem, points), 1e-3)


def _draw_decay(axes: Axes, study: Study) -> None:
    steps = np.arange(1, study.mini["adagrad"].rates.shape[1] + 1)
    for name in ("adagrad", "rmsprop"):
        rates = study.mini[name].rates[0]
        for feature, dashes, label in ((0, "-", "dense"), (1, "--", "sparse")):
            axes.plot(
                steps,
                rates[:, feature] / METHODS[name].learning_rate,
                dashes,
                color=COLORS[name],
                label=f"{METHODS[name].label}, {label}",
            )
    axes.set(
        title=f"Minibatches of {adaptive.BATCH_SIZE}: AdaGrad only falls, RMSprop recovers",
        xlabel="step",
        ylabel="effective rate / η₀",
        xscale="log",
        yscale="log",
    )


def _draw_oscillation(axes: Axes, problem: Problem, study: Study) -> None:
    for row, color in ((0, COLORS["rmsprop"]), (1, COLORS["adam"])):
        rate = study.oscillation.learning_rates[row]
        distance = np.abs(study.oscillation.points[row, :, 0] - problem.minimizer[0])
        axes.plot(_visible(distance), color=color, label=f"η₀ = {rate:g}")
        axes.axhline(rate / 2, color=color, linewidth=0.8, linestyle=":", label=f"{rate / 2:g}")
    axes.set(
        title="RMSprop oscillates at ±η₀/2 (all examples)",
        xlabel="step",
        ylabel="|dense weight − its optimum|",
        yscale="log",
        ylim=(1e-6, 10),
    )


def _draw_final_gaps(axes: Axes, study: Study) -> None:
    step = adaptive.COMPARED_STEP
    for name in ("gd", "adagrad", "rmsprop", "adam"):
        descents = study.full[name]
        gaps = np.where(np.isfinite(descents.gaps[1:, step]), descents.gaps[1:, step], np.nan)
        axes.plot(
            descents.learning_rates[1:],
            _visible(gaps),
            color=COLORS[name],
            label=METHODS[name].label,
        )
    for eps, descents, dashes in zip(
        adaptive.ADADELTA_EPS, study.adadelta, (":", "--", "-"), strict=True
    ):
        axes.axhline(
            descents.gaps[0, step],
            color=COLORS["adadelta"],
            linestyle=dashes,
            label=f"AdaDelta, ε = {eps:g}",
        )
    axes.set(
        title=f"L − min L after {step} steps: AdaDelta has no η₀",
        xlabel="η₀",
        xscale="log",
        yscale="log",
        ylim=(1e-12, 1e2),
    )


def _draw_bias_correction(axes: Axes, study: Study) -> None:
    shown = 40
    for descents, color, label in (
        (study.full["adam"], COLORS["adam"], "corrected"),
        (study.uncorrected, COLORS["rmsprop"], "not corrected"),
    ):
        lengths = np.abs(np.diff(descents.points[0, : shown + 1, 0]))
        axes.plot(
            np.arange(1, shown + 1), lengths / descents.learning_rates[0], color=color, label=label
        )
    axes.set(
        title="Adam's first steps, with and without bias correction",
        xlabel="step",
        ylabel="|step of the dense weight| / η₀",
    )


def _draw_max_norm(axes: Axes, study: Study) -> None:
    for name, descents in study.short_memory.items():
        axes.plot(descents.rates[0, :, 1], color=COLORS[name], label=METHODS[name].label)
    axes.set(
        title=f"Sparse feature in minibatches, β₂ = {adaptive.SHORT_MEMORY:g}",
        xlabel="step",
        ylabel="effective rate",
        yscale="log",
    )


def _draw_sparsity_scaling(axes: Axes, problem: Problem, study: Study) -> None:
    for name in ("gd", "gd_sparsity"):
        for descents, width, what in (
            (study.full[name], 1.8, "all examples"),
            (study.mini[name], 0.7, "minibatches"),
        ):
            axes.plot(
                _visible(np.abs(descents.points[0, :, 1] - problem.minimizer[1])),
                color=COLORS[name],
                linewidth=width,
                label=f"{METHODS[name].label}, {what}",
            )
    axes.set(
        title="Sparsity scaling: the weight of the sparse feature",
        xlabel="step",
        ylabel="|sparse weight − its optimum|",
        yscale="log",
        ylim=(1e-6, 10),
    )


def _visible(gaps: np.ndarray | Sequence[float]) -> np.ndarray:
    return np.maximum(gaps, _SMALLEST_GAP)
