"""Results in words: the tables on the terminal, and README.md, the page beside the figures."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from hyperlr.experiments.core.experiment import Shown

TOO_SHORT = "Preset smoke: too short to conclude anything from; it shows that all runs."


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


def page(title: str, shown: Sequence[Shown], notes: Sequence[str] = ()) -> str:
    """Returns the page in Markdown: the notes, then a section a figure."""
    blocks = [f"# {title}", *map(_filled, notes)]
    for each in shown:
        blocks += [f"## {each.title}", f"![{each.title}]({each.name}.png)"]
        blocks += map(_filled, each.text.split("\n\n"))
    return "\n\n".join(blocks) + "\n"


def worth_of_seeds(num_seeds: int, num_test: int) -> str:
    """Says how far accuracies can be trusted, of so many seeds and test images."""
    # The deviation of a share p of n independent draws is √(p (1 − p) / n).
    by_test_set = 100 * (0.95 * 0.05 / num_test) ** 0.5
    of_test_set = (
        f"Of {num_test:,} test images an accuracy near 95% is itself known to "
        f"±{by_test_set:.1f} points only (one standard deviation)."
    )
    if num_seeds == 1:
        return (
            "All numbers are of one seed: one split, one draw of initial weights and minibatches. "
            f"{of_test_set} Another seed moves them, too: a difference of a point between two "
            "methods is no evidence. Pass --seeds for more."
        )
    return (
        f"Means are over {num_seeds} seeds, and ± is the standard deviation from seed to seed; the "
        f"mean itself is known to that over √{num_seeds}. {of_test_set} It is the same test set "
        "for all seeds."
    )


def _filled(paragraph: str) -> str:
    return textwrap.fill(" ".join(paragraph.split()), 100)
