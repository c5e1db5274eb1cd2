"""Kills real processes at random moments, and compares what they come to with an unharmed run.

Each target is run once in a process of its own, and then again and again in others that are killed
(SIGKILL): every other one at a moment drawn from the time that the unharmed run took, every other
one while it writes a file. Each is started again with the same command, in the same directory; one
that finishes is compared, bit for bit but for wall times, and the next one begins in an empty
directory. The experiments are small ones. The exit status is not 0 if anything differs.

    python scripts/kill_test.py --kills 56
    python scripts/kill_test.py --targets mnist cifar10 --kills 10 --seed 1
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

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

# What one process runs. Imports are in here, so that each process has no others than its own.


def optimize_schedule(out: Path) -> None:
    """LRS-OPT on a quadratic, with a checkpoint every other iteration."""
    import jax
    import jax.numpy as jnp
    import optax

    import hyperlr

    inputs = jax.random.normal(jax.random.key(0), (64, 3))

    def loss(weights: jax.Array, batch: jax.Array) -> jax.Array:
        return jnp.mean((batch @ (weights - 1.0)) ** 2)

    result = hyperlr.optimize_schedule(
        optax.sgd,
        jnp.zeros(3),
        jnp.full(8, 0.01),
        lambda key: inputs[jax.random.randint(key, (8, 4), 0, len(inputs))],
        loss,
        lambda weights: loss(weights, inputs),
        optimizer=optax.adam(0.01),
        num_iterations=41,
        key=jax.random.key(1),
        checkpoint_dir=out / "checkpoints",
        checkpoint_every=2,
    )
    leaves = {str(place): np.asarray(leaf) for place, leaf in enumerate(jax.tree.leaves(result))}
    with (out / "result.npz").open("wb") as file:
        np.savez(file, **leaves)


def mnist(out: Path) -> None:
    """Plain gradient descent, HD and LRS-OPT."""
    from hyperlr.experiments import mnist, mnist_report

    quick = mnist.PRESETS["quick"]
    assert quick.lrs is not None
    settings = quick._replace(
        step_sizes={name: quick.step_sizes[name][:2] for name in ("constant", "hd")},
        lrs=quick.lrs._replace(start="hd", num_iterations=6, evaluate_every=1),
        num_steps=16,
        batch_size=20,
        hidden_widths=(16,),
    )
    mnist_report.run(settings, None, out, Console(quiet=True))


def toy(out: Path) -> None:
    """The surfaces in the plane, for fewer steps."""
    from hyperlr.experiments import toy_report

    toy_report.run(out, Console(quiet=True), num_steps=100)


def adaptive(out: Path) -> None:
    """The adaptive optimizers, for fewer steps."""
    from hyperlr.experiments import adaptive_report

    adaptive_report.run(out, Console(quiet=True), num_steps=120)


def curvature(out: Path) -> None:
    """The measurements of curvature, on a small network."""
    from hyperlr.experiments import curvature, curvature_report

    settings = curvature.Settings(
        quadratic_steps=200,
        network_steps=12,
        marthe_steps=24,
        sharpness_every=4,
        hidden_widths=(8,),
    )
    curvature_report.run(None, out, Console(quiet=True), settings)


def robustness(out: Path) -> None:
    """Every method under momentum alone, on a small network."""
    from hyperlr.experiments import robustness, robustness_report

    robustness.INNER = {"momentum": robustness.INNER["momentum"]}
    robustness.BETAS = (1e-4,)
    settings = robustness.Settings(
        num_seeds=1, num_steps=8, batch_size=20, hidden_widths=(8,), grid=(1e-3, 0.1)
    )
    robustness_report.run(settings, None, out, Console(quiet=True))


def cifar10(out: Path) -> None:
    """A fixed schedule, and MARTHE with the search for its step size, on noise."""
    _cifar("cifar10", "momentum", out)


def cifar100(out: Path) -> None:
    """The same, with a hundred classes and Adam."""
    _cifar("cifar100", "adam", out)


def _cifar(name: str, inner: str, out: Path) -> None:
    import flax.linen as nn
    import jax

    from hyperlr.experiments import cifar

    class Small(nn.Module):
        """Has batch normalization, as the large ones, and hardly any weights."""

        num_classes: int
        width: int

        @nn.compact
        def __call__(self, images: jax.Array, train: bool) -> jax.Array:
            hidden = nn.Dense(self.width)(images[:, ::8, ::8, :].reshape(len(images), -1))
            return nn.Dense(self.num_classes)(
                nn.relu(nn.BatchNorm(use_running_average=not train)(hidden))
            )

    task = cifar.make_task(name, inner)._replace(network=Small)
    settings = cifar.Settings(
        num_seeds=2,
        methods=("staircase", "marthe"),
        num_epochs=8,
        steps_per_epoch=3,
        batch_size=8,
        width=4,
        eval_epochs=2,
        checkpoint_epochs=1,
        search_steps=6,
    )
    data_dir = out.with_name("data")
    _write_noise(data_dir, task.form)
    cifar.run(task, settings, data_dir, out, Console(quiet=True), resume=True)


def _write_noise(data_dir: Path, form: Any) -> None:
    """Writes a data set of noise in the binary format."""
    from hyperlr.experiments import results

    folder = data_dir / form.folder
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for file, num in ((form.train_files[0], 120), (form.test_file, 20)):
        records = rng.integers(0, 256, (num, form.label_bytes + 3072), dtype=np.uint8)
        records[:, : form.label_bytes] %= 10
        with results.atomic_file(folder / file) as handle:
            handle.write(records.tobytes())


TARGETS: dict[str, Callable[[Path], None]] = {
    target.__name__: target
    for target in (
        optimize_schedule,
        mnist,
        toy,
        robustness,
        adaptive,
        curvature,
        cifar10,
        cifar100,
    )
}


# What kills them.


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
      target: key of TARGETS.
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
            [sys.executable, __file__, "--child", target, str(out)], stdout=log, stderr=log
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
    folders = (out, out / "parts", out / "checkpoints", *out.glob("checkpoints/*-*"))
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
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--kills", type=int, default=56, help="in all, over the targets")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--child", nargs=2, metavar=("TARGET", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        target, out = arguments.child
        TARGETS[target](Path(out))
        return 0
    rng, console, outcomes = random.Random(arguments.seed), Console(), []
    with Progress(console=console) as progress, tempfile.TemporaryDirectory() as folder:
        task = progress.add_task("", total=arguments.kills)
        for place, target in enumerate(arguments.targets):
            progress.update(task, description=target)
            share, rest = divmod(arguments.kills, len(arguments.targets))
            own = Path(folder) / target
            own.mkdir()
            outcomes.append(
                kill_repeatedly(
                    target, share + (place < rest), rng, own, lambda: progress.advance(task)
                )
            )
            if outcomes[-1].differences:
                console.print(f"{target} differs in {', '.join(outcomes[-1].differences[:5])}")
    console.print(table(outcomes))
    return 1 if any(outcome.differences for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
