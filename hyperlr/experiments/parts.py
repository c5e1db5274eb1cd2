"""Finished parts of a long experiment, kept on disk, so that an interrupted run can go on.

A part is a file of arrays whose name ends with a digest of all that determines them. Settings that
differ have another digest, and so other files: no part is ever taken for what it is not, and none
is overwritten.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hyperlr.experiments import results
from hyperlr.experiments.errors import InputError


def part_path(folder: Path, name: str, config: Mapping[str, Any]) -> Path:
    """Returns where the part of this name and these settings lies, whether it exists or not."""
    return folder / f"{name}-{_digest(results.plain(config))}.npz"


def load_part(path: Path) -> dict[str, np.ndarray] | None:
    """Returns the arrays of a finished part, or None where it is not finished.

    Raises:
      InputError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        # Opened here, since np.load leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"--out: {path} is damaged; delete it, and it will be computed again"
        ) from error


def save_part(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a part, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    results.write_schedules(path, arrays)


def data_digest(*arrays: np.ndarray) -> str:
    """Returns a digest of arrays, their shapes and dtypes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _digest(config: Any) -> str:
    content = json.dumps(config, sort_keys=True, allow_nan=False)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
