"""Heatmaps: test accuracy over starting points and methods, or over μ."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hyperlr.experiments.core import style
from hyperlr.experiments.core.experiment import Shown
from hyperlr.experiments.methods import INNER, METHODS
from hyperlr.experiments.robustness.summary import BASELINES, Cell, Outcomes

# Between these the methods that work differ; all below has the darkest colour.
_COLORS = Normalize(0.85, 0.97)
_MAP = colormaps["viridis"]


def figures(outcomes: Outcomes) -> list[Shown]:
    """Draws both figures, each with what it shows."""
    return [
        Shown(
            "robustness",
            "Starting points",
            starting_points(outcomes),
            f"""
            Test accuracy from every first rate η₀, under three inner optimizers. The first panel is
            auto: with the first rate that it finds itself, and from every η₀. The others are the
            methods that are given η₀ and a β, κ or γ, the same for all inner optimizers; above each
            panel, the best constant and the best cosine of a grid of {len(outcomes.settings.grid)}
            rates, chosen on validation data.

            A mean is over the seeds that did not diverge; where some did, the cell is hatched and
            says how many.
            """,
        ),
        Shown(
            "sensitivity",
            "Sensitivity to μ and η₀",
            sensitivity(outcomes),
            f"""
            MARTHE with fixed μ and β, with {INNER[outcomes.settings.sensitive_inner][0]} inside:
            Figure 9 of the paper (Donini et al., 2020), on digits.
            """,
        ),
    ]


def starting_points(outcomes: Outcomes) -> Figure:
    """Draws a heatmap of auto, and one an inner optimizer: methods × η_0."""
    settings = outcomes.settings
    figure, (panels,) = style.panels(1, 1 + len(outcomes.methods), 20, 4.2, grid=False)
    by_inner = outcomes.methods.items()
    values, lost = _means([by_method["auto"] for _, by_method in by_inner])
    alone, lost_alone = _means([outcomes.auto_alone[inner] for inner, _ in by_inner])
    _draw_cells(panels[0], np.hstack([alone, values]), np.hstack([lost_alone, lost]))
    columns = ["found", *(f"{start:g}" for start in settings.starts)]
    _label(panels[0], columns, [INNER[inner][0] for inner, _ in by_inner])
    panels[0].set_title("auto", fontsize="medium")
    others = [name for name in next(iter(outcomes.methods.values())) if name not in BASELINES]
    others.remove("auto")
    for axes, (inner, by_method) in zip(panels[1:], by_inner, strict=True):
        values, lost = _means([by_method[name] for name in others])
        _draw_cells(axes, values, lost)
        labels = [METHODS[name].label if axes is panels[1] else "" for name in others]
        _label(axes, columns[1:], labels)
        best = [f"best {name} {_best(by_method[name], settings.grid)}" for name in BASELINES]
        axes.set_title("\n".join([INNER[inner][0], *best]), fontsize="medium")
    for axes in panels:
        axes.set_xlabel("η₀")
    _color_bar(figure, panels)
    figure.suptitle(f"Test accuracy, {outcomes.data.source}")
    return figure


def sensitivity(outcomes: Outcomes) -> Figure:
    """Draws Figure 9 of the paper: for every β, a heatmap of μ × η_0."""
    starts, discounts = outcomes.settings.starts, outcomes.settings.discounts
    num_panels = len(outcomes.sensitivity)
    figure, (panels,) = style.panels(1, num_panels, 6 * num_panels, 4.6, grid=False)
    for axes, (beta, cell) in zip(panels, outcomes.sensitivity.items(), strict=True):
        values, lost = (x.reshape(len(starts), len(discounts)).T for x in _means([cell]))
        _draw_cells(axes, values, lost)
        _label(axes, [f"{start:g}" for start in starts], [f"{mu:g}" for mu in discounts])
        axes.set(xlabel="η₀", ylabel="μ", title=f"β = {beta:g}")
    _color_bar(figure, panels)
    inner = INNER[outcomes.settings.sensitive_inner][0]
    what = f"MARTHE with μ and β fixed, {inner}"
    figure.suptitle(f"Test accuracy of {what}, {outcomes.data.source}")
    return figure


def _means(rows: Sequence[Cell]) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean test accuracies of those that did not diverge, and the share of those that did.

    Both are [rows, points]; a mean of none is NaN.
    """
    lost = np.stack([row.diverged for row in rows])
    kept = np.ma.array(np.stack([row.test_accuracy for row in rows]), mask=lost)
    return kept.mean(axis=2).filled(np.nan), lost.mean(axis=2)


def _draw_cells(axes: Axes, values: np.ndarray, lost: np.ndarray) -> None:
    """Colours and writes every cell; those of which a part diverged are hatched."""
    for (row, column), value in np.ndenumerate(values):
        share = lost[row, column]
        all_lost = bool(np.isnan(value))
        colour: Any = "#dddddd" if all_lost else _MAP(_COLORS(value))
        hatch = "///" if share > 0 else None
        corner = (column - 0.5, row - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, facecolor=colour, edgecolor="white", hatch=hatch))
        text = "diverged" if all_lost else f"{value:.1%}"
        if share > 0 and not all_lost:
            text += f"\n{share:.0%} div."
        ink = "black" if all_lost or _COLORS(value) > 0.6 else "white"
        box = {"facecolor": colour, "edgecolor": "none", "pad": 1.0} if share > 0 else None
        place: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": "small"}
        axes.text(column, row, text, bbox=box, color=ink, **place)
    axes.set(xlim=(-0.5, values.shape[1] - 0.5), ylim=(values.shape[0] - 0.5, -0.5))


def _label(axes: Axes, columns: Sequence[str], rows: Sequence[str]) -> None:
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)


def _best(cell: Cell, grid: Sequence[float]) -> str:
    return f"{cell.test_accuracy[cell.best].mean():.1%} (η = {grid[cell.best]:g})"


def _color_bar(figure: Figure, panels: Any) -> None:
    bar = figure.colorbar(ScalarMappable(_COLORS, _MAP), ax=panels, extend="both", format="{x:.0%}")
    bar.set_label("test accuracy")
