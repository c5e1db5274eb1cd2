"""What is worth watching of a long run, as it comes: lines of JSON and, if asked, TensorBoard."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hyperlr.experiments.core.errors import InputError


class Log:
    """The file metrics.jsonl, and a TensorBoard event file for each part.

    A part that goes on from a checkpoint tells again what it told before; no line comes twice.
    """

    def __init__(self, out: Path, tensorboard: bool) -> None:
        """Goes on with the file of earlier runs in `out`, if there is one.

        Raises:
          InputError: TensorBoard is asked for and tensorboardX is not installed.
        """
        self._make_writer: Any = None
        if tensorboard:
            try:
                from tensorboardX import SummaryWriter
            except ImportError as error:
                raise InputError(
                    "--tensorboard needs tensorboardX; install the extra: "
                    'pip install "hyperlr[tensorboard]"'
                ) from error
            self._make_writer = SummaryWriter
        self._folder, self._path = out / "tensorboard", out / "metrics.jsonl"
        self._writers: dict[str, Any] = {}
        before = self._path.read_text(encoding="utf-8") if self._path.is_file() else ""
        self._told = set(_parts_and_steps(before))
        self._unfinished = bool(before) and not before.endswith("\n")

    def write(self, part: str, scalars: Mapping[str, float]) -> None:
        """Writes the scalars of one step, `step` among them; what is not finite is null.

        `part` is the name of the part's file, without its ending: parts of other settings differ.
        """
        step = int(scalars["step"])
        if (part, step) in self._told:
            return
        self._told.add((part, step))
        finite = {k: float(x) if math.isfinite(x) else None for k, x in scalars.items()}
        line = {"part": part, **finite, "step": step}
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n" * self._unfinished + json.dumps(line, allow_nan=False) + "\n")
        self._unfinished = False
        if self._make_writer is None:
            return
        if part not in self._writers:
            self._writers[part] = self._make_writer(str(self._folder / part))
        for name, value in finite.items():
            if name != "step" and value is not None:
                self._writers[part].add_scalar(name, value, step)

    def close(self) -> None:
        """Closes the event files."""
        for writer in self._writers.values():
            writer.close()


def _parts_and_steps(text: str) -> Iterator[tuple[str, int]]:
    """What the lines tell of; one that a killed process left unfinished is no line."""
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            yield entry["part"], entry["step"]
        except (ValueError, KeyError, TypeError):
            continue
