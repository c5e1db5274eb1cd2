"""Reader of MNIST's IDX format: a big-endian magic number, the sizes, then one byte a value."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from hyperlr.experiments.core.errors import InputError
from hyperlr.experiments.data.directory import read_bytes

# The third byte of a magic number is the type (8: unsigned byte), the fourth the number of sizes.
_MAGIC = {"labels": 0x0801, "images": 0x0803}
_KINDS = {magic: kind for kind, magic in _MAGIC.items()}


def read(path: Path, expected: str) -> np.ndarray:
    """Reads a file of `images`, uint8 [count, rows, columns], or of `labels`, uint8 [count].

    Raises:
      InputError: the file is missing, cut short, or is no IDX file of these.
    """
    magic = _MAGIC[expected]
    content = _decompressed(path)
    num_sizes = magic & 0xFF
    header_length = 4 + 4 * num_sizes
    if len(content) < 4:
        raise InputError(
            f"{path} is cut short: {len(content)} bytes, no room for an IDX header; fetch it again"
        )
    found = int.from_bytes(content[:4], "big")
    if found != magic:
        kind = f"it is an IDX file of {_KINDS[found]}" if found in _KINDS else "it is no IDX file"
        raise InputError(
            f"{path} should hold {expected} (magic number {magic}) but begins with {found}: "
            f"{kind}; check that the file has the right name"
        )
    if len(content) < header_length:
        raise InputError(
            f"{path} is cut short: {len(content)} bytes, and its header alone takes "
            f"{header_length}; fetch it again"
        )
    sizes = tuple(int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(num_sizes))
    num_values = int(np.prod(sizes, dtype=np.int64))
    num_found = len(content) - header_length
    if num_found != num_values:
        complaint = "is cut short" if num_found < num_values else "is too long"
        raise InputError(
            f"{path} {complaint}: its header announces {' x '.join(map(str, sizes))} = "
            f"{num_values} bytes of {expected}, but {num_found} follow; fetch it again"
        )
    if num_values == 0:
        raise InputError(f"{path} holds no {expected}: its header announces sizes {sizes}")
    return np.frombuffer(content, np.uint8, offset=header_length).reshape(sizes)


def _decompressed(path: Path) -> bytes:
    """Returns the bytes of a file, gunzipped when its content (not its name) is gzip."""
    content = read_bytes(path)
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path} is cut short or damaged: {error} while decompressing; fetch it again"
        ) from error
