"""Figure of the toy surfaces: trajectories, the way down, best value against β, learning rates."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from hyperlr.experiments import toy
from hyperlr.experiments.precision import float64

COLORS = {"hd": "#4477AA", "rtho": "#EE6677", "marthe_mu": "#228833"}
# RTHO and MARTHE often coincide: RTHO's dashes lie on MARTHE's wider line.
_STYLES: dict[str, dict[str, Any]] = {
    "hd": {"color": COLORS["hd"], "linewidth": 1.6, "zorder": 3},
    "rtho": {"color": COLORS["rtho"], "linewidth": 1.6, "zorder": 4, "linestyle": (0, (3, 2))},
    "marthe_mu": {"color": COLORS["marthe_mu"], "linewidth": 2.6, "zorder": 2, "alpha": 0.7},
}
# Gaps of 0 and rounding errors are drawn here, at the bottom of a log scale.
_SMALLEST_GAP = 1e-16


def surfaces_and_schedules(descents: Mapping[str, Mapping[str, toy.Descents]]) -> Figure:
    """Draws a row a surface: trajectories, gap and learning rate by step, best gap by β.

    Args:
      descents: surface → method → its descents over the problem's `betas`.
    """
    figure = Figure(figsize=(17, 4.2 * len(descents)), layout="constrained")
    rows = figure.subplots(len(descents), 4, squeeze=False)
    for axes, (surface, by_method) in zip(rows, descents.items(), strict=True):
        problem = toy.PROBLEMS[surface]
        _draw_trajectories(axes[0], problem, by_method)
        _draw_gaps(axes[1], problem, by_method)
        _draw_learning_rates(axes[2], problem, by_method)
        _draw_best_gaps(axes[3], problem, by_method)
    handles, labels = rows[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def _draw_trajectories(
    axes: Axes, problem: toy.Problem, by_method: Mapping[str, toy.Descents]
) -> None:
    xs, ys, gaps = _on_a_grid(problem)
    levels = np.geomspace(max(gaps.min(), 1e-4 * gaps.max()), gaps.max(), 24)
    axes.contourf(xs, ys, gaps, levels=levels, norm=LogNorm(), cmap="Greys", alpha=0.4)
    shown = problem.betas.index(problem.shown_beta)
    for method, descents in by_method.items():
        points = descents.points[shown]
        axes.plot(*points.T, **_STYLES[method])
        axes.plot(*points[-1], "s", color=COLORS[method], markeredgecolor="white", zorder=5)
    axes.plot(*problem.start, "o", color="black", markeredgecolor="white", zorder=6)
    axes.annotate("start", problem.start, (8, -3), textcoords="offset points")
    (left, right), (bottom, top) = problem.window
    axes.set(xlim=(left, right), ylim=(bottom, top), xlabel="x", ylabel="y")
    axes.set_title(f"{problem.title} (β = {problem.shown_beta:g})")


def _draw_gaps(axes: Axes, problem: toy.Problem, by_method: Mapping[str, toy.Descents]) -> None:
    shown = problem.betas.index(problem.shown_beta)
    for method, descents in by_method.items():
        axes.plot(
            _visible(descents.values[shown] - problem.minimum),
            label=toy.LABELS[method],
            **_STYLES[method],
        )
    axes.set(title=f"L − min L (β = {problem.shown_beta:g})", xlabel="step", yscale="log")
    axes.grid(alpha=0.3)


def _draw_learning_rates(
    axes: Axes, problem: toy.Problem, by_method: Mapping[str, toy.Descents]
) -> None:
    shown = problem.betas.index(problem.shown_beta)
    for method, descents in by_method.items():
        axes.plot(descents.learning_rates[shown], **_STYLES[method])
    # Linear below the threshold, so that a learning rate of 0 has a place.
    axes.set_yscale("symlog", linthresh=1e-3)
    axes.set(title=f"learning rate η (β = {problem.shown_beta:g})", xlabel="step")
    axes.set_ylim(bottom=-1e-4)
    axes.grid(alpha=0.3)


def _draw_best_gaps(
    axes: Axes, problem: toy.Problem, by_method: Mapping[str, toy.Descents]
) -> None:
    for method, descents in by_method.items():
        gaps = _visible(toy.best_values(descents) - problem.minimum)
        gaps = np.where(toy.diverged(descents), np.nan, gaps)
        axes.plot(problem.betas, gaps, marker="o", markersize=5, **_STYLES[method])
    axes.axvline(problem.shown_beta, color="black", linewidth=0.8, linestyle=":")
    num_steps = next(iter(by_method.values())).learning_rates.shape[1]
    axes.set(
        title=f"best L − min L in {num_steps} steps",
        xlabel="hyper-learning rate β (no point: diverged)",
        xscale="log",
        yscale="log",
    )
    axes.grid(alpha=0.3)


def _on_a_grid(problem: toy.Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns x [n], y [n] over the window, and the gap [n, n] there, rows by y."""
    (left, right), (bottom, top) = problem.window
    xs, ys = np.linspace(left, right, 300), np.linspace(bottom, top, 300)
    points = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    with float64():
        values = np.asarray(jax.vmap(problem.surface)(jnp.asarray(points)))
    gaps = values.reshape(len(ys), len(xs)) - problem.minimum
    return xs, ys, np.maximum(gaps, _SMALLEST_GAP)


def _visible(gaps: np.ndarray) -> np.ndarray:
    return np.maximum(gaps, _SMALLEST_GAP)
