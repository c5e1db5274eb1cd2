"""Finished parts of a long experiment, kept on disk, so that a killed run can go on.

A part is a file of arrays whose name ends with a digest of all that determines them. Settings that
differ have another digest, and so other files: no part is ever taken for what it is not. In the
file is a digest of its name and arrays, so that one that is damaged, or a copy of another, is told
and computed anew. Every file appears complete or not at all.

A computation that is too long for one part leaves checkpoints on the way: files of the same kind,
of which the last two are kept.
"""

import hashlib
import json
import platform
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import optax

import hyperlr
from hyperlr.experiments import results

Value = TypeVar("Value")

_DIGEST = "digest"

_DAMAGES = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,  # seems encrypted, or packed in a way that zipfile does not know
    TypeError,  # one array, and no archive of arrays
    zipfile.BadZipFile,
    zlib.error,
)


def part_path(folder: Path, name: str, config: Mapping[str, Any]) -> Path:
    """Returns where the part of this name and these settings lies, whether it exists or not."""
    return folder / f"{name}-{_digest(results.plain(config))}.npz"


def finished(
    folder: Path,
    name: str,
    config: Mapping[str, Any],
    kind: Callable[..., Value],
    compute: Callable[[], Any],
) -> Value:
    """Returns a part that is finished, or else computes and stores it.

    Args:
      folder: where the parts are kept.
      name: of the part, for people to read.
      config: all that determines it.
      kind: the NamedTuple of arrays and numbers that the part is.
      compute: computes one.

    Returns:
      A `kind` of NumPy arrays and scalars, the same whether it was computed or read.
    """
    path = part_path(folder, name, config)
    arrays = load_part(path)
    if arrays is None:
        arrays = {key: np.asarray(value) for key, value in compute()._asdict().items()}
        save_part(path, arrays)
    return kind(**{key: array[()] for key, array in arrays.items()})


def load_part(path: Path) -> dict[str, np.ndarray] | None:
    """Returns the arrays of a finished part, or None where it is not finished, or damaged.

    Warns:
      RuntimeWarning: the file is damaged, or not what was stored under this name.
    """
    if not path.is_file():
        return None
    try:
        # Opened here, since np.load leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as opened:
            arrays = dict(opened)
        reason = None if _is_intact(path, arrays) else "its content is not what was stored there"
    except _DAMAGES as error:
        reason = str(error)
    if reason is None:
        return {key: array for key, array in arrays.items() if key != _DIGEST}
    warnings.warn(f"{path} is damaged and not used ({reason})", RuntimeWarning, stacklevel=2)
    return None


def save_part(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a part, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = np.asarray(_digest_of_part(path, arrays))
    results.write_schedules(path, {**arrays, _DIGEST: digest})


def load_checkpoint(path: Path) -> dict[str, np.ndarray] | None:
    """Returns the arrays of the last good checkpoint on the way to the part of this path."""
    for checkpoint in reversed(_checkpoints(path)):
        arrays = load_part(checkpoint)
        if arrays is not None:
            return arrays
    return None


def save_checkpoint(path: Path, step: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a checkpoint after so many steps of the part of this path; the one before it stays."""
    save_part(path.with_name(f"{path.stem}.checkpoint{step}.npz"), arrays)
    for old in _checkpoints(path)[:-2]:
        old.unlink()


def remove_checkpoints(path: Path) -> None:
    """Removes the checkpoints on the way to the part of this path, once it is stored itself."""
    for checkpoint in _checkpoints(path):
        checkpoint.unlink()


def versions() -> dict[str, str]:
    """Returns the versions that results depend on, for the configuration of a part."""
    return {
        "hyperlr": hyperlr.__version__,
        "jax": jax.__version__,
        "optax": optax.__version__,
        "python": platform.python_version(),
    }


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


def _digest_of_part(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    names = sorted(arrays)
    return data_digest(np.asarray([path.name, *names]), *(np.asarray(arrays[x]) for x in names))


def _is_intact(path: Path, arrays: Mapping[str, np.ndarray]) -> bool:
    others = {key: array for key, array in arrays.items() if key != _DIGEST}
    return _DIGEST in arrays and str(arrays[_DIGEST]) == _digest_of_part(path, others)


def _checkpoints(path: Path) -> list[Path]:
    """Returns the checkpoints of a part, from the first step to the last."""
    found = path.parent.glob(f"{path.stem}.checkpoint*.npz")
    steps = {file: file.stem.rpartition(".checkpoint")[2] for file in found}
    return sorted((file for file in steps if steps[file].isdigit()), key=lambda x: int(steps[x]))
