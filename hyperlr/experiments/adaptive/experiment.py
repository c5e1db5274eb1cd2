"""Runs the adaptive optimizers and writes their results: metrics.json, figures, README.md."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

import hyperlr
from hyperlr.experiments import adaptive, adaptive_plots, report, results
from hyperlr.experiments.adaptive import Descents, Problem, Study
from hyperlr.experiments.adaptive_methods import METHODS


def run(out: Path, console: Console, num_steps: int = adaptive.NUM_STEPS) -> None:
    """Runs every descent, and writes three figures and a page that explains them.

    All takes seconds: a run that was killed is made anew, and comes to the same bits.

    Args:
      out: directory of the results; made where it is missing.
      console: where the table goes.
      num_steps: T, more than COMPARED_STEP.

    Raises:
      InputError: `out` cannot be written.
    """
    results.prepare_output(out)
    problem = adaptive.make_problem()
    with report.progress_bar(console) as progress:
        task = progress.add_task("two features", total=adaptive.NUM_RUNS)
        study = adaptive.study(problem, num_steps, lambda: progress.advance(task))
    methods = {name: _summary(study, name) for name in METHODS}
    results.write_metrics(out / "metrics.json", _describe(problem, num_steps), methods)
    results.write_schedules(
        out / "schedules.npz",
        {
            f"{name}/{feature}": descents.rates[:1, :, k]
            for name, descents in study.full.items()
            for k, feature in enumerate(("dense", "sparse"))
        },
    )
    for figure in ("paths", "effective_rates", "details"):
        draw = getattr(adaptive_plots, figure)
        results.write_figure(out / f"{figure}.png", draw(problem, study))
    with results.atomic_file(out / "README.md") as file:
        file.write(explanation(problem, study).encode())
    console.print(_table(methods))
    console.print(f"Results in {out}", soft_wrap=True)


def explanation(problem: Problem, study: Study) -> str:
    """Returns the page beside the figures; its numbers are those of the study."""
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
    sections = {
        "Paths": (
            "paths.png",
            f"""
            One feature is never zero, the other is zero in all but {adaptive.NUM_SPARSE} of
            {adaptive.NUM_EXAMPLES} examples. Its zeros thin out the gradient of its weight, and
            the loss is a valley along that weight, with curvature {problem.hessian[1, 1]:.2g}
            against {problem.hessian[0, 0]:.2g}. Gradient descent crosses the valley first and then
            creeps along it; momentum is faster and swings. Every optimizer that divides each
            weight's gradient by a size of its own goes nearly straight to the minimum. Adam Max
            does not: it has one denominator for both weights, and takes gradient descent's way.
            """,
            f"""
            Sparsity scaling multiplies the gradient of a feature's weight by how many times rarer
            than always the feature is, here {adaptive.NUM_EXAMPLES / adaptive.NUM_SPARSE:g}. With
            it, plain gradient descent goes as straight as the adaptive methods, from the inputs
            alone and without a history of gradients.
            """,
        ),
        "Effective rates": (
            "effective_rates.png",
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
        "Details": (
            "details.png",
            f"""
            *Decay.* In minibatches gradients never vanish. In the second half of the run AdaGrad
            still loses {1 - decay[-1, 1] / decay[halfway, 1]:.0%} of its rate for the sparse
            feature, and {1 - decay[-1, 0] / decay[halfway, 0]:.1%} for the dense one; RMSprop's
            goes up and down with the gradients.
            """,
            """
            *Oscillation.* At the plateau RMSprop's denominator is the size of the gradient itself,
            so its steps are ±η₀ and it jumps from one side of the minimum to the other, η₀/2 away
            from it, for ever. Only a smaller η₀ brings it closer.
            """,
            f"""
            *Initial rate.* The others crawl where η₀ is too small, and gradient descent and RMSprop
            fail where it is too large. AdaDelta has none to choose, and its lines are level. It has
            ε instead,
            which sets its first steps: L − min L after {adaptive.COMPARED_STEP} steps is
            {compared[0]:.1e}, {compared[1]:.1e} or {compared[2]:.1e} for ε =
            {", ".join(f"{eps:g}" for eps in adaptive.ADADELTA_EPS)}.
            """,
            f"""
            *Bias correction.* Adam's averages start at zero. Uncorrected, v is too small for longer
            than m is, since β₂ > β₁: the first step is (1 − β₁)/√(1 − β₂) ≈ 3.2 η₀ and the
            longest {first_steps["uncorrected"]:.1f} η₀. Corrected, none is longer than
            {first_steps["adam"]:.2f} η₀.
            """,
            f"""
            *Maximum norm.* With a short memory (β₂ = {adaptive.SHORT_MEMORY:g}) Adam's rate for
            the sparse feature grows while minibatches are without it, and breaks down when one has
            it: in the second half of the run it changes by a factor of
            {np.exp(swing["adam"]):.1f}. Adam Max divides by the largest gradient of both weights
            and keeps within a factor of {np.exp(swing["adam_max"]):.1f}.
            """,
            """
            *Sparsity scaling.* On all examples the sparse weight converges nearly as fast as the
            dense one. In minibatches it arrives as early, but then wanders more: the rare gradients
            that it multiplies are noisy.
            """,
        ),
    }
    lines = ["# Adaptive learning rates on a dense and a sparse feature", ""]
    for title, (figure, *paragraphs) in sections.items():
        lines += [f"## {title}", "", f"![{title}]({figure})", ""]
        for paragraph in paragraphs:
            lines += [textwrap.fill(" ".join(paragraph.split()), 100), ""]
    return "\n".join(lines)


def _summary(study: Study, name: str) -> dict[str, Any]:
    """Returns a method's entry of metrics.json."""
    full: Descents = study.full[name]
    entry = {
        "learning_rate": full.learning_rates[0],
        "gap": full.gaps[0, -1],
        "gap_at_compared_step": full.gaps[0, adaptive.COMPARED_STEP],
        "compared_learning_rates": full.learning_rates[1:],
        "compared_gaps": full.gaps[1:, adaptive.COMPARED_STEP],
        "effective_rates_first": full.rates[0, 0],
        "effective_rates_last": full.rates[0, -1],
    }
    if name in study.mini:
        entry["gap_in_minibatches"] = study.mini[name].gaps[0, -1]
    return entry


def _describe(problem: Problem, num_steps: int) -> dict[str, Any]:
    return {
        "experiment": "adaptive",
        "num_steps": num_steps,
        "num_examples": adaptive.NUM_EXAMPLES,
        "num_sparse": adaptive.NUM_SPARSE,
        "batch_size": adaptive.BATCH_SIZE,
        "compared_step": adaptive.COMPARED_STEP,
        "start": problem.start,
        "minimizer": problem.minimizer,
        "hessian": problem.hessian,
        "version": hyperlr.__version__,
    }


def _table(methods: dict[str, dict[str, Any]]) -> Table:
    table = Table(
        title="L − min L, and effective rates (dense, sparse)",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("")
    for heading in ("η₀", f"step {adaptive.COMPARED_STEP}", "last step", "first rates", "last"):
        table.add_column(heading, justify="right")
    for name, method in methods.items():
        table.add_row(
            METHODS[name].label,
            "none" if name == "adadelta" else f"{method['learning_rate']:g}",
            f"{method['gap_at_compared_step']:.1e}",
            f"{method['gap']:.1e}",
            ", ".join(f"{rate:.2g}" for rate in method["effective_rates_first"]),
            ", ".join(f"{rate:.2g}" for rate in method["effective_rates_last"]),
        )
    return table
