"""What an experiment is: pure functions of settings and data, which the runner puts together.

An experiment says in `parts` which pieces of work it consists of. What they come to goes through
`summarize`, `figures` and `table`. None of these reads or writes a file, or prints: that is all the
runner's.
"""

import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

Kind = TypeVar("Kind")
Arrays = Mapping[str, Any]
"""NumPy arrays and numbers by name: what a part comes to."""


class Work(NamedTuple):
    """What a part is given when it is computed; the defaults serve where there is no runner."""

    needed: Mapping[str, Arrays] = {}
    """Name of another part → what it came to."""
    advance: Callable[[float], None] = lambda share: None
    """Called with the share of the part that was done since the last call; 1 in all."""
    log: Callable[[Mapping[str, float]], None] = lambda scalars: None
    """Called with scalars worth watching on the way, `step` among them."""
    checkpoints: Path | None = None
    """Where a long part may keep checkpoints (`core.store.open_checkpoints`); None: nowhere."""


class Part(NamedTuple):
    """A piece of work, stored as soon as it is finished."""

    name: str
    """Unlike that of any other part of the experiment."""
    label: str
    """What the progress bar says."""
    cost: float
    """In any unit that all parts of the experiment share, such as plain steps of one network."""
    settings: Mapping[str, Any]
    """All that determines the part, besides the data and what it needs."""
    compute: Callable[[Work], Any]
    """Returns a dict of arrays, or a NamedTuple that `pack` makes one of."""
    needs: Mapping[str, Sequence[str]] = {}
    """Name of a part before this one → those of its arrays that this one reads."""


class Results(NamedTuple):
    """What all parts came to."""

    settings: Any
    data: Any
    arrays: Mapping[str, Arrays]
    """Name of the part → its arrays, and `seconds`, the wall time it took."""

    def read(self, name: str, kind: type[Kind]) -> Kind:
        """Returns what a part came to, as the NamedTuple that it returned."""
        return unpack(kind, self.arrays[name])


class Summary(NamedTuple):
    """The results in numbers."""

    methods: Mapping[str, Any]
    """The `methods` of metrics.json."""
    arrays: Mapping[str, Mapping[str, np.ndarray]]
    """Name of an .npz file → its arrays; `schedules` among them."""
    config: Mapping[str, Any] = {}
    """What `config` of metrics.json tells besides the settings; the runner adds what it knows."""


class Shown(NamedTuple):
    """A figure, and what to say of it on the page beside it."""

    name: str
    """Of the file, without .png."""
    title: str
    figure: Figure
    text: str
    """What is to be seen; an empty line separates paragraphs."""


class Experiment(NamedTuple):
    """An experiment; `settings` is a NamedTuple, and `data` whatever `load` returns."""

    name: str
    title: str
    """Of the page beside the figures."""
    presets: Mapping[str, Any]
    """`smoke`, `quick` or `paper` → settings."""
    parts: Callable[[Any, Any], Iterable[Part]]
    """`parts(settings, data)`, each after those that it needs."""
    summarize: Callable[[Results], Summary]
    figures: Callable[[Results], Sequence[Shown]]
    table: Callable[[Summary], Sequence[Table]]
    load: Callable[[Path | None], Any] = lambda data_dir: None
    """Reads the data from `--data-dir`, None for the default place; an experiment that makes its
    data itself has None."""
    unit_seconds: Callable[[Any, Any], float] | None = None
    """`unit_seconds(settings, data)`: what a cost of 1 takes on this machine, about; None: not
    known before the work has begun."""


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
