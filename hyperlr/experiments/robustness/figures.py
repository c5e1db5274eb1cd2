"""Heatmaps of the robustness experiment: accuracy over starting points and methods, or over μ."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hyperlr.experiments import robustness

# Between these the methods that work differ; all below has the darkest colour.
_COLORS = Normalize(0.85, 0.97)
_MAP = colormaps["viridis"]


def starting_points(outcomes: robustness.Outcomes, grid: Sequence[float], source: str) -> Figure:
    """Draws a heatmap an inner optimizer: methods × η_0, and the best of the grid above."""
    figure = Figure(figsize=(15, 4.2), layout="constrained")
    panels = figure.subplots(1, len(outcomes.methods), squeeze=False)[0]
    for axes, (inner, by_method) in zip(panels, outcomes.methods.items(), strict=True):
        rows = [by_method[name] for name in robustness.METHODS]
        labels = [method.label for method in robustness.METHODS.values()]
        values, lost = _means(rows)
        _draw_cells(axes, values, lost)
        _label(axes, robustness.STARTS, labels if axes is panels[0] else [""] * len(labels))
        best = [f"best {name} {_best(by_method[name], grid)}" for name in robustness.BASELINES]
        axes.set_title("\n".join([robustness.LABELS[inner], *best]), fontsize="medium")
        axes.set_xlabel("η₀")
    _color_bar(figure, panels)
    figure.suptitle(f"Test accuracy, {source}")
    return figure


def sensitivity(outcomes: robustness.Outcomes, source: str) -> Figure:
    """Draws the paper's Figure 9: for every β, a heatmap of μ × η_0."""
    figure = Figure(figsize=(6 * len(outcomes.sensitivity), 4.6), layout="constrained")
    panels = figure.subplots(1, len(outcomes.sensitivity), squeeze=False)[0]
    for axes, (beta, cell) in zip(panels, outcomes.sensitivity.items(), strict=True):
        values, lost = _means([cell])
        shape = (len(robustness.STARTS), len(robustness.DISCOUNTS))
        _draw_cells(axes, values.reshape(shape).T, lost.reshape(shape).T)
        _label(axes, robustness.STARTS, [f"{mu:g}" for mu in robustness.DISCOUNTS])
        axes.set(xlabel="η₀", ylabel="μ", title=f"β = {beta:g}")
    _color_bar(figure, panels)
    inner = robustness.LABELS[robustness.SENSITIVE_INNER]
    figure.suptitle(f"Test accuracy of MARTHE with μ and β fixed, {inner}, {source}")
    return figure


def _means(rows: Sequence[robustness.Cell]) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean test accuracies of those that did not diverge, and the share of those that did.

    Both are [rows, points]; a mean of none is NaN.
    """
    kept = np.stack([~row.diverged for row in rows])
    total = np.stack([np.where(row.diverged, 0.0, row.test_accuracy) for row in rows]).sum(axis=2)
    counts = kept.sum(axis=2)
    means = np.where(counts > 0, total / np.maximum(counts, 1), np.nan)
    return means, 1.0 - kept.mean(axis=2)


def _draw_cells(axes: Axes, values: np.ndarray, lost: np.ndarray) -> None:
    """Colours and writes every cell; those of which a part diverged are hatched."""
    for (row, column), value in np.ndenumerate(values):
        share = lost[row, column]
        all_lost = bool(np.isnan(value))
        colour: Any = "#dddddd" if all_lost else _MAP(_COLORS(value))
        axes.add_patch(
            Rectangle(
                (column - 0.5, row - 0.5),
                1,
                1,
                facecolor=colour,
                edgecolor="white",
                hatch="///" if share > 0 else None,
            )
        )
        text = "diverged" if all_lost else f"{value:.1%}"
        if share > 0 and not all_lost:
            text += f"\n{share:.0%} div."
        dark = all_lost or _COLORS(value) > 0.6
        box = {"facecolor": colour, "edgecolor": "none", "pad": 1.0} if share > 0 else None
        axes.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize="small",
            color="black" if dark else "white",
            bbox=box,
        )
    axes.set(xlim=(-0.5, values.shape[1] - 0.5), ylim=(values.shape[0] - 0.5, -0.5))


def _label(axes: Axes, columns: Sequence[float], rows: Sequence[str]) -> None:
    axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)


def _best(cell: robustness.Cell, grid: Sequence[float]) -> str:
    place = robustness.best_place(cell)
    return f"{cell.test_accuracy[place].mean():.1%} (η = {grid[place]:g})"


def _color_bar(figure: Figure, panels: Any) -> None:
    bar = figure.colorbar(ScalarMappable(_COLORS, _MAP), ax=panels, extend="both", format="{x:.0%}")
    bar.set_label("test accuracy")
