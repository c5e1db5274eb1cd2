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

    def folder_with(self, folders: Iterable[str], names: Sequence[str]) -> Path | None:
        """Returns the first of these folders in it that holds at least one of the files."""
        for folder in (self.path / each for each in folders):
            if any((folder / name).is_file() for name in names):
                return folder
        return None

    def places(self, folders: Iterable[str]) -> str:
        """Returns where `folder_with` looked, in words."""
        return ", ".join(str(self.path / folder) for folder in folders)


def data_directory(data_dir: Path | None, instead: str = "") -> DataDirectory | None:
    """Returns the directory that was named, or None.

    Args:
      data_dir: the value of `--data-dir`.
      instead: what is used where none is named, for the error message.

    Raises:
      InputError: what was named is no directory.
    """
    from_environment = os.environ.get(VARIABLE)
    if data_dir is not None:
        directory = DataDirectory(data_dir, "--data-dir")
    elif from_environment:
        directory = DataDirectory(Path(from_environment), VARIABLE)
    else:
        return None
    if not directory.path.is_dir():
        remedy = f", or leave {directory.origin} out to use {instead}" if instead else ""
        raise InputError(
            f"{directory.origin} names {directory.path}, which is no directory; name the one that "
            f"holds the data sets{remedy}"
        )
    return directory
