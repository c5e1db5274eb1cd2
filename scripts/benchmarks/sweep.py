"""A grid of seeds x β x η_0 as one program, its runs divided among the devices.

Every run trains a network on the packaged digits with MARTHE at a fixed β. The grid is one compiled
program: each device takes its runs a few at a time, and no device hears of another. Timed beside
the same runs one after another, each of which may use the whole machine, in alternation, so that
noise falls on both. On CPU, the devices are virtual, one for each core:

    XLA_FLAGS=--xla_force_host_platform_device_count=2 python scripts/benchmarks/sweep.py
"""

import argparse
import functools
import itertools
import json
import operator
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

import hyperlr
from hyperlr.experiments import training
from hyperlr.experiments.data import Data, load_packaged

HYPER_LEARNING_RATES = (1e-4, 1e-3)
LEARNING_RATES = (0.01, 0.05)

Runs = tuple[Any, jax.Array, jax.Array, jax.Array]
Train = Callable[[Runs], Any]


def make_optimizer(sizes: jax.Array) -> optax.GradientTransformationExtraArgs:
    """MARTHE with (β, η_0)."""
    return hyperlr.marthe(optax.sgd, sizes[1], hyper_learning_rate=sizes[0])


def make_runs(data: Data, widths: Sequence[int], seeds: int, steps: int, batch: int) -> Runs:
    """The initial weights, (β, η_0) and minibatches of every run; each array leads with the run."""
    grid = list(itertools.product(range(seeds), HYPER_LEARNING_RATES, LEARNING_RATES))
    lanes = training.make_lanes(
        data,
        [seed for seed, *_ in grid],
        [sizes for _, *sizes in grid],
        num_steps=steps,
        batch_size=batch,
        hidden_widths=widths,
    )
    batches = (jnp.asarray(lanes.train_batches), jnp.asarray(lanes.val_batches))
    return (lanes.params, lanes.step_sizes, *batches)


def train_one(images: jax.Array, labels: jax.Array, run: Runs) -> tuple[jax.Array, jax.Array]:
    """Training losses and learning rates of one run, [T] each."""
    params, sizes, train, val = run
    state = make_optimizer(sizes).init(params)
    _, _, records = training.train_steps(
        make_optimizer, params, state, sizes, images, labels, train, val
    )
    return records["train_loss"], records["learning_rate"]


def one_after_another(data: Data, runs: Runs) -> Callable[[], Any]:
    """The runs by a program for one of them, which is compiled once."""
    images, labels = jnp.asarray(data.images), jnp.asarray(data.labels)
    train = jax.jit(train_one)
    each = [jax.tree.map(operator.itemgetter(k), runs) for k in range(len(runs[1]))]

    def train_all() -> Any:
        found = [train(images, labels, run) for run in each]
        return jax.block_until_ready(found)

    return train_all


def divided(data: Data, runs: Runs, at_once: int) -> tuple[Callable[[], Any], set[str]]:
    """All runs by one program, ``at_once`` side by side on a device; and its collectives."""
    mesh = jax.make_mesh((jax.device_count(),), ("run",), axis_types=(AxisType.Auto,))
    everywhere, by_run = PartitionSpec(), PartitionSpec("run")
    placed = jax.device_put(runs, NamedSharding(mesh, by_run))
    images, labels = jax.device_put((data.images, data.labels), NamedSharding(mesh, everywhere))

    # Each device goes through its runs at its own pace: shard_map, and not a loop over rounds that
    # are divided, in which every round would wait for the slowest.
    def train_share(images: jax.Array, labels: jax.Array, runs: Runs) -> Any:
        train = functools.partial(train_one, images, labels)
        return jax.lax.map(train, runs, batch_size=None if at_once == 1 else at_once)

    train = jax.shard_map(
        train_share,
        mesh=mesh,
        in_specs=(everywhere, everywhere, by_run),
        out_specs=by_run,
        check_vma=False,  # the first state of a run does not depend on the run yet
    )
    compiled = jax.jit(train).lower(images, labels, placed).compile()
    kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    collectives = set(re.findall(rf" ({kinds})(?:-start)?\(", compiled.as_text()))
    return lambda: jax.block_until_ready(compiled(images, labels, placed)), collectives


def measure(
    data: Data, widths: Sequence[int], seeds: int, steps: int, batch: int, rounds: int, at_once: int
) -> dict[str, Any]:
    """Medians over the rounds, and how far the results of the two ways are apart."""
    runs = make_runs(data, widths, seeds, steps, batch)
    sequential = one_after_another(data, runs)
    parallel, collectives = divided(data, runs, at_once)
    # The first call compiles the one, and touches the buffers of both.
    expected = [np.stack(x) for x in zip(*sequential(), strict=True)]
    found = [np.asarray(x).reshape(y.shape) for x, y in zip(parallel(), expected, strict=True)]
    seconds = np.zeros((rounds, 2))
    for r in track(range(rounds), f"timing {'-'.join(map(str, widths))}"):
        order = (0, 1) if r % 2 else (1, 0)
        for i in order:
            start = time.perf_counter()
            (sequential, parallel)[i]()
            seconds[r, i] = time.perf_counter() - start
    return {
        "hidden": list(widths),
        "runs": len(runs[1]),
        "steps": steps,
        "sequential_seconds": float(np.median(seconds[:, 0])),
        "divided_seconds": float(np.median(seconds[:, 1])),
        "speedup": float(np.median(seconds[:, 0] / seconds[:, 1])),
        "collectives": sorted(collectives),
        "largest_difference_of_losses": float(np.max(np.abs(found[0] - expected[0]))),
    }


def table(results: Sequence[dict[str, Any]]) -> Table:
    """One row for each network."""
    title = f"A sweep over {jax.device_count()} devices, beside its runs one after another"
    view = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    view.add_column("hidden units", no_wrap=True)
    for column in ("runs", "steps", "in turn\ns", "divided\ns", "speed-up", "collectives"):
        view.add_column(column, justify="right", no_wrap=True)
    for row in results:
        view.add_row(
            "-".join(map(str, row["hidden"])),
            str(row["runs"]),
            str(row["steps"]),
            f"{row['sequential_seconds']:.2f}",
            f"{row['divided_seconds']:.2f}",
            f"{row['speedup']:.2f}",
            ", ".join(row["collectives"]) or "none",
        )
    return view


def main() -> None:
    """Measures, prints the table, and writes JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=4, help="seeds, times 4 runs (default 4)")
    parser.add_argument("--steps", type=int, default=100, help="steps of a run (default 100)")
    parser.add_argument("--batch", type=int, default=100, help="images in a minibatch")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of timing (default 7)")
    parser.add_argument("--at-once", type=int, default=1, help="runs side by side on a device")
    parser.add_argument("--hidden", nargs="+", default=["32,32", "128,128", "500,500,500"])
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    total = arguments.seeds * len(HYPER_LEARNING_RATES) * len(LEARNING_RATES)
    if total % (arguments.at_once * jax.device_count()):
        parser.error(
            f"{total} runs cannot be divided among {jax.device_count()} devices, "
            f"{arguments.at_once} at once: change --seeds or --at-once"
        )
    data = load_packaged()
    results = [
        measure(
            data,
            [int(width) for width in hidden.split(",")],
            arguments.seeds,
            arguments.steps,
            arguments.batch,
            arguments.rounds,
            arguments.at_once,
        )
        for hidden in arguments.hidden
    ]
    Console().print(table(results))
    for row in results:
        print(f"largest difference of a loss: {row['largest_difference_of_losses']:.1e}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
