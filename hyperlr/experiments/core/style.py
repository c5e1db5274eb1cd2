"""How all figures look: one palette, and what most of the axes have in common."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

# Of Paul Tol's palettes, told apart with any colour vision.
BLUE, RED, GREEN, YELLOW = "#4477AA", "#EE6677", "#228833", "#CCBB44"
CYAN, PURPLE, ORANGE, GOLD = "#66CCEE", "#AA3377", "#EE8866", "#DDAA33"
BLACK, DARK, GREY, LIGHT = "#000000", "#555555", "#777777", "#BBBBBB"
SEED_COLORS = (BLACK, BLUE, RED, GREEN, PURPLE, YELLOW)

SMALLEST_GAP = 1e-16
"""Gaps of 0 and rounding errors are drawn here, at the bottom of a log scale."""


def panels(
    rows: int, columns: int, width: float, height: float, grid: bool = True, **options: Any
) -> tuple[Figure, np.ndarray]:
    """Returns a figure of that size in inches, and its axes [rows, columns], with lines behind."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for each in axes.flat if grid else ():
        each.grid(alpha=0.3)
    return figure, axes


def percent(*axes: Axis) -> None:
    """Shows shares as percentages."""
    for axis in axes:
        axis.set_major_formatter(PercentFormatter(1.0))


def drawn(each: Any) -> dict[str, Any]:
    """Returns how the lines of a method or an optimizer, in its `color`, are drawn."""
    return {"color": each.color, "label": each.label}


def legend_below(figure: Figure, axes: Axes, columns: int | None = None) -> None:
    """Puts the legend of some axes below the figure."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns or len(labels), frameon=False
    )


def positive(rates: np.ndarray) -> np.ndarray:
    """Returns learning rates for a log scale, on which 0 has no place: the line breaks there."""
    return np.where(rates > 0, rates, np.nan)


def visible(gaps: np.ndarray | Sequence[float]) -> np.ndarray:
    """Returns gaps for a log scale."""
    return np.maximum(gaps, SMALLEST_GAP)


def contours(axes: Axes, xs: np.ndarray, ys: np.ndarray, gaps: np.ndarray, lowest: float) -> None:
    """Draws a surface in grey: gaps [ys, xs] above its minimum, from `lowest` on."""
    axes.grid(False)
    levels = np.geomspace(lowest, gaps.max(), 22)
    axes.contourf(xs, ys, np.maximum(gaps, lowest), levels, norm=LogNorm(), cmap="Greys", alpha=0.4)
    axes.set(xlim=(xs[0], xs[-1]), ylim=(ys[0], ys[-1]))


def points_of(xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """Returns the points [ys, xs, 2] of a grid."""
    return np.stack(np.meshgrid(xs, ys), axis=-1)
