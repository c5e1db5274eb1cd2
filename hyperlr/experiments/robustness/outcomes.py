"""What came of all starting points, as the summary and the figures read it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from hyperlr.experiments.data import Data

BASELINES = ("constant", "cosine")
"""Schedules whose rate is the best of a grid, on validation data."""


class Cell(NamedTuple):
    """What came of P starting points or learning rates, on S seeds."""

    val_accuracy: np.ndarray
    """float [P, S]."""
    test_accuracy: np.ndarray
    """float [P, S]."""
    diverged: np.ndarray
    """bool [P, S]."""
    final_learning_rate: np.ndarray
    """float [P, S]."""

    @property
    def best(self) -> int:
        """The index of the best mean validation accuracy; what diverged counts as 0."""
        return int(np.argmax(np.where(self.diverged, 0.0, self.val_accuracy).mean(axis=1)))


class Outcomes(NamedTuple):
    """What came of everything."""

    settings: Any
    data: Data
    labels: Mapping[str, str]
    """Inner optimizer → its name."""
    methods: Mapping[str, Mapping[str, Cell]]
    """Inner optimizer → method or baseline → over the starts, or over the grid."""
    auto_alone: Mapping[str, Cell]
    """Inner optimizer → auto, which finds its first rate itself; one point."""
    sensitivity: Mapping[float, Cell]
    """β → over starts × discounts, the discounts of the first start before those of the next."""
