"""The tasks of the comparison: one file a kind, all data from what comes with the install."""

from hyperlr.experiments.comparison.tasks.adapters import ADAPTERS
from hyperlr.experiments.comparison.tasks.autoencoder import AUTOENCODER
from hyperlr.experiments.comparison.tasks.characters import CHARACTERS
from hyperlr.experiments.comparison.tasks.digits import DIGITS, DIGITS_LONG
from hyperlr.experiments.comparison.tasks.digits_cnn import DIGITS_CNN
from hyperlr.experiments.comparison.tasks.function import FUNCTION
from hyperlr.experiments.comparison.tasks.table import TABLE
from hyperlr.experiments.comparison.tasks.task import Data, Task
from hyperlr.experiments.comparison.tasks.trigrams import TRIGRAMS

TASKS = {
    task.name: task
    for task in (
        DIGITS,
        DIGITS_CNN,
        AUTOENCODER,
        TRIGRAMS,
        FUNCTION,
        CHARACTERS,
        TABLE,
        DIGITS_LONG,
        ADAPTERS,
    )
}

__all__ = ["TASKS", "Data", "Task"]
