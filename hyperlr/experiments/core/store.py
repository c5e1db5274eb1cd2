"""What an experiment keeps on disk: finished parts, and checkpoints of long ones.

A part is a file of arrays whose name ends with a digest of all that determines them. Settings that
differ have another digest, and so other files: no part is ever taken for what it is not. In the
file is a digest of its name and arrays, so that one that is damaged, or a copy of another, is
noticed and computed anew. Every file appears complete or not at all.

A computation that is too long for one part leaves checkpoints on the way, which orbax writes.
"""

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import jax
import numpy as np
import optax

import hyperlr
from hyperlr import _files
from hyperlr.experiments.core.errors import InputError

PARTS = "parts"
"""The folder of the parts, in that of the results."""
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


def prepare_output(out: Path) -> None:
    """Makes the directory of the results and checks, before any work, that it can be written.

    What killed runs left half written is removed.

    Raises:
      InputError: the directory cannot be made or written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out) as probe:
            probe.write(b"\0")
        for folder in (out, out / PARTS):
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


def part_path(folder: Path, name: str, determined_by: Mapping[str, Any]) -> Path:
    """Returns where the part of this name and these settings lies, whether it exists or not."""
    content = json.dumps(plain(determined_by), sort_keys=True, allow_nan=False)
    return folder / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}.npz"


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
        if str(arrays.pop(_DIGEST, None)) == _digest_of_part(path, arrays):
            return arrays
        reason = "its content is not what was stored there"
    except _DAMAGES as error:
        reason = str(error)
    warnings.warn(f"{path} is damaged and not used ({reason})", RuntimeWarning, stacklevel=2)
    return None


def save_part(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes a part, whole or not at all, and removes its checkpoints."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = np.asarray(_digest_of_part(path, arrays))
    write_arrays(path, {**arrays, _DIGEST: digest})
    shutil.rmtree(checkpoints_of(path), ignore_errors=True)


def checkpoints_of(path: Path) -> Path:
    """Returns the folder of the checkpoints on the way to the part of this path."""
    return path.with_suffix(".checkpoints")


class Checkpoints(NamedTuple):
    """The checkpoints of one part; where there is no folder for them, none is kept."""

    manager: Any
    """What `_files.open_directory` gives, or None."""

    def restore(self, like: Any) -> tuple[int, Any] | None:
        """Returns the step and the tree of the last good checkpoint, of the structure of `like`.

        Raises:
          InputError: the folder holds something else.

        Warns:
          RuntimeWarning: a checkpoint is damaged.
        """
        if self.manager is None:
            return None
        try:
            return _files.restore_latest(self.manager, lambda step: like, {})
        except ValueError as error:
            raise InputError(f"--out: {error}") from error

    def save(self, step: int, tree: Any) -> None:
        """Writes a checkpoint after so many steps; the one before it stays."""
        if self.manager is not None:
            _files.save(self.manager, step, tree, {})


@contextlib.contextmanager
def open_checkpoints(folder: Path | None) -> Iterator[Checkpoints]:
    """Opens the checkpoints of a part, which are its own: its folder has its digest."""
    with contextlib.nullcontext() if folder is None else _files.open_directory(folder) as manager:
        yield Checkpoints(manager)


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes an archive of arrays."""
    with atomic_file(path) as file:
        np.savez_compressed(file, **arrays)


def versions() -> dict[str, str]:
    """Returns the versions that results depend on."""
    packages = {module.__name__: module.__version__ for module in (hyperlr, jax, optax)}
    return packages | {"python": platform.python_version()}


def digest(*arrays: Any) -> str:
    """Returns a digest of arrays, their shapes and dtypes."""
    whole = hashlib.sha256()
    for array in map(np.asarray, arrays):
        whole.update(f"{array.dtype} {array.shape}".encode())
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()[:16]


def plain(value: Any) -> Any:
    """Returns a value made of dicts, lists, strings, numbers, booleans and None.

    A float32 number becomes the shortest one that is the same in float32 (0.894, and not
    0.8939999938011169); one that is not finite becomes None.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):  # NumPy and JAX arrays and scalars
        array = np.asarray(value)
        short = array.dtype in (np.float16, np.float32)
        return plain((array.astype(str).astype(float) if short else array).tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _digest_of_part(path: Path, arrays: Mapping[str, Any]) -> str:
    names = sorted(arrays)
    return digest([path.name, *names], *(arrays[name] for name in names))


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
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True
