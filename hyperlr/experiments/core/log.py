"""The evaluations of a long run as they come: lines of JSON and, if asked, TensorBoard."""

import json
import math
from pathlib import Path
from types import TracebackType
from typing import Any

from hyperlr.experiments.errors import InputError


class Log:
    """A file metrics.jsonl, and an event file of TensorBoard for each run."""

    def __init__(self, out: Path, tensorboard: bool) -> None:
        """Starts the files anew; a run taken up from a checkpoint writes its past again.

        Args:
          out: directory of the results.
          tensorboard: whether to write event files, too, in `out/tensorboard`.

        Raises:
          InputError: TensorBoard is asked for and tensorboardX is not installed.
        """
        self._make_writer = _writer_class() if tensorboard else None
        self._folder = out / "tensorboard"
        self._writers: dict[str, Any] = {}
        self._file = (out / "metrics.jsonl").open("w", encoding="utf-8")

    def __enter__(self) -> "Log":
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the files."""
        self._file.close()
        for writer in self._writers.values():
            writer.close()

    def write(self, method: str, seed: int, scalars: dict[str, float]) -> None:
        """Writes the scalars of one evaluation, `step` among them; what is not finite is null."""
        plain = {k: x if math.isfinite(x) else None for k, x in scalars.items()}
        line = {"method": method, "seed": seed, **plain}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        if self._make_writer is None:
            return
        run = f"{method}-{seed}"
        if run not in self._writers:
            self._writers[run] = self._make_writer(str(self._folder / run))
        for name, value in scalars.items():
            if name != "step" and math.isfinite(value):
                self._writers[run].add_scalar(name, value, int(scalars["step"]))


def _writer_class() -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise InputError(
            "--tensorboard needs tensorboardX; install the extra: "
            'pip install "hyperlr[tensorboard]"'
        ) from error
    return SummaryWriter
