"""The one progress bar: how far the work is, the time gone, and the time left."""

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn
from rich.text import Text


def bar(console: Console, seconds: float | None = None) -> Progress:
    """Returns a bar that is shown on the console; the work will take so long, if that is known."""
    columns = (TextColumn("{task.description:24}"), BarColumn(), TaskProgressColumn())
    return Progress(*columns, _Times(seconds), console=console)


class _Times(ProgressColumn):
    """The time gone, and the time left at the pace so far."""

    def __init__(self, seconds: float | None) -> None:
        super().__init__()
        self._seconds = seconds

    def render(self, task: Task) -> Text:
        elapsed, share = task.elapsed or 0.0, task.percentage / 100
        left = None if self._seconds is None else max(0.0, self._seconds - elapsed)
        if share:
            left = elapsed * (1 - share) / share
        return Text(f"elapsed {clock(elapsed)}" + ("" if left is None else f", left {clock(left)}"))


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
