"""What came of the comparison: runs by inner optimizer, task, method and budget."""

from typing import Any, NamedTuple

import numpy as np

from hyperlr.experiments.comparison.entrants import ENTRANTS
from hyperlr.experiments.comparison.training import Runs

BUDGETS = {
    "steps": "at equal steps",
    "gradients": "at equal gradients, two for each step of the task",
}


def part_name(inner: str, task: str, method: str, num_steps: int) -> str:
    """Names a part."""
    return f"{inner}-{task}-{method}-{num_steps}"


class Outcomes(NamedTuple):
    """All runs."""

    settings: Any
    runs: dict[tuple[str, str, str, str], Runs]
    """(inner, task, method, budget) → what came of it."""

    def methods(self, inner: str) -> list[str]:
        """The methods that take part with an inner optimizer."""
        return [name for name in self.settings.methods if inner in ENTRANTS[name].inner]

    def chosen(self, *key: str) -> Runs:
        """The runs of a key, [S, C] each: of a grid, those of the rate that validation chose."""
        runs = self.runs[key[0], key[1], key[2], key[3]]
        scores = np.where(np.isnan(runs.val_score[..., -1]), -np.inf, runs.val_score[..., -1])
        best, seeds = scores.argmax(axis=0), np.arange(scores.shape[1])
        return runs._replace(
            val_score=runs.val_score[best, seeds],
            test_score=runs.test_score[best, seeds],
            train_loss=runs.train_loss[best, seeds],
            learning_rate=runs.learning_rate[best, seeds],
            rates=runs.rates[best],
            run_seconds=runs.run_seconds.sum(axis=0),  # all of them had to be run
        )

    def scores(self, inner: str, task: str, budget: str) -> np.ndarray:
        """Final test scores, [methods, S]."""
        keys = [(inner, task, method, budget) for method in self.methods(inner)]
        return np.array([self.chosen(*key).test_score[:, -1] for key in keys])

    def ranks(self, inner: str, budget: str) -> np.ndarray:
        """Ranks of the mean test scores, [tasks, methods]; 1 is the best, and ties share theirs.

        A method that diverged on any seed comes behind all that did not.
        """
        ranks = []
        for task in self.settings.tasks:
            means = self.scores(inner, task, budget).mean(axis=1)
            means = np.where(np.isnan(means), -np.inf, means)
            ahead = (means[None, :] > means[:, None]).sum(axis=1)
            ties = (means[None, :] == means[:, None]).sum(axis=1)
            ranks.append(1 + ahead + (ties - 1) / 2)
        return np.array(ranks)

    def times(self, inner: str) -> np.ndarray:
        """What a step takes in time, in steps of the plain optimizer; the median over the tasks.

        [methods]; NaN where the tuned constants, which are the plain optimizer, take no part.
        """

        def seconds(task: str, method: str) -> float:
            runs = self.runs[inner, task, method, "steps"]
            return float(np.median(runs.run_seconds) / runs.steps[-1])

        methods, plain = self.methods(inner), "constant_tuned"
        if plain not in methods:
            return np.full(len(methods), np.nan)
        ratios = [
            [seconds(task, method) / seconds(task, plain) for method in methods]
            for task in self.settings.tasks
        ]
        return np.median(ratios, axis=0)
