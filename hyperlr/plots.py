"""A picture of a run, from what was logged of it: is the learning rate being learned?

Not imported by ``hyperlr`` itself, and the only part of the library that draws:
``pip install "hyperlr[plots]"``.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What can be drawn, in this order: the key of the log, the title, and the scale of the axis.
_PANELS = (
    ("loss", "loss", "log"),
    ("learning_rate", "learning rate η", "log"),
    ("hypergradient", "hypergradient Δη", "symlog"),
    ("cosine", "cosine of Z and ∇E", "linear"),
    ("discount", "discount μ", "linear"),
    ("tangent_norm", "length of the tangent ‖Z‖", "log"),
)
_LIMITS = {"cosine": (-1.05, 1.05), "discount": (-0.05, 1.05)}
_SMOOTHED = ("loss", "hypergradient", "cosine", "discount")
_HALF_DECADE = 10**0.5
_COLOR, _PALE = "#0b6e4f", "#b9d8cc"


def plot_metrics(
    log: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    every: int = 1,
    title: str | None = None,
) -> "Figure":
    """Draws what was logged of a run, a panel for each of the numbers that tell how it goes.

    The panels, of those whose key is in the log: the loss, η, Δη, the cosine between the tangent
    and the gradient of the objective, μ, and ‖Z‖. What is noisy is pale, with its running mean over
    a twentieth of the run on top. A grey band marks the steps at which a number was not finite, or
    ``num_restarts`` rose.

    Args:
      log: what :func:`hyperlr.metrics` (``learning_rate``, ``hypergradient``, ``discount``,
        ``num_restarts``) and :func:`hyperlr.alignment` (``cosine``, ``tangent_norm``) returned, and
        ``loss``: a dict of arrays with one entry for each logged step, shape [T], as ``lax.scan``
        stacks them; or a list of T dicts of scalars, as a Python loop appends them. Other keys are
        left alone.
      every: the number of steps between two entries, for the axis; default 1.
      title: of the whole figure.

    Returns:
      A matplotlib ``Figure``, for ``figure.savefig`` or a notebook; it is not registered with
      pyplot and needs no closing.

    Raises:
      ModuleNotFoundError: matplotlib is not installed.
      ValueError: the log is empty, or has none of the keys.

    Example:
      >>> from hyperlr.plots import plot_metrics
      >>> figure = plot_metrics({"learning_rate": [0.1, 0.2], "cosine": [-0.5, 0.1]})
      >>> [axes.get_title() for axes in figure.axes]
      ['learning rate η', 'cosine of Z and ∇E']
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'hyperlr.plots needs matplotlib; install the extra: pip install "hyperlr[plots]"',
            name="matplotlib",
        ) from error
    series = _as_arrays(log)
    panels = [panel for panel in _PANELS if panel[0] in series]
    if not panels:
        raise ValueError(
            f"log has none of {[key for key, _, _ in _PANELS]}, got {sorted(series)}: log what "
            "hyperlr.metrics(state) returns"
        )
    width = min(3, len(panels))
    height = -(-len(panels) // width)
    figure = Figure(figsize=(3.4 * width, 2.3 * height), layout="constrained")
    grid = figure.subplots(height, width, squeeze=False, sharex=True)
    spoiled = _spoiled(series)
    if {"cosine", "objective_norm"} <= series.keys():
        # In steps that do not move the rate there is no ∇E, and so no cosine.
        series["cosine"] = np.where(series["objective_norm"] == 0, np.nan, series["cosine"])
    steps = every * np.arange(len(spoiled))
    for axes, (key, name, scale) in zip(grid.flat, panels, strict=False):
        _draw(axes, steps, key, series[key], scale)
        axes.set_title(name, fontsize=10)
        _shade(axes, steps, spoiled)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes in figure.axes[-width:]:
        axes.set_xlabel("step", fontsize=9)
    if title is not None:
        figure.suptitle(title, fontsize=11)
    return figure


def _as_arrays(log: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Every series of the log as a float array [T]."""
    if not isinstance(log, Mapping):
        if not log:
            raise ValueError("log is empty: append hyperlr.metrics(state) to it after each update")
        log = {key: [entry[key] for entry in log] for key in log[0]}
    arrays = {key: np.asarray(values, dtype=float) for key, values in log.items()}
    lengths = {values.shape for values in arrays.values()}
    if len(lengths) != 1 or len(next(iter(lengths))) != 1:
        raise ValueError(
            f"log must have one number for each step, got shapes {sorted(lengths)}: for runs side "
            "by side, under vmap, draw one after the other"
        )
    return arrays


def _spoiled(series: dict[str, np.ndarray]) -> np.ndarray:
    """Whether each step has a number that is not finite, or a restart of the tangent."""
    drawn = [series[key] for key, _, _ in _PANELS if key in series]
    spoiled = ~np.all(np.isfinite(drawn), axis=0)
    if "num_restarts" in series:
        spoiled |= np.diff(series["num_restarts"], prepend=0.0) > 0
    return spoiled


def _draw(axes: "Axes", steps: np.ndarray, key: str, values: np.ndarray, scale: str) -> None:
    from matplotlib.ticker import SymmetricalLogLocator

    finite = np.where(np.isfinite(values), values, np.nan)
    positive = finite[finite > 0]
    if scale == "log" and positive.size:
        axes.set_yscale("log", nonpositive="mask")
    if scale == "symlog" and positive.size + np.sum(finite < 0):
        # Linear below the size of a typical one.
        typical = np.median(np.abs(finite[np.isfinite(finite) & (finite != 0)]))
        axes.set_yscale("symlog", linthresh=typical)
        locator = SymmetricalLogLocator(base=10.0, linthresh=typical)
        locator.set_params(numticks=5)
        axes.yaxis.set_major_locator(locator)
    if key in _SMOOTHED:
        axes.plot(steps, finite, color=_PALE, linewidth=0.8)
        axes.plot(steps, _running_mean(finite), color=_COLOR, linewidth=1.6)
    else:
        axes.plot(steps, finite, color=_COLOR, linewidth=1.6)
    if key in ("cosine", "hypergradient"):
        axes.axhline(0.0, color="black", linewidth=0.6)
    if key in _LIMITS:
        axes.set_ylim(*_LIMITS[key])
    if scale == "log" and positive.size:
        # At least a decade, so that what does not move looks flat.
        middle = np.sqrt(positive.min()) * np.sqrt(positive.max())
        lower, upper = axes.get_ylim()
        axes.set_ylim(min(lower, middle / _HALF_DECADE), max(upper, middle * _HALF_DECADE))
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _running_mean(values: np.ndarray) -> np.ndarray:
    """The mean of the finite ones of the last twentieth of the run, NaN where there is none."""
    length = max(1, len(values) // 20)
    present = np.isfinite(values)
    sums = np.convolve(np.where(present, values, 0.0), np.ones(length))[: len(values)]
    counts = np.convolve(present, np.ones(length))[: len(values)]
    return np.where(present, sums / np.maximum(counts, 1), np.nan)


def _shade(axes: "Axes", steps: np.ndarray, spoiled: np.ndarray) -> None:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], spoiled, [False]]).astype(int)))
    half = (steps[1] - steps[0]) / 2 if len(steps) > 1 else 0.5
    for first, end in edges.reshape(-1, 2):
        axes.axvspan(steps[first] - half, steps[end - 1] + half, color="#dddddd", zorder=0)
