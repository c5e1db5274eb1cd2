"""What came of all methods on the digits, as the summary and the figures read it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hyperlr.experiments import training
from hyperlr.experiments.core.experiment import Arrays
from hyperlr.experiments.data import Data
from hyperlr.experiments.digits.grid import Grid
from hyperlr.experiments.digits.lrs_opt import Optimized
from hyperlr.experiments.methods import METHODS


class Search(NamedTuple):
    """A search for β, κ or γ."""

    candidates: tuple[float, ...]
    seeds: Sequence[int]
    found: Arrays
    """What `digits.search.search` returned, and `seconds`."""


class Outcomes(NamedTuple):
    """What came of all methods."""

    settings: Any
    data: Data
    searches: Mapping[str, Search]
    """Method → the search for its number."""
    grids: Mapping[str, Grid]
    """Method → all the numbers that were trained to the end, on all seeds."""
    chosen: Mapping[str, int]
    """Method → the index among them of the one that the search found, or validation chose."""
    optimized: Sequence[Optimized]
    """LRS-OPT, seed by seed; empty where it was left out."""

    @property
    def shown(self) -> dict[str, training.Trained]:
        """Method → its lanes with the chosen number, one a seed."""
        shown = {name: each.at(self.chosen[name]) for name, each in self.grids.items()}
        if self.optimized:
            shown["lrs_opt"] = training.concatenate([each.trained for each in self.optimized])
        return shown

    @property
    def labels(self) -> dict[str, str]:
        """Method → its name."""
        labels = {name: METHODS[name].label for name in self.grids}
        if self.optimized:
            start = self.settings.lrs.start
            origin = "η₀" if start == "constant" else METHODS[start].label
            labels["lrs_opt"] = f"LRS-OPT (from {origin})"
        return labels

    def diverged(self, trained: training.Trained) -> np.ndarray:
        """Returns whether each lane diverged, bool [K]."""
        return training.diverged(trained, self.data.num_classes)
