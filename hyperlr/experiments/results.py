"""Result files, each written whole or not at all: metrics.json, schedules.npz and figures."""

import contextlib
import json
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from matplotlib.figure import Figure

from hyperlr.experiments.errors import InputError


def prepare_output(out: Path) -> None:
    """Makes the directory of the results and checks that files can be written there.

    Called before any training, so that no hour of it is lost to a wrong path. What killed runs left
    half written is removed.

    Raises:
      InputError: the directory cannot be made or written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out) as probe:
            probe.write(b"\0")
        for folder in (out, out / "parts", out / "checkpoints"):
            _remove_leftovers(folder)
    except OSError as error:
        raise InputError(
            f"--out: results cannot be written to {out} ({error.strerror or error}); name a "
            "directory that you may write to"
        ) from error


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file that appears at `path` complete, on leaving the block, or not at all.

    The content goes to a temporary file beside it and is flushed to the disk before the rename, so
    that neither an error nor a crash leaves a part of a file or loses the one that was there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of processes that are no more."""
    for path in folder.glob(".*.tmp"):
        match = re.fullmatch(r"\..+\.(\d+)\.tmp", path.name)
        if match and not _is_running(int(match[1])):
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    """Whether another process has this number; on Windows, where asking would end it, always."""
    if process == os.getpid():
        return False
    if os.name == "nt":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_metrics(path: Path, config: Mapping[str, Any], methods: Mapping[str, Any]) -> None:
    """Writes metrics.json: strict JSON, in which a number that is not finite is null."""
    content = json.dumps(
        {"config": plain(config), "methods": plain(methods)}, indent=2, allow_nan=False
    )
    with atomic_file(path) as file:
        file.write(content.encode() + b"\n")


def write_schedules(path: Path, schedules: Mapping[str, np.ndarray]) -> None:
    """Writes schedules.npz: one array of learning rates [seeds, T] a method."""
    arrays: dict[str, Any] = dict(schedules)
    with atomic_file(path) as file:
        np.savez_compressed(file, **arrays)


def write_figure(path: Path, figure: Figure) -> None:
    """Writes a figure as PNG."""
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=150)


def plain(value: Any) -> Any:
    """Returns a value made of dicts, lists, strings, finite numbers, booleans and None."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):  # NumPy and JAX arrays and scalars
        return plain(np.asarray(value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value
