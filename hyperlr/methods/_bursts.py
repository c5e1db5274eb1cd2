"""When to look at the rate: at first in all steps, and then in bursts."""

import dataclasses
from typing import Any

from hyperlr import _checks


@dataclasses.dataclass(frozen=True)
class Bursts:
    """Says at which steps the tangent and η move, for ``every`` of :func:`hyperlr.online`.

    At all of the first ones, in which a rate has the longest way to go, and then at the first
    ``length`` of every ``period``. Z is held between two bursts, and goes on from where it was. A
    burst must be long enough for what Z has of the burst before to fade.

    Called with a step count (int32 scalar, or an array of any shape), it returns whether that step
    is one (bool of that shape). Two with the same numbers are equal.

    Attributes:
      first: the number of steps at the beginning, all of which move them.
      length: of a burst, in steps, at least 1.
      period: the number of steps from one burst to the next, at least ``length``.

    Raises:
      TypeError, ValueError: a number is not an integer, or is out of range.

    Example:
      >>> import numpy as np
      >>> import hyperlr
      >>> hyperlr.Bursts(first=2, length=1, period=4)(np.arange(9)).astype(int).tolist()
      [1, 1, 0, 0, 1, 0, 0, 0, 1]
    """

    first: int = 100
    length: int = 8
    period: int = 64

    def __post_init__(self) -> None:
        """Checks the numbers."""
        _checks.check_count("first", self.first, least=0)
        _checks.check_count("length", self.length)
        _checks.check_count("period", self.period, least=self.length)

    def __call__(self, step_count: Any) -> Any:
        """Whether that step moves the tangent and η."""
        return (step_count < self.first) | (step_count % self.period < self.length)
