"""Time and memory of the hypergradient of a whole schedule, beside as many plain training steps.

Both ways of checkpointing are compiled for the 784-500-500-500-10 network at batch 100, and run
interleaved with T plain steps of the same inner optimizer: as a loop of T calls of one compiled
step, and as a single scan. A ratio of times is the median of the ratios of the rounds.

    python scripts/benchmarks/offline.py --steps 64 256 1024 --rounds 5 --json offline.json
"""

import argparse
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

import hyperlr
from hyperlr.experiments.networks import mlp

WIDTHS = (784, 500, 500, 500, 10)
BATCH = 100
RATE = 0.05

INNER = {
    "sgd": optax.sgd,
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    "adam": functools.partial(optax.adam, eps_root=1e-12),
}

# A run with more temporaries than this is compiled, but not timed.
MEGABYTES = 8_000


def loss(params: mlp.Params, batch: tuple) -> jax.Array:
    """Cross-entropy of the network on one minibatch."""
    images, labels = batch
    return mlp.cross_entropy(mlp.apply_mlp(params, images), labels)


def draw(key: jax.Array, *shape: int) -> tuple[jax.Array, jax.Array]:
    """Random images and labels."""
    images, labels = jax.random.split(key)
    return (
        jax.random.uniform(images, (*shape, WIDTHS[0])),
        jax.random.randint(labels, shape, 0, WIDTHS[-1]),
    )


def plain_loop(inner: Any, params: mlp.Params, batches: tuple) -> Callable[[], Any]:
    """T calls of one compiled step, with donated buffers, as a training loop makes them."""
    tx = inner(RATE)

    def step(carry: tuple, batch: tuple) -> tuple:
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    num_steps = len(batches[1])
    stack = [jax.tree.map(lambda x, t=t: x[t], batches) for t in range(num_steps)]
    carry = (params, tx.init(params))
    compiled = jax.jit(step, donate_argnums=0).lower(carry, stack[0]).compile()

    def run() -> Any:
        carry = (jax.tree.map(jnp.copy, params), tx.init(params))
        for batch in stack:
            carry = compiled(carry, batch)
        return carry

    return run


def measure(name: str, num_steps: int, rounds: int) -> list[dict[str, Any]]:
    """Compiles both hypergradients of T steps, and times them beside the plain steps."""
    inner = INNER[name]
    keys = jax.random.split(jax.random.key(0), 3)
    params = mlp.init_mlp(keys[0], WIDTHS)
    batches, val_batch = draw(keys[1], num_steps, BATCH), draw(keys[2], BATCH)
    schedule = jnp.full(num_steps, RATE)

    def scan(schedule: jax.Array, params: mlp.Params, batches: tuple, _: tuple) -> Any:
        return hyperlr.unroll(inner, params, schedule, batches, loss, checkpointing="none")

    def hypergradient(checkpointing: str) -> Callable[..., Any]:
        def compute(schedule: Any, params: Any, batches: Any, val_batch: Any) -> Any:
            return hyperlr.schedule_hypergradient(
                inner,
                params,
                schedule,
                batches,
                loss,
                lambda params: loss(params, val_batch),
                checkpointing=checkpointing,
            )

        return compute

    arguments = (schedule, params, batches, val_batch)
    runs = {"loop": plain_loop(inner, params, batches)}
    results = []
    cases = {"scan": scan, "none": hypergradient("none"), "chunk": hypergradient("chunk")}
    for case, function in track(cases.items(), f"compiling T = {num_steps}"):
        start = time.perf_counter()
        compiled = jax.jit(function).lower(*arguments).compile()
        seconds = time.perf_counter() - start
        megabytes = compiled.memory_analysis().temp_size_in_bytes / 1e6
        if megabytes < MEGABYTES:
            runs[case] = functools.partial(compiled, *arguments)
        if case != "scan":
            results.append(
                {
                    "inner": name,
                    "steps": num_steps,
                    "checkpointing": case,
                    "compile_seconds": seconds,
                    "temporary_megabytes": megabytes,
                }
            )
    times: dict[str, list[float]] = {case: [] for case in runs}
    for _ in track(range(rounds + 1), f"timing T = {num_steps}"):
        for case, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[case].append(time.perf_counter() - start)
    # The first round touches every buffer for the first time.
    rounds_of = {case: np.array(values[1:]) for case, values in times.items()}
    for row in results:
        row["plain_milliseconds"] = 1e3 * float(np.median(rounds_of["loop"])) / num_steps
        found = rounds_of.get(row["checkpointing"])
        for plain in ("loop", "scan"):
            row[f"time_ratio_to_{plain}"] = (
                None if found is None else float(np.median(found / rounds_of[plain]))
            )
    return results


def table(results: list[dict[str, Any]]) -> Table:
    """The results, one row each."""
    title = "Hypergradient of T steps of 784-500-500-500-10, beside T plain steps"
    view = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    view.add_column("inner", no_wrap=True)
    view.add_column("T", justify="right")
    view.add_column("checkpointing", no_wrap=True)
    for column in ("plain\nms / step", "time ratio\nto loop", "time ratio\nto scan"):
        view.add_column(column, justify="right")
    for column in ("temp.\nMB", "compile\ns"):
        view.add_column(column, justify="right")
    for row in results:
        ratios = (row["time_ratio_to_loop"], row["time_ratio_to_scan"])
        view.add_row(
            row["inner"],
            str(row["steps"]),
            row["checkpointing"],
            f"{row['plain_milliseconds']:.2f}",
            *("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
            f"{row['temporary_megabytes']:.0f}",
            f"{row['compile_seconds']:.1f}",
        )
    return view


def main() -> None:
    """Measures, prints the table, and writes JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[64, 256, 1024], help="values of T")
    parser.add_argument("--inner", choices=INNER, nargs="+", default=["sgd"], help="optimizers")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of timing (default 5)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    results = [
        row
        for name in arguments.inner
        for num_steps in arguments.steps
        for row in measure(name, num_steps, arguments.rounds)
    ]
    Console().print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
