"""How numbers stand in the tables on the terminal."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich import box
from rich.table import Table


def new(title: str, headings: Sequence[str]) -> Table:
    """Returns a table with names in the first column and numbers in the others.

    Narrow enough for a terminal of 80 columns.
    """
    table = Table(title=title, box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column(headings[0], no_wrap=True)
    for heading in headings[1:]:
        table.add_column(heading, justify="right")
    return table


def seeds(number: int) -> str:
    """Returns `1 seed`, or `5 seeds`."""
    return "1 seed" if number == 1 else f"{number} seeds"


def percent(values: Any, diverged: Any, spread: bool = True) -> str:
    """Returns the mean, over the seeds, of accuracies in percent.

    Args:
      values: one a seed.
      diverged: whether each seed diverged. These do not count; how many they are is in brackets.
      spread: whether to add the standard deviation.
    """
    lost = np.asarray(diverged, bool)
    kept = 100 * np.asarray(values, float)[~lost]
    if not kept.size:
        return "diverged"
    text = f"{kept.mean():.1f}" + (f" ± {kept.std(ddof=1):.1f}" if spread and kept.size > 1 else "")
    return text + (f" ({lost.sum()} div.)" if lost.any() else "")
