"""What hyperlr.guard costs: time, compilation and memory of a step, beside the step it guards.

Two networks, 784-500-500-500-10 at batch 100 and a transformer of 12 layers, with plain AdamW and
with MARTHE around Adam, with and without donated buffers. Times are those of the processor; a ratio
is the median of the ratios of interleaved rounds; what is traced and compiled is measured twice,
and the shorter one counts.

    python scripts/benchmarks/guard.py --rounds 60 --json guard.json
"""

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from networks import NETWORKS, Network
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

import hyperlr

GUARDED = {
    "AdamW": optax.with_extra_args_support(optax.adamw(1e-3)),
    "MARTHE": hyperlr.marthe(hyperlr.optimizers.adam, 1e-3, hyper_learning_rate=1e-9),
}


NAMES = ("digits", "deep")


def compiled(tx: Any, network: Network, params: Any, batch: Any, donate: bool) -> tuple[Any, float]:
    """The compiled step, and the seconds of the processor to trace and compile it."""

    def step(params: Any, state: Any, batch: Any) -> tuple[Any, Any]:
        _, grads, extra = hyperlr.value_and_grad(network.loss)(params, batch, state=state)
        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    seconds = []
    for _ in range(2):
        jax.clear_caches()
        start = time.process_time()
        jitted = jax.jit(step, donate_argnums=(0, 1) if donate else ())
        program = jitted.lower(params, jax.eval_shape(tx.init, params), batch).compile()
        seconds.append(time.process_time() - start)
    return program, min(seconds)


def measure(network: str, name: str, donate: bool, rounds: int) -> dict[str, Any]:
    """One row of the table."""
    problem = NETWORKS[network]
    params, batch = problem.init(jax.random.key(0)), problem.batch(jax.random.key(1))
    bare = GUARDED[name]
    txs = (bare, hyperlr.guard(bare))
    steps, seconds = zip(*(compiled(tx, problem, params, batch, donate) for tx in txs), strict=True)
    carries = [(jax.tree.map(jnp.copy, params), tx.init(params)) for tx in txs]
    times = np.zeros((rounds + 2, 2))
    for r, i in itertools.product(range(rounds + 2), range(2)):
        start = time.process_time()
        carries[i] = jax.block_until_ready(steps[i](*carries[i], batch))
        times[r, i] = time.process_time() - start
    times = times[2:]
    memory = [step.memory_analysis().temp_size_in_bytes / 1e6 for step in steps]
    return {
        "network": problem.name,
        "guarded": name,
        "donated": donate,
        "milliseconds": 1e3 * float(np.median(times[:, 0])),
        "time_ratio": float(np.median(times[:, 1] / times[:, 0])),
        "compile_seconds": seconds[0],
        "compile_ratio": seconds[1] / seconds[0],
        "temporary_megabytes": memory,
    }


def table(results: list[dict[str, Any]]) -> Table:
    """The results, one row each."""
    view = Table(title="A step under the guard", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("network", "guarded", "donated"):
        view.add_column(column, no_wrap=True)
    for column in ("ms", "time\nratio", "compile\ns", "compile\nratio", "temp.\nMB"):
        view.add_column(column, justify="right", no_wrap=True)
    for row in results:
        view.add_row(
            row["network"],
            row["guarded"],
            "yes" if row["donated"] else "",
            f"{row['milliseconds']:.2f}",
            f"{row['time_ratio']:.3f}",
            f"{row['compile_seconds']:.2f}",
            f"{row['compile_ratio']:.2f}",
            " → ".join(f"{x:.1f}" for x in row["temporary_megabytes"]),
        )
    return view


def main() -> None:
    """Measures, prints the table, and writes JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60, help="rounds of timing (default 60)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    cases = list(itertools.product(NAMES, GUARDED, (False, True)))
    results = [measure(*case, arguments.rounds) for case in track(cases, "measuring")]
    Console(width=120).print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
