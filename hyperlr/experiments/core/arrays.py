"""NamedTuples as flat dicts of arrays, as files hold them, and back."""

import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

Kind = TypeVar("Kind")


def pack(value: Any) -> dict[str, Any]:
    """Returns a NamedTuple as one flat dict, `field` or `field/entry` → array or number.

    Args:
      value: its fields are arrays, numbers, dicts of them, or such NamedTuples. A dict is returned
        as it is.
    """
    fields = value._asdict() if hasattr(value, "_asdict") else value
    flat: dict[str, Any] = {}
    for name, entry in fields.items():
        if hasattr(entry, "_asdict") or isinstance(entry, Mapping):
            flat |= {f"{name}/{key}": x for key, x in pack(entry).items()}
        else:
            flat[name] = entry
    return flat


def unpack(kind: type[Kind], arrays: Mapping[str, Any]) -> Kind:
    """Returns the NamedTuple that `pack` made a dict of; it may hold other arrays, too."""
    fields = {}
    for name, of_type in typing.get_type_hints(kind).items():
        prefix = f"{name}/"
        below = {key.removeprefix(prefix): x for key, x in arrays.items() if key.startswith(prefix)}
        if hasattr(of_type, "_fields"):
            fields[name] = unpack(of_type, below)
        elif typing.get_origin(of_type) is dict:
            fields[name] = below
        else:
            fields[name] = np.asarray(arrays[name])[()]  # a number is an array without axes
    return kind(**fields)
