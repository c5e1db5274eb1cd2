"""A figure a task: scores against what was spent, and rates; and a figure of ranks."""

import numpy as np
from matplotlib.figure import Figure

from hyperlr.experiments.comparison.entrants import ENTRANTS
from hyperlr.experiments.comparison.outcomes import BUDGETS, Outcomes
from hyperlr.experiments.comparison.tasks import TASKS
from hyperlr.experiments.core import style
from hyperlr.experiments.core.experiment import Shown
from hyperlr.experiments.methods import INNER

_DASHED = ("adam_cosine", "cosine_tuned", "prodigy_cosine", "mechanize")
_DOTTED = ("prodigy", "dadapt_adamw", "dowg", "cocob", "momo_adam", "schedule_free_adamw")


def figures(outcomes: Outcomes) -> list[Shown]:
    """Draws the ranks, and every task with every inner optimizer."""
    shown = [
        Shown(
            f"ranks_{inner}",
            f"Ranks, {INNER[inner][0]}",
            ranks(outcomes, inner),
            """
            The rank of the mean test score, averaged over the tasks: 1 would be the best of all
            everywhere. Dots are the single tasks. Left every method makes as many steps as the
            others, right it spends as many gradients. What has to be given is in brackets: T is the
            number of steps, a grid five runs.
            """,
        )
        for inner in outcomes.settings.inner
    ]
    for inner in outcomes.settings.inner:
        for task in outcomes.settings.tasks:
            shown.append(
                Shown(
                    f"{task}_{inner}",
                    f"{TASKS[task].title}, {INNER[inner][0]}",
                    of_task(outcomes, inner, task),
                    f"""
                    Left: {TASKS[task].score_name} on test data against the gradients spent, the
                    mean over the seeds, of runs that spend equally many; methods that must know
                    their end are dashed, optimizers without a rate dotted. Of a grid, the runs that
                    validation chose are shown, and its other four are not counted. Right: the
                    learning rates of those that have one.
                    """,
                )
            )
    return shown


def ranks(outcomes: Outcomes, inner: str) -> Figure:
    """Draws mean ranks, one panel a budget."""
    methods = outcomes.methods(inner)
    figure, (panels,) = style.panels(1, len(BUDGETS), 12, 1.2 + 0.3 * len(methods))
    for axes, (budget, in_words) in zip(panels, BUDGETS.items(), strict=True):
        found = outcomes.ranks(inner, budget)
        order = found.mean(axis=0).argsort()[::-1]
        for height, index in enumerate(order):
            entrant = ENTRANTS[methods[index]]
            axes.barh(height, found[:, index].mean(), color=entrant.color, alpha=0.7)
            axes.plot(found[:, index], np.full(len(found), height), "k.", ms=4, alpha=0.5)
        labels = [ENTRANTS[methods[index]] for index in order]
        axes.set_yticks(
            range(len(order)), [f"{e.label} ({e.given})" if e.given else e.label for e in labels]
        )
        axes.set(title=in_words, xlabel="rank")
    return figure


def of_task(outcomes: Outcomes, inner: str, task: str) -> Figure:
    """Draws scores against gradients, and learning rates."""
    figure, (panels,) = style.panels(1, 2, 12, 4.6)
    scores, rates = panels
    final = []
    for method in outcomes.methods(inner):
        entrant = ENTRANTS[method]
        runs = outcomes.chosen(inner, task, method, "gradients")
        line = "--" if method in _DASHED else ":" if method in _DOTTED else "-"
        options = {"color": entrant.color, "ls": line, "label": entrant.label}
        mean = runs.test_score.mean(axis=0)
        spent = entrant.gradients(runs.steps[-1])[runs.steps - 1]
        scores.plot(spent, mean, **options)
        final.append(mean[-1])
        rates.plot(spent, style.positive(runs.learning_rate).T, **options)
    finite = np.array(final)[np.isfinite(final)]
    if finite.size:
        # What has failed need not be seen in full; what is near the best has to.
        best, middle = finite.max(), np.median(finite)
        scores.set_ylim(middle - 3 * (best - middle) - 1e-3, best + (best - middle) / 2 + 1e-3)
    scores.set(xlabel="gradients", ylabel=TASKS[task].score_name)
    rates.set(xlabel="gradients", ylabel="learning rate", yscale="log")
    style.legend_below(figure, scores, columns=5)
    return figure
