"""Figure of the two surfaces: trajectories, the way down, learning rates, best value against β."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from hyperlr.experiments.core import style
from hyperlr.experiments.core.descent import float64
from hyperlr.experiments.core.experiment import Shown
from hyperlr.experiments.methods import METHODS
from hyperlr.experiments.surfaces.functions import Descents, Problem

# RTHO and MARTHE often coincide: RTHO's dashes lie on MARTHE's wider line.
_STYLES: dict[str, dict[str, Any]] = {
    "hd": {"linewidth": 1.6, "zorder": 3},
    "rtho": {"linewidth": 1.6, "zorder": 4, "linestyle": (0, (3, 2))},
    "marthe_mu": {"linewidth": 2.6, "zorder": 2, "alpha": 0.7},
}

ByMethod = Mapping[str, Descents]


def figures(problems: Mapping[str, Problem], descents: Mapping[str, ByMethod]) -> list[Shown]:
    """Draws the figure, with what it shows."""
    return [
        Shown(
            "toy",
            "Trajectories and learning rates",
            surfaces_and_schedules(problems, descents),
            """
            Figure 1 of the paper (Donini et al., 2020). A row a surface; from left to right the
            trajectories, the value above the minimum, and the learning rate, all with the β in the
            title, and the best value within the run against β, where the dotted line marks that β.
            RTHO is dashed, since it often coincides with MARTHE.

            Nothing here is drawn at random: all is in float64, and another run comes to the same
            numbers.
            """,
        )
    ]


def surfaces_and_schedules(
    problems: Mapping[str, Problem], descents: Mapping[str, ByMethod]
) -> Figure:
    """Draws a row a surface: trajectories, gap and learning rate by step, best gap by β.

    `problems` and `descents` are by surface; the descents of a method over the problem's `betas`.
    """
    figure, rows = style.panels(len(descents), 4, 17, 4.2 * len(descents))
    for axes, (surface, by_method) in zip(rows, descents.items(), strict=True):
        _draw_row(axes, problems[surface], by_method)
    style.legend_below(figure, rows[0, 1])
    return figure


def _draw_row(axes: np.ndarray, problem: Problem, by_method: ByMethod) -> None:
    plane, gaps, rates, best = axes
    shown, given = problem.betas.index(problem.shown_beta), f"(β = {problem.shown_beta:g})"
    xs, ys = (np.linspace(*limits, 300) for limits in problem.window)
    with float64():
        values = jax.vmap(jax.vmap(problem.surface))(jnp.asarray(style.points_of(xs, ys)))
    heights = style.visible(np.asarray(values) - problem.minimum)
    style.contours(plane, xs, ys, heights, max(heights.min(), 1e-4 * heights.max()))
    for method, descents in by_method.items():
        options, points = (
            {"color": METHODS[method].color, **_STYLES[method]},
            descents.points[shown],
        )
        plane.plot(*points.T, **options)
        plane.plot(*points[-1], "s", color=options["color"], markeredgecolor="white", zorder=5)
        above = style.visible(descents.values[shown] - problem.minimum)
        gaps.plot(above, label=METHODS[method].label, **options)
        rates.plot(descents.learning_rates[shown], **options)
        lowest = style.visible(descents.best_values - problem.minimum)
        lowest = np.where(descents.diverged, np.nan, lowest)
        best.plot(problem.betas, lowest, marker="o", markersize=5, **options)
    plane.plot(*problem.start, "o", color="black", markeredgecolor="white", zorder=6)
    plane.annotate("start", problem.start, (8, -3), textcoords="offset points")
    plane.set(xlabel="x", ylabel="y", title=f"{problem.title} {given}")
    gaps.set(title=f"L − min L {given}", xlabel="step", yscale="log")
    # Linear below the threshold, so that a learning rate of 0 has a place.
    rates.set_yscale("symlog", linthresh=1e-3)
    rates.set(title=f"learning rate η {given}", xlabel="step")
    rates.set_ylim(bottom=-1e-4)
    best.axvline(problem.shown_beta, color="black", linewidth=0.8, linestyle=":")
    num_steps = next(iter(by_method.values())).learning_rates.shape[1]
    best.set(title=f"best L − min L in {num_steps} steps", xscale="log", yscale="log")
    best.set_xlabel("hyper-learning rate β (no point: diverged)")
