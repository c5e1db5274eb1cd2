"""The one progress bar: how far the work is, the time gone, and the time left."""

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
)
from rich.text import Text


class Bar:
    """A bar over the cost of all that is to be done; a context manager."""

    def __init__(self, console: Console, total: float, seconds: float | None = None) -> None:
        """Args are where it is shown, the cost of all, and how long that will take, if known."""
        self._progress = Progress(
            TextColumn("{task.description:24}"),
            BarColumn(),
            TaskProgressColumn(),
            _Times(seconds),
            console=console,
        )
        self._task = self._progress.add_task("", total=total)

    def __enter__(self) -> "Bar":
        """Shows the bar."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leaves the bar as it is."""
        self._progress.stop()

    def begin(self, label: str) -> None:
        """Says what is being done."""
        self._progress.update(self._task, description=label)

    def advance(self, cost: float) -> None:
        """Adds what was done since the last call."""
        self._progress.advance(self._task, cost)


class _Times(ProgressColumn):
    """The time gone, and the time left at the pace so far."""

    def __init__(self, seconds: float | None) -> None:
        super().__init__()
        self._seconds = seconds

    def render(self, task: Task) -> Text:
        elapsed, share = task.elapsed or 0.0, task.percentage / 100
        text = f"elapsed {clock(elapsed)}"
        if share:
            return Text(f"{text}, left {clock(elapsed * (1 - share) / share)}")
        if self._seconds is not None:
            return Text(f"{text}, left {clock(max(0.0, self._seconds - elapsed))}")
        return Text(text)


def clock(seconds: float) -> str:
    """Returns a duration as a clock shows it.

    >>> clock(34), clock(291.2), clock(12_000)
    ('0:34', '4:51', '3:20:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def in_words(seconds: float) -> str:
    """Returns a duration as `3 h 20 min`, `12 min` or `40 s`.

    >>> in_words(12_000), in_words(100), in_words(3), in_words(0.2)
    ('3 h 20 min', '2 min', '3 s', '1 s')
    """
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
