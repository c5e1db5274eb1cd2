"""Figures of the adaptive optimizers: their paths, their effective rates, and what sets them."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hyperlr.experiments.adaptive import descents as adaptive
from hyperlr.experiments.adaptive.descents import OPTIMIZERS, Problem, Study
from hyperlr.experiments.core import style
from hyperlr.experiments.core.experiment import Shown
from hyperlr.experiments.core.style import visible

DENSE, SPARSE = style.BLUE, style.RED


def figures(study: Study) -> list[Shown]:
    """Draws all figures, each with what it shows; the numbers in the text are the study's."""
    problem = adaptive.make_problem()
    own = {name: descents.rates[0] for name, descents in study.full.items()}
    limits = 2 / np.diag(problem.hessian)
    first_steps = {
        name: np.abs(np.diff(descents.points[0, :, 0])).max() / descents.learning_rates[0]
        for name, descents in (("adam", study.full["adam"]), ("uncorrected", study.uncorrected))
    }
    compared = [descents.gaps[0, adaptive.COMPARED_STEP] for descents in study.adadelta]
    halfway = study.mini["adagrad"].rates.shape[1] // 2
    decay = study.mini["adagrad"].rates[0]
    swing = {
        name: np.ptp(np.log(descents.rates[0, halfway:, 1]))
        for name, descents in study.short_memory.items()
    }
    return [
        Shown(
            "paths",
            "Paths",
            paths(problem, study),
            f"""
            One feature is never zero, the other is zero in all but {adaptive.NUM_SPARSE} of
            {adaptive.NUM_EXAMPLES} examples. Its zeros thin out the gradient of its weight, and
            the loss is a valley along that weight, with curvature {problem.hessian[1, 1]:.2g}
            against {problem.hessian[0, 0]:.2g}. Gradient descent crosses the valley first and then
            creeps along it; momentum is faster and swings. Every optimizer that divides each
            weight's gradient by a size of its own goes nearly straight to the minimum. Adam Max
            does not: it has one denominator for both weights, and takes gradient descent's way.

            Sparsity scaling multiplies the gradient of a feature's weight by how many times rarer
            than always the feature is, here {adaptive.NUM_EXAMPLES / adaptive.NUM_SPARSE:g}. With
            it, plain gradient descent goes as straight as the adaptive methods, from the inputs
            alone and without a history of gradients.
            """,
        ),
        Shown(
            "effective_rates",
            "Effective rates",
            effective_rates(problem, study),
            f"""
            What multiplies the gradient (for Adam and its kin, the average of gradients) at every
            step. AdaGrad's rate only falls: to {own["adagrad"][-1, 0] / own["adagrad"][0, 0]:.0%}
            of its first value for the dense feature, after which the gradients have vanished and
            nothing is left to add. RMSprop forgets, so its rate rises as the gradients shrink,
            passes 2 / curvature, where gradient descent is no longer stable, and comes back to
            settle there: at {own["rmsprop"][-1, 0]:.2f} and {own["rmsprop"][-1, 1]:.1f}, against
            {limits[0]:.2f} and {limits[1]:.1f}. AdaDelta's rate ends at √ε / √ε = 1, as updates and
            gradients both vanish. Adam's rises, too, but at β₂ = 0.999 more slowly than the run is
            long; AdaMax follows a maximum, which falls by 0.1% a step at most.
            """,
        ),
        Shown(
            "details",
            "Details",
            details(problem, study),
            f"""
            *Decay.* In minibatches gradients never vanish. In the second half of the run AdaGrad
            still loses {1 - decay[-1, 1] / decay[halfway, 1]:.0%} of its rate for the sparse
            feature, and {1 - decay[-1, 0] / decay[halfway, 0]:.1%} for the dense one; RMSprop's
            goes up and down with the gradients.

            *Oscillation.* At the plateau RMSprop's denominator is the size of the gradient itself,
            so its steps are ±η₀ and it jumps from one side of the minimum to the other, η₀/2 away
            from it, for ever. Only a smaller η₀ brings it closer.

            *Initial rate.* The others crawl where η₀ is too small, and gradient descent and RMSprop
            fail where it is too large. AdaDelta has none to choose, and its lines are level. It has
            ε instead,
            which sets its first steps: L − min L after {adaptive.COMPARED_STEP} steps is
            {compared[0]:.1e}, {compared[1]:.1e} or {compared[2]:.1e} for ε =
            {", ".join(f"{eps:g}" for eps in adaptive.ADADELTA_EPS)}.

            *Bias correction.* Adam's averages start at zero. Uncorrected, v is too small for longer
            than m is, since β₂ > β₁: the first step is (1 − β₁)/√(1 − β₂) ≈ 3.2 η₀ and the
            longest {first_steps["uncorrected"]:.1f} η₀. Corrected, none is longer than
            {first_steps["adam"]:.2f} η₀.

            *Maximum norm.* With a short memory (β₂ = {adaptive.SHORT_MEMORY:g}) Adam's rate for
            the sparse feature grows while minibatches are without it, and breaks down when one has
            it: in the second half of the run it changes by a factor of
            {np.exp(swing["adam"]):.1f}. Adam Max divides by the largest gradient of both weights
            and keeps within a factor of {np.exp(swing["adam_max"]):.1f}.

            *Sparsity scaling.* On all examples the sparse weight converges nearly as fast as the
            dense one. In minibatches it arrives as early, but then wanders more: the rare gradients
            that it multiplies are noisy.
            """,
        ),
    ]


def paths(problem: Problem, study: Study) -> Figure:
    """Draws the path of every optimizer on the contours of the loss, and its gap by step."""
    figure, panels = style.panels(3, 4, 16, 9)
    xs, ys = np.linspace(-1.5, 4.0, 200), np.linspace(-1.0, 3.5, 200)
    gaps = adaptive.gap(problem, style.points_of(xs, ys))
    for axes, (name, descents) in zip(panels.flat, study.full.items(), strict=False):
        style.contours(axes, xs, ys, gaps, 1e-3)
        points = descents.points[0]
        axes.plot(*points.T, color=DENSE, linewidth=1.2)
        axes.plot(*points[:31].T, ".", color=DENSE, markersize=4)
        axes.plot(*points[0], "o", color="black", markeredgecolor="white")
        axes.plot(*problem.minimizer, "x", color="black", markersize=9, markeredgewidth=2)
        rate = "no η₀" if name == "adadelta" else f"η₀ = {OPTIMIZERS[name].learning_rate:g}"
        axes.set(xlabel="weight of the dense feature", ylabel="of the sparse feature")
        axes.set_title(f"{OPTIMIZERS[name].label}, {rate}")
    *_, together, explained = panels.flat
    for name, each in OPTIMIZERS.items():
        if each.color != style.GREY:  # the others are close to one of these
            together.plot(visible(study.full[name].gaps[0]), **style.drawn(each))
    together.set(title="L − min L", xlabel="step", yscale="log", ylim=(1e-15, 20))
    explained.axis("off")
    explained.legend(*together.get_legend_handles_labels(), ncols=2, loc="lower left")
    explained.text(
        0.0,
        1.0,
        f"{adaptive.NUM_EXAMPLES} examples, of which {adaptive.NUM_SPARSE} have the sparse\n"
        "feature: the surface is a valley along its weight.\n"
        "Dots are the first 30 steps, the cross is the minimum.\n"
        "Gradients are of all examples.",
        va="top",
        transform=explained.transAxes,
    )
    return figure


def effective_rates(problem: Problem, study: Study) -> Figure:
    """Draws each optimizer's effective rate of both features at every step, on all examples."""
    figure, panels = style.panels(2, 5, 16, 6.5, sharex=True, sharey=True)
    limits = 2 / np.diag(problem.hessian)
    for axes, (name, descents) in zip(panels.flat, study.full.items(), strict=True):
        for feature, color, label in ((0, DENSE, "dense"), (1, SPARSE, "sparse")):
            dashes = "--" if name in ("gd", "momentum", "adam_max") and feature else "-"
            axes.plot(descents.rates[0, :, feature], dashes, color=color, label=f"{label} feature")
            limit = f"2 / curvature along it ({label})"
            axes.axhline(limits[feature], color=color, linewidth=0.8, linestyle=":", label=limit)
        axes.set(title=OPTIMIZERS[name].label, yscale="log")
    for axes in panels[1]:
        axes.set_xlabel("step")
    for axes in panels[:, 0]:
        axes.set_ylabel("effective learning rate")
    style.legend_below(figure, panels[0, 1], columns=4)
    return figure


def details(problem: Problem, study: Study) -> Figure:
    """Draws what the lecture notes say of single optimizers, a panel each."""
    figure, panels = style.panels(2, 3, 16, 8.5)
    draw = (
        _draw_decay,
        _draw_oscillation,
        _draw_final_gaps,
        _draw_bias_correction,
        _draw_max_norm,
        _draw_sparsity_scaling,
    )
    for axes, draw_into in zip(panels.flat, draw, strict=True):
        draw_into(axes, problem, study)
        axes.legend(fontsize=9)
    return figure


def _draw_decay(axes: Axes, problem: Problem, study: Study) -> None:
    for name in ("adagrad", "rmsprop"):
        each, rates = OPTIMIZERS[name], study.mini[name].rates[0]
        steps = np.arange(1, len(rates) + 1)
        for feature, dashes, label in ((0, "-", "dense"), (1, "--", "sparse")):
            options = style.drawn(each) | {"label": f"{each.label}, {label}"}
            axes.plot(steps, rates[:, feature] / each.learning_rate, dashes, **options)
    axes.set_title(f"Minibatches of {adaptive.BATCH_SIZE}: AdaGrad only falls, RMSprop recovers")
    axes.set(xlabel="step", ylabel="effective rate / η₀", xscale="log", yscale="log")


def _draw_oscillation(axes: Axes, problem: Problem, study: Study) -> None:
    for row, color in ((0, OPTIMIZERS["rmsprop"].color), (1, OPTIMIZERS["adam"].color)):
        rate = study.oscillation.learning_rates[row]
        distance = np.abs(study.oscillation.points[row, :, 0] - problem.minimizer[0])
        axes.plot(visible(distance), color=color, label=f"η₀ = {rate:g}")
        axes.axhline(rate / 2, color=color, linewidth=0.8, linestyle=":", label=f"{rate / 2:g}")
    axes.set_title("RMSprop oscillates at ±η₀/2 (all examples)")
    axes.set(xlabel="step", ylabel="|dense weight − its optimum|", yscale="log", ylim=(1e-6, 10))


def _draw_final_gaps(axes: Axes, problem: Problem, study: Study) -> None:
    step = adaptive.COMPARED_STEP
    for name in ("gd", "adagrad", "rmsprop", "adam"):
        descents = study.full[name]
        gaps = np.where(np.isfinite(descents.gaps[1:, step]), descents.gaps[1:, step], np.nan)
        axes.plot(descents.learning_rates[1:], visible(gaps), **style.drawn(OPTIMIZERS[name]))
    for eps, descents, dashes in zip(
        adaptive.ADADELTA_EPS, study.adadelta, (":", "--", "-"), strict=True
    ):
        options = style.drawn(OPTIMIZERS["adadelta"]) | {"label": f"AdaDelta, ε = {eps:g}"}
        axes.axhline(descents.gaps[0, step], linestyle=dashes, **options)
    axes.set_title(f"L − min L after {step} steps: AdaDelta has no η₀")
    axes.set(xlabel="η₀", xscale="log", yscale="log", ylim=(1e-12, 1e2))


def _draw_bias_correction(axes: Axes, problem: Problem, study: Study) -> None:
    steps = np.arange(1, 41)
    for descents, color, label in (
        (study.full["adam"], OPTIMIZERS["adam"].color, "corrected"),
        (study.uncorrected, OPTIMIZERS["rmsprop"].color, "not corrected"),
    ):
        lengths = np.abs(np.diff(descents.points[0, : len(steps) + 1, 0]))
        axes.plot(steps, lengths / descents.learning_rates[0], color=color, label=label)
    axes.set_title("Adam's first steps, with and without bias correction")
    axes.set(xlabel="step", ylabel="|step of the dense weight| / η₀")


def _draw_max_norm(axes: Axes, problem: Problem, study: Study) -> None:
    for name, descents in study.short_memory.items():
        axes.plot(descents.rates[0, :, 1], **style.drawn(OPTIMIZERS[name]))
    axes.set_title(f"Sparse feature in minibatches, β₂ = {adaptive.SHORT_MEMORY:g}")
    axes.set(xlabel="step", ylabel="effective rate", yscale="log")


def _draw_sparsity_scaling(axes: Axes, problem: Problem, study: Study) -> None:
    for name in ("gd", "gd_sparsity"):
        for descents, width, what in (
            (study.full[name], 1.8, "all examples"),
            (study.mini[name], 0.7, "minibatches"),
        ):
            distance = visible(np.abs(descents.points[0, :, 1] - problem.minimizer[1]))
            options = style.drawn(OPTIMIZERS[name]) | {"label": f"{OPTIMIZERS[name].label}, {what}"}
            axes.plot(distance, linewidth=width, **options)
    axes.set_title("Sparsity scaling: the weight of the sparse feature")
    axes.set(xlabel="step", ylabel="|sparse weight − its optimum|", yscale="log", ylim=(1e-6, 10))
