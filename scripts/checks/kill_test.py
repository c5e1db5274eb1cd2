"""Kills real processes at random moments, and compares what they come to with an unharmed run.

Each target is run once in a process of its own, and then again and again in others that are killed
(SIGKILL): every other one at a moment drawn from the time that the unharmed run took, every other
one while it writes a file. Each is started again with the same command, in the same directory; one
that finishes is compared, bit for bit but for wall times, and the next one begins in an empty
directory. The experiments are small ones. The exit status is not 0 if anything differs.

    python scripts/checks/kill_test.py --kills 56
    python scripts/checks/kill_test.py --targets mnist cifar10 --kills 10 --seed 1
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import kill_targets
import numpy as np
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table


class Outcome(NamedTuple):
    """What came of one target."""

    target: str
    kills: int
    writing: int
    """How many of them met a file that was being written."""
    resumes: int
    """How many processes found files of one that was killed."""
    finished: int
    """How many runs came to their end, each after some kills, or none."""
    differences: list[str]
    """What the finished ones have that the unharmed one has not, or otherwise."""
    seconds: float


def kill_repeatedly(
    target: str,
    num_kills: int,
    rng: random.Random,
    folder: Path,
    on_kill: Callable[[], None] = lambda: None,
) -> Outcome:
    """Runs a target unharmed, kills it so often, lets it finish, and compares.

    Args:
      target: key of kill_targets.TARGETS.
      num_kills: how often.
      rng: draws the moments.
      folder: an empty one, for all files.
      on_kill: called after every kill.

    Raises:
      RuntimeError: a process failed by itself.
    """
    begun = time.perf_counter()
    whole = folder / "whole"
    process = _start(target, whole)
    _await_end(process, target, whole)
    duration = time.perf_counter() - begun
    expected = content(whole)
    kills = writing = resumes = finished = 0
    differences: list[str] = []
    while True:
        out = folder / f"killed{finished}"
        process = _start(target, out)
        last = kills == num_kills
        moment = _wait(process, out, rng, duration, writes=kills % 2 == 1) if not last else None
        if moment is not None:
            process.kill()
            process.wait()
            kills += 1
            writing += moment == "writing"
            resumes += any(path.is_file() for path in out.rglob("*"))
            on_kill()
            continue
        _await_end(process, target, out)
        finished += 1
        differences += compare(content(out), expected)
        shutil.rmtree(out)
        if last:
            break
    return Outcome(
        target, kills, writing, resumes, finished, differences, time.perf_counter() - begun
    )


def content(out: Path) -> dict[str, Any]:
    """Returns all numbers that a run came to, and the names of its files, without wall times."""
    found: dict[str, Any] = {}
    for folder in (out, out / "parts"):
        for path in sorted(folder.glob("*")) if folder.is_dir() else ():
            name = str(path.relative_to(out))
            found[name] = path.suffix
            if path.suffix == ".npz":
                with np.load(path) as arrays:
                    found |= {f"{name}: {key}": arrays[key] for key in arrays}
            elif path.suffix == ".json":
                found |= _entries(f"{name}: ", json.loads(path.read_text()))
            elif path.suffix in (".jsonl", ".md"):
                found[name] = path.read_text()
    # The digest of a part covers its wall time.
    return {
        key: value for key, value in found.items() if not key.endswith(("seconds", ".npz: digest"))
    }


def _entries(prefix: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        k: x for key, entry in value.items() for k, x in _entries(f"{prefix}/{key}", entry).items()
    }


def compare(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Returns what is not in both, to the last bit."""
    names = sorted({*found, *expected})
    return [
        name
        for name in names
        if name not in found or name not in expected or not _same(found[name], expected[name])
    ]


def _same(first: Any, second: Any) -> bool:
    if not isinstance(first, np.ndarray):
        return first == second
    return (first.dtype, first.shape) == (second.dtype, second.shape) and (
        first.tobytes() == second.tobytes()
    )


def _start(target: str, out: Path) -> "subprocess.Popen[bytes]":
    out.mkdir(exist_ok=True)
    with out.with_name(f"{out.name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, kill_targets.__file__, target, str(out)], stdout=log, stderr=log
        )


def _wait(
    process: "subprocess.Popen[bytes]",
    out: Path,
    rng: random.Random,
    duration: float,
    *,
    writes: bool,
) -> str | None:
    """Waits for the moment of the kill, and returns what it is; None if the process ends before."""
    moment = time.perf_counter() + duration * rng.random()
    while time.perf_counter() < moment:
        if process.poll() is not None:
            return None
        time.sleep(0.01)
    while writes and not any("tmp" in path.name for path in _files(out)):
        if process.poll() is not None:
            return None
        time.sleep(0.0005)
    time.sleep(0.002 * rng.random() if writes else 0.0)
    if process.poll() is not None:
        return None
    return "writing" if any("tmp" in path.name for path in _files(out)) else "between"


def _files(out: Path) -> list[Path]:
    """What lies where a run writes; files come and go."""
    folders = (out, out / "parts", out / "checkpoints", *out.glob("parts/*.checkpoints"))
    found = []
    for folder in folders:
        try:
            found += list(folder.iterdir())
        except OSError:
            continue
    return found


def _await_end(process: "subprocess.Popen[bytes]", target: str, out: Path) -> None:
    if process.wait() != 0:
        log = out.with_name(f"{out.name}.log").read_text()
        raise RuntimeError(f"{target} ended with status {process.returncode}:\n{log[-3000:]}")


def table(outcomes: Sequence[Outcome]) -> Table:
    """Returns the table of all targets."""
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("target", no_wrap=True)
    headings = ("kills", "writing", "resumes", "finished", "identical", "seconds")
    for heading in headings:
        shown.add_column(heading, justify="right")
    for outcome in outcomes:
        shown.add_row(
            outcome.target,
            *map(str, outcome[1:5]),
            "no" if outcome.differences else "yes",
            f"{outcome.seconds:.0f}",
        )
    return shown


def main() -> int:
    """Runs what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--targets", nargs="+", choices=kill_targets.TARGETS, default=list(kill_targets.TARGETS)
    )
    parser.add_argument("--kills", type=int, default=56, help="in all, over the targets")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    rng, console, outcomes = random.Random(arguments.seed), Console(), []
    with Progress(console=console) as progress, tempfile.TemporaryDirectory() as folder:
        task = progress.add_task("", total=arguments.kills)
        for index, target in enumerate(arguments.targets):
            progress.update(task, description=target)
            share, rest = divmod(arguments.kills, len(arguments.targets))
            own = Path(folder) / target
            own.mkdir()
            outcomes.append(
                kill_repeatedly(
                    target, share + (index < rest), rng, own, lambda: progress.advance(task)
                )
            )
            if outcomes[-1].differences:
                console.print(f"{target} differs in {', '.join(outcomes[-1].differences[:5])}")
    console.print(table(outcomes))
    return 1 if any(outcome.differences for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
