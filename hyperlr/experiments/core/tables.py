"""What the experiments show on the terminal: a progress bar and a table of the results."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table


def progress_bar(console: Console) -> Progress:
    """Returns a progress bar that tells the time gone and the time left."""
    return Progress(
        TextColumn("{task.description:24}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


def results_table(
    title: str, methods: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str]
) -> Table:
    """Returns the table of the methods of metrics.json.

    Mean and standard deviation are over the seeds that did not diverge; how many did is in a column
    of its own.

    Args:
      title: above the table.
      methods: name to `val_accuracy`, `test_accuracy`, `val_loss`, `diverged` (a list, one entry a
        seed, each) and `step_size`, `seconds`.
      labels: name to what the table calls it.
    """
    # Narrow enough for a terminal of 80 columns.
    table = Table(title=title, box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    for heading in (
        "step\nsize",
        "validation\naccuracy",
        "test\naccuracy",
        "val.\nloss",
        "diverged",
        "time",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, method in methods.items():
        diverged = np.asarray(method["diverged"], bool)
        table.add_row(
            labels[name],
            f"{method['step_size']:g}" if method["step_size"] else "",
            _percent(method["val_accuracy"], ~diverged),
            _percent(method["test_accuracy"], ~diverged),
            _mean(method["val_loss"], ~diverged),
            f"{diverged.sum()} of {diverged.size}",
            f"{method['seconds']:.0f} s",
        )
    return table


def _percent(values: Any, keep: np.ndarray) -> str:
    kept = 100 * np.asarray(values, float)[keep]
    if not kept.size:
        return "diverged"
    if kept.size == 1:
        return f"{kept[0]:.1f}%"
    return f"{kept.mean():.1f} ± {kept.std(ddof=1):.1f}%"


def _mean(values: Any, keep: np.ndarray) -> str:
    kept = np.asarray(values, float)[keep]
    return f"{kept.mean():.3f}" if kept.size else "diverged"
