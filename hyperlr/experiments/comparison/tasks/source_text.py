"""The source of modules of Python's standard library, as text."""

import functools
import importlib.util
from pathlib import Path

from hyperlr.experiments.core.errors import InputError

# Long modules, in pure Python, that every version since 3.11 has in one file.
MODULES = (
    "argparse",
    "ast",
    "calendar",
    "_pydecimal",
    "difflib",
    "doctest",
    "enum",
    "fractions",
    "inspect",
    "ipaddress",
    "mailbox",
    "optparse",
    "pickletools",
    "pydoc",
    "smtplib",
    "statistics",
    "subprocess",
    "tarfile",
    "typing",
    "unittest.mock",
)


@functools.cache
def read_module(name: str) -> str:
    """Returns the source of a module, without importing it.

    Args:
      name: full name of a module of the standard library.

    Raises:
      InputError: this Python comes without the source.
    """
    spec = importlib.util.find_spec(name)
    path = Path(spec.origin) if spec is not None and spec.origin is not None else None
    if path is None or path.suffix != ".py" or not path.is_file():
        raise InputError(
            f"this Python has no source of its module {name}, which the tasks on source text "
            "need: use one that was installed with its standard library as .py files"
        )
    return path.read_text(encoding="utf-8")
