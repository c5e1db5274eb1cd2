"""The data directory: `--data-dir`, or else the environment variable HYPERLR_DATA_DIR."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

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
