"""An hour of training in one process: does memory grow, is anything compiled again, do types drift?

Trains the 784-500-500-500-10 network of `hyperlr mnist` on the digits that come with the install,
512 steps on fresh minibatches with one method under the guard, then anew from other weights with
the next. A line of the table is the state of the process at that time.

    python scripts/checks/soak.py --minutes 60 --json soak.json

It fails where, after the first round of all methods, anything is compiled, the arrays that JAX
holds have become more, or a dtype has changed; and where the memory of the process between rounds
is more than 1% larger in the last quarter of the time than in the one before (medians: the
allocator gives back pages when it likes; a leak never stops).
"""

import argparse
import functools
import itertools
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import hyperlr
from hyperlr.experiments import data, training
from hyperlr.experiments.data import batches
from hyperlr.experiments.networks import mlp

NUM_STEPS, BATCH = 512, 100
METHODS = {
    "hd": functools.partial(hyperlr.hd, optax.sgd, 0.01, 1e-4),
    "rtho": functools.partial(hyperlr.rtho, optax.sgd, 0.01, 1e-4),
    "marthe": functools.partial(hyperlr.marthe, optax.sgd, 0.01, meta_learning_rate=1e-8),
    "marthe_scale_free": lambda: hyperlr.marthe(
        functools.partial(optax.sgd, momentum=0.9),
        0.01,
        discount=0.99,
        hyper_optimizer=hyperlr.exponentiated_gradient(0.1),
    ),
}


class Sample(NamedTuple):
    """The state of the process."""

    minutes: float
    steps: int
    resident_megabytes: float
    peak_megabytes: float
    live_arrays: int
    live_megabytes: float
    compilations: int
    types: str
    loss: float


def types_of(tree: Any) -> str:
    """The dtypes and weak types of a tree, each once."""
    leaves = (jax.typeof(x) for x in jax.tree.leaves(tree))
    return " ".join(sorted({f"{x.dtype}{'*' if x.weak_type else ''}" for x in leaves}))


def resident_megabytes() -> float:
    """The memory of this process that is in RAM now, as Linux counts it."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def make_step(tx: Any) -> Any:
    """One compiled step, as a user's loop has it."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, images: Any, labels: Any, train: Any, val: Any) -> Any:
        def value_fn(params: Any) -> jax.Array:
            return training.loss_fn(params, images, labels, train)

        value, grads = jax.value_and_grad(value_fn)(params)
        val_grad = jax.grad(training.loss_fn)(params, images, labels, val)
        updates, state = tx.update(
            grads, state, params, value=value, value_fn=value_fn, val_grad=val_grad
        )
        return optax.apply_updates(params, updates), state, value

    return step


def main() -> int:
    """Trains until the time is up, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default 60)")
    parser.add_argument("--json", type=Path, help="also write the samples to this file")
    arguments = parser.parse_args()
    compilations = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: (
            compilations.append(seconds) if "backend_compile" in event else None
        )
    )
    digits = data.load_packaged()
    pixels, labels = jnp.asarray(digits.images), jnp.asarray(digits.labels)
    widths = (pixels.shape[1], *mlp.HIDDEN_WIDTHS, digits.num_classes)
    optimizers = {name: hyperlr.guard(make()) for name, make in METHODS.items()}
    steps = {name: make_step(tx) for name, tx in optimizers.items()}
    init = jax.jit(lambda key: mlp.init_mlp(key, widths))
    inits = {name: jax.jit(tx.init) for name, tx in optimizers.items()}

    start, samples, num_steps = time.perf_counter(), [], 0
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("soaking", total=60 * arguments.minutes)
        for round_ in itertools.count():
            types = set()
            for k, name in enumerate(METHODS):
                rng = np.random.default_rng([round_, k])
                train_indices, val_indices = data.split_indices(digits, round_)
                train = batches.epoch_batches(rng, train_indices, NUM_STEPS, BATCH)
                val = batches.independent_batches(rng, val_indices, NUM_STEPS, BATCH)
                params = init(jax.random.key(round_))
                state = inits[name](params)
                before = types_of((params, state))
                for pair in zip(train, val, strict=True):
                    params, state, loss = steps[name](params, state, pixels, labels, *pair)
                    # As a loop does that logs it. Steps that pile up would each hold memory.
                    loss.block_until_ready()
                num_steps += NUM_STEPS
                loss = float(loss)
                types.add("as before" if types_of((params, state)) == before else "drifted")
                del params, state
                progress.update(bar, completed=time.perf_counter() - start)
            live = jax.live_arrays()
            samples.append(
                Sample(
                    (time.perf_counter() - start) / 60,
                    num_steps,
                    resident_megabytes(),
                    resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                    len(live),
                    sum(x.nbytes for x in live) / 1e6,
                    len(compilations),
                    " ".join(sorted(types)),
                    loss,
                )
            )
            if samples[-1].minutes >= arguments.minutes and len(samples) > 1:
                break
    Console().print(table(samples))
    if arguments.json:
        arguments.json.write_text(json.dumps([s._asdict() for s in samples], indent=2) + "\n")
    *_, third, fourth = np.array_split([s.resident_megabytes for s in samples], 4)
    last = samples[-1]
    failed = [
        name
        for name, holds in {
            "memory": np.median(fourth) <= 1.01 * np.median(third),
            "live arrays": last.live_arrays == samples[0].live_arrays,
            "compilations": last.compilations == samples[0].compilations,
            "dtypes": all(s.types == "as before" for s in samples),
            "loss": all(np.isfinite(s.loss) for s in samples),
        }.items()
        if not holds
    ]
    Console().print(
        f"failed: {', '.join(failed)}" if failed else "nothing grew, compiled or drifted"
    )
    return bool(failed)


def table(samples: list[Sample]) -> Table:
    """About a dozen of the samples."""
    view = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in (
        "minutes",
        "steps",
        "now\nMB",
        "peak\nMB",
        "live\narrays",
        "live\nMB",
        "compi-\nlations",
        "dtypes",
        "loss",
    ):
        view.add_column(heading, justify="right", no_wrap=True)
    chosen = sorted({round(i) for i in np.linspace(0, len(samples) - 1, 13)})
    for s in (samples[i] for i in chosen):
        view.add_row(
            f"{s.minutes:.1f}", str(s.steps), f"{s.resident_megabytes:.0f}",
            f"{s.peak_megabytes:.0f}", str(s.live_arrays), f"{s.live_megabytes:.1f}",
            str(s.compilations), s.types, f"{s.loss:.3f}",
        )  # fmt: skip
    return view


if __name__ == "__main__":
    sys.exit(main())
