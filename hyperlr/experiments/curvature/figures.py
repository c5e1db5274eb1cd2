"""Figures of curvature: one step against its size, descent against its bounds, sharpness."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hyperlr import curvature
from hyperlr.experiments.curvature import Descent, OneStep, Sharpness

BLUE, RED, GREEN, GREY = "#4477AA", "#EE6677", "#228833", "#555555"
TITLES = {"quadratic": "Quadratic", "beale": "Beale", "network": "Network on digits"}


def one_step(measured: Mapping[str, OneStep]) -> Figure:
    """Draws each loss after one step against ε, its second-order model and the bound."""
    figure = Figure(figsize=(15, 4.6), layout="constrained")
    for axes, (name, step) in zip(figure.subplots(1, 3), measured.items(), strict=True):
        axes.plot(step.epsilons, step.losses, color=BLUE, linewidth=2, label="loss after one step")
        axes.plot(
            step.epsilons,
            step.second_order,
            color=GREY,
            linestyle="--",
            label="to second order: f − ε gᵀg + ½ ε² gᵀHg",
        )
        axes.axhline(step.losses[0], color=GREY, linewidth=0.8, label="loss before")
        axes.axvline(step.bound, color=RED, label="bound 2 gᵀg / gᵀHg")
        axes.axvline(step.bound / 2, color=RED, linestyle=":", label="half of it")
        visible = np.concatenate([step.losses[np.isfinite(step.losses)], step.second_order])
        low, high = visible.min(), min(visible.max(), 2.5 * step.losses[0])
        axes.set(title=TITLES[name], xlabel="ε", ylim=(low - 0.05 * (high - low), high))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("loss")
    _legend_below(figure, figure.axes[0])
    return figure


def descent(on_quadratic: Mapping[float, Descent], bounded: Mapping[str, Descent]) -> Figure:
    """Draws descents on either side of 2/L, and gradient norms under the O(1/t) bound."""
    figure = Figure(figsize=(18, 4.8), layout="constrained")
    first, *others = figure.subplots(1, 1 + len(bounded))
    shades = np.linspace(0.25, 0.95, sum(factor < 2 for factor in on_quadratic))
    blues = iter([(0.1, 0.35, 0.75, shade) for shade in shades])
    for factor, run in on_quadratic.items():
        color = next(blues) if factor < 2 else (GREY if factor == 2 else RED)
        style = ":" if factor == max(on_quadratic) else "-"
        first.plot(run.values, style, color=color, label=f"ε = {factor:g}/L")
    first.set(
        title="Quadratic, ε on either side of 2/L",
        xlabel="step",
        ylabel="loss",
        yscale="log",
        ylim=(1e-5, 1e4),
    )
    first.legend(fontsize=8)
    first.grid(alpha=0.3)
    for axes, (name, run) in zip(others, bounded.items(), strict=True):
        _draw_bound(axes, run)
        axes.set_title(f"{TITLES[name]}, ε = 1/L, L = {run.lipschitz:.3g}")
    return figure


def sharpness(measured: Sharpness, label: str) -> Figure:
    """Draws curvature against 2/η along a run, and below it the learning rate and the loss."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    steps = np.arange(len(measured.learning_rates))
    above.plot(steps, 2 / measured.learning_rates, color=RED, label="2/η")
    above.plot(
        measured.steps, measured.lipschitz, "o-", color=BLUE, label="sharpness, the largest |λ(H)|"
    )
    above.plot(
        measured.steps,
        measured.along_gradient,
        "s--",
        color=GREEN,
        markersize=4,
        label="along the gradient, gᵀHg / gᵀg",
    )
    above.set(title=f"{label}: where curvature is above 2/η, a step overshoots", yscale="log")
    above.set_ylabel("curvature")
    above.legend()
    below.plot(steps, measured.learning_rates, color=RED, label="learning rate η")
    below.plot(measured.steps, measured.losses, "o-", color=GREY, markersize=4, label="loss")
    below.set(xlabel="step", yscale="log")
    below.legend()
    for axes in (above, below):
        axes.grid(alpha=0.3)
    return figure


def _draw_bound(axes: Axes, run: Descent) -> None:
    steps = np.arange(1, len(run.values))
    # Gradients g_0 … g_{t-1} have been seen after t steps.
    smallest = np.minimum.accumulate(run.squared_norms)[:-1]
    bound = curvature.gradient_norm_bound(run.lipschitz, run.values[0], 0.0, jnp.asarray(steps))
    axes.plot(steps, bound, color=RED, label="bound 2 L (f₀ − f*) / t, f* = 0")
    axes.plot(steps, smallest, color=BLUE, label="min over steps of ‖g‖²")
    axes.plot(steps, run.squared_norms[:-1], color=BLUE, alpha=0.35, label="‖g‖²")
    axes.set(xlabel="step t", xscale="log", yscale="log")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def _legend_below(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
