"""Figures of curvature: one step against its size, descent against its bounds, sharpness."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hyperlr import curvature
from hyperlr.experiments.core import style
from hyperlr.experiments.core.experiment import Shown
from hyperlr.experiments.core.style import BLUE, DARK, GREEN, RED
from hyperlr.experiments.curvature import measurements
from hyperlr.experiments.curvature.measurements import LABEL, Descent, OneStep, Sharpness, Study

TITLES = {"quadratic": "Quadratic", "beale": "Beale", "network": "Network on digits"}


def figures(study: Study, source: str) -> list[Shown]:
    """Draws all figures, each with what it shows; the numbers in the text are the study's."""
    loss_at_bound = {
        name: np.interp(step.bound, step.epsilons, step.losses) / step.losses[0]
        for name, step in study.one_step.items()
    }
    above = study.sharpness.lipschitz > 2 / study.sharpness.rates
    above_along = study.sharpness.along_gradient > 2 / study.sharpness.rates
    last = {factor: run.values[-1] for factor, run in study.on_quadratic.items()}
    shares = {name: run.share_of_bound.max() for name, run in study.bounded.items()}
    return [
        Shown(
            "one_step",
            "One step",
            one_step(study.one_step),
            f"""
            The loss after one step −ε g, to second order f − ε gᵀg + ½ ε² gᵀHg, is back where it
            was at ε = 2 gᵀg / gᵀHg, and lowest at half of that. On the quadratic this is exact. At
            the bound the loss is {loss_at_bound["beale"]:.2f} of what it was on Beale, and
            {loss_at_bound["network"]:.2f} with the network, on {measurements.NUM_DIGITS} digits
            ({source}): there the terms of higher order have their say, and the bound is of the
            right size but no guarantee.
            """,
        ),
        Shown(
            "descent",
            "Descent",
            descent(study.on_quadratic, study.bounded),
            f"""
            *Either side of 2/L.* L is the largest eigenvalue of the Hessian. On the quadratic,
            ε = 1.99/L ends {len(study.on_quadratic[1.99].values) - 1} steps at a loss of
            {last[1.99]:.1e}; at 2/L the steepest direction neither shrinks nor grows, and the loss
            stays at {last[2.0]:.2f}; ε = 2.01/L, which at first descends as well, ends at
            {last[2.01]:.1e}.

            *The O(1/t) bound.* With ε = 1/L the smallest ‖g‖² of the first t steps is at most
            2 L (f₀ − f*) / t. It never came to more than {shares["quadratic"]:.0%} of that on the
            quadratic, {shares["beale"]:.0%} on Beale and {shares["network"]:.0%} with the network.
            On the last two L is the largest sharpness measured on the way (with 10% to spare), and
            for the network f* is not known but at least 0.
            """,
        ),
        Shown(
            "sharpness",
            "Sharpness",
            sharpness(study.sharpness),
            f"""
            {LABEL} on the digits. Where the sharpness is above 2/η,
            gradient descent is unstable in the sharpest direction: so at {above.sum()} of
            {above.size} measurements. Along the gradient, which is what decides whether the next
            step lowers the loss, the curvature was above 2/η at {above_along.sum()} of them.
            """,
        ),
    ]


def one_step(measured: Mapping[str, OneStep]) -> Figure:
    """Draws each loss after one step against ε, its second-order model and the bound."""
    figure, (panels,) = style.panels(1, 3, 15, 4.6)
    for axes, (name, step) in zip(panels, measured.items(), strict=True):
        axes.plot(step.epsilons, step.losses, color=BLUE, linewidth=2, label="loss after one step")
        model = "to second order: f − ε gᵀg + ½ ε² gᵀHg"
        axes.plot(step.epsilons, step.second_order, "--", color=DARK, label=model)
        axes.axhline(step.losses[0], color=DARK, linewidth=0.8, label="loss before")
        axes.axvline(step.bound, color=RED, label="bound 2 gᵀg / gᵀHg")
        axes.axvline(step.bound / 2, color=RED, linestyle=":", label="half of it")
        visible = np.concatenate([step.losses[np.isfinite(step.losses)], step.second_order])
        low, high = visible.min(), min(visible.max(), 2.5 * step.losses[0])
        axes.set(title=TITLES[name], xlabel="ε", ylim=(low - 0.05 * (high - low), high))
    panels[0].set_ylabel("loss")
    style.legend_below(figure, panels[0])
    return figure


def descent(on_quadratic: Mapping[float, Descent], bounded: Mapping[str, Descent]) -> Figure:
    """Draws descents on either side of 2/L, and gradient norms under the O(1/t) bound."""
    figure, ((first, *others),) = style.panels(1, 1 + len(bounded), 18, 4.8)
    shades = np.linspace(0.25, 0.95, sum(factor < 2 for factor in on_quadratic))
    blues = iter([(0.1, 0.35, 0.75, shade) for shade in shades])
    for factor, run in on_quadratic.items():
        color = next(blues) if factor < 2 else (DARK if factor == 2 else RED)
        dashes = ":" if factor == max(on_quadratic) else "-"
        first.plot(run.values, dashes, color=color, label=f"ε = {factor:g}/L")
    first.set_title("Quadratic, ε on either side of 2/L")
    first.set(xlabel="step", ylabel="loss", yscale="log", ylim=(1e-5, 1e4))
    first.legend(fontsize=8)
    for axes, (name, run) in zip(others, bounded.items(), strict=True):
        _draw_bound(axes, run)
        axes.set_title(f"{TITLES[name]}, ε = 1/L, L = {run.lipschitz:.3g}")
    return figure


def sharpness(measured: Sharpness) -> Figure:
    """Draws curvature against 2/η along a run, and below it the learning rate and the loss."""
    figure, panels = style.panels(2, 1, 11, 7, sharex=True, height_ratios=(2, 1))
    above, below = panels[:, 0]
    steps = np.arange(len(measured.learning_rates))
    above.plot(steps, 2 / measured.learning_rates, color=RED, label="2/η")
    at, along = measured.steps, "along the gradient, gᵀHg / gᵀg"
    above.plot(at, measured.lipschitz, "o-", color=BLUE, label="sharpness, the largest |λ(H)|")
    above.plot(at, measured.along_gradient, "s--", color=GREEN, markersize=4, label=along)
    title = f"{LABEL}: where curvature is above 2/η, a step overshoots"
    above.set(title=title, ylabel="curvature", yscale="log")
    above.legend()
    below.plot(steps, measured.learning_rates, color=RED, label="learning rate η")
    below.plot(at, measured.losses, "o-", color=DARK, markersize=4, label="loss")
    below.set(xlabel="step", yscale="log")
    below.legend()
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
