"""How numbers stand in the tables on the terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.table import Table


def new(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]] = ()) -> Table:
    """Returns a table with names in the first column and numbers in the others.

    Narrow enough for a terminal of 80 columns.
    """
    table = Table(title=title, box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column(headings[0], no_wrap=True)
    for heading in headings[1:]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def seeds(number: int) -> str:
    """Returns `1 seed`, or `5 seeds`."""
    return "1 seed" if number == 1 else f"{number} seeds"


def accuracies(method: Mapping[str, Any]) -> list[str]:
    """Returns the validation and the test accuracy of a method of metrics.json."""
    return [percent(method[f"{name}_accuracy"], method["diverged"]) for name in ("val", "test")]


def percent(values: Any, diverged: Any, spread: bool = True) -> str:
    """Returns the mean of accuracies, one a seed, in percent, with the standard deviation (spread).

    Those of seeds that diverged do not count; how many they are is in brackets.
    """
    lost = np.asarray(diverged, bool)
    kept = 100 * np.asarray(values, float)[~lost]
    if not kept.size:
        return "diverged"
    text = f"{kept.mean():.1f}" + (f" ± {kept.std(ddof=1):.1f}" if spread and kept.size > 1 else "")
    return text + (f" ({lost.sum()} div.)" if lost.any() else "")
